"""Verification without a process of its own, for hundreds of exports: the same worker, called here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from paddle_infra._core.errors import ExportError
from paddle_infra.export import _worker
from paddle_infra.export._process import REQUEST, RESULT


@contextmanager
def worker_in_process() -> Iterator[None]:
    """Let ``verify`` and the exporters run exported models in this process."""

    def run(module: str, request: dict[str, Any], folder: Path, *, timeout_s: float) -> Any:
        (folder / REQUEST).write_text(json.dumps(request))
        try:
            _worker.main(folder)
        except Exception as error:
            raise ExportError(f"{module} failed: {error}") from error
        return json.loads((folder / RESULT).read_text())

    # The package's function has the module's name, so that a dotted path would find the function.
    with patch.object(sys.modules["paddle_infra.export.verify"], "run_fresh", run):
        yield
