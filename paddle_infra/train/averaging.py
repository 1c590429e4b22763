"""Averages of the weights along the run: exponential moving average, stochastic weight averaging."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import paddle

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import CheckpointError, InvalidInputError, UnsupportedError
from paddle_infra.train.batch_norm import batch_norms, refresh_batch_norm, statistics_names
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.strategy import require_whole_parameters

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class WeightAverage(Callback, ABC):
    """Base of callbacks that keep an average of the model's weights.

    The average is one copy of the trained weights (and running statistics), changed in place. Evaluations run with
    it: average and weights are exchanged before, tensor by tensor, and put back afterwards, bit for bit, also on
    error. Checkpoints hold it, and a resumed run goes on with it exactly. Frozen weights are not copied.

    Attributes:
        updates: how many times the weights have entered the average.
    """

    def __init__(self, every_steps: int) -> None:
        check_positive("every_steps", every_steps)
        self.every_steps = every_steps
        self.updates = 0
        self._average: dict[str, paddle.Tensor] = {}
        self._is_restored = False

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start a new average, or check that the one of the checkpoint fits the model."""
        require_whole_parameters(trainer.strategy, type(self).__name__)
        sources = _averaged_tensors(trainer.model)
        if not self._is_restored:
            self.updates, self._average = 0, {}
            if trainer.resumed_from is not None:
                warnings.warn(
                    f"{type(self).__name__}: {trainer.resumed_from} holds no average: a new one starts here",
                    stacklevel=2,
                )
        self._is_restored = False
        for name, tensor in self._average.items():
            if name not in sources or list(sources[name].shape) != list(tensor.shape):
                expected = list(sources[name].shape) if name in sources else "no such tensor"
                raise CheckpointError(
                    f"{type(self).__name__}: the average does not fit the model: {name}: expected {expected}, "
                    f"got shape {list(tensor.shape)}"
                )

    def on_step_end(self, trainer: Trainer) -> None:
        """Let the weights enter the average if it is time."""
        if self._is_due(trainer.state.step):
            self._update(trainer.model)

    def evaluation_context(self, trainer: Trainer) -> AbstractContextManager[Any]:
        """Return a context in which the model has the averaged weights, if there is an average yet."""
        return self.exchanged(trainer.model)

    @contextmanager
    def exchanged(self, model: paddle.nn.Layer) -> Iterator[None]:
        """Give ``model`` the averaged weights for a while (nothing happens before the first update).

        The average itself is in the model meanwhile: do not train in this context.
        """
        pairs = self._pairs(model)
        with paddle.no_grad():
            exchanged: list[tuple[paddle.Tensor, paddle.Tensor]] = []
            try:
                for pair in pairs:
                    _exchange(*pair)
                    exchanged.append(pair)
                if pairs:
                    self._prepare(model)
                yield
            finally:
                for pair in exchanged:
                    _exchange(*pair)

    def apply_to(self, model: paddle.nn.Layer) -> None:
        """Replace the weights of ``model`` by their average.

        Raises:
            InvalidInputError: there is no average yet, or ``model`` has other tensors.
        """
        if not self._average:
            raise InvalidInputError(f"{type(self).__name__}: expected an average, got none: no update yet")
        pairs = self._pairs(model)
        with paddle.no_grad():
            for target, value in pairs:
                paddle.assign(value, output=target)
            self._prepare(model)

    def state_tensors(self) -> dict[str, paddle.Tensor]:
        """Return the average by structured name."""
        return dict(self._average)

    def load_state_tensors(self, tensors: dict[str, paddle.Tensor]) -> None:
        """Take the average back."""
        self._average = dict(tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the number of updates back; the tensors, if there are any, come afterwards."""
        self.updates, self._average, self._is_restored = state["updates"], {}, True

    def _is_due(self, step: int) -> bool:
        return step % self.every_steps == 0

    @abstractmethod
    def _weight(self) -> float:
        """Return the weight of the new weights in the average, given the number of earlier updates."""

    def _skips(self, model: paddle.nn.Layer) -> set[str]:
        """Return the names of tensors that are kept beside the average, but not averaged."""
        return set()

    def _prepare(self, model: paddle.nn.Layer) -> None:
        """Make the model, which has the averaged weights now, ready for use."""

    def _update(self, model: paddle.nn.Layer) -> None:
        weight, skipped = self._weight(), self._skips(model)
        with paddle.no_grad():
            for name, tensor in _averaged_tensors(model).items():
                average = self._average.get(name)
                if average is None:  # the first update, or a weight that was frozen until now
                    self._average[name] = tensor.detach().clone()
                elif name not in skipped:
                    average.lerp_(tensor.detach(), weight)  # a + w (x - a): exact where nothing changes
        self.updates += 1

    def _pairs(self, model: paddle.nn.Layer) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
        targets = model.state_dict()
        missing = [name for name in self._average if name not in targets]
        if missing:
            raise InvalidInputError(
                f"{type(self).__name__}: expected a model with the averaged tensors, got one without {missing}"
            )
        return [(targets[name], average) for name, average in self._average.items()]


class EMA(WeightAverage):
    r"""Exponential moving average of the weights and of BatchNorm's running statistics.

    .. math:: \bar\theta \leftarrow d_t \bar\theta + (1 - d_t) \theta, \qquad
        d_t = \min\big(d, (1 + t) / (10 + t)\big)

    after each update *t* (from 0), where the average before the first is the weights themselves; without ``warmup``
    :math:`d_t = d`.

    Args:
        decay: *d*, in [0, 1).
        every_steps: update after every so many optimizer steps.
        warmup: whether early averages are shorter.

    Raises:
        InvalidInputError: an argument is out of range.
    """

    def __init__(self, decay: float = 0.999, *, every_steps: int = 1, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise InvalidInputError(f"decay: expected a number from 0 up to but not 1, got {decay!r}")
        super().__init__(every_steps)
        self.decay, self.warmup = float(decay), warmup

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Start from the weights as they are, or go on."""
        super().on_fit_begin(trainer)
        if not self._average:
            self._update(trainer.model)
            self.updates = 0

    def _weight(self) -> float:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        return 1.0 - decay


class SWA(WeightAverage):
    r"""Stochastic weight averaging: the plain mean of the weights after some steps of the end of a run.

    .. math:: \bar\theta \leftarrow \bar\theta + (\theta - \bar\theta) / (n + 1)

    after step ``start_step`` and every ``every_steps`` steps later. Use a constant or cyclic learning rate there.
    BatchNorm's running statistics belong to weights that were trained with; those of the average are computed with
    ``batches`` (:func:`~paddle_infra.train.refresh_batch_norm`) before each evaluation and by :meth:`apply_to`.

    Args:
        start_step: the first optimizer step whose weights count.
        every_steps: how many steps apart they are.
        batches: training batches, an iterable that can be started again; needed if the model has BatchNorm layers.
        forward: ``forward(model, batch)`` runs the model on one of ``batches``.

    Raises:
        InvalidInputError: an argument is out of range or missing.

    References:
        Averaging Weights Leads to Wider Optima and Better Generalization, arXiv:1803.05407.
    """

    def __init__(
        self,
        start_step: int,
        *,
        every_steps: int = 1,
        batches: Iterable[Any] | None = None,
        forward: Callable[[paddle.nn.Layer, Any], Any] | None = None,
    ) -> None:
        check_positive("start_step", start_step)
        if (batches is None) != (forward is None):
            raise InvalidInputError("SWA: expected batches and forward, or neither, got one of them")
        super().__init__(every_steps)
        self.start_step, self.batches, self.forward = start_step, batches, forward
        self._to_device: Callable[[Any], Any] = lambda batch: batch

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Check that the statistics of BatchNorm layers can be computed."""
        if batch_norms(trainer.model) and self.batches is None:
            raise InvalidInputError(
                "SWA: expected batches and forward, since the model has BatchNorm layers, whose statistics fit only "
                "weights that were trained with; got none"
            )
        self._to_device = trainer.strategy.to_device
        super().on_fit_begin(trainer)

    def _is_due(self, step: int) -> bool:
        return step >= self.start_step and (step - self.start_step) % self.every_steps == 0

    def _weight(self) -> float:
        return 1.0 / (self.updates + 1)

    def _skips(self, model: paddle.nn.Layer) -> set[str]:
        return statistics_names(model)

    def _prepare(self, model: paddle.nn.Layer) -> None:
        if self.batches is not None and self.forward is not None and batch_norms(model):
            refresh_batch_norm(model, map(self._to_device, self.batches), self.forward)


def _averaged_tensors(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Return what training changes, by structured name: trainable parameters and floating-point buffers.

    Raises:
        UnsupportedError: one of them is neither float32 nor float64.
    """
    parameters = {name for name, _ in model.named_parameters()}
    statistics = statistics_names(model)
    chosen = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if (not tensor.stop_gradient if name in parameters - statistics else tensor.is_floating_point())
    }
    for name, tensor in chosen.items():
        if tensor.dtype not in (paddle.float32, paddle.float64):
            raise UnsupportedError(
                f"average: expected weights of float32 or float64, got {tensor.dtype} ({name})"
            )
    return chosen


def _exchange(left: paddle.Tensor, right: paddle.Tensor) -> None:
    # assign counts up the version of a tensor, which tells caches of it that it has changed; set_value does not.
    value = left.detach().clone()
    paddle.assign(right, output=left)
    paddle.assign(value, output=right)
