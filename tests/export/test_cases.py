from __future__ import annotations

import numpy as np
import pytest

from paddle_infra._core.errors import AxisMismatch, InvalidInputError
from paddle_infra.export import TensorSpec, default_cases
from paddle_infra.export.cases import as_cases
from tests.export.models import DYNAMIC, token_examples


def test_default_cases_cover_every_combination_and_keep_the_value_range() -> None:
    examples = token_examples()
    cases = default_cases(examples, DYNAMIC)
    assert cases[0] is not examples
    np.testing.assert_array_equal(cases[0]["input_ids"], examples["input_ids"])
    shapes = [case["input_ids"].shape for case in cases[1:]]
    assert shapes == [(batch, length) for batch in (1, 7, 32) for length in (5, 16, 64)]
    for case in cases:
        assert case["attention_mask"].shape == case["input_ids"].shape
        assert case["input_ids"].dtype == np.int64
        assert set(case["input_ids"].ravel()) <= set(examples["input_ids"].ravel())


def test_a_mask_keeps_its_pattern() -> None:
    for case in default_cases(token_examples(), DYNAMIC):
        mask = case["attention_mask"]
        assert (np.diff(mask, axis=1) <= 0).all(), "ones, then zeros"
        assert (mask[:, 0] == 1).all()
    assert (default_cases(token_examples(), DYNAMIC)[-1]["attention_mask"] == 0).any(), "padding is tried"


def test_cases_are_the_same_every_time_and_differ_by_seed() -> None:
    first, again, other = (
        default_cases(token_examples(), DYNAMIC, seed=seed)[4]["input_ids"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_without_dynamic_axes_the_shape_stays() -> None:
    cases = default_cases({"x": np.arange(6.0).reshape(2, 3)})
    assert [case["x"].shape for case in cases] == [(2, 3), (2, 3)]


def test_two_length_axes_rotate() -> None:
    cases = default_cases({"image": np.ones((1, 3, 8, 8), "float32")}, {"image": {2: "height", 3: "width"}})
    assert [case["image"].shape[2:] for case in cases] == [(8, 8), (5, 16), (16, 64), (64, 5)]


def test_two_inputs_with_a_shared_axis_must_agree() -> None:
    bad = {"a": np.ones((2, 3)), "b": np.ones((4, 3))}
    with pytest.raises(
        AxisMismatch, match=r"'b': axis 0 \(batch\): expected size 2, got 4 in shape \[4, 3\]"
    ):
        default_cases(bad, {"a": {0: "batch"}, "b": {0: "batch"}})


def test_every_dynamic_axis_must_vary() -> None:
    specs = [TensorSpec("x", "float64", ("batch", 3))]
    with pytest.raises(AxisMismatch, match=r"axis 'batch' .* got only batch=2 in 2 case\(s\)"):
        as_cases(specs, [{"x": np.ones((2, 3))}, {"x": np.zeros((2, 3))}])
    with pytest.raises(AxisMismatch, match=r"axis 1 \(3\): expected size 3, got 4"):
        as_cases(specs, [{"x": np.ones((2, 4))}])
    with pytest.raises(InvalidInputError, match="at least one set of inputs"):
        as_cases(specs, [])
    names = [case.name for case in as_cases(specs, [{"x": np.ones((n, 3))} for n in (1, 2)])]
    assert names == ["#0 (batch=1)", "#1 (batch=2)"]
