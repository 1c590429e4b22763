from __future__ import annotations

import math
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_infra._core.errors import InvalidInputError, UnsupportedError, WeightError
from paddle_infra.models import ViTConfig, ViTForImageClassification, ViTModel
from paddle_infra.models.vit_positions import resized_positions

TINY = ViTConfig(
    image_size=12,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    labels=("cat", "dog", "fish"),
)
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)


def new_model(cls: type = ViTForImageClassification, config: ViTConfig = TINY) -> ViTModel:
    paddle.seed(0)
    model = cls(config)
    for value in model.parameters():
        value.set_value(value + 0.3 * paddle.randn(value.shape))
    model.eval()
    return model


def numpy_logits(model: ViTForImageClassification, images: np.ndarray) -> np.ndarray:
    """The formulas of arXiv:2010.11929, section 3.1, in float64."""
    erf = np.vectorize(math.erf)
    p = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ p[name + ".weight"] + p[name + ".bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * p[name + ".weight"] + p[name + ".bias"]

    patches = (
        images.astype(np.float64).reshape(2, 3, 3, 4, 3, 4).transpose(0, 2, 4, 1, 3, 5).reshape(2, 9, 48)
    )
    x = patches @ p["encoder.patch.weight"].reshape(16, 48).T + p["encoder.patch.bias"]
    x = np.concatenate([np.broadcast_to(p["encoder.class_token"], (2, 1, 16)), x], 1) + p["encoder.positions"]
    for number in range(2):
        layer = f"encoder.stack.layers.{number}."
        y = norm(x, layer + "attention_norm")
        q, k, v = (
            linear(y, f"{layer}attention.{part}").reshape(2, 10, 4, 4).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        weight = np.exp(q @ k.swapaxes(-1, -2) / 2.0)
        y = (weight / weight.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 10, 16)
        x = x + linear(y, layer + "attention.output")
        y = linear(norm(x, layer + "output_norm"), layer + "intermediate")
        x = x + linear(y * 0.5 * (1 + erf(y / 2**0.5)), layer + "output")
    return linear(norm(x, "encoder.stack.norm")[:, 0], "head.classifier")


def test_logits_are_those_of_the_formulas() -> None:
    model = new_model()
    with paddle.no_grad():
        found = model(paddle.to_tensor(IMAGES)).numpy()
    expected = numpy_logits(model, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).mean() > 0.1


def test_loss_is_the_cross_entropy_of_the_logits_and_trains_every_parameter() -> None:
    model = new_model()
    images, labels = paddle.to_tensor(IMAGES), paddle.to_tensor([2, 0])
    loss = model.loss(images, labels)
    np.testing.assert_allclose(
        float(loss), float(paddle.nn.functional.cross_entropy(model(images), labels)), rtol=1e-5
    )
    loss.backward()
    small = [
        name
        for name, value in model.named_parameters()
        if value.grad is None
        or (
            np.abs(value.grad.numpy()).max() < 1e-7 and not name.endswith("key.bias")
        )  # these shift all scores alike
    ]
    assert small == []


@pytest.mark.parametrize(
    ("grid", "rows", "columns"), [(3, 5, 4), (7, 3, 2), (14, 24, 24), (1, 2, 3), (2, 2, 5)]
)
def test_positions_are_interpolated_as_by_pytorch(grid: int, rows: int, columns: int) -> None:
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((1, 1 + grid**2, 6)).astype(np.float32)
    found = resized_positions(paddle.to_tensor(table), grid, rows, columns).numpy()
    patches = torch.tensor(table[:, 1:].astype(np.float64)).reshape(1, grid, grid, 6).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        patches, size=(rows, columns), mode="bicubic", align_corners=False
    )
    np.testing.assert_array_equal(found[:, 0], table[:, 0])
    np.testing.assert_allclose(
        found[0, 1:], expected.permute(0, 2, 3, 1).reshape(-1, 6).numpy(), rtol=1e-5, atol=1e-6
    )


def test_another_size_of_image_in_the_call_or_the_configuration(tmp_path: Path) -> None:
    model = new_model()
    model.save_pretrained(tmp_path)
    larger = ViTForImageClassification.from_pretrained(tmp_path, image_size=20)
    larger.eval()
    assert larger.encoder.positions.shape == [1, 26, 16]
    images = paddle.randn([2, 3, 20, 20])
    with paddle.no_grad():
        np.testing.assert_allclose(larger(images).numpy(), model(images).numpy(), rtol=1e-5, atol=1e-6)
        assert model.encoder(paddle.randn([1, 3, 8, 16])).shape == [1, 1 + 2 * 4, 16]


def test_saved_in_the_fields_names_and_loaded_exactly(tmp_path: Path) -> None:
    model = new_model()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    layer = "vit.encoder.layer.1."
    assert stored["vit.embeddings.patch_embeddings.projection.weight"].shape == (16, 3, 4, 4)
    assert stored[layer + "intermediate.dense.weight"].shape == (24, 16), "[out, in]"
    assert stored["classifier.weight"].shape == (3, 16)
    parts = (
        "attention.attention.query attention.attention.key attention.attention.value attention.output.dense"
    )
    parts += " intermediate.dense output.dense layernorm_before layernorm_after"
    names = {
        f"vit.encoder.layer.{number}.{part}.{kind}"
        for number in range(2)
        for part in parts.split()
        for kind in ("weight", "bias")
    }
    names |= {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    for part in ("vit.embeddings.patch_embeddings.projection", "vit.layernorm", "classifier"):
        names |= {part + ".weight", part + ".bias"}
    assert set(stored) == names
    again = ViTForImageClassification.from_pretrained(tmp_path)
    again.eval()
    assert again.config == TINY
    with paddle.no_grad():
        images = paddle.to_tensor(IMAGES)
        np.testing.assert_array_equal(again(images).numpy(), model(images).numpy())
    bare = ViTModel.from_pretrained(tmp_path)
    assert bare.load_report.unexpected == ("classifier.bias", "classifier.weight")
    with pytest.raises(WeightError, match="expected qkv_bias true, got False"):
        ViTConfig.from_dict({"qkv_bias": False})
    assert ViTConfig.from_dict({"architectures": ["ViTForImageClassification"]}).labels == (
        "LABEL_0",
        "LABEL_1",
    )


def test_a_saved_program_gives_the_same(tmp_path: Path) -> None:
    model = new_model(config=replace(TINY, num_hidden_layers=1))
    paddle.jit.save(
        model,
        str(tmp_path / "vit"),
        [paddle.static.InputSpec([None, 3, 12, 12], "float32", name="pixel_values")],
    )
    loaded = paddle.jit.load(str(tmp_path / "vit"))
    for count in (1, 2):
        images = paddle.to_tensor(IMAGES[:count])
        with paddle.no_grad():
            np.testing.assert_allclose(loaded(images).numpy(), model(images).numpy(), rtol=1e-4, atol=1e-5)


def test_errors() -> None:
    model = new_model(ViTModel)
    with pytest.raises(InvalidInputError, match=r"expected shape \[-1, 3, -1, -1\] .*, got \[2, 1, 12, 12\]"):
        model(paddle.zeros([2, 1, 12, 12]))
    with pytest.raises(InvalidInputError, match="height and width to be multiples of 4, got 12 and 13"):
        model(paddle.zeros([2, 3, 12, 13]))
    with pytest.raises(InvalidInputError, match="image_size: expected a multiple of patch_size=5, got 12"):
        replace(TINY, patch_size=5)
    with pytest.raises(InvalidInputError, match="at least 2 labels"):
        ViTForImageClassification(replace(TINY, labels=("one",)))
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32")]
    with pytest.raises(UnsupportedError, match="expected a height and width that are known"):
        paddle.jit.to_static(model, input_spec=spec, full_graph=True).forward.concrete_program  # noqa: B018


def test_it_learns_to_read_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype(np.float32).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1400], order[1400:]
    paddle.seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            labels=tuple("0123456789"),
        )
    )
    steps = 25 * 22
    rate = paddle.optimizer.lr.CosineAnnealingDecay(3e-3, steps)
    optimizer = paddle.optimizer.AdamW(rate, parameters=model.parameters())
    rng = np.random.default_rng(1)
    for _ in range(25):
        for rows in np.array_split(rng.permutation(train), 22):
            model.loss(paddle.to_tensor(images[rows]), paddle.to_tensor(labels[rows])).backward()
            optimizer.step()
            optimizer.clear_grad()
            rate.step()
    model.eval()
    with paddle.no_grad():
        found = model(paddle.to_tensor(images[test])).numpy().argmax(-1)
    accuracy = (found == labels[test]).mean()
    assert accuracy > 0.93, accuracy


