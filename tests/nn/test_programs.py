"""Layers as programs of unknown batch and length: captured, trained, saved, and loaded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from tests.nn.reference import array, randomize, tensor
from tests.nn.test_attention import Prefix

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
WIDTH, HEADS, INNER, DIM, MOST = 24, 4, 32, 6, 66
QUIET = {"dropout": 0.0, "attention_dropout": 0.0}
PRE_NORM = {"norm_first": True, "norm": "rms", "num_kv_heads": 2, "activation": "swiglu", "use_bias": False}


def spec(*shape, dtype: str = "float32") -> paddle.static.InputSpec:
    return paddle.static.InputSpec(list(shape), dtype)


class Encoder(paddle.nn.Layer):
    """Tokens to states; padding by a mask."""

    def __init__(self, positions: paddle.nn.Layer | None = None, **options) -> None:
        super().__init__()
        self.embed = nn.TokenEmbedding(9, WIDTH, positions=positions, scale=2.0)
        self.stack = nn.TransformerEncoder(2, WIDTH, HEADS, INNER, **{**QUIET, **options})

    def forward(self, ids, mask):
        return self.stack(self.embed(ids), nn.key_padding_mask(mask))


class Padded(Encoder):
    """Padding by lengths."""

    def forward(self, ids, mask):
        return self.stack(self.embed(ids), kv_lengths=mask.sum(axis=1))


class Bert(Encoder):
    """Embeddings of an encoder, with an offset as in RoBERTa."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.TransformerEmbedding(9, WIDTH, MOST, 0, dropout=0.0, position_offset=2)


class WithPrefix(Padded):
    """A prefix in each layer."""

    def __init__(self) -> None:
        super().__init__(causal=True)
        for layer in self.stack.layers:
            layer.attention.prefix = Prefix(HEADS, DIM)


class WithPrefixAndMask(Encoder):
    """A prefix and a bias, which it extends."""

    def __init__(self) -> None:
        super().__init__()
        for layer in self.stack.layers:
            layer.attention.prefix = Prefix(HEADS, DIM)


class EncoderDecoder(Encoder):
    """The same tokens on both sides."""

    def __init__(self) -> None:
        super().__init__(nn.SinusoidalPositions(WIDTH, MOST))
        self.decoder = nn.TransformerDecoder(2, WIDTH, HEADS, INNER, **QUIET)

    def forward(self, ids, mask):
        hidden, lengths = self.embed(ids), mask.sum(axis=1)
        memory = self.stack(hidden, kv_lengths=lengths)
        return self.decoder(hidden, memory=memory, kv_lengths=lengths, memory_lengths=lengths)


MODELS = {
    "post-norm": lambda: Encoder(nn.LearnedPositions(MOST, WIDTH)),
    "rotary": lambda: Padded(rotary=nn.RotaryEmbedding(DIM, MOST), **PRE_NORM),
    "rotary, interleaved": lambda: Padded(
        rotary=nn.RotaryEmbedding(DIM, MOST, layout="interleaved", rotary_dim=4)
    ),
    "alibi, window": lambda: Encoder(alibi=True, window=(3, 3), activation="geglu"),
    "embedding with offset": Bert,
    "prefix": WithPrefix,
    "prefix and mask": WithPrefixAndMask,
    "encoder-decoder": EncoderDecoder,
}
INPUTS = [spec(None, None, dtype="int64"), spec(None, None, dtype="int64")]


