"""Random number generators of Python, NumPy and Paddle: seed, save and restore all of them together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.errors import CheckpointError, InvalidInputError

_MAX_SEED = 2**32 - 1  # NumPy takes no more


def seed_everything(seed: int) -> None:
    """Seed Python's ``random``, NumPy's global generator and every Paddle generator.

    ``paddle.seed`` alone is not enough: Paddle's own samplers shuffle with NumPy.

    Raises:
        InvalidInputError: the seed is not an integer from 0 to 2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MAX_SEED:
        raise InvalidInputError(f"seed: expected an integer from 0 to {_MAX_SEED}, got {seed!r}")
    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)


def get_rng_state() -> dict[str, Any]:
    """Return the state of all generators as plain JSON values (about 20 KB)."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    current = paddle.device.get_device().split(":")[0]
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "paddle": {device: _paddle_state(device) for device in sorted({"cpu", current})},
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_rng_state` returned.

    Raises:
        CheckpointError: the state was taken on a device that this process does not use.
    """
    current = paddle.device.get_device().split(":")[0]
    if current not in state["paddle"]:
        raise CheckpointError(
            f"random state: expected one of device {current!r}, got {sorted(state['paddle'])}: "
            "resume on the kind of device that the checkpoint was written on"
        )
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    for device in sorted({"cpu", current}):
        paddle.set_rng_state([_paddle_generator(values) for values in state["paddle"][device]], device)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Run the body, then put every generator back: what happens inside cannot change the training."""
    before = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(before)


def _paddle_state(device: str) -> list[list[Any]]:
    # (device index, seed, offset, engine as a list of character codes)
    states = (generator.__getstate__() for generator in paddle.get_rng_state(device))
    return [[index, seed, offset, bytes(engine).decode()] for index, seed, offset, engine in states]


def _paddle_generator(values: list[Any]) -> Any:
    kind: Any = type(paddle.get_rng_state("cpu")[0])
    generator = kind.__new__(kind)
    index, seed, offset, engine = values
    generator.__setstate__((index, seed, offset, list(engine.encode())))
    return generator
