from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export.edge_cases import Limits, edge_cases, find_limits
from paddle_infra.export.references import run_edges
from paddle_infra.export.spec import input_specs
from tests.export.models import DYNAMIC, token_examples

EXAMPLES = {**token_examples(), "scores": np.linspace(-3, 5, 4, dtype="float32")}
SPECS = input_specs(EXAMPLES, {**DYNAMIC, "scores": {0: "batch"}}, [])
CONFIG = SimpleNamespace(vocab_size=50, type_vocab_size=2, max_position_embeddings=70)


def test_values_and_sizes_are_at_their_limits() -> None:
    cases = edge_cases(EXAMPLES, SPECS, Limits({"length": 70}, {"input_ids": (0, 49)}))
    assert list(cases) == [
        *(
            "lowest values",
            "highest values",
            "all padding but one",
            "large magnitudes",
            "size 1",
            "largest sizes",
        ),
    ]
    assert set(cases["lowest values"]["input_ids"].ravel()) == {0}
    assert set(cases["highest values"]["input_ids"].ravel()) == {49}
    assert set(cases["highest values"]["scores"]) == {np.float32(5)}
    np.testing.assert_array_equal(cases["highest values"]["attention_mask"], EXAMPLES["attention_mask"])
    assert cases["all padding but one"]["attention_mask"].sum(1).tolist() == [1] * 4
    np.testing.assert_array_equal(cases["large magnitudes"]["scores"], EXAMPLES["scores"] * 100)
    assert cases["size 1"]["input_ids"].shape == (1, 1)
    assert cases["largest sizes"]["input_ids"].shape == (1, 70)
    assert all(case[name].dtype == EXAMPLES[name].dtype for case in cases.values() for name in case)


def test_without_limits_the_examples_values_are_the_ends() -> None:
    cases = edge_cases(EXAMPLES, SPECS, Limits())
    assert set(cases["highest values"]["input_ids"].ravel()) == {EXAMPLES["input_ids"].max()}
    assert "largest sizes" not in cases


def test_limits_come_from_the_user_and_then_from_the_configuration() -> None:
    model = SimpleNamespace(config=CONFIG)
    assert find_limits(model, SPECS, None, None) == Limits({"length": 70}, {"input_ids": (0, 49)})
    assert find_limits(model, SPECS, {"length": 60, "batch": 9}, {"input_ids": (1, 9)}) == Limits(
        {"length": 60, "batch": 9}, {"input_ids": (1, 9)}
    )
    assert find_limits(SimpleNamespace(), SPECS, None, None) == Limits()


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(
        InvalidInputError, match=r"max_sizes: .* axes \['batch', 'length'\], got \{'width': 3\}"
    ):
        find_limits(None, SPECS, {"width": 3}, None)
    with pytest.raises(InvalidInputError, match=r"sizes >= 1 .* got \{'length': 0\}"):
        find_limits(None, SPECS, {"length": 0}, None)
    with pytest.raises(InvalidInputError, match=r"value_ranges: .* \['attention_mask', 'input_ids'\], got"):
        find_limits(None, SPECS, None, {"scores": (0, 1)})
    with pytest.raises(InvalidInputError, match=r"value_ranges: expected \(lowest, highest\)"):
        find_limits(None, SPECS, None, {"input_ids": (9, 1)})


def test_what_the_model_refuses_is_left_out_and_said() -> None:
    def model(inputs: dict[str, np.ndarray]) -> np.ndarray:
        if inputs["input_ids"].shape[1] < 2:
            raise ValueError("too short")
        return np.where(inputs["attention_mask"].sum(1) > 1, inputs["scores"], np.float32(np.nan))

    cases, expected, refused = run_edges(model, edge_cases(EXAMPLES, SPECS, Limits()), SPECS, ["scores"])
    assert [case.name.split(" (")[0] for case in cases] == [
        "lowest values",
        "highest values",
        "large magnitudes",
    ]
    assert len(expected) == 3
    assert [case.is_scaled for case in cases] == [False, False, True]
    assert set(refused) == {"all padding but one", "size 1"}
    assert "returns NaN in output 'scores' at index [0]" in refused["all padding but one"]
    assert "too short" in refused["size 1"]