def batch(batch_size: int, length: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    rng = np.random.default_rng(length)
    lengths = rng.integers(1, length + 1, (batch_size, 1))
    lengths[0] = length
    mask = np.arange(length) < lengths
    return paddle.to_tensor(rng.integers(0, 9, (batch_size, length))), paddle.to_tensor(mask.astype("int64"))


def make(name: str) -> paddle.nn.Layer:
    paddle.seed(0)
    return randomize(MODELS[name]())


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_program_is_the_layer_at_any_size(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.eval()
    expected = {size: model(*batch(*size)).numpy() for size in ((2, 7), (3, 1), (1, 12))}
    paddle.jit.save(paddle.jit.to_static(model, input_spec=INPUTS, full_graph=True), str(tmp_path / "model"))
    loaded = paddle.jit.load(str(tmp_path / "model"))
    for size, states in expected.items():
        ids, mask = batch(*size)
        is_token = mask.numpy() == 1
        found = loaded(ids, mask).numpy()
        assert found.shape == states.shape
        np.testing.assert_allclose(found[is_token], states[is_token], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_program_trains_as_the_layer_does(name: str) -> None:
    found = []
    for is_program in (False, True):
        model = make(name)
        forward = paddle.jit.to_static(model, input_spec=INPUTS, full_graph=True) if is_program else model
        ids, mask = batch(3, 7)
        direction = tensor(3, 7, WIDTH, seed=1) * mask.unsqueeze(-1).astype("float32")
        loss = (forward(ids, mask) * direction).sum()
        loss.backward()
        gradients = {key: p.grad.numpy() for key, p in model.named_parameters()}
        found.append({"loss": loss.numpy(), **gradients})
    for key, value in found[1].items():
        np.testing.assert_allclose(value, found[0][key], rtol=1e-4, atol=1e-4, err_msg=key)


def test_stochastic_depth_and_dropout_in_a_program() -> None:
    model = Encoder(drop_path=0.5, dropout=0.2, norm_first=True)
    program = paddle.jit.to_static(model, input_spec=INPUTS, full_graph=True)
    ids, mask = batch(4, 5)
    assert not np.array_equal(program(ids, mask).numpy(), program(ids, mask).numpy())
    program.eval()
    assert np.array_equal(program(ids, mask).numpy(), program(ids, mask).numpy())


class Step(paddle.nn.Layer):
    """One step of generating with two layers: arrays of the caches go in and come out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.TokenEmbedding(9, WIDTH, positions=nn.SinusoidalPositions(WIDTH, MOST))
        rotary = nn.RotaryEmbedding(DIM, MOST)
        self.decoder = nn.TransformerDecoder(2, WIDTH, HEADS, INNER, rotary=rotary, **PRE_NORM)

    def forward(self, ids, keys, values, lengths, memory_keys, memory_values):
        layers = []
        for number in range(2):
            memory = nn.MemoryCache()
            memory.fill(memory_keys[number], memory_values[number])
            own = nn.KeyValueCache.of(keys[number], values[number], lengths)
            layers.append(nn.DecoderLayerCache(own, memory))
        cache = nn.DecoderCache(tuple(layers))
        hidden = self.decoder(self.embed(ids, lengths=cache.lengths), cache=cache)
        return hidden, *arrays(cache)[:2], cache.lengths


def arrays(cache: nn.DecoderCache) -> list[paddle.Tensor]:
    """Return keys and values of the tokens, and of the memory, of all layers."""
    kept = [(layer.attention.keys, layer.attention.values) for layer in cache.layers]
    of_memory = [(layer.memory.keys, layer.memory.values) for layer in cache.layers]
    return [paddle.stack(list(same)) for pairs in (kept, of_memory) for same in zip(*pairs)]  # noqa: B905


def test_a_step_of_decoding_as_a_saved_program(tmp_path: Path) -> None:
    paddle.seed(0)
    model = randomize(Step())
    model.eval()
    ids, memory = batch(3, 9)[0], paddle.to_tensor(array(3, 5, WIDTH))
    prompts = np.array([4, 2, 1])
    of_layers = [spec(2, None, None, 2, DIM) for _ in range(4)]
    specs = [spec(None, None, dtype="int64"), *of_layers[:2], spec(None, dtype="int32"), *of_layers[2:]]
    with paddle.no_grad():
        full = model.decoder(model.embed(ids), memory=memory).numpy()
        cache = model.decoder.new_cache(3, 9)
        model.decoder(
            model.embed(ids[:, :4]), memory=memory, kv_lengths=paddle.to_tensor(prompts), cache=cache
        )
        keys, values, memory_keys, memory_values = arrays(cache)
        lengths = cache.lengths
        paddle.jit.save(
            paddle.jit.to_static(model, input_spec=specs, full_graph=True), str(tmp_path / "step")
        )
        step = paddle.jit.load(str(tmp_path / "step"))
        for number in range(5):
            new = paddle.to_tensor(ids.numpy()[np.arange(3), prompts + number][:, None])
            hidden, keys, values, lengths = step(new, keys, values, lengths, memory_keys, memory_values)
            assert lengths.numpy().tolist() == (prompts + number + 1).tolist()
            expected = full[np.arange(3), prompts + number]
            np.testing.assert_allclose(hidden.numpy()[:, 0], expected, rtol=1e-4, atol=1e-5)
