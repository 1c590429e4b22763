"""Which checkpoints are kept: the newest, and the best by a validation metric."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from paddle_infra.train.checkpoints.checkpoint import checkpoint_name, checkpoints_in
from paddle_infra.train.metrics.base import is_better


@dataclass
class Ranking:
    """The steps with the best values of a metric, the best first; of equal ones the earlier is better.

    Attributes:
        size: how many are kept.
        mode: "max" if larger values are better, "min" if smaller ones are.
        entries: pairs of value and step.
    """

    size: int
    mode: Literal["max", "min"]
    entries: list[tuple[float, int]] = field(default_factory=list)

    def add(self, value: float, step: int) -> bool:
        """Take a value in, if it is among the best; return whether it is. NaN never is."""
        if math.isnan(value):
            return False
        place = sum(not is_better(value, other, self.mode) for other, _ in self.entries)
        if place >= self.size:
            return False
        self.entries.insert(place, (value, step))
        del self.entries[self.size :]
        return True

    def steps(self) -> list[int]:
        """Return the steps, the best first."""
        return [step for _, step in self.entries]

    def drop(self, steps: Collection[int]) -> None:
        """Take steps out."""
        self.entries = [entry for entry in self.entries if entry[1] not in steps]

    def to_json(self, metric: str) -> dict[str, Any]:
        """Return what ``best.json`` holds."""
        rows = [
            {"checkpoint": checkpoint_name(step), "step": step, "value": value}
            for value, step in self.entries
        ]
        return {**rows[0], "metric": metric, "ranking": rows}


def delete_old(directory: Path, keep_last: int | None, kept_steps: Collection[int]) -> None:
    """Delete all checkpoints but the ``keep_last`` newest and those of ``kept_steps``."""
    kept = {checkpoint_name(step) for step in kept_steps}
    if keep_last is not None:
        for path in checkpoints_in(directory)[:-keep_last]:
            if path.name not in kept:
                delete(path)


def delete(path: Path) -> None:
    """Delete a checkpoint, so that nobody ever sees half of one."""
    # Renamed first: a kill in between leaves a name that the next run removes, not half a checkpoint.
    doomed = path.with_name(f".incomplete-{path.name}-{os.getpid()}-deleted")
    path.rename(doomed)
    shutil.rmtree(doomed)
