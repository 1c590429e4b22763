from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError, ValueMismatch
from paddle_infra.export import Manifest, TensorSpec
from paddle_infra.inference import Bucket, Predictor
from paddle_infra.inference._worker import resident_mb
from paddle_infra.inference.buckets import Padding
from tests.inference.models import ENGINES, PADS, token_inputs

SIZES = (8, 16, 32, 64)
EDGES = dict.fromkeys(PADS, "edge")


def manifest(*outputs: TensorSpec) -> Manifest:
    inputs = (
        TensorSpec("ids", "int8", ("batch", "length")),
        TensorSpec("mask", "bool", ("batch", "length")),
        TensorSpec("weight", "float32", (2,)),
    )
    return Manifest("paddle", "m", None, inputs, outputs)


def test_padding_and_cutting_by_hand() -> None:
    outputs = (
        TensorSpec("tokens", "float32", ("batch", "length", 2)),
        TensorSpec("total", "float32", ()),
    )
    padding = Padding(
        manifest(*outputs),
        [
            Bucket("length", (2, 4), {"ids": 7, "mask": False}),
            Bucket("batch", (3,), {"ids": "edge", "mask": "edge"}),
        ],
    )
    sizes = {"batch": 2, "length": 3}
    arrays = {
        "ids": np.array([[1, 2, 3], [4, 5, 6]], "int8"),
        "mask": np.ones((2, 3), bool),
        "weight": np.ones(2, "float32"),
    }
    target = padding.sizes_for(sizes)
    assert target == {"batch": 3, "length": 4}
    padded = padding.pad(arrays, target)
    assert padded["ids"].tolist() == [[1, 2, 3, 7], [4, 5, 6, 7], [4, 5, 6, 7]]
    assert padded["ids"].dtype == np.int8
    assert padded["mask"].tolist() == [[True, True, True, False]] * 3
    assert padded["weight"] is arrays["weight"]
    full = {"tokens": np.arange(24, dtype="float32").reshape(3, 4, 2), "total": np.float32(1)[()]}
    cut = padding.cut({"tokens": full["tokens"], "total": np.asarray(1.0)}, sizes)
    np.testing.assert_array_equal(cut["tokens"], full["tokens"][:2, :3])
    assert cut["tokens"].base is None
    assert cut["total"].shape == ()


@pytest.mark.parametrize(
    ("axis", "sizes", "pads", "text"),
    [
        ("length", (), {}, "expected at least one size, ascending"),
        ("length", (4, 2), {}, r"ascending, got \[4, 2\]"),
        ("length", (0, 2), {}, "sizes: expected a positive integer, got 0"),
        ("length", (2,), {"ids": "wrap"}, "numbers or 'edge', got {'ids': 'wrap'}"),
        ("width", (2,), {}, r"expected a dynamic axis among \['batch', 'length'\], got 'width'"),
        ("length", (2,), {"ids": 0}, r"expected pads for the inputs \['ids', 'mask'\], .*got \['ids'\]"),
        ("length", (2,), {"ids": 200, "mask": 0}, "a pad of 'ids' that is int8, got 200"),
        ("length", (2,), {"ids": 0.5, "mask": 0}, "a pad of 'ids' that is int8, got 0.5"),
        ("length", (2,), {"ids": 0, "mask": 2}, "a pad of 'mask' that is bool, got 2"),
    ],
)
def test_wrong_buckets(axis: str, sizes: Any, pads: Any, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        Padding(manifest(), [Bucket(axis, sizes, pads)])


def test_what_cannot_be_bucketed() -> None:
    bucket = Bucket("length", (2,), {"ids": 0, "mask": 0})
    with pytest.raises(InvalidInputError, match="expected one for each axis"):
        Padding(manifest(), [bucket, bucket])
    with pytest.raises(
        InvalidInputError, match=r"got \['kept: kept_axis0'\], which nobody knows how to cut back"
    ):
        Padding(manifest(TensorSpec("kept", "int64", ("kept_axis0",))), [bucket])


@pytest.mark.parametrize("backend", ENGINES)
def test_results_are_those_without_padding(backend: str, tagger_exports: Path) -> None:
    plain = Predictor(tagger_exports, backend=backend)
    buckets = [Bucket("length", SIZES, PADS), Bucket("batch", (1, 2, 4), EDGES)]
    bucketed = Predictor(tagger_exports, backend=backend, buckets=buckets)
    assert bucketed.warm_up() == 12
    for batch, length in ((1, 1), (3, 8), (3, 17), (4, 64)):
        inputs = token_inputs(batch, length, seed=length)
        expected, got = plain(inputs)["logits"], bucketed(inputs)["logits"]
        assert got.shape == (batch, length, 3)
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)
    with pytest.raises(
        InvalidInputError, match="axis 'length': expected at most 64, the largest bucket, got 65"
    ):
        bucketed(token_inputs(1, 65))


def test_a_model_that_padding_changes_is_refused(tagger_exports: Path) -> None:
    with pytest.raises(
        ValueMismatch, match=r"bucket 'length': expected outputs that padding with .* got others"
    ):
        Predictor(
            tagger_exports,
            backend="onnxruntime",
            buckets=[Bucket("length", SIZES, {"input_ids": 0, "attention_mask": 1})],
        )


def test_examples_leave_room_to_try_padding(tagger_exports: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"axis 'length' shorter than the largest bucket, 8, .* got 9"
    ):
        Predictor(tagger_exports, backend="onnxruntime", buckets=[Bucket("length", (8,), PADS)])
    Predictor(tagger_exports, backend="onnxruntime", buckets=[Bucket("batch", (1, 2), EDGES)])


@pytest.mark.skipif(resident_mb() is None, reason="the system does not say how much memory a process has")
@pytest.mark.parametrize("backend", ENGINES)
def test_memory_stays_with_buckets(backend: str, plain_export: Path, tagger_exports: Path) -> None:
    """200 calls without buckets cost 75 MB in Paddle (oneDNN), 63 MB in OpenVINO, 2 MB in ONNX Runtime."""
    exports = [plain_export, tagger_exports / "onnx"]
    predictor = Predictor(exports, backend=backend, buckets=[Bucket("length", (*SIZES, 128), PADS)])
    predictor.warm_up()
    shapes = [token_inputs(2, 1 + index * 37 % 128, seed=index) for index in range(200)]
    assert len({inputs["input_ids"].shape for inputs in shapes}) == 128
    used = [resident_mb()]
    for _ in range(2):
        for inputs in shapes:
            predictor(inputs)
        used.append(resident_mb())
    assert used[1] - used[0] < 25
    assert used[2] - used[1] < 3
