"""Adapters in a decoder with cross-attention: token by token with a cache as all at once."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra import nn, peft
from tests.peft.tiny import METHODS, randomize

LENGTH = 6
FITTING = [name for name in METHODS if name not in ("prompt", "lora-embedding")]


def make(method: str):
    paddle.seed(0)
    decoder = nn.TransformerDecoder(2, 16, 4, 24, activation="swiglu", cross_attention=True, norm_first=True)
    decoder.eval()
    applied = peft.apply(decoder, METHODS[method])
    randomize(decoder)
    return decoder, applied


@pytest.mark.parametrize("method", FITTING)
def test_with_a_cache_it_is_the_same(method: str) -> None:
    decoder, _ = make(method)
    hidden, memory = paddle.randn([2, LENGTH, 16]), paddle.randn([2, 5, 16])
    with paddle.no_grad():
        full = decoder(hidden, memory=memory).numpy()
        cache = decoder.new_cache(2, LENGTH)
        steps = [decoder(hidden[:, :3], memory=memory, cache=cache)]
        steps += [decoder(hidden[:, i : i + 1], memory=memory, cache=cache) for i in range(3, LENGTH)]
        found = paddle.concat(steps, axis=1).numpy()
        with peft.disabled(decoder):
            plain = decoder(hidden, memory=memory).numpy()
    np.testing.assert_allclose(found, full, atol=2e-5)
    assert np.abs(full - plain).max() > 1e-3


def test_which_layers_are_the_perceptrons() -> None:
    _, applied = make("pfeiffer")
    assert applied.layers == ("layers.0.output", "layers.1.output")
    _, applied = make("ia3")
    assert sum(name.endswith(("key", "value")) for name in applied.layers) == 8
    assert sum(name.endswith("output") for name in applied.layers) == 2
    _, applied = make("prefix")
    assert len(applied.layers) == 4
