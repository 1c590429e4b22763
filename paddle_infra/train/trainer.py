"""The training loop: epochs of windows of micro-batches; everything else is in callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from os import PathLike
from pathlib import Path
from typing import Any

import paddle

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError, TrainingError
from paddle_infra._core.modes import evaluation_mode
from paddle_infra.train.batches import EpochBatches, count_items, length_of, planned_steps, windows
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.checkpoints.checkpointing import resume_path
from paddle_infra.train.checkpoints.snapshot import restore_snapshot
from paddle_infra.train.evaluation import Evaluator
from paddle_infra.train.precision import Precision, precision_from
from paddle_infra.train.rng import preserved_rng
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice, Strategy
from paddle_infra.train.window import NonFinite, WindowStep

MOST_SKIPPED_IN_A_ROW = 100  # a model that has become NaN would be "trained" forever


class Trainer:
    r"""Trains any ``paddle.nn.Layer``.

    One optimizer step uses a window of ``accumulate`` micro-batches in each process and follows the gradient of

    .. math:: L = \sum_b \frac{n_b}{\sum_j n_j} \, L_b

    where :math:`L_b` is the mean loss of micro-batch *b* and :math:`n_b` its number of valid items: exactly
    the mean loss of one large batch, also when the micro-batches differ in size, for the short last window, and
    when processes have different numbers of them.

    Args:
        model: the layer to train.
        optimizer: a Paddle optimizer over its parameters. If it holds an ``LRScheduler``, that is stepped
            once per optimizer step.
        training_step: ``training_step(model, batch)`` returns the mean loss over the valid items, a scalar
            tensor. Regularisers wrap it: see :class:`~paddle_infra.train.FGM`.
        evaluator: how to evaluate; needed by :meth:`evaluate` and by :meth:`fit` with an ``eval_loader``.
        count: ``count(batch)`` returns the number of valid items.
        strategy: where to run; None is the current device.
        precision: None or "float32", or a :class:`~paddle_infra.train.precision.Precision` object.
        callbacks: see :class:`~paddle_infra.train.callbacks.Callback`.
        accumulate: micro-batches per optimizer step and process.
        non_finite: what to do with a window whose loss (or gradient norm, if the optimizer clips with
            :class:`~paddle_infra.train.ClipByGlobalNorm`) is NaN or infinite: "raise", or "skip" it, which
            ``state.skipped`` counts.

    Attributes:
        state: position and scores of the run.
        network: what the training step calls: the model, or what the strategy made of it.
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
        non_finite: NonFinite = "raise",
    ) -> None:
        check_positive("accumulate", accumulate)
        self.strategy = strategy or SingleDevice()
        self.precision = precision_from(precision, paddle.get_device())
        self.model, self.evaluator, self.accumulate = model, evaluator, accumulate
        self.network, self.optimizer = self.strategy.prepare(*self.precision.prepare(model, optimizer))
        self.callbacks = sorted(callbacks, key=lambda callback: callback.runs_last)  # stable
        self._step = WindowStep(
            self.network,
            self.optimizer,
            training_step,
            count,
            self.strategy,
            self.precision,
            non_finite,
            before_step=lambda: self.call("on_gradients"),
        )
        self.state = TrainState()
        self.epoch_rng: dict[str, Any] | None = None
        self.resumed_from: Path | None = None
        self.total_steps: int | None = None
        self.max_epochs: int | None = None
        self.max_steps: int | None = None
        self._skipped_in_a_row = 0
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
                ``iterate(epoch, start, step)`` a resumed run skips batches without reading them; several
                processes need one, each trains on every ``step``-th batch.
            eval_loader: an iterable of batches, a dict of several by name (whose metrics are then called
                ``name/metric``), or None.
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
            TrainingError: a window has no valid item, or too many in a row were skipped.
            CheckpointError: the checkpoint is missing, damaged or does not fit; nothing has been changed.
            TrainingInterrupted: SIGINT or SIGTERM, after the checkpoint callback has saved (a
                KeyboardInterrupt).
        """
        self._plan(train_loader, eval_loader, max_epochs, max_steps)
        self.state, self.epoch_rng, self.resumed_from = TrainState(), None, None
        self._skipped_in_a_row = 0
        if resume is not None:
            self.resumed_from = resume_path(self.callbacks, resume)
            restore_snapshot(self, self.resumed_from)
        self.optimizer.clear_grad()
        self.network.train()
        with self._session():
            self.call("on_fit_begin")
            while not self._is_complete:
                is_exhausted = self._train_epoch(train_loader)
                if eval_loader is not None:
                    self.state.metrics = self._validate(eval_loader)
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
        batches = 0
        with ExitStack() as stack:
            stack.enter_context(self._session())
            stack.enter_context(self.strategy.gathered(self.model))
            for callback in self.callbacks:
                stack.enter_context(callback.evaluation_context(self))
            stack.enter_context(evaluation_mode(self.model))
            stack.enter_context(paddle.no_grad())
            stack.enter_context(preserved_rng())
            self.call("on_evaluate_begin", length_of(loader))
            for batch in EpochBatches(loader, 0, 0, None, self.strategy):
                evaluator.update(self.model, self.strategy.to_device(batch))
                self.call("on_evaluate_batch")
                batches += 1
            if not self.strategy.sum([batches])[0]:
                raise InvalidInputError("evaluation loader: expected at least one batch, got none")
            evaluator.merge(self.strategy)
            metrics = evaluator.compute()
            self.call("on_evaluate_end", metrics)
        return metrics

    def call(self, hook: str, *args: Any) -> None:
        """Call one hook of every callback, in order."""
        for callback in self.callbacks:
            getattr(callback, hook)(self, *args)

    def _validate(self, loader: Any) -> dict[str, float]:
        """Evaluate one loader, or several by name."""
        if not isinstance(loader, Mapping):
            return self.evaluate(loader)
        return {
            f"{key}/{name}": value for key in loader for name, value in self.evaluate(loader[key]).items()
        }

    def _train_epoch(self, loader: Any) -> bool:
        """Train to the end of the epoch or of the run; return whether the loader was exhausted."""
        state = self.state
        batches = EpochBatches(loader, state.epoch, state.batch, self.epoch_rng, self.strategy)
        self.epoch_rng = batches.rng_at_start
        self.call("on_epoch_begin")
        # A process that has come to its end goes on with empty windows until all have.
        until_all_end: Iterable[list[Any]] = repeat([]) if self.strategy.ranks > 1 else ()
        for window in chain(windows(batches, self.accumulate), until_all_end):
            self.call("on_step_begin")
            result = self._step.run(window, self._where)
            if result.batches == 0:
                break
            state.add(result)
            if result.is_skipped:
                self._skipped_in_a_row += 1
                if self._skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
                    raise TrainingError(
                        f"step {state.step + 1}: {self._skipped_in_a_row} windows in a row were not finite"
                    )
                continue
            self._skipped_in_a_row = 0
            self.call("on_step_end")
            if self._is_complete:
                return False
        if state.batch == 0:
            raise InvalidInputError(
                f"train_loader: expected at least one batch, got none in epoch {state.epoch + 1} "
                "(a generator or iterator can be used once only: pass an object that can be started again)"
            )
        return True

    def _where(self, index: int) -> str:
        """Say which micro-batch of the epoch the ``index``-th of the current window of this process is."""
        state, strategy = self.state, self.strategy
        batch = state.batch + strategy.rank + index * strategy.ranks + 1
        return f"step {state.step + 1}, epoch {state.epoch + 1}, batch {batch}"

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
                check_positive(name, value)
        if eval_loader is not None:
            self._require_evaluator()
        self.max_epochs, self.max_steps = epochs, steps
        planned = planned_steps(length_of(train_loader), epochs, self.accumulate, self.strategy)
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
