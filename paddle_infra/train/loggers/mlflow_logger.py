"""The log of a run for MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_infra._core.errors import StorageError
from paddle_infra._core.extras import require
from paddle_infra.train.loggers.logger import HParam, Logger
from paddle_infra.train.metrics.curves import PrecisionRecallCurve

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer


class MLflowLogger(Logger):
    """Logs for MLflow: scalars as metrics, hyperparameters as parameters; texts and curves as files of the run.

    MLflow has no histograms: ``histograms_every`` is refused. A resumed run goes on with the same MLflow run; values
    that it already holds for steps after the checkpoint (MLflow cannot delete them) are not written again.

    Each step is a transaction (about 20 ms in a local SQLite file): for fast steps set ``every_steps``.

    Args:
        experiment: name of the experiment; created if it does not exist.
        tracking_uri: where MLflow keeps its runs: ``sqlite:///mlflow.db``, or the address of a server.
        name: the name of the run; None lets MLflow choose.
        artifacts: folder for files if the experiment is created; None lets MLflow choose.
        **options: see :class:`~paddle_infra.train.Logger`.
    """

    def __init__(
        self,
        experiment: str,
        tracking_uri: str = "sqlite:///mlflow.db",
        *,
        name: str | None = None,
        artifacts: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.experiment, self.tracking_uri, self.name = experiment, tracking_uri, name
        self.artifacts = None if artifacts is None else Path(artifacts)
        self.run_id: str | None = None
        self._status = "FINISHED"

    def open(self, last_step: int | None) -> None:
        """Start a run, or go on with it."""
        self._entities = require("mlflow.entities", extra="mlflow", purpose="MLflowLogger")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._error, self._status = MlflowException, "FINISHED"
        self._known: set[tuple[str, int]] = set()
        with self._storage_errors():
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
            if last_step is not None and self.run_id is not None:
                self._client.update_run(self.run_id, status="RUNNING")
                for name in self._client.get_run(self.run_id).data.metrics:
                    history = self._client.get_metric_history(self.run_id, name)
                    self._known |= {(name, item.step) for item in history if item.step > last_step}
                return
            found = self._client.get_experiment_by_name(self.experiment)
            location = None if self.artifacts is None else self.artifacts.resolve().as_uri()
            experiment_id = (
                self._client.create_experiment(self.experiment, artifact_location=location)
                if found is None
                else found.experiment_id
            )
            self.run_id = self._client.create_run(experiment_id, run_name=self.name).info.run_id

    def write_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Write numbers."""
        now = round(time.time() * 1000)
        new = [
            self._entities.Metric(name, value, now, step)
            for name, value in scalars.items()
            if (name, step) not in self._known
        ]
        if new:
            with self._storage_errors():
                self._client.log_batch(self.run_id, metrics=new)

    def write_hparams(self, hparams: dict[str, HParam]) -> None:
        """Write the parameters of the run (MLflow keeps them as text)."""
        parameters = [self._entities.Param(name, str(value)) for name, value in hparams.items()]
        with self._storage_errors():
            self._client.log_batch(self.run_id, params=parameters)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Write the file ``texts/<name>-<step>.md``."""
        with self._storage_errors():
            self._client.log_text(self.run_id, text, f"texts/{name}-{step:08d}.md")

    def write_curve(self, name: str, curve: PrecisionRecallCurve, step: int) -> None:
        """Write the file ``curves/<name>-<step>.json`` with thresholds, precision and recall."""
        content = {
            "threshold": curve.thresholds.tolist(),
            "precision": curve.precision.tolist(),
            "recall": curve.recall.tolist(),
        }
        with self._storage_errors():
            self._client.log_dict(self.run_id, content, f"curves/{name}-{step:08d}.json")

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """Remember how the run ended."""
        self._status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"

    def sync(self) -> None:
        """Do nothing: every value is a transaction."""

    def close(self) -> None:
        """End the run."""
        with self._storage_errors():
            self._client.set_terminated(self.run_id, status=self._status)

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the run."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.run_id = state["run_id"]

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, self._error) as error:
            raise StorageError(f"MLflow at {self.tracking_uri}: cannot write: {error}") from error
