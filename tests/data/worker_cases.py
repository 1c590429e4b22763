"""Datasets and collate functions that workers can import; this module imports neither Paddle nor pytest."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError


class Noisy:
    """Random numbers from both global generators, drawn while reading."""

    def __init__(self, size: int = 30) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "noise": np.random.normal(), "draw": random.random(), "process": os.getpid()}


class Uneven(Noisy):
    """The first batches take longest."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(0.02 if index < 8 else 0)
        return super().__getitem__(index)


class Broken(Noisy):
    """Does something bad at one index."""

    def __init__(self, fault: str, at: int = 17) -> None:
        super().__init__()
        self.fault, self.at = fault, at

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.at:
            if self.fault == "error":
                raise OSError("disk on fire")
            if self.fault == "exit":
                os._exit(3)
            if self.fault == "unpicklable":
                return {**super().__getitem__(index), "bad": lambda: None}
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Unloadable(Noisy):
    """Can be pickled, but not be loaded."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ImportError("no such library here")


class Slow(Noisy):
    """Takes so long that it is certainly being read when something happens; says that it is."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= 4:
            print("reading", flush=True)
            time.sleep(60)
        return super().__getitem__(index)


class SlowThenBroken(Noisy):
    """The first batch takes a minute, the second fails at once."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 5:
            raise OSError("disk on fire")
        time.sleep(60 if index < 4 else 0)
        return super().__getitem__(index)


def columns(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate with one more random number."""
    batch: dict[str, Any] = {key: np.array([sample[key] for sample in samples]) for key in samples[0]}
    return {**batch, "collated": np.random.random()}


def refuse_23(samples: list[dict[str, Any]]) -> dict[str, Any]:
    if any(sample["index"] == 23 for sample in samples):
        raise InvalidInputError("expected another sample")
    return columns(samples)


def killed(samples: list[dict[str, Any]]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


class InOrder:
    """Batches of 4 in the given order."""

    def __init__(self, size: int = 30) -> None:
        self.size = size

    def __len__(self) -> int:
        return -(-self.size // 4)

    def batches(self, epoch: int) -> list[list[int]]:
        return [list(range(i, min(i + 4, self.size))) for i in range(0, self.size, 4)]
