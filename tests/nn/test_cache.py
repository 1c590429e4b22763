"""Decoding with a cache equals the full causal pass, token by token, for every kind of attention."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.reference import array, randomize, tensor
from tests.nn.test_attention import Prefix

BATCH, LENGTH, WIDTH, HEADS, DIM = 3, 9, 24, 4, 6
PROMPTS = np.array([4, 2, 1])  # lengths of the prompts, right-padded to 4
OPTIONS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "window": {"window": (3, None)},
    "alibi": {"alibi": True, "num_kv_heads": 1},
    "rotary": {"rotary": nn.RotaryEmbedding(DIM, LENGTH)},
    "rotary, part, interleaved": {
        "rotary": nn.RotaryEmbedding(DIM, LENGTH, layout="interleaved", rotary_dim=4)
    },
}


@pytest.fixture(autouse=True)
def _no_gradients():
    with paddle.no_grad():
        yield


def make(**options) -> nn.MultiHeadAttention:
    paddle.seed(0)
    layer = randomize(nn.MultiHeadAttention(WIDTH, HEADS, causal=True, **options))
    layer.eval()
    return layer


def prompts(x: np.ndarray) -> paddle.Tensor:
    """Return the prompts with garbage, even NaN, behind their ends."""
    x = x[:, : PROMPTS.max()].copy()
    x[np.arange(PROMPTS.max()) >= PROMPTS[:, None]] = np.nan
    return paddle.to_tensor(x)


def tokens(x: np.ndarray, step: int, count: int = 1) -> paddle.Tensor:
    """Return each sequence's tokens that follow ``step`` steps after its prompt."""
    return paddle.to_tensor(np.stack([x[b, n + step : n + step + count] for b, n in enumerate(PROMPTS)]))