_FIELD = """
import sys, numpy as np, torch, transformers
folder, images = sys.argv[1], np.load(sys.argv[1] + "/images.npy")
config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
                                image_size=12, patch_size=4, id2label={0: "a", 1: "b", 2: "c"})
torch.manual_seed(0)
if sys.argv[2] == "make":
    model = transformers.ViTForImageClassification(config)
    torch.nn.init.normal_(model.vit.embeddings.cls_token)
    for value in model.parameters():
        value.data += 0.3 * torch.randn_like(value)
    model.save_pretrained(folder)
else:
    model, report = transformers.ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
model = model.eval().double()
with torch.no_grad():
    for name, interpolate in (("same", False), ("larger", True)):
        size = 12 if name == "same" else 20
        logits = model(torch.tensor(images[:, :, :size, :size]).double(), interpolate_pos_encoding=interpolate).logits
        np.save(f"{folder}/{name}.npy", logits.numpy())
"""


@pytest.mark.slow
def test_files_of_hugging_face_are_read_and_written(tmp_path: Path) -> None:
    """PADDLE_INFRA_TRANSFORMERS_PYTHON: a Python with ``torch`` and ``transformers``."""
    python = os.environ.get("PADDLE_INFRA_TRANSFORMERS_PYTHON")
    if python is None:
        pytest.skip("PADDLE_INFRA_TRANSFORMERS_PYTHON names no Python that has transformers")
    images = np.random.default_rng(0).standard_normal((2, 3, 20, 20)).astype(np.float32)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, task in ((first, "make"), (second, "read")):
        folder.mkdir()
        np.save(folder / "images.npy", images)
        if task == "read":
            ViTForImageClassification.from_pretrained(first).save_pretrained(folder)
        subprocess.run([python, "-c", _FIELD, str(folder), task], check=True, capture_output=True)
        model = ViTForImageClassification.from_pretrained(folder)
        model.eval()
        assert model.config.labels == ("a", "b", "c")
        assert model.load_report.missing == model.load_report.unexpected == ()
        with paddle.no_grad():
            for name, size in (("same", 12), ("larger", 20)):
                found = model(paddle.to_tensor(images[:, :, :size, :size])).numpy()
                np.testing.assert_allclose(found, np.load(folder / f"{name}.npy"), rtol=1e-4, atol=1e-5)
