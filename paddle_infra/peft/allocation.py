"""AdaLoRA's allocation of ranks: importance of triplets, a shrinking budget, and the callback that uses both."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_infra._core.checks import check_integer, check_number, check_positive
from paddle_infra._core.errors import CheckpointError, InvalidInputError
from paddle_infra.peft.adalora import AdaLoRALinear, triplet_layers

_FACTORS = ("left", "diagonal", "right")


def budget(step: int, first: int, last: int, initial_steps: int, final_steps: int, total_steps: int) -> int:
    r"""Return how many triplets are kept after ``step`` steps.

    :math:`b_T + (b_0 - b_T)\big(1 - \frac{t - t_i}{T - t_i - t_f}\big)^3` between :math:`t_i` and :math:`T - t_f`,
    rounded up; :math:`b_0` before, exactly :math:`b_T` afterwards.

    Args:
        step: :math:`t`.
        first: :math:`b_0`.
        last: :math:`b_T`.
        initial_steps: :math:`t_i`.
        final_steps: :math:`t_f`.
        total_steps: :math:`T`.

    References:
        Zhang et al., arXiv:2303.10512, section 3.3.
    """
    if step < initial_steps:
        return first
    if step >= total_steps - final_steps:
        return last
    rest = total_steps - final_steps - step
    length = total_steps - final_steps - initial_steps
    # In integers, so that rounding up is exact.
    return last - (-(first - last) * rest**3 // length**3)


def keep_largest(scores: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Return for each array a mask of which of its numbers are among the ``count`` largest of all.

    Of equal ones those of earlier arrays, and in them the earlier ones, are kept. NaN counts as the smallest.
    """
    flat = np.concatenate(scores).astype(np.float64)
    flat = np.where(np.isnan(flat), -np.inf, flat)
    mask = np.zeros(len(flat), bool)
    mask[np.argsort(-flat, kind="stable")[:count]] = True
    return np.split(mask, np.cumsum([len(score) for score in scores])[:-1])