def check(found: paddle.Tensor, full: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
    for b in range(len(full)):
        expected = full[b, starts[b] : starts[b] + counts[b]]
        np.testing.assert_allclose(found.numpy()[b, : counts[b]], expected, rtol=1e-5, atol=1e-5)


WITH_PREFIX = [name for name, options in OPTIONS.items() if not {"window", "alibi"} & set(options)]


@pytest.mark.parametrize(
    ("name", "has_prefix"), [(name, False) for name in OPTIONS] + [(name, True) for name in WITH_PREFIX]
)
def test_steps_equal_the_full_pass_for_prompts_of_any_length(name: str, has_prefix: bool) -> None:
    layer, x = make(**OPTIONS[name]), array(BATCH, LENGTH, WIDTH)
    if has_prefix:
        layer.prefix = randomize(Prefix(layer.num_kv_heads, DIM))
    full = layer(paddle.to_tensor(x)).numpy()
    cache = layer.new_cache(BATCH, LENGTH)
    assert cache.is_empty
    y = layer(prompts(x), kv_lengths=paddle.to_tensor(PROMPTS), cache=cache)
    check(y, full, np.zeros(3, int), PROMPTS)
    for step in range(LENGTH - PROMPTS.max()):
        assert (cache.lengths.numpy() == PROMPTS + step + cache.prefix_length).all()
        check(layer(tokens(x, step), cache=cache), full, PROMPTS + step, np.ones(3, int))


@pytest.mark.parametrize("name", OPTIONS)
def test_several_tokens_in_one_step_also_of_different_number(name: str) -> None:
    layer, x = make(**OPTIONS[name]), array(BATCH, LENGTH, WIDTH)
    full = layer(paddle.to_tensor(x)).numpy()
    cache = layer.new_cache(BATCH, LENGTH)
    layer(prompts(x), kv_lengths=paddle.to_tensor(PROMPTS), cache=cache)
    counts = np.array([2, 0, 3])
    new = tokens(x, 0, 3).numpy()
    new[np.arange(3) >= counts[:, None]] = np.nan
    y = layer(paddle.to_tensor(new), kv_lengths=paddle.to_tensor(counts.astype("int32")), cache=cache)
    check(y, full, PROMPTS, counts)
    starts = PROMPTS + counts
    assert cache.lengths.numpy().tolist() == starts.tolist()
    last = np.stack([x[b, n : n + 1] for b, n in enumerate(starts)])
    check(layer(paddle.to_tensor(last), cache=cache), full, starts, np.ones(3, int))


def test_a_bias_over_the_places_of_the_cache() -> None:
    layer, x = make(), array(BATCH, LENGTH, WIDTH)
    bias = array(1, HEADS, LENGTH, LENGTH, seed=1)
    full = layer(paddle.to_tensor(x), paddle.to_tensor(bias)).numpy()
    cache = layer.new_cache(BATCH, LENGTH)
    layer(paddle.to_tensor(x[:, :4]), paddle.to_tensor(bias[:, :, :4, :4]), cache=cache)
    for place in range(4, LENGTH):
        y = layer(
            paddle.to_tensor(x[:, place : place + 1]),
            paddle.to_tensor(bias[:, :, place : place + 1]),
            cache=cache,
        )
        np.testing.assert_allclose(y.numpy()[:, 0], full[:, place], rtol=1e-5, atol=1e-5)


def test_a_bias_with_a_prefix_is_over_the_tokens_only() -> None:
    layer, x = make(), array(BATCH, LENGTH, WIDTH)
    layer.prefix = randomize(Prefix(HEADS, DIM))
    bias = array(1, HEADS, LENGTH, LENGTH, seed=1)
    full = layer(paddle.to_tensor(x), paddle.to_tensor(bias)).numpy()
    cache = layer.new_cache(BATCH, LENGTH)
    assert cache.capacity == LENGTH + 2
    layer(paddle.to_tensor(x[:, :4]), paddle.to_tensor(bias[:, :, :4, :4]), cache=cache)
    y = layer(paddle.to_tensor(x[:, 4:5]), paddle.to_tensor(bias[:, :, 4:5]), cache=cache)
    np.testing.assert_allclose(y.numpy()[:, 0], full[:, 4], rtol=1e-5, atol=1e-5)


def test_beams_go_on_from_the_sequences_they_were_copied_from() -> None:
    layer, x = make(rotary=nn.RotaryEmbedding(DIM, LENGTH)), array(BATCH, LENGTH, WIDTH)
    index = np.array([2, 0, 0, 1])
    cache = layer.new_cache(BATCH, LENGTH)
    layer(prompts(x), kv_lengths=paddle.to_tensor(PROMPTS), cache=cache)
    cache.reorder(paddle.to_tensor(index))
    assert cache.lengths.numpy().tolist() == PROMPTS[index].tolist()
    new = array(4, 1, WIDTH, seed=5)
    y = layer(paddle.to_tensor(new), cache=cache).numpy()
    for row, source in enumerate(index):
        alone = np.concatenate([x[source, : PROMPTS[source]], new[row]])[None]
        np.testing.assert_allclose(
            y[row, 0], layer(paddle.to_tensor(alone)).numpy()[0, -1], rtol=1e-5, atol=1e-5
        )


def test_steps_write_into_reserved_memory() -> None:
    cache = nn.KeyValueCache(2, 8, 2, 4)
    addresses = {cache.keys.data_ptr(), cache.values.data_ptr()}
    for count in (3, 1, 1):
        cache.extend(tensor(2, count, 2, 4), tensor(2, count, 2, 4, seed=1))
    assert {cache.keys.data_ptr(), cache.values.data_ptr()} == addresses
    assert np.array_equal(cache.keys.numpy()[:, :3], array(2, 3, 2, 4))
    assert np.array_equal(cache.values.numpy()[:, 4:5], array(2, 1, 2, 4, seed=1))
    assert not cache.keys.numpy()[:, 5:].any()


def test_a_full_cache_says_so_and_stays_as_it_was() -> None:
    cache = nn.KeyValueCache(2, 4, 2, 4)
    cache.extend(tensor(2, 3, 2, 4), tensor(2, 3, 2, 4), paddle.to_tensor([3, 1]))
    before = cache.keys.numpy()
    message = r"cache: expected at most 1 new tokens, because the longest sequence has 3 of 4, got 2"
    with pytest.raises(InvalidInputError, match=message):
        cache.extend(tensor(2, 2, 2, 4), tensor(2, 2, 2, 4))
    assert np.array_equal(cache.keys.numpy(), before)
    assert cache.lengths.numpy().tolist() == [3, 1]
    cache.reorder(paddle.to_tensor([1]))  # the longest is gone: there is more room
    cache.extend(tensor(1, 3, 2, 4), tensor(1, 3, 2, 4))
    assert cache.lengths.numpy().tolist() == [4]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((2, 1, 2, 5),), InvalidInputError, r"key: expected shape \[2, -1, 2, 4\] .*, got \[2, 1, 2, 5\]"),
        (((3, 1, 2, 4),), InvalidInputError, r"key: expected shape \[2, -1, 2, 4\] .*, got \[3, 1, 2, 4\]"),
        (
            ((2, 1, 2, 4), (2, 2, 2, 4)),
            InvalidInputError,
            r"value: expected shape \[2, 1, 2, 4\] \(shape of key\)",
        ),
    ],
)
def test_wrong_shapes(arguments: tuple, error: type, message: str) -> None:
    key, value = (tensor(*shape) for shape in (arguments * 2)[:2])
    with pytest.raises(error, match=message):
        nn.KeyValueCache(2, 4, 2, 4).extend(key, value)


