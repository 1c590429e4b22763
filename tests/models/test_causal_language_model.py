from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra.models import CausalLanguageModel, CausalLanguageModelConfig
from paddle_infra.models.generation import BeamSearch, GreedySearch, Sampling

TINY = CausalLanguageModelConfig(
    vocab_size=20,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=24,
    max_positions=24,
)
IDS = np.random.default_rng(0).integers(0, 20, (3, 6))


def new_model(config: CausalLanguageModelConfig = TINY) -> CausalLanguageModel:
    paddle.seed(0)
    model = CausalLanguageModel(config)
    for value in model.parameters():
        if value.ndim == 1:
            value.set_value(value + 0.2 * paddle.randn(value.shape))
    model.eval()
    return model


def numpy_logits(model: CausalLanguageModel, ids: np.ndarray) -> np.ndarray:
    """LLaMA's formulas in float64."""
    p = {name: value.numpy().astype(np.float64) for name, value in model.named_parameters()}
    length = ids.shape[1]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + model.config.epsilon) * p[name + ".weight"]

    def turned(x: np.ndarray) -> np.ndarray:
        angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, 4, 2) / 4)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        first, second = x[..., :2], x[..., 2:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    x = p["decoder.embedding.word.weight"][ids]
    for number in range(2):
        layer = f"decoder.stack.layers.{number}."
        y = norm(x, layer + "attention_norm")
        q, k, v = (
            (y @ p[f"{layer}attention.{part}.weight"]).reshape(*ids.shape, -1, 4)
            for part in ("query", "key", "value")
        )
        q, k = turned(q), np.repeat(turned(k), 2, axis=2)
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
        weight = np.exp(np.where(np.tri(length) > 0, scores, -np.inf))
        weight /= weight.sum(-1, keepdims=True)
        y = np.einsum("bhqk,bkhd->bqhd", weight, np.repeat(v, 2, axis=2)).reshape(*ids.shape, 16)
        x = x + y @ p[layer + "attention.output.weight"]
        gate, value = np.split(norm(x, layer + "output_norm") @ p[layer + "intermediate.weight"], 2, -1)
        x = x + (gate / (1 + np.exp(-gate)) * value) @ p[layer + "output.weight"]
    return norm(x, "decoder.stack.norm") @ p["decoder.embedding.word.weight"].T


def test_logits_and_loss_are_those_of_the_formulas() -> None:
    model = new_model()
    expected = numpy_logits(model, IDS)
    with paddle.no_grad():
        np.testing.assert_allclose(model(paddle.to_tensor(IDS)).numpy(), expected, rtol=1e-4, atol=1e-5)
    labels = IDS.copy()
    labels[1, 3:] = -100
    inputs = np.concatenate([np.ones((3, 1), int), np.maximum(labels[:, :-1], 0)], 1)
    logits = numpy_logits(model, inputs)
    log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_prob, np.maximum(labels, 0)[..., None], -1)[..., 0]
    loss = model.loss(paddle.to_tensor(labels))
    np.testing.assert_allclose(float(loss), -chosen[labels >= 0].mean(), rtol=1e-5)
    loss.backward()
    assert all(np.abs(value.grad.numpy()).max() > 0 for value in model.parameters())


@pytest.mark.parametrize("method", [GreedySearch(), BeamSearch(3, 3), Sampling((4, 5, 6), 2)], ids=str)
def test_prompts_of_different_lengths_with_and_without_a_cache(method: object) -> None:
    model = new_model()
    lengths = paddle.to_tensor([6, 2, 4])
    options = {"method": method, "max_new_tokens": 8, "min_new_tokens": 3}
    found = model.generate(paddle.to_tensor(IDS), lengths, **options)
    garbage = np.concatenate([IDS, np.random.default_rng(3).integers(0, 20, (3, 7))], axis=1)
    for prompts, more in ((IDS, {"use_cache": False}), (garbage, {})):
        other = model.generate(paddle.to_tensor(prompts), lengths, **options, **more)
        np.testing.assert_array_equal(other.tokens, found.tokens)
        np.testing.assert_allclose(other.scores, found.scores, rtol=1e-5)
    for row, length in enumerate(lengths.numpy()):
        single = Sampling((method.seed[row],), 2) if isinstance(method, Sampling) else method
        alone = model.generate(paddle.to_tensor(IDS[row : row + 1, :length]), **{**options, "method": single})
        width = alone.tokens.shape[-1]
        np.testing.assert_array_equal(alone.tokens[0], found.tokens[row, :, :width])
        np.testing.assert_allclose(alone.scores[0], found.scores[row], rtol=1e-5)


def test_saved_and_loaded_exactly(tmp_path: Path) -> None:
    for config in (TINY, replace(TINY, tie_output=False, positions="learned", norm="layer", use_bias=True)):
        model = new_model(config)
        model.save_pretrained(tmp_path)
        again = CausalLanguageModel.from_pretrained(tmp_path)
        again.eval()
        with paddle.no_grad():
            ids = paddle.to_tensor(IDS)
            np.testing.assert_array_equal(again(ids).numpy(), model(ids).numpy())
