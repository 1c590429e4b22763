"""What every logger logs, and when. A back end says only how it is written."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.loggers.histogram import Histogram, histogram_of
from paddle_infra.train.metrics.curves import PrecisionRecallCurve
from paddle_infra.train.strategy import require_whole_parameters

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer

HParam = bool | int | float | str


class Logger(Callback, ABC):
    """Logs a run, from the process of rank 0. A back end says how each kind of value is written.

    ==================================  =============================================================
    ``train/loss``, ``train/lr``        every ``every_steps``-th step
    ``train/grad_norm``                 likewise, if the optimizer clips by one of this package's norms
    ``train/samples_per_s``             likewise: samples per second since the last one, without
                                        validations and checkpoints
    ``train/skipped``                   likewise, once a window has been skipped
    ``eval/<metric>``                   per validation
    ``eval/<metric>`` as a curve        per validation, of metrics with a method ``curves()`` such as
                                        :class:`~paddle_infra.train.BinaryRanking`
    ``weights/<name>``,                 every ``histograms_every``-th step: the weights after it and the
    ``gradients/<name>``                gradients it was made with (before clipping; finite values only)
    hyperparameters, texts              at the start of a new run
    ==================================  =============================================================

    A resumed run continues its log, and no step is there twice. Anything that cannot be written ends the run with
    an error.

    Args:
        every_steps: log the scalars of every so many-th step.
        histograms_every: log histograms of weights and gradients at every so many-th step; None does not.
        hparams: hyperparameters to show beside the results, by name.
        texts: texts to keep with the run, by name.

    Raises:
        InvalidInputError: an interval is not a positive integer.
        InvalidDtypeError: a hyperparameter is not a bool, an integer, a float or a string.
        UnsupportedError: the back end has no place for what an argument asks for.
    """

    writes_files: ClassVar[bool] = True

    def __init__(
        self,
        *,
        every_steps: int = 1,
        histograms_every: int | None = None,
        hparams: Mapping[str, HParam] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        who = type(self).__name__
        for name, value in (("every_steps", every_steps), ("histograms_every", histograms_every)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidInputError(f"{who}: {name}: expected a positive integer, got {value!r}")
        for name, asked, method in (
            ("histograms_every", histograms_every, "write_histogram"),
            ("hparams", hparams, "write_hparams"),
            ("texts", texts, "write_text"),
        ):
            if asked and getattr(type(self), method) is getattr(Logger, method):
                raise UnsupportedError(
                    f"{who}: {name}: expected None, it has no place for them, got {asked!r}"
                )
        for name, hparam in (hparams or {}).items():
            if not isinstance(hparam, (bool, int, float, str)):
                raise InvalidDtypeError(
                    f"{who}: hparams[{name!r}]: expected a bool, int, float or str, got {type(hparam).__name__}"
                )
        self.every_steps, self.histograms_every = every_steps, histograms_every
        self.hparams, self.texts = dict(hparams or {}), dict(texts or {})
        self._is_open = False
        self._gradients: dict[str, Histogram] = {}
        self._evaluations: list[tuple[list[str], dict[str, PrecisionRecallCurve]]] = []

    @abstractmethod
    def open(self, last_step: int | None) -> None:
        """Open the log: of a new run (None), or to go on after ``last_step``.

        Raises:
            MissingExtraError: the back end is not installed.
            StorageError: the log cannot be written.
        """

    @abstractmethod
    def write_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Write numbers by name. All methods that write raise StorageError if they cannot."""

    def write_hparams(self, hparams: dict[str, HParam]) -> None:
        """Write the hyperparameters. A back end without this method, or the next two, refuses what needs it."""
        raise UnsupportedError(f"{type(self).__name__} has no place for hyperparameters")

    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a text."""
        raise UnsupportedError(f"{type(self).__name__} has no place for texts, got {name!r}")

    def write_histogram(self, name: str, histogram: Histogram, step: int) -> None:
        """Write a histogram."""
        raise UnsupportedError(f"{type(self).__name__} has no place for histograms, got {name!r}")

    def write_curve(self, name: str, curve: PrecisionRecallCurve, step: int) -> None:
        """Write a precision-recall curve. A back end without this method leaves curves out."""

    @abstractmethod
    def sync(self) -> None:
        """Bring everything to the disk: a run resumed from the checkpoint just written continues it."""

    @abstractmethod
    def close(self) -> None:
        """Close the log; only called if it was opened."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Open the log."""
        self._gradients, self._evaluations = {}, []
        self._seconds, self._samples = 0.0, trainer.state.samples
        if self.histograms_every is not None:
            require_whole_parameters(trainer.strategy, f"{type(self).__name__}(histograms_every=…)")
        if trainer.strategy.rank != 0:
            return
        is_new = trainer.resumed_from is None
        self.open(None if is_new else trainer.state.step)
        self._is_open = True
        if is_new:
            if self.hparams:
                self.write_hparams(self.hparams)
            for name, text in self.texts.items():
                self.write_text(name, text, 0)

    def on_step_begin(self, trainer: Trainer) -> None:
        """Start the clock: reading the batches is part of a step."""
        self._start = time.monotonic()

    def on_gradients(self, trainer: Trainer) -> None:
        """Take the histograms of the gradients; they are written if the step is made."""
        if self._is_open and self._has_histograms(trainer.state.step + 1):
            self._gradients = _histograms(trainer.model, "gradients")

    def on_step_end(self, trainer: Trainer) -> None:
        """Log the step."""
        state = trainer.state
        self._seconds += time.monotonic() - self._start
        if not self._is_open:
            return
        if self._has_histograms(state.step):
            for name, histogram in (self._gradients | _histograms(trainer.model, "weights")).items():
                self.write_histogram(name, histogram, state.step)
        if state.step % self.every_steps == 0:
            samples_per_s = (state.samples - self._samples) / max(self._seconds, 1e-9)
            self._seconds, self._samples = 0.0, state.samples
            optional = {
                "train/loss": state.loss,
                "train/lr": state.learning_rate,
                "train/grad_norm": state.grad_norm,
                "train/samples_per_s": samples_per_s,
                "train/skipped": state.skipped or None,
            }
            self.write_scalars({k: float(v) for k, v in optional.items() if v is not None}, state.step)

    def on_evaluate_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Keep the curves of an evaluation until it is known which one it was."""
        if self._is_open and trainer.evaluator is not None:
            curves: dict[str, PrecisionRecallCurve] = {}
            for metric in trainer.evaluator.metrics:
                curves |= getattr(metric, "curves", dict)()
            self._evaluations.append((list(metrics), curves))

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Log the metrics and the curves."""
        evaluations, self._evaluations = self._evaluations, []
        if not self._is_open:
            return
        self.write_scalars({f"eval/{name}": value for name, value in metrics.items()}, trainer.state.step)
        for prefix, curves in _named(evaluations, list(metrics)):
            for name, curve in curves.items():
                self.write_curve(f"eval/{prefix}{name}", curve, trainer.state.step)

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Bring the log to the disk."""
        if self._is_open:
            self.sync()

    def on_close(self, trainer: Trainer) -> None:
        """Close the log."""
        if self._is_open:
            self._is_open = False
            self.close()

    def log_text(self, name: str, text: str, step: int) -> None:
        """Write a text during a run, for instance from another callback; does nothing in processes that do not log."""
        if self._is_open:
            self.write_text(name, text, step)

    def _has_histograms(self, step: int) -> bool:
        return self.histograms_every is not None and step % self.histograms_every == 0


def _histograms(model: Any, what: str) -> dict[str, Histogram]:
    """Return the histograms of all trained weights, or of their gradients."""
    found = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.grad if what == "gradients" else parameter
        histogram = None if parameter.stop_gradient or tensor is None else histogram_of(tensor)
        if histogram is not None:
            found[f"{what}/{name}"] = histogram
    return found


def _named(
    evaluations: Sequence[tuple[list[str], dict[str, PrecisionRecallCurve]]], metrics: list[str]
) -> list[tuple[str, dict[str, PrecisionRecallCurve]]]:
    """Give each evaluation the prefix ("" or "name/") that its metrics have among all ``metrics``."""
    named, first = [], 0
    for names, curves in evaluations:
        prefix = metrics[first].removesuffix(names[0]) if names and first < len(metrics) else ""
        named.append((prefix, curves))
        first += len(names)
    return named
