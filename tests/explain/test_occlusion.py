from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.explain import occlusion, token_baseline
from tests.explain.models import CLS, MASK, PAD, SEP, Curved, LinearTable, sentences, small_bert, small_tagger

POINT = np.array([[1.5, -2.0, 3.0], [0.5, 1.0, -1.0]], np.float32)


def masked(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ids = token_baseline(inputs["input_ids"], MASK, keep=(PAD, CLS, SEP))
    return {"input_ids": np.where(inputs["attention_mask"] == 1, ids, inputs["input_ids"])}


def test_columns_by_hand() -> None:
    found = occlusion(Curved(), {"x": POINT}, {"x": 0.0})
    x, y = POINT[:, 0], POINT[:, 1]
    np.testing.assert_allclose(
        found.values["x"], np.stack([x**3 + 2 * x * y, 2 * x * y, 0 * x], axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(found.baseline_score, 0.0)
    assert found.method == "occlusion"


def test_a_linear_model_with_numbers_and_a_category() -> None:
    model = LinearTable()
    inputs = {"numbers": POINT, "category": np.array([2, 0])}
    found = occlusion(model, inputs, {"numbers": 0.0, "category": 0}, target=1)
    weight, table = model.linear.weight.numpy(), model.category.weight.numpy()
    np.testing.assert_allclose(found.values["numbers"], POINT * weight[:, 1], atol=1e-6)
    np.testing.assert_allclose(found.values["category"], table[[2, 0], 1] - table[0, 1], atol=1e-6)
    assert found.values["category"][1] == 0.0
    np.testing.assert_allclose(found.delta, 0.0, atol=1e-5)


def scores(model: nn.Layer, inputs: dict[str, np.ndarray], target: np.ndarray) -> np.ndarray:
    model.eval()
    logits = model(**{name: paddle.to_tensor(value) for name, value in inputs.items()}).numpy()
    return logits[np.arange(len(target)), target]


@pytest.mark.parametrize("window", [1, 3])
def test_tokens_are_falls_of_the_score_one_by_one(window: int) -> None:
    model, inputs = small_bert(), sentences()
    base = masked(inputs)
    found = occlusion(model, inputs, base, window=window, batch_size=4)
    high = scores(model, inputs, found.target)
    differs = inputs["input_ids"] != base["input_ids"]
    sums, counts = np.zeros((2, 8)), np.zeros((2, 8))
    for begin in range(8 - window + 1):
        ids = inputs["input_ids"].copy()
        ids[:, begin : begin + window] = base["input_ids"][:, begin : begin + window]
        fall = high - scores(model, {**inputs, "input_ids": ids}, found.target)
        for row in range(2):
            changed = differs[row] & (np.arange(8) >= begin) & (np.arange(8) < begin + window)
            if changed.any():
                sums[row] += changed * fall[row] / changed.sum()
                counts[row] += changed
    np.testing.assert_allclose(found.values["input_ids"], sums / np.maximum(counts, 1), atol=1e-6)
    assert (found.values["input_ids"][~differs] == 0.0).all()
    np.testing.assert_allclose(
        found.baseline_score, scores(model, {**inputs, **base}, found.target), rtol=1e-5
    )


def test_words_are_replaced_whole() -> None:
    model, inputs = small_bert(), sentences()
    base = masked(inputs)
    words = np.array([[-1, 0, 0, 1, 2, 2, 2, -1], [-1, 0, 1, 1, 2, -1, -1, -1]])
    found = occlusion(model, inputs, base, groups={"input_ids": words})
    high = scores(model, inputs, found.target)
    for word in range(3):
        ids = np.where(words == word, base["input_ids"], inputs["input_ids"])
        fall = high - scores(model, {**inputs, "input_ids": ids}, found.target)
        np.testing.assert_allclose((found.values["input_ids"] * (words == word)).sum(axis=1), fall, atol=1e-6)


def test_padding_changes_nothing() -> None:
    model, short = small_bert(), sentences()
    first = occlusion(model, short, masked(short)).values["input_ids"]
    for padding in (1, 7):
        long = sentences(padding)
        found = occlusion(model, long, masked(long)).values["input_ids"]
        np.testing.assert_allclose(found[:, :8], first, atol=1e-6)
        assert (found[:, 8:] == 0.0).all()


def test_one_token_of_a_tagger_and_modes_restored() -> None:
    model, inputs = small_tagger(), sentences()
    model.head.eval()
    found = occlusion(model, inputs, masked(inputs), position=3)
    assert np.abs(found.values["input_ids"][:, 3]).min() > 0
    assert model.training
    assert not model.head.training


def test_missing_numbers_are_values() -> None:
    class IsMissing(nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return paddle.isnan(x).astype("float32").sum(axis=1)

    point = np.array([[np.nan, 2.0]], np.float32)
    assert occlusion(IsMissing(), {"x": point}, {"x": 0.0}).values["x"].tolist() == [[1.0, 0.0]]
    nothing = occlusion(IsMissing(), {"x": point}, {"x": np.array([np.nan, 2.0], np.float32)})
    assert nothing.values["x"].tolist() == [[0.0, 0.0]]


def test_errors() -> None:
    with pytest.raises(InvalidInputError, match="window: expected 1 with groups, got 2"):
        occlusion(Curved(), {"x": POINT}, {"x": 0.0}, window=2, groups={"x": [[0, 1, 2]]})
    with pytest.raises(
        InvalidInputError, match=r"groups\['x'\]: expected integers of shape \[2, 3\], got int64 \[1, 3\]"
    ):
        occlusion(Curved(), {"x": POINT}, {"x": 0.0}, groups={"x": [[0, 1, 2]]})
    with pytest.raises(InvalidInputError, match=r"groups: expected names among \['x'\], got \['y'\]"):
        occlusion(Curved(), {"x": POINT}, {"x": 0.0}, groups={"y": [[0]]})
