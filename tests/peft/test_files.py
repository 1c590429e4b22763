"""Adapters on disk: nothing else of the model, and nothing damaged is taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddle_infra import peft
from paddle_infra._core.errors import InvalidInputError, WeightError
from tests.peft.tiny import METHODS, adapted, logits, model, randomize

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded(method: str, tmp_path: Path) -> None:
    made = adapted(method)
    peft.save_adapter(made, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    stored = load_file(tmp_path / WEIGHTS)
    trained = peft.trainable_parameters(made)
    assert sum(value.size for name, value in stored.items() if not name.endswith(".kept")) == sum(
        int(p.size) for p in trained.values()
    )
    other = model()
    applied = peft.load_adapter(other, tmp_path, name="loaded")
    assert applied.config == METHODS[method]
    assert applied.train_also == peft.adapters(made)["default"].train_also
    assert np.array_equal(logits(other), logits(made))
    peft.set_adapter(other, None)
    assert np.array_equal(logits(other), logits(model()))


def test_an_adapter_that_is_not_active(tmp_path: Path) -> None:
    made = adapted("lora")
    expected = logits(made)
    peft.apply(made, METHODS["ia3"], name="other", train_also=("head",))
    randomize(made, 5)
    peft.save_adapter(made, tmp_path, "default")
    loaded = model()
    peft.load_adapter(loaded, tmp_path)
    assert np.array_equal(logits(loaded), expected)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    peft.save_adapter(adapted("lora"), tmp_path)
    return tmp_path


def refused(folder: Path, message: str) -> None:
    made = model()
    before = list(made.state_dict())
    with pytest.raises(WeightError, match=message):
        peft.load_adapter(made, folder)
    assert list(made.state_dict()) == before
    assert not peft.adapters(made)
    assert not any(parameter.stop_gradient for parameter in made.parameters())


def rewrite(folder: Path, **changes: object) -> None:
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x"}, r"expected format 'paddle_infra.peft/1', got 'x'"),
        ({"kind": "x"}, r"expected an adapter's settings, got KeyError\('x'\)"),
        ({"settings": {"rnk": 3}}, r"LoRAConfig: expected fields among"),
        ({"settings": {"rank": 0}}, r"rank: expected a positive integer, got 0"),
        ({"settings": {"rank": 4}}, r"expected float32\[16, 4\], got float32\[16, 3\]"),
        (
            {"settings": {"rank": 3, "layers": ["query"]}},
            r"expected an adapter of the same layers, different are",
        ),
        (
            {"settings": {"rank": 3, "layers": ["qkv"]}},
            r"expected an adapter of such a model: layers: expected",
        ),
        ({"train_also": []}, r"expected 24 tensors, missing or unknown are \['head.classifier.bias'"),
        ({"weights_sha256": "0"}, r"expected SHA-256 0, got another one: it is damaged"),
    ],
)
def test_configurations_that_do_not_fit(saved: Path, changes: dict[str, object], message: str) -> None:
    rewrite(saved, **changes)
    refused(saved, message)


def test_damaged_files(saved: Path) -> None:
    weights = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(weights[:-4])
    refused(saved, "expected a complete safetensors file, got a damaged one")
    (saved / WEIGHTS).write_bytes(weights[:-4] + b"\0\0\0\0")
    refused(saved, "it is damaged")
    (saved / WEIGHTS).unlink()
    refused(saved, "expected a safetensors file, but there is no such file")
    (saved / CONFIG).write_text("{")
    refused(saved, "expected JSON")
    (saved / CONFIG).write_text("[]")
    refused(saved, "expected a JSON object, got list")
    (saved / CONFIG).unlink()
    refused(saved, "expected an adapter's configuration, but there is no such file")


def test_numbers_that_are_not_finite(saved: Path) -> None:
    from paddle_infra._core.atomic import sha256_of

    tensors = load_file(saved / WEIGHTS)
    name = min(tensors)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, saved / WEIGHTS)
    rewrite(saved, weights_sha256=sha256_of(saved / WEIGHTS))
    refused(saved, "expected finite values, got NaN or infinity")


def test_a_taken_name(saved: Path) -> None:
    made = adapted("ia3")
    before = logits(made)
    with pytest.raises(InvalidInputError, match="name: expected a new name, got 'default'"):
        peft.load_adapter(made, saved)
    assert np.array_equal(logits(made), before)
