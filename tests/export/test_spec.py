from __future__ import annotations

import numpy as np
import pytest

from paddle_infra._core.errors import AxisMismatch
from paddle_infra.export.spec import TensorSpec, as_arrays, output_specs

SIZES = [{"batch": 1, "length": 5}, {"batch": 7, "length": 16}]


def outputs(*shapes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    return [{"y": np.zeros(shape, "float32")} for shape in shapes]


def test_output_axes_are_named_after_the_input_axes_they_follow() -> None:
    (spec,) = output_specs(["y"], outputs((1, 5, 3, 9), (7, 16, 3, 20)), SIZES)
    assert spec == TensorSpec("y", "float32", ("batch", "length", 3, "y_axis3"))
    assert spec.axes == {0: "batch", 1: "length", 3: "y_axis3"}


def test_an_unnamed_output_axis_gets_the_declared_name() -> None:
    (spec,) = output_specs(["y"], outputs((1, 9), (7, 20)), SIZES, {"y": {0: "batch", 1: "words"}})
    assert spec.shape == ("batch", "words")


def test_a_wrong_declaration_is_an_error() -> None:
    with pytest.raises(
        AxisMismatch, match=r"dynamic_axes declares \{1: 'length'\}, the model returns \['batch', 3\]"
    ):
        output_specs(["y"], outputs((1, 3), (7, 3)), SIZES, {"y": {0: "batch", 1: "length"}})
    with pytest.raises(AxisMismatch, match="expected one rank"):
        output_specs(["y"], outputs((1, 3), (7,)), SIZES)


def test_scalars_stay_scalars() -> None:
    assert as_arrays({"x": np.float32(3)})["x"].shape == ()


def test_a_spec_survives_json() -> None:
    spec = TensorSpec("x", "int64", ("batch", 3))
    assert TensorSpec.from_dict(spec.as_dict()) == spec
