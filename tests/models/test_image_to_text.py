from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra.models import (
    DecodingStep,
    EncodingStep,
    ImageToText,
    ImageToTextConfig,
    TextDecoderConfig,
    ViTConfig,
)
from paddle_infra.models.generation import BeamSearch, GreedySearch

TINY = ImageToTextConfig(
    ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    ),
    TextDecoderConfig(
        vocab_size=20,
        hidden_size=16,
        num_layers=1,
        num_heads=4,
        intermediate_size=24,
        dropout=0.0,
        max_positions=16,
    ),
)
IMAGES = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
LABELS = np.array([[5, 6, 7, 2], [8, 2, -100, -100], [9, 4, 2, -100]])


def new_model(config: ImageToTextConfig = TINY) -> ImageToText:
    paddle.seed(0)
    model = ImageToText(config)
    for value in model.parameters():
        value.set_value(value + 0.2 * paddle.randn(value.shape))
    model.eval()
    return model


def test_loss_is_that_of_the_logits_and_does_not_depend_on_padding() -> None:
    images, labels = paddle.to_tensor(IMAGES), paddle.to_tensor(LABELS)
    gradients = []
    for extra in (0, 1, 7):
        model = new_model()
        padded = np.pad(LABELS, ((0, 0), (0, extra)), constant_values=-100)
        loss = model.loss(images, paddle.to_tensor(padded))
        logits = model(images, model.decoder.shifted(labels)).numpy().astype(np.float64)
        log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        chosen = np.take_along_axis(log_prob, np.maximum(LABELS, 0)[..., None], -1)[..., 0]
        np.testing.assert_allclose(float(loss), -chosen[LABELS >= 0].mean(), rtol=1e-5)
        loss.backward()
        gradients.append({name: value.grad.numpy() for name, value in model.named_parameters()})
    for name, value in gradients[0].items():
        for other in gradients[1:]:
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        assert np.abs(value).max() > 0 or name.endswith("key.bias"), name


@pytest.mark.parametrize("method", [GreedySearch(), BeamSearch(3, 2)])
def test_generation_with_and_without_a_cache_and_alone(method: object) -> None:
    model = new_model()
    images = paddle.to_tensor(IMAGES)
    found = model.generate(images, method=method, max_new_tokens=9)
    slow = model.generate(images, method=method, max_new_tokens=9, use_cache=False)
    np.testing.assert_array_equal(found.tokens, slow.tokens)
    np.testing.assert_allclose(found.scores, slow.scores, rtol=1e-5)
    alone = model.generate(images[1:2], method=method, max_new_tokens=9)
    np.testing.assert_array_equal(alone.tokens[0], found.tokens[1, :, : alone.tokens.shape[-1]])


def test_saved_and_loaded_exactly(tmp_path: Path) -> None:
    model = new_model()
    model.save_pretrained(tmp_path)
    again = ImageToText.from_pretrained(tmp_path)
    again.eval()
    assert again.config == TINY
    images, ids = paddle.to_tensor(IMAGES), paddle.to_tensor(np.maximum(LABELS, 0))
    with paddle.no_grad():
        np.testing.assert_array_equal(again(images, ids).numpy(), model(images, ids).numpy())
    top = {name.split(".")[0] + "." + name.split(".")[1] for name, _ in model.named_parameters()}
    assert top == {
        "encoder.patch", "encoder.class_token", "encoder.positions", "encoder.stack",
        "decoder.embedding", "decoder.stack",
    }  # fmt: skip


@paddle.no_grad()
def test_saved_programs_of_encoding_and_of_one_step(tmp_path: Path) -> None:
    model, spec = new_model(), paddle.static.InputSpec
    paddle.jit.save(EncodingStep(model), str(tmp_path / "encoding"), [spec([None, 1, 8, 8], "float32")])
    arrays = [spec([1, None, None, 4, 4], "float32") for _ in range(4)]
    paddle.jit.save(
        DecodingStep(model.decoder),
        str(tmp_path / "step"),
        [spec([None, 1], "int64"), spec([None], "int32"), *arrays],
    )
    encoding, step = (paddle.jit.load(str(tmp_path / name)) for name in ("encoding", "step"))
    images = paddle.to_tensor(IMAGES)
    memory = encoding(images)
    cache = [paddle.zeros([1, 3, 4, 4, 4]) for _ in range(2)]
    inputs = model.decoder.shifted(paddle.to_tensor(np.maximum(LABELS, 0)))
    expected = model(images, inputs).numpy()
    for place in range(4):
        logits, *cache = step(inputs[:, place : place + 1], paddle.full([3], place, "int32"), *cache, *memory)
        np.testing.assert_allclose(logits.numpy(), expected[:, place], rtol=1e-4, atol=1e-5)


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.mark.slow
def test_it_learns_to_spell_digits() -> None:
    """scikit-learn's 8 x 8 digits to English words, letter by letter; 397 images that were never seen."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, digits = datasets.load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype(np.float32).reshape(-1, 1, 8, 8)
    letters = sorted(set("".join(WORDS)))
    labels = np.full((len(digits), 6), -100)
    for row, digit in enumerate(digits):
        ids = [3 + letters.index(letter) for letter in WORDS[digit]] + [2]
        labels[row, : len(ids)] = ids
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1400], order[1400:]
    image = replace(
        TINY.image,
        patch_size=2,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
    )
    text = replace(
        TINY.text,
        vocab_size=3 + len(letters),
        hidden_size=48,
        num_layers=2,
        intermediate_size=96,
        norm_first=True,
    )
    paddle.seed(0)
    model = ImageToText(ImageToTextConfig(image, text))
    steps = 25 * 22
    rate = paddle.optimizer.lr.OneCycleLR(3e-3, steps, end_learning_rate=1e-5)
    optimizer = paddle.optimizer.AdamW(rate, parameters=model.parameters())
    rng = np.random.default_rng(1)
    for _ in range(25):
        for rows in np.array_split(rng.permutation(train), 22):
            model.loss(paddle.to_tensor(images[rows]), paddle.to_tensor(labels[rows])).backward()
            optimizer.step()
            optimizer.clear_grad()
            rate.step()
    model.eval()
    for method in (GreedySearch(), BeamSearch(3)):
        found = model.generate(paddle.to_tensor(images[test]), max_new_tokens=7, method=method)
        spelled = [
            "".join(letters[token - 3] for token in row[0][: length - 1] if token >= 3)
            for row, (length,) in zip(found.tokens, found.lengths, strict=True)
        ]
        exact = np.mean([word == WORDS[digit] for word, digit in zip(spelled, digits[test], strict=True)])
        print(type(method).__name__, exact)
        assert exact > 0.9, exact
