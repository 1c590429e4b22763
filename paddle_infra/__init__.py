"""paddle_infra: fused operators, layers, an exact Trainer and self-proving exports for PaddlePaddle.

    import paddle_infra as pi

Subpackages are imported at first use. Importing the package registers the compiled operators with Paddle, so that
programs saved with them load; it never fails for want of them: ``paddle-infra doctor`` says what is missing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from paddle_infra._core import errors
from paddle_infra._core import extension as _extension
from paddle_infra._core.runtime import tune_cpu
from paddle_infra._version import __version__

if TYPE_CHECKING:
    from paddle_infra import data, explain, export, models, nn, ops, peft, report, summary, train

_SUBPACKAGES = ("data", "explain", "export", "models", "nn", "ops", "peft", "report", "summary", "train")

__all__ = [
    "__version__",
    "data",
    "errors",
    "explain",
    "export",
    "models",
    "nn",
    "ops",
    "peft",
    "report",
    "summary",
    "train",
    "tune_cpu",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


_extension.load()
