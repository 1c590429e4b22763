"""How much every input number speaks for the explained score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Attributions:
    """What a method found for a batch.

    Attributes:
        values: float64 attributions by name of the input or layer, in its shape.
        target: ``[batch]``, the explained class.
        probability: ``[batch]``, of that class for the inputs.
        score: ``[batch]``, the explained number for the inputs.
        baseline_score: ``[batch]``, for the baselines.
        method: ``"integrated gradients"`` or ``"occlusion"``.
    """

    values: Mapping[str, np.ndarray]
    target: np.ndarray
    probability: np.ndarray
    score: np.ndarray
    baseline_score: np.ndarray
    method: str

    @property
    def total(self) -> np.ndarray:
        """``[batch]``: the sum of all attributions."""
        batch = len(self.target)
        return np.sum([array.reshape(batch, -1).sum(axis=1) for array in self.values.values()], axis=0)

    @property
    def delta(self) -> np.ndarray:
        """``[batch]``: the sum of all attributions less the difference of the scores.

        For integrated gradients it is the error of the integration, 0 for enough steps; occlusion does not promise 0.
        """
        return self.total - (self.score - self.baseline_score)
