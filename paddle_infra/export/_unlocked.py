"""Run a predictor of Paddle Inference without Python's lock, so that other threads of Python go on meanwhile.

Paddle's own ``Predictor.run`` keeps the lock while it computes. The compiled library has a function of C that runs the
same C++ object (``csrc/inference/run_predictor_op.cc``), and ``ctypes`` gives the lock up around functions of C.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from paddle_infra._core import extension
from paddle_infra._core.errors import ExportError

_MESSAGE_BYTES = 16384


def unlocked(predictor: Any) -> tuple[Callable[[], None], str]:
    """Return what runs ``predictor`` without Python's lock, and an empty text.

    Where the compiled library cannot do that, return Paddle's own ``run`` and the reason.
    """
    status = extension.load()
    if not status.is_loaded:
        return predictor.run, status.explain()
    library = ctypes.CDLL(str(status.path))
    try:
        is_predictor, run = library.paddle_infra_is_predictor, library.paddle_infra_run_predictor
    except AttributeError:
        return predictor.run, f"{status.path} is older than this version of paddle_infra: rebuild it"
    is_predictor.argtypes = [ctypes.c_void_p]
    run.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    # An object of pybind11 keeps the address of its C++ object right behind what every object of Python starts with.
    address = ctypes.c_void_p.from_address(id(predictor) + object.__basicsize__).value
    if not is_predictor(address):
        return predictor.run, "this build of Paddle keeps its predictors in an unknown form"

    def run_unlocked(owner: Any = predictor) -> None:  # the argument keeps the C++ object alive
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if run(address, message, _MESSAGE_BYTES):
            text = message.value.decode("utf-8", errors="replace").strip()
            raise ExportError(f"Paddle Inference failed: {text}")

    return run_unlocked, ""
