"""Hundreds of faults planted in finished exports, their hashes made to fit again: verification must find every one.

Here the export runs in this process, by the same worker that a fresh process runs: that processes are fresh is shown in
``test_verify.py``. The reference is the Python model, its results remembered by their inputs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import pytest

from paddle_infra._core.errors import (
    AxisMismatch,
    DtypeMismatch,
    NameMismatch,
    ValueMismatch,
    VerificationError,
)
from paddle_infra.export import to_inference, to_onnx
from paddle_infra.export import verify as verify_export
from paddle_infra.export._dygraph import run_reference
from tests.export.in_process import worker_in_process
from tests.export.models import reseal
from tests.export.onnx_faults import faults_of
from tests.export.paddle_faults import paddle_faults
from tests.export.small_models import SMALL, made

# Identifiers as a mask make lengths beyond the row, which the engine refuses: that is no wrong value.
OTHER_ERRORS = {("lstm tagger", "swapped inputs: input_ids and attention_mask"): VerificationError}


@cache
def export(name: str, target: str, root: Path) -> tuple[Path, Callable[..., Any], paddle.nn.Layer]:
    """Export once; return the folder, the reference that remembers, and the model."""
    small, model = SMALL[name], made(name)
    folder = root / name.replace(" ", "-") / target
    folder.parent.mkdir(exist_ok=True)
    options: dict[str, Any] = {"dynamic_axes": small.axes, "output_names": small.outputs}
    if target == "onnx":
        to_onnx(model, folder, small.inputs, converter="native", **options)
    else:
        to_inference(model, folder, small.inputs, ops="standard", **options)
    known: dict[bytes, list[np.ndarray]] = {}

    def reference(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        key = b"".join(array.tobytes() + repr(array.shape).encode() for array in inputs.values())
        if key not in known:
            known[key] = list(run_reference(model, inputs, small.outputs).values())
        return known[key]

    return folder, reference, model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    with worker_in_process():
        yield


def without_effect(graph: onnx.ModelProto, model: paddle.nn.Layer) -> set[str]:
    """Constants whose value does not matter: softmax ignores what all keys share."""
    ignored = [tensor.numpy() for name, tensor in model.state_dict().items() if name.endswith("key.bias")]
    return {
        tensor.name
        for tensor in graph.graph.initializer
        for array in ignored
        if np.array_equal(onnx.numpy_helper.to_array(tensor), array)
    }


def check_all(
    faults: list[tuple[str, Callable[[Path], None], type]], folder: Path, reference: Any, work: Path
) -> None:
    """Plant one after another in copies of the export, and fail with the list of all that went wrong."""
    wrong = []
    for name, plant, error in faults:
        copy = Path(shutil.copytree(folder, work / "copy"))
        plant(copy)
        reseal(copy)
        try:
            verify_export(copy, reference)
            wrong.append(f"{name}: not found")
        except VerificationError as found:
            if type(found) is not error:
                wrong.append(
                    f"{name}: expected {error.__name__}, got {type(found).__name__}: {str(found)[:200]}"
                )
            elif isinstance(found, ValueMismatch) and str(list(found.index)) not in str(found):
                wrong.append(f"{name}: no index in {found}")
        shutil.rmtree(copy)
    assert not wrong, "\n".join(wrong)


COUNTS = {"bert": 100, "tagger": 100, "text cnn": 20, "resnet": 60, "lstm tagger": 20, "two towers": 30}


def plan(name: str, root: Path) -> tuple[list[tuple[str, Callable[[Path], None], type]], Path, Any]:
    folder, reference, model = export(name, "onnx", root)
    graph = onnx.load(str(folder / "model.onnx"))
    found = faults_of(graph, without_effect(graph, model))

    def planter(plant: Callable[[onnx.ModelProto], None]) -> Callable[[Path], None]:
        def write(copy: Path) -> None:
            changed = onnx.load(str(copy / "model.onnx"))
            plant(changed)
            onnx.save(changed, str(copy / "model.onnx"))

        return write

    faults = [(f.name, planter(f.plant), OTHER_ERRORS.get((name, f.name), f.error)) for f in found]
    return faults, folder, reference


@pytest.mark.parametrize("name", SMALL)
def test_faults_in_onnx(name: str, root: Path, tmp_path: Path) -> None:
    faults, folder, reference = plan(name, root)
    verify_export(folder, reference)  # without a fault it passes
    assert len(faults) >= COUNTS[name]
    assert {error for _, _, error in faults} >= {NameMismatch, DtypeMismatch, AxisMismatch, ValueMismatch}
    check_all(faults, folder, reference, tmp_path)


@pytest.mark.parametrize("name", [pytest.param("bert", marks=pytest.mark.slow), "resnet", "two towers"])
def test_faults_in_programs_of_paddle(name: str, root: Path, tmp_path: Path) -> None:
    folder, reference, model = export(name, "paddle", root)
    verify_export(folder, reference)
    faults = paddle_faults(folder, model)
    assert len(faults) >= 15
    check_all(faults, folder, reference, tmp_path)


@pytest.mark.parametrize("target", ["onnx", "paddle"])
def test_every_byte_that_is_not_resealed_is_found(target: str, root: Path, tmp_path: Path) -> None:
    folder, reference, _ = export("two towers", target, root)
    for name in json.loads((folder / "manifest.json").read_text())["files"]:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(VerificationError, match=f"{name}: the file has changed"):
            verify_export(copy, reference)
        shutil.rmtree(copy)