def test_wrong_dtypes_numbers_and_lengths() -> None:
    x = tensor(2, 3, 2, 4)
    with pytest.raises(InvalidInputError, match=r"capacity: expected a positive integer, got 0"):
        nn.KeyValueCache(2, 0, 2, 4)
    with pytest.raises(InvalidDtypeError, match=r"key: expected dtype float32, got float64"):
        nn.KeyValueCache(2, 4, 2, 4).extend(x.astype("float64"), x)
    with pytest.raises(InvalidDtypeError, match=r"lengths: expected dtype int32 or int64, got float32"):
        nn.KeyValueCache(2, 4, 2, 4).extend(x, x, paddle.to_tensor([1.0, 2.0]))
    for wrong in (4, -1):
        with pytest.raises(
            InvalidInputError, match=rf"lengths\[1\]: expected a length in \[0, 3\], got {wrong}"
        ):
            nn.KeyValueCache(2, 4, 2, 4).extend(x, x, paddle.to_tensor([1, wrong]))
    with pytest.raises(InvalidInputError, match=r"index: expected shape \[-1\] .*, got \[1, 2\]"):
        nn.KeyValueCache(2, 4, 2, 4).reorder(paddle.to_tensor([[0, 1]]))
    with pytest.raises(InvalidInputError, match=r"lengths\[0\]: expected a length in \[0, 3\], got 5"):
        nn.KeyValueCache.of(x, x, paddle.to_tensor([5, 1]))


def make_decoder(**options) -> nn.TransformerDecoder:
    paddle.seed(0)
    decoder = randomize(nn.TransformerDecoder(2, WIDTH, HEADS, 32, **options))
    decoder.eval()
    return decoder


DECODERS = {
    "post-norm": {"memory_size": 10},
    "pre-norm": {"norm_first": True, "memory_size": 10, "num_kv_heads": 2},
    "language model": {
        "norm_first": True,
        "norm": "rms",
        "activation": "swiglu",
        "use_bias": False,
        "cross_attention": False,
        "rotary": nn.RotaryEmbedding(DIM, LENGTH),
    },
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_step_by_step_with_beams(name: str) -> None:
    decoder, x = make_decoder(**DECODERS[name]), array(BATCH, LENGTH, WIDTH)
    given = {}
    if decoder.layers[0].has_cross_attention:
        given = {"memory": tensor(BATCH, 5, 10, seed=1), "memory_lengths": paddle.to_tensor([5, 1, 3])}
    full = decoder(paddle.to_tensor(x), **given).numpy()
    cache = decoder.new_cache(BATCH, LENGTH)
    y = decoder(prompts(x).nan_to_num(7.0), kv_lengths=paddle.to_tensor(PROMPTS), cache=cache, **given)
    check(y, full, np.zeros(3, int), PROMPTS)
    check(decoder(tokens(x, 0), cache=cache), full, PROMPTS, np.ones(3, int))
    assert cache.lengths.numpy().tolist() == (PROMPTS + 1).tolist()
    index = np.array([1, 1, 0, 2])
    cache.reorder(paddle.to_tensor(index))
    y = decoder(paddle.to_tensor(tokens(x, 1).numpy()[index]), cache=cache)
    check(y, full[index], (PROMPTS + 1)[index], np.ones(4, int))


def test_keys_and_values_of_the_memory_are_computed_once() -> None:
    decoder = make_decoder(memory_size=10)
    calls = []
    decoder.layers[1].cross_attention.key.register_forward_post_hook(lambda *_: calls.append(1))
    cache, x = decoder.new_cache(2, 8), tensor(2, 1, WIDTH)
    for _ in range(3):
        decoder(x, memory=tensor(2, 5, 10), cache=cache)
    assert len(calls) == 1


def test_a_decoder_and_its_memory_must_fit() -> None:
    x = tensor(2, 3, WIDTH)
    with pytest.raises(
        InvalidInputError, match=r"memory: expected a tensor for the cross-attention, got None"
    ):
        make_decoder()(x)
    with pytest.raises(
        InvalidInputError, match=r"memory: expected None in a decoder without cross-attention"
    ):
        make_decoder(cross_attention=False)(x, memory=x)
    cache = nn.DecoderCache(make_decoder().new_cache(2, 4).layers[:1])
    with pytest.raises(InvalidInputError, match=r"cache: expected one of 2 layers, got one of 1"):
        make_decoder()(x, memory=x, cache=cache)
    with pytest.raises(TypeError, match="causal"):
        make_decoder(causal=False)
