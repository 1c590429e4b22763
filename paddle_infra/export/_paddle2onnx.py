"""Runs paddle2onnx in a process of its own: ``python -m paddle_infra.export._paddle2onnx FOLDER``.

An operator that paddle2onnx does not know aborts the whole process, other errors leave it with
``SystemExit``, and it may call pip: here it can do neither to the caller.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from paddle_infra.export._process import PROGRESS, REQUEST, RESULT

_PROCESS_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")


def _refuse_processes(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _PROCESS_EVENTS:
        raise PermissionError(f"the converter must not start another program: {event} {arguments[:2]!r}")


def main(folder: Path) -> None:
    """Convert ``model.json`` and ``model.pdiparams`` as the request says."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    import paddle2onnx

    sys.addaudithook(_refuse_processes)
    (folder / PROGRESS).write_text("converting to ONNX", encoding="utf-8")
    paddle2onnx.export(
        request["model"],
        request["parameters"],
        request["output"],
        opset_version=request["opset"],
        auto_upgrade_opset=True,
        enable_onnx_checker=True,
        optimize_tool="None",
    )
    (folder / RESULT).write_text("{}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
