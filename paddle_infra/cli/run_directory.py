"""Where a run keeps its files, and what state it is in."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_infra._core.atomic import write_json
from paddle_infra._core.errors import ConfigError
from paddle_infra.cli.config import RunConfig, load_config


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run; each property is one of its files or folders."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """What a resumed run starts from."""
        return self.path / "checkpoints"

    @property
    def history(self) -> Path:
        """One JSON line per step and per validation."""
        return self.path / "history.jsonl"

    @property
    def visualdl(self) -> Path:
        """Log folder for ``visualdl --logdir``."""
        return self.path / "visualdl"

    @property
    def model(self) -> Path:
        """Best weights, configuration, tokenizer and labels. Written last: it says that training is complete."""
        return self.path / "model"

    @property
    def results(self) -> Path:
        """Sizes, scores and times of the run."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    def export(self, target: str) -> Path:
        """The exported model for a target."""
        return self.path / "export" / target

    @property
    def is_started(self) -> bool:
        """Whether there is anything a resumed run could use."""
        return self.checkpoints.is_dir() and any(self.checkpoints.glob("step-*"))

    @property
    def is_trained(self) -> bool:
        """Whether training is complete."""
        return (self.model / "config.json").is_file()

    def clear(self) -> None:
        """Remove what a run writes, and nothing else: the folder may hold files of the user's."""
        folders = (self.export("any").parent, self.model, self.visualdl, self.checkpoints)
        for folder in folders:
            if folder.is_dir():
                shutil.rmtree(folder)
        # The configuration goes last: until then the folder still says what it is.
        for file in (self.report, self.results, self.history, self.config):
            file.unlink(missing_ok=True)

    def read_results(self) -> dict[str, Any]:
        """Return the results so far; empty before the first."""
        return json.loads(self.results.read_text(encoding="utf-8")) if self.results.is_file() else {}

    def add_results(self, **values: Any) -> None:
        """Merge values into the results, atomically."""
        write_json(self.results, {**self.read_results(), **values})


def open_run(path: str | Path) -> tuple[RunDirectory, RunConfig]:
    """Return a trained run and its configuration.

    Raises:
        ConfigError: there is no run in this folder, or its training is not complete.
    """
    directory = RunDirectory(Path(path))
    if not directory.config.is_file():
        raise ConfigError(f"{path}: expected the folder of a run (with config.yaml), found none")
    if not directory.is_trained:
        raise ConfigError(
            f"{path}: expected a run that is trained; this one is not complete: "
            f"paddle-infra train {directory.config} --resume"
        )
    return directory, load_config(directory.config)