class RankAllocation:
    r"""Callback of the Trainer: lets the triplets of AdaLoRA compete, and keeps the most important ones.

    The sensitivity :math:`I = |w \cdot \partial L / \partial w|` of each number is smoothed,
    :math:`\bar I \leftarrow \beta_1 \bar I + (1 - \beta_1) I`, and so is its uncertainty,
    :math:`\bar U \leftarrow \beta_2 \bar U + (1 - \beta_2) |I - \bar I|`; with :math:`s = \bar I \bar U` the score of a
    triplet is :math:`s(\lambda)` plus the means of :math:`s` over its column of P and its row of Q. Every
    ``every_steps`` steps all :math:`\lambda` but the :func:`budget`'s best are set to 0; they go on learning and may
    come back. ``final_steps`` before the end it is decided: from then on exactly ``target_rank`` triplets per layer on
    average are kept, and the others are out for good (``AdaLoRALinear.kept``).

    Its state is in every checkpoint, and a resumed run goes on bit for bit.

    Args:
        target_rank: triplets that are kept in the end, per layer on average.
        initial_steps: steps before the first reallocation.
        final_steps: steps after the last one; at least 1.
        every_steps: steps from one to the next.
        total_steps: steps of the run; None: as the Trainer plans.
        sensitivity_smoothing: :math:`\beta_1`.
        uncertainty_smoothing: :math:`\beta_2`.

    References:
        Zhang et al., arXiv:2303.10512, sections 3.2 and 3.3. Sensitivities are of the weights and the complete
        gradients before the optimizer's step.
    """

    runs_last: ClassVar[bool] = False
    writes_files: ClassVar[bool] = False

    def __init__(
        self,
        target_rank: int,
        *,
        initial_steps: int = 0,
        final_steps: int = 1,
        every_steps: int = 1,
        total_steps: int | None = None,
        sensitivity_smoothing: float = 0.85,
        uncertainty_smoothing: float = 0.85,
    ) -> None:
        for name, value in (
            ("target_rank", target_rank),
            ("final_steps", final_steps),
            ("every_steps", every_steps),
        ):
            check_positive(name, value)
        if check_integer("initial_steps", initial_steps) < 0:
            raise InvalidInputError(f"initial_steps: expected 0 or more, got {initial_steps}")
        if total_steps is not None:
            check_positive("total_steps", total_steps)
        self.target_rank, self.every_steps = target_rank, every_steps
        self.initial_steps, self.final_steps, self.total_steps = initial_steps, final_steps, total_steps
        self.smoothing = (
            check_number("sensitivity_smoothing", sensitivity_smoothing, 0.0, 1.0),
            check_number("uncertainty_smoothing", uncertainty_smoothing, 0.0, 1.0),
        )
        self._steps = 0  # of the whole run
        self._smoothed: dict[str, Tensor] = {}  # <structured parameter name>/sensitivity and …/uncertainty
        self._next: dict[str, Tensor] = {}  # what they are if this step is taken
        self._is_restored = False

    def on_fit_begin(self, trainer: Any) -> None:
        """Check model and lengths; start anew unless a checkpoint was loaded."""
        layers = triplet_layers(trainer.model)
        ranks = [layer.diagonal.shape[0] for layer in layers.values()]
        if self.target_rank > min(ranks):
            raise InvalidInputError(
                f"target_rank: expected at most the adapter's rank {min(ranks)}, got {self.target_rank}"
            )
        steps = trainer.total_steps if self.total_steps is None else self.total_steps
        if steps is None:
            raise InvalidInputError(
                "total_steps: expected a number, since the Trainer does not know it, got None"
            )
        if self.initial_steps + self.final_steps > steps:
            raise InvalidInputError(
                f"initial_steps + final_steps: expected at most the {steps} steps of the run, got "
                f"{self.initial_steps} + {self.final_steps}"
            )
        self._steps = steps
        if not self._is_restored:
            self._smoothed = {}
        self._is_restored = False

    def on_gradients(self, trainer: Any) -> None:
        """Compute the new sensitivities and uncertainties; they count when the step has been taken."""
        self._next = {}
        if trainer.state.step >= self._steps - self.final_steps:
            return
        with paddle.no_grad():
            for name, layer in triplet_layers(trainer.model).items():
                for factor in _FACTORS:
                    self._observe(f"{name}.{factor}", getattr(layer, factor))

    def on_step_end(self, trainer: Any) -> None:
        """Reallocate, if it is time."""
        self._smoothed.update(self._next)
        self._next = {}
        step, last = trainer.state.step, self._steps - self.final_steps
        if step == last or (self.initial_steps <= step < last and step % self.every_steps == 0):
            self._reallocate(triplet_layers(trainer.model), step, is_final=step == last)
        if step == last:
            self._smoothed = {}  # never needed again

    def _observe(self, name: str, parameter: Tensor) -> None:
        gradient = parameter._grad_ivar()
        new = paddle.zeros_like(parameter) if gradient is None else (parameter * gradient).abs()
        old = self._smoothed.get(f"{name}/sensitivity")
        old = paddle.zeros_like(new) if old is None else old
        uncertainty = self._smoothed.get(f"{name}/uncertainty")
        uncertainty = paddle.zeros_like(new) if uncertainty is None else uncertainty
        first, second = self.smoothing
        sensitivity = first * old + (1.0 - first) * new
        self._next[f"{name}/sensitivity"] = sensitivity
        self._next[f"{name}/uncertainty"] = second * uncertainty + (1.0 - second) * (new - sensitivity).abs()

    def _reallocate(self, layers: dict[str, AdaLoRALinear], step: int, *, is_final: bool) -> None:
        first = sum(layer.diagonal.shape[0] for layer in layers.values())
        last = self.target_rank * len(layers)
        count = budget(step, first, last, self.initial_steps, self.final_steps, self._steps)
        masks = keep_largest([self._scores(name) for name in layers], count)
        with paddle.no_grad():
            for layer, mask in zip(layers.values(), masks, strict=True):
                kept = paddle.to_tensor(mask).astype(layer.diagonal.dtype)
                layer.diagonal.set_value(layer.diagonal * kept)
                if is_final:
                    layer.kept.set_value(kept)

    def _scores(self, name: str) -> np.ndarray:
        left, diagonal, right = (
            self._smoothed[f"{name}.{factor}/sensitivity"] * self._smoothed[f"{name}.{factor}/uncertainty"]
            for factor in _FACTORS
        )
        return (diagonal + left.mean(axis=0) + right.mean(axis=1)).numpy()

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the smoothed sensitivities and uncertainties."""
        return dict(self._smoothed)

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._smoothed = dict(tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the settings that must not change."""
        return {"target_rank": self.target_rank}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check the settings; tensors, if there are any, come afterwards."""
        if state.get("target_rank") != self.target_rank:
            raise CheckpointError(
                f"RankAllocation: target_rank: expected the checkpoint's {state.get('target_rank')}, "
                f"got {self.target_rank}"
            )
        self._smoothed, self._is_restored = {}, True

    def evaluation_context(self, trainer: Any) -> AbstractContextManager[Any]:
        """Return a context that changes nothing."""
        return nullcontext()

    def on_epoch_begin(self, trainer: Any) -> None:
        """Do nothing."""

    def on_step_begin(self, trainer: Any) -> None:
        """Do nothing."""

    def on_evaluate_begin(self, trainer: Any, batches: int | None) -> None:
        """Do nothing."""

    def on_evaluate_batch(self, trainer: Any) -> None:
        """Do nothing."""

    def on_evaluate_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        """Do nothing."""

    def on_validation_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        """Do nothing."""

    def on_epoch_end(self, trainer: Any) -> None:
        """Do nothing."""

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        """Do nothing."""

    def on_fit_end(self, trainer: Any) -> None:
        """Warn if the run was too short for the final allocation."""
        if trainer.state.step < self._steps - self.final_steps:
            warnings.warn(
                f"RankAllocation: the run ended after {trainer.state.step} steps, before the final allocation after "
                f"{self._steps - self.final_steps}: every triplet is still there",
                stacklevel=2,
            )

    def on_exception(self, trainer: Any, error: BaseException) -> None:
        """Do nothing."""

    def on_close(self, trainer: Any) -> None:
        """Do nothing."""


def kept_triplets(model: nn.Layer) -> dict[str, int]:
    """Return how many triplets the layers of the active AdaLoRA adapter keep, by structured name of the layer.

    Raises:
        InvalidInputError: there is no such adapter.
    """
    return {
        name.rsplit(".adapters.", 1)[0]: int(layer.kept.sum())
        for name, layer in triplet_layers(model).items()
    }
