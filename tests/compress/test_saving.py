"""Folders of compressed models: the same outputs after loading, small files, damage refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError, UnsupportedError, WeightError
from paddle_infra.compress import (
    keep_layers,
    load_compressed,
    prune_channels,
    prune_heads,
    prune_vocabulary,
    quantize_linears,
    save_compressed,
)
from paddle_infra.compress.saving import pack_int4, unpack_int4
from tests.compress.models import MixedLinears, bert, logits_of, token_examples
from tests.compress.test_structured import CHANNELS, HEADS

STEPS: dict[str, Any] = {
    "nothing": lambda model: model,
    "int8": quantize_linears,
    "int4": lambda model: quantize_linears(model, bits=4, exclude=["head.*"]),
    "int4 groups": lambda model: quantize_linears(model, bits=4, group_size=5),
    "heads, channels": lambda model: prune_channels(prune_heads(model, HEADS), CHANNELS),
    "layers": lambda model: keep_layers(model, [1]),
    "vocabulary": lambda model: prune_vocabulary(model, range(0, 60, 2))[0],
    "everything": lambda model: quantize_linears(
        keep_layers(prune_channels(prune_heads(model, HEADS), CHANNELS), [0, 2]), bits=4, group_size=7
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_saved_model_is_the_same(step: str, tmp_path: Path) -> None:
    model = STEPS[step](bert())
    save_compressed(model, tmp_path / "small")
    fresh = bert(initializer_range=0.01)
    again = load_compressed(fresh, tmp_path / "small")
    examples = token_examples()
    examples["input_ids"] %= 30
    assert (logits_of(again, examples) == logits_of(model, examples)).all()
    assert [name for name, _ in again.named_sublayers()] == [name for name, _ in model.named_sublayers()]
    assert len(fresh.encoder.stack.layers) == 3
    if step in ("heads, channels", "everything"):
        with pytest.raises(UnsupportedError, match="save_pretrained"):
            again.save_pretrained(tmp_path / "other")
    if step == "layers":
        assert again.config.num_hidden_layers == 1
    save_compressed(again, tmp_path / "small")  # an earlier one may be replaced
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "compression.json",
        "weights.safetensors",
    ]


def test_gates_biases_and_a_shared_layer(tmp_path: Path) -> None:
    paddle.seed(0)
    x = paddle.randn([3, 12])
    for options in ({"bits": 8}, {"bits": 4}, {"bits": 4, "group_size": 3}):
        model = quantize_linears(MixedLinears(), **options)
        save_compressed(model, tmp_path / "small")
        again = load_compressed(MixedLinears(), tmp_path / "small")
        assert again.again is again.gelu
        with paddle.no_grad():
            assert (again(x) == model(x)).all()


def test_int4_takes_half_a_byte(tmp_path: Path) -> None:
    encoder = nn.TransformerEncoder(1, 128, 4, 512)
    weights = 128 * 128 * 4 + 128 * 512 * 2
    sizes = {}
    for name, options in (("float", None), ("int8", {"bits": 8}), ("int4", {"bits": 4, "group_size": 32})):
        save_compressed(quantize_linears(encoder, **options) if options else encoder, tmp_path / name)
        sizes[name] = (tmp_path / name / "weights.safetensors").stat().st_size
    assert sizes["float"] > 4 * weights
    assert weights < sizes["int8"] < 1.1 * weights
    assert weights * (0.5 + 4 / 32) < sizes["int4"] < weights * (0.5 + 4 / 32) * 1.1


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_packing(rows: int) -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (rows, 5)).astype(np.int8)
    packed = pack_int4(codes)
    assert packed.shape == ((rows + 1) // 2, 5)
    assert packed[0, 0] & 15 == codes[0, 0] + 8
    assert (unpack_int4(packed, rows) == codes).all()


def damage(folder: Path, what: str) -> None:
    path = folder / "compression.json"
    values = json.loads(path.read_text())
    if what == "weights":
        data = bytearray((folder / "weights.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "weights.safetensors").write_bytes(bytes(data))
    elif what == "missing":
        (folder / "weights.safetensors").unlink()
    elif what == "json":
        path.write_text("{")
    elif what == "format":
        path.write_text(json.dumps({**values, "format": "other"}))
    else:
        del values["heads"]
        path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("weights", "expected SHA-256"),
        ("missing", "got no .*weights.safetensors"),
        ("json", "got a damaged one"),
        ("format", "got 'other'"),
        ("key", "got a damaged one: KeyError"),
    ],
)
def test_damage_is_refused(what: str, text: str, tmp_path: Path) -> None:
    save_compressed(quantize_linears(bert()), tmp_path / "small")
    damage(tmp_path / "small", what)
    with pytest.raises(WeightError, match=text):
        load_compressed(bert(), tmp_path / "small")


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda: bert(num_hidden_layers=2), "expected at least 3 layers, the model has 2"),
        (
            lambda: paddle.nn.Linear(2, 2),
            "expected a model with TransformerEncoder 'encoder.stack', got none",
        ),
        (lambda: quantize_linears(bert()), "expected a model with Linear .*, got Int8Linear there"),
        (lambda: bert(pooling="pooler"), "they differ in .*pooler"),
    ],
)
def test_another_model_is_refused(model: Any, text: str, tmp_path: Path) -> None:
    save_compressed(quantize_linears(bert()), tmp_path / "small")
    with pytest.raises(WeightError, match=text):
        load_compressed(model(), tmp_path / "small")


def test_a_foreign_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="expected a new or empty folder"):
        save_compressed(bert(), tmp_path)
    assert (tmp_path / "notes.txt").exists()
    with pytest.raises(UnsupportedError, match="expected float32 or integers, got float64"):
        save_compressed(bert().to(dtype="float64"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
