"""The training loop: windows of micro-batches, exact weighting, everything else in callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import paddle
from paddle.optimizer.lr import LRScheduler

from paddle_infra._core.errors import InvalidInputError, NonFiniteLossError, TrainingError
from paddle_infra._core.modes import evaluation_mode
from paddle_infra.train.batches import EpochBatches, batch_size, count_items, length_of, windows
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.checkpointing import resume_path
from paddle_infra.train.evaluation import Evaluator
from paddle_infra.train.precision import Precision, precision_from
from paddle_infra.train.rng import preserved_rng
from paddle_infra.train.snapshot import restore_snapshot
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice, Strategy


class Trainer:
    r"""Trains any ``paddle.nn.Layer``.

    One optimizer step uses a window of ``accumulate`` micro-batches and follows the gradient of

    .. math:: L = \sum_b \frac{n_b}{\sum_j n_j} \, L_b

    where :math:`L_b` is the mean loss of micro-batch *b* and :math:`n_b` its number of valid items: exactly
    the mean loss of one large batch, also when the micro-batches differ in size and for the short last
    window.

    Args:
        model: the layer to train.
        optimizer: a Paddle optimizer over its parameters. If it holds an ``LRScheduler``, that is stepped
            once per optimizer step.
        training_step: ``training_step(model, batch)`` returns the mean loss over the valid items, a scalar
            tensor.
        evaluator: how to evaluate; needed by :meth:`evaluate` and by :meth:`fit` with an ``eval_loader``.
        count: ``count(batch)`` returns the number of valid items.
        strategy: where to run; None is the current device.
        precision: None or "float32", or a :class:`~paddle_infra.train.precision.Precision` object.
        callbacks: see :class:`~paddle_infra.train.callbacks.Callback`.
        accumulate: micro-batches per optimizer step.

    Attributes:
        state: position and scores of the run.
        resumed_from: the checkpoint that the run was resumed from, or None.
        epoch_rng: random state at the start of the current epoch.
        total_steps: optimizer steps that the whole run will take; None if unknown.
        max_epochs: epochs of the run; None if only steps bound it.
        max_steps: optimizer steps of the run; None if only epochs bound it.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        training_step: Callable[[paddle.nn.Layer, Any], paddle.Tensor],
        *,
        evaluator: Evaluator | None = None,
        count: Callable[[Any], int] = count_items,
        strategy: Strategy | None = None,
        precision: Precision | str | None = None,
        callbacks: Sequence[Callback] = (),
        accumulate: int = 1,
    ) -> None:
        _check_positive("accumulate", accumulate)
        self.strategy = strategy or SingleDevice()
        self.precision = precision_from(precision, paddle.get_device())
        self.model = self.strategy.prepare(model)
        self.optimizer, self.training_step, self.evaluator = optimizer, training_step, evaluator
        self.count, self.accumulate = count, accumulate
        self.callbacks = sorted(callbacks, key=lambda callback: callback.runs_last)  # stable
        self.state = TrainState()
        self.epoch_rng: dict[str, Any] | None = None
        self.resumed_from: Path | None = None
        self.total_steps: int | None = None
        self.max_epochs: int | None = None
        self.max_steps: int | None = None
        self._in_session = False

    def fit(
        self,
        train_loader: Any,
        eval_loader: Any = None,
        *,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        resume: str | PathLike[str] | None = None,
    ) -> TrainState:
        """Train until ``max_epochs`` or ``max_steps`` is reached or a callback stops the run.

        The model is validated on ``eval_loader`` after each epoch, and after the last step if that is not the
        end of an epoch. Validation cannot change the training: every random generator is put back afterwards.

        Args:
            train_loader: an iterable of batches that can be started once per epoch. With a method
                ``iterate(epoch, start)`` a resumed run skips batches without reading them.
            eval_loader: an iterable of batches, or None.
            max_epochs: number of epochs, counted from the start of the run (not from the resume).
            max_steps: number of optimizer steps, counted likewise.
            resume: a checkpoint folder, or "latest" for the newest intact one of the checkpoint callback;
                None starts a new run.

        Returns:
            The final state.

        Raises:
            InvalidInputError: a bad argument, an empty loader, or a training step that returns no scalar
                loss.
            NonFiniteLossError: the loss became NaN or infinite. The optimizer has not been touched by that
                step.
            TrainingError: a window has no valid item.
            CheckpointError: the checkpoint is missing, damaged or does not fit; nothing has been changed.
            TrainingInterrupted: SIGINT or SIGTERM, after the checkpoint callback has saved (a
                KeyboardInterrupt).
        """
        self._plan(train_loader, eval_loader, max_epochs, max_steps)
        self.state, self.epoch_rng, self.resumed_from = TrainState(), None, None
        if resume is not None:
            self.resumed_from = resume_path(self.callbacks, resume)
            restore_snapshot(self, self.resumed_from)
        self.optimizer.clear_grad()
        self.model.train()
        with self._session():
            self.call("on_fit_begin")
            while not self._is_complete:
                is_exhausted = self._train_epoch(train_loader)
                if eval_loader is not None:
                    self.state.metrics = self.evaluate(eval_loader)
                    self.call("on_validation_end", self.state.metrics)
                if is_exhausted:
                    self.state.epoch, self.state.batch, self.epoch_rng = self.state.epoch + 1, 0, None
                    self.call("on_epoch_end")
            self.call("on_fit_end")
        return self.state

    def evaluate(self, loader: Any) -> dict[str, float]:
        """Evaluate the model on ``loader`` batch by batch and return the values of all metrics.

        Runs in evaluation mode without gradients; every layer's mode and all random generators are as before
        afterwards, even on error.

        Raises:
            InvalidInputError: there is no evaluator, or the loader is empty.
        """
        evaluator = self._require_evaluator()
        evaluator.reset()
        batch = None
        with self._session(), evaluation_mode(self.model), paddle.no_grad(), preserved_rng():
            self.call("on_evaluate_begin", length_of(loader))
            for batch in EpochBatches(loader, 0, 0, None):
                evaluator.update(self.model, self.strategy.to_device(batch))
                self.call("on_evaluate_batch")
            if batch is None:
                raise InvalidInputError("evaluation loader: expected at least one batch, got none")
            metrics = evaluator.compute()
            self.call("on_evaluate_end", metrics)
        return metrics

    def call(self, hook: str, *args: Any) -> None:
        """Call one hook of every callback, in order."""
        for callback in self.callbacks:
            getattr(callback, hook)(self, *args)

    def _train_epoch(self, loader: Any) -> bool:
        """Train to the end of the epoch or of the run; return whether the loader was exhausted."""
        batches = EpochBatches(loader, self.state.epoch, self.state.batch, self.epoch_rng)
        self.epoch_rng = batches.rng_at_start
        self.call("on_epoch_begin")
        for window in windows(batches, self.accumulate):
            self._train_step(window)
            self.call("on_step_end")
            if self._is_complete:
                return False
        if self.state.batch == 0:
            raise InvalidInputError(
                f"train_loader: expected at least one batch, got none in epoch {self.state.epoch + 1} "
                "(a generator or iterator can be used once only: pass an object that can be started again)"
            )
        return True

    def _train_step(self, window: list[Any]) -> None:
        """One optimizer step from a window of micro-batches."""
        counts = [self.count(batch) for batch in window]
        total = self.strategy.total(sum(counts))
        if total == 0:
            raise TrainingError(
                f"{self._where(len(window))}: expected at least one valid item, got none: all are ignored"
            )
        loss = 0.0
        for index, (batch, items) in enumerate(zip(window, counts, strict=True)):
            if items:  # the mean over no item would be NaN
                loss += self._backward(batch, items / total, index)
        self.state.learning_rate = float(self.optimizer.get_lr())
        self.precision.step(self.optimizer)
        self.optimizer.clear_grad()
        if isinstance(self.optimizer._learning_rate, LRScheduler):
            self.optimizer._learning_rate.step()
        self.state.step += 1
        self.state.batch += len(window)
        self.state.samples += sum(map(batch_size, window))
        self.state.items += sum(counts)
        self.state.loss = loss

    def _backward(self, batch: Any, weight: float, index: int) -> float:
        """Accumulate the gradient of one micro-batch's share of the loss; return that share."""
        with self.precision.forward():
            loss = self.training_step(self.model, self.strategy.to_device(batch))
        _check_loss(loss)
        share = loss.reshape([]) * weight
        value = float(share)
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"{self._where(index + 1)}: expected a finite loss, got {float(loss)}; the optimizer has "
                "not been touched. Try a lower learning rate, gradient clipping, or look at this batch"
            )
        self.precision.backward(share)
        return value

    def _where(self, batches: int) -> str:
        state = self.state
        return f"step {state.step + 1}, epoch {state.epoch + 1}, batch {state.batch + batches}"

    @property
    def _is_complete(self) -> bool:
        state = self.state
        epochs_done = self.max_epochs is not None and state.epoch >= self.max_epochs
        steps_done = self.max_steps is not None and state.step >= self.max_steps
        return epochs_done or steps_done or state.should_stop

    def _plan(self, train_loader: Any, eval_loader: Any, epochs: int | None, steps: int | None) -> None:
        if epochs is None and steps is None:
            raise InvalidInputError("fit: expected max_epochs or max_steps, got neither")
        for name, value in (("max_epochs", epochs), ("max_steps", steps)):
            if value is not None:
                _check_positive(name, value)
        if eval_loader is not None:
            self._require_evaluator()
        self.max_epochs, self.max_steps = epochs, steps
        length = length_of(train_loader)
        planned = None if length is None or epochs is None else epochs * math.ceil(length / self.accumulate)
        self.total_steps = min((n for n in (planned, steps) if n is not None), default=None)

    def _require_evaluator(self) -> Evaluator:
        if self.evaluator is None:
            raise InvalidInputError(
                "evaluation: expected Trainer(evaluator=Evaluator(step, metrics)), got none"
            )
        return self.evaluator

    @contextmanager
    def _session(self) -> Iterator[None]:
        """The outermost call (fit, or a lone evaluate) reports its exception and closes the callbacks."""
        if self._in_session:
            yield
            return
        self._in_session = True
        try:
            yield
        except BaseException as error:
            self.call("on_exception", error)
            raise
        finally:
            self._in_session = False
            with ExitStack() as stack:  # every callback is closed, even if another one fails to
                for callback in self.callbacks:
                    stack.callback(callback.on_close, self)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{name}: expected a positive integer, got {value!r}")


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
