r"""One optimizer step: the micro-batches of a window, weighted so that they are one large batch.

With :math:`n_b` valid items in micro-batch *b*, the step follows the gradient of

.. math:: L = \sum_b \frac{n_b}{\sum_j n_j} \, L_b

where the sums run over the window's micro-batches in all processes. That is the mean loss of one large batch,
however the items are spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paddle
from paddle.optimizer.lr import LRScheduler

from paddle_infra._core.errors import InvalidInputError, NonFiniteLossError, TrainingError, UnsupportedError
from paddle_infra.train.batches import batch_size
from paddle_infra.train.optimizers.clipping import measured_norm
from paddle_infra.train.precision import Precision
from paddle_infra.train.strategy import Strategy

NonFinite = Literal["raise", "skip"]
Pass = tuple[Any, float, int]  # a micro-batch, its weight in the loss, its place in the window


@dataclass(frozen=True)
class StepResult:
    """What a window did, summed over all processes.

    Attributes:
        batches: micro-batches; 0 if every process has come to the end of its loader, and nothing was done.
        samples: samples in them.
        items: valid items in them.
        loss: mean loss per valid item.
        learning_rate: rate of the step.
        grad_norm: norm of its gradients before clipping; None if nothing measured it.
        is_skipped: whether nothing was learned, because something was not finite.
    """

    batches: int
    samples: int = 0
    items: int = 0
    loss: float = math.nan
    learning_rate: float = math.nan
    grad_norm: float | None = None
    is_skipped: bool = False


class MicroBatch:
    """One micro-batch of a window, with its weight in the loss.

    In the backward pass of a joint one, which every process makes, processes exchange gradients: they first agree
    that all go backward.

    Attributes:
        is_refused: whether another process did not agree.
    """

    def __init__(self, step: WindowStep, batch: Any, weight: float, is_joint: bool) -> None:
        self._step, self._batch, self._weight = step, step.strategy.to_device(batch), weight
        self._is_joint = is_joint
        self.is_refused = False

    def forward(self) -> paddle.Tensor:
        """Return the weighted loss, a scalar.

        Raises:
            InvalidInputError: the training step returned no scalar loss.
        """
        with self._step.precision.forward():
            loss = self._step.training_step(self._step.network, self._batch)
        _check_loss(loss)
        return loss.reshape([]) * self._weight

    def backward(self) -> float:
        """Accumulate the gradients of the weighted loss, if it is finite, and return it."""
        strategy = self._step.strategy
        with strategy.exchanging(self._step.network, self._is_joint):
            loss = self.forward()
            value = float(loss)
            is_good = math.isfinite(value)
            if self._is_joint and strategy.sum([not is_good])[0]:
                is_good, self.is_refused = False, is_good
            if is_good:
                self._step.precision.backward(loss)
        return value


class WindowStep:
    """Makes optimizer steps.

    Args:
        network: the layer that the training step calls.
        optimizer: its optimizer.
        training_step: ``training_step(network, batch)`` returns the mean loss of a micro-batch. If it has a
            method ``around(network, micro_batch)``, that makes the passes of each :class:`MicroBatch`, as many
            as it likes, and returns the weighted loss.
        count: number of valid items of a batch.
        strategy: where it runs.
        precision: how the loss goes backward.
        non_finite: "raise" an error, or "skip" the window.
        before_step: called when the gradients are complete.
    """

    def __init__(
        self,
        network: paddle.nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        training_step: Callable[[paddle.nn.Layer, Any], paddle.Tensor],
        count: Callable[[Any], int],
        strategy: Strategy,
        precision: Precision,
        non_finite: NonFinite,
        before_step: Callable[[], None],
    ) -> None:
        if non_finite not in ("raise", "skip"):
            raise InvalidInputError(f"non_finite: expected 'raise' or 'skip', got {non_finite!r}")
        if strategy.exchanges_each_pass and getattr(precision, "scaler", None) is not None:
            raise UnsupportedError(
                f"precision: expected no loss scaling with {type(strategy).__name__}, which keeps gradients in parts, "
                "got float16: use bfloat16"
            )
        self.network, self.optimizer, self.training_step, self.count = (
            network,
            optimizer,
            training_step,
            count,
        )
        self.strategy, self.precision, self.non_finite = strategy, precision, non_finite
        self.before_step = before_step
        self._is_around = hasattr(training_step, "around")
        self._around: Callable[[paddle.nn.Layer, MicroBatch], float] = getattr(
            training_step, "around", lambda _, micro_batch: micro_batch.backward()
        )

    def run(self, window: list[Any], where: Callable[[int], str]) -> StepResult:
        """Train on one window. ``where(i)`` says in errors which micro-batch the *i*-th of the window is.

        Raises:
            InvalidInputError: the training step returned no scalar loss.
            TrainingError: no micro-batch has a valid item.
            NonFiniteLossError: a loss or a gradient is NaN or infinite; the parameters are untouched.
        """
        counts = [self.count(batch) for batch in window]
        local = [sum(counts), len(window), sum(map(batch_size, window)), any(counts[-1:])]
        items, batches, samples, ready = (int(value) for value in self.strategy.sum(local))
        if batches == 0:
            return StepResult(0)
        if items == 0:
            raise TrainingError(
                f"{where(len(window) - 1)}: expected at least one valid item, got none: all are ignored"
            )
        passes = [
            (batch, count / items, index)
            for index, (batch, count) in enumerate(zip(window, counts, strict=True))
            if count  # the mean over no item would be NaN
        ]
        if self.strategy.exchanges_each_pass:
            passes = self._evened_out(passes)
        # A training step that goes backward several times would exchange gradients several times.
        overlaps = self.strategy.overlap and not self._is_around and ready == self.strategy.ranks
        loss, problem = self._backward_all(passes, where, overlaps)
        loss, problems = self.strategy.sum([loss, problem is not None])
        rate = float(self.optimizer.get_lr())
        if not problems:
            self.strategy.reduce_gradients(self.network)
            self.before_step()
            try:
                is_stepped = self.precision.step(self.optimizer)
            except NonFiniteLossError as error:  # found by clipping, the same in every process
                problem, problems = NonFiniteLossError(f"{where(len(window) - 1)}: {error}"), 1
        self.optimizer.clear_grad()
        if problems:
            if self.non_finite == "raise":
                raise problem or NonFiniteLossError(
                    f"{where(len(window) - 1)}: the loss of another process is not finite"
                )
            is_stepped = False
        if is_stepped and isinstance(self.optimizer._learning_rate, LRScheduler):
            self.optimizer._learning_rate.step()
        return StepResult(batches, samples, items, loss, rate, measured_norm(self.optimizer), not is_stepped)

    def _evened_out(self, passes: list[Pass]) -> list[Pass]:
        """Add passes that count for nothing, until every process makes equally many.

        Raises:
            UnsupportedError: the training step makes passes of its own.
        """
        strategy = self.strategy
        if self._is_around:
            raise UnsupportedError(
                f"training step: expected one backward pass for each micro-batch, since {type(strategy).__name__} "
                f"keeps gradients in parts, got {type(self.training_step).__name__}: train with DataParallel"
            )
        lengths = strategy.gather(len(passes))
        if min(lengths) == max(lengths):
            return passes
        offers = strategy.gather(passes[-1][0] if passes else None)
        spare = offers[lengths.index(max(lengths))]
        return passes + [(spare, 0.0, -1)] * (max(lengths) - len(passes))

    def _backward_all(
        self, passes: list[Pass], where: Callable[[int], str], overlaps: bool
    ) -> tuple[float, NonFiniteLossError | None]:
        """Accumulate the gradients of the window; stop at a loss that is not finite and return the error."""
        loss = 0.0
        for number, (batch, weight, index) in enumerate(passes, start=1):
            is_joint = self.strategy.exchanges_each_pass or (overlaps and number == len(passes))
            micro_batch = MicroBatch(self, batch, weight, is_joint)
            share = self._around(self.network, micro_batch)
            if not math.isfinite(share):
                value = share / weight if weight else share
                return share, NonFiniteLossError(
                    f"{where(index)}: expected a finite loss, got {value}; the optimizer has not been "
                    f"touched. Try a lower learning rate, gradient clipping, or look at this batch{_ids(batch)}"
                )
            if micro_batch.is_refused:
                break
            loss += share
        return loss, None


def _ids(batch: Any) -> str:
    """Name the samples of a batch, if it says which they are."""
    ids = batch.get("ids") if isinstance(batch, dict) else None
    return "" if ids is None else f" (ids {np.asarray(ids).tolist()})"


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, paddle.Tensor):
        raise InvalidInputError(f"training_step: expected a scalar loss tensor, got {type(loss).__name__}")
    if loss.size != 1:
        raise InvalidInputError(
            f"training_step: expected a scalar loss, got a tensor of shape {list(loss.shape)}"
        )
    if loss.stop_gradient:
        raise InvalidInputError(
            "training_step: expected a loss that depends on the parameters, got one with stop_gradient=True"
        )
