"""Faults for finished exports to Paddle Inference, in the program's JSON and in the file of parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle

from paddle_infra._core.errors import AxisMismatch, NameMismatch, ValueMismatch, VerificationError

Fault = tuple[str, Callable[[Path], None], type[VerificationError]]


def paddle_faults(folder: Path, model: paddle.nn.Layer) -> list[Fault]:
    """All faults that fit an export, each a function of a copy of the folder."""
    return [*_in_parameters(folder, model), *_in_program((folder / "model.json").read_text()), *_in_files()]


def _in_parameters(folder: Path, model: paddle.nn.Layer) -> list[Fault]:
    data = (folder / "model.pdiparams").read_bytes()
    faults: list[Fault] = []
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        # Softmax ignores what all keys share; an export holds no parameter twice and none that it does not need.
        if name.endswith("key.bias") or data.count(array.tobytes()) != 1:
            continue
        shifted = array.copy()
        shifted[..., 0] += 0.05
        others = {"changed constant": shifted}
        if array.ndim >= 2:
            others["transposed weight"] = np.swapaxes(array, -1, -2).reshape(array.shape)
        elif name.endswith("bias"):
            others["missing bias"] = np.zeros_like(array)
        for kind, other in others.items():
            if not np.array_equal(array, other):
                faults.append((f"{kind}: {name}", _bytes(array, other), ValueMismatch))
    return faults


def _bytes(array: np.ndarray, other: np.ndarray) -> Callable[[Path], None]:
    def plant(copy: Path) -> None:
        path = copy / "model.pdiparams"
        path.write_bytes(path.read_bytes().replace(array.tobytes(), np.ascontiguousarray(other).tobytes()))

    return plant


def _in_program(text: str) -> list[Fault]:
    edits: list[tuple[str, str, str, type[VerificationError]]] = [
        ("renamed input", r'"D":"(input_ids|image|query)"', '"D":"other"', NameMismatch),
        ("renamed output", r'"D":"(logits|left)"', '"D":"other"', NameMismatch),
        ("wrong epsilon", r'"D":[\d.e-]+\},"N":"epsilon"', '"D":0.001},"N":"epsilon"', ValueMismatch),
        ("wrong function", r'"#":"1\.relu"', '"#":"1.tanh"', ValueMismatch),
        ("wrong function", r'"#":"1\.gelu"', '"#":"1.relu"', ValueMismatch),
        ("wrong axis of softmax", r'"D":-1\},"N":"axis"', '"D":0},"N":"axis"', ValueMismatch),
    ]
    faults: list[Fault] = []
    for name, pattern, new, error in edits:
        for number, match in enumerate(re.finditer(pattern, text)):
            faults.append((f"{name} {number}", _span(match.start(), match.end(), new), error))
    return faults


def _span(start: int, end: int, new: str) -> Callable[[Path], None]:
    def plant(copy: Path) -> None:
        path = copy / "model.json"
        text = path.read_text()
        path.write_text(text[:start] + new + text[end:])

    return plant


def _in_files() -> list[Fault]:
    def truncate(copy: Path) -> None:
        path = copy / "model.pdiparams"
        path.write_bytes(path.read_bytes()[:100])

    def cut(copy: Path) -> None:
        path = copy / "model.json"
        path.write_text(path.read_text()[:-200])

    def freeze(copy: Path) -> None:
        path = copy / "manifest.json"
        path.write_text(re.sub(r'("shape": \[\s*)"batch"', r"\g<1>3", path.read_text()))

    return [
        ("truncated parameters", truncate, VerificationError),
        ("truncated program", cut, VerificationError),
        ("frozen axis in the manifest", freeze, AxisMismatch),
    ]
