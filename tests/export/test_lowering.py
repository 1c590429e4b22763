"""Every lowering against the Python function, in ONNX Runtime, at several operator sets and sizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
import pytest
from paddle import Tensor, nn

from paddle_infra.export._dygraph import run_reference, save_program
from paddle_infra.export.lowering import OPSETS, convert
from paddle_infra.export.spec import TensorSpec, output_specs
from tests.export.lowering_cases import CASES, Case

onnxruntime = pytest.importorskip("onnxruntime")
WRITABLE = [opset for opset in OPSETS if opset <= onnx.defs.onnx_opset_version()]


class Function(nn.Layer):
    """A function as a layer, with its arguments' names."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.function = case.function

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        z: Tensor | None = None,
        w: Tensor | None = None,
        b: Tensor | None = None,
        m: Tensor | None = None,
        v: Tensor | None = None,
    ) -> Any:
        return self.function(*[t for t in (x, y, z, m, v, w, b) if t is not None])


def input_specs(case: Case) -> tuple[TensorSpec, ...]:
    specs = []
    for name, array in case.inputs.items():
        dynamic = case.axes.get(name, (0,))
        shape = tuple(f"{name}{axis}" if axis in dynamic else size for axis, size in enumerate(array.shape))
        specs.append(TensorSpec(name, str(array.dtype), shape))
    return tuple(specs)


def outputs_of(model: nn.Layer, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with paddle.no_grad():
        result = model(**{name: paddle.to_tensor(array) for name, array in inputs.items()})
    count = len(result) if isinstance(result, tuple | list) else 1
    return run_reference(model, inputs, [f"output_{index}" for index in range(count)])


def session(model: nn.Layer, folder: Path, inputs: Any, outputs: Any, **options: Any) -> Any:
    save_program(model, folder, inputs, [spec.name for spec in outputs])
    converted = convert(folder / "model", inputs, outputs, **options)
    onnx.checker.check_model(converted, full_check=True)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(
        converted.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def assert_equal(found: list[np.ndarray], expected: dict[str, np.ndarray], atol: float) -> None:
    for got, (name, want) in zip(found, expected.items(), strict=True):
        assert got.dtype == want.dtype, name
        assert got.shape == want.shape, name
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize("opset", sorted({13, 17, 20, WRITABLE[-1]}))
@pytest.mark.parametrize("name", CASES)
def test_an_operator(name: str, opset: int, tmp_path: Path) -> None:
    case = CASES[name]
    if opset < case.least_opset:
        pytest.skip(f"needs opset {case.least_opset}")
    model = Function(case)
    expected = outputs_of(model, case.inputs)
    inputs = input_specs(case)
    outputs = output_specs(list(expected), [expected], [dict.fromkeys("?", 0)], None)
    run = session(model, tmp_path, inputs, outputs, opset=opset)
    assert_equal(run.run(list(expected), case.inputs), expected, case.atol)


def test_every_lowering_has_a_case() -> None:
    assert len(CASES) > 100
    assert all(callable(case.function) for case in CASES.values())
    assert set(inspect.signature(Function.forward).parameters) >= {
        n for c in CASES.values() for n in c.inputs
    }
