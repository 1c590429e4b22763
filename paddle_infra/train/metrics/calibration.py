r"""Streaming calibration error: whether a model is right as often as it believes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX
from paddle_infra.train.metrics.base import ExactSum


class ExpectedCalibrationError:
    r"""Expected calibration error, as ``expected_calibration_error``.

    Items are put into bins by the probability of their predicted class (the confidence), bin *b* of *B* being
    :math:`((b - 1)/B, b/B]`:

    .. math:: \mathrm{ECE} = \sum_b \frac{|B_b|}{n} \, | \mathrm{accuracy}(B_b) - \mathrm{confidence}(B_b) |

    The evaluation step returns ``labels`` (any shape) and ``probabilities`` or ``logits`` (one more axis, last, over
    the classes; the softmax of logits is taken in float64).

    Args:
        bins: number of bins.
        ignore_index: label to leave out.

    Attributes:
        counts: int64 [2, bins]; items and hits.
        confidences: the sum of the confidences of each bin.

    References:
        Guo et al., On calibration of modern neural networks, arXiv:1706.04599, eq. 3.
    """

    def __init__(self, *, bins: int = 15, ignore_index: int = IGNORE_INDEX) -> None:
        if bins < 1:
            raise InvalidInputError(f"ExpectedCalibrationError: bins: expected at least 1, got {bins}")
        self.bins, self.ignore_index = bins, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self.counts: npt.NDArray[np.int64] = np.zeros((2, self.bins), np.int64)
        self.confidences = [ExactSum() for _ in range(self.bins)]

    def update(self, *, labels: Any = None, probabilities: Any = None, logits: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, shapes do not fit, or a probability is not from 0 to 1.
        """
        if labels is None or (probabilities is None and logits is None):
            raise InvalidInputError(
                "ExpectedCalibrationError: expected the evaluation outputs 'labels' and 'probabilities' or 'logits'"
            )
        labels = np.asarray(labels)
        values = np.asarray(logits if probabilities is None else probabilities, np.float64)
        if values.ndim != labels.ndim + 1 or values.shape[:-1] != labels.shape:
            raise InvalidInputError(
                "ExpectedCalibrationError: expected probabilities or logits of shape "
                f"{[*labels.shape, 'classes']}, got {list(values.shape)}"
            )
        valid = labels != self.ignore_index
        gold, values = labels[valid], values[valid]
        if not gold.size:
            return
        confidence = values.max(axis=-1)
        if probabilities is None:
            confidence = 1 / np.exp(values - confidence[:, None]).sum(axis=-1)
        outside = confidence[~((confidence >= 0) & (confidence <= 1))]
        if outside.size:
            raise InvalidInputError(
                f"ExpectedCalibrationError: expected a probability from 0 to 1, got {outside[0]}"
            )
        bins = np.clip(np.ceil(confidence * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        is_hit = values.argmax(axis=-1) == gold
        self.counts[0] += np.bincount(bins, minlength=self.bins)
        self.counts[1] += np.bincount(bins[is_hit], minlength=self.bins)
        for index in np.unique(bins):
            self.confidences[index].add_all(confidence[bins == index])

    def state(self) -> tuple[npt.NDArray[np.int64], list[list[float]]]:
        """Return the counts and the sums, in exact parts."""
        return self.counts, [list(total.parts) for total in self.confidences]

    def add_state(self, state: tuple[npt.NDArray[np.int64], list[list[float]]]) -> None:
        """Add the items of another process."""
        self.counts = self.counts + state[0]
        for total, parts in zip(self.confidences, state[1], strict=True):
            for part in parts:
                total.add(part)

    def compute(self) -> dict[str, float]:
        """Return the error; NaN if there was no valid label."""
        items, hits = self.counts
        gaps = [abs(hit - total.value()) for hit, total in zip(hits.tolist(), self.confidences, strict=True)]
        count = int(items.sum())
        return {"expected_calibration_error": math.fsum(gaps) / count if count else math.nan}
