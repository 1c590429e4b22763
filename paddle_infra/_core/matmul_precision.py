"""How the compiled operators multiply matrices: in float32, or faster in bfloat16."""

from __future__ import annotations

import threading
import weakref
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Literal

from paddle_infra._core.checks import check_choice

MatmulPrecision = Literal["highest", "medium"]
PRECISIONS = ("highest", "medium")  # in the order of the compiled operators' attribute


class _ProcessWide:
    """The value of all threads: that of the last call that did not become a ``with`` block."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self._lock = threading.Lock()
        self._calls: list[tuple[weakref.ref[set_matmul_precision] | None, str]] = [(None, precision)]

    def add(self, call: set_matmul_precision) -> None:
        with self._lock:
            last = self._calls[-1][0]
            if (
                last is not None and last() is None
            ):  # nobody can enter it any more: it stays, none before it counts
                del self._calls[:-1]
            self._calls.append((weakref.ref(call), call.precision))
            self.precision = call.precision

    def remove(self, call: set_matmul_precision) -> None:
        with self._lock:
            self._calls = [entry for entry in self._calls if entry[0] is None or entry[0]() is not call]
            self.precision = self._calls[-1][1]


_process_wide = _ProcessWide("highest")
_here: ContextVar[str | None] = ContextVar("paddle_infra_matmul_precision", default=None)


class set_matmul_precision:  # noqa: N801 - used like a function
    """Choose how the compiled operators multiply matrices.

    ``"highest"``, the default, multiplies in float32. ``"medium"`` rounds the factors of every matrix product
    to bfloat16 (8 significant bits) and adds up in float32; tensors stay float32, and softmax is computed in
    float32. It is faster on processors that multiply bfloat16 themselves, and never more exact.

    A call sets the value for the whole process, all threads. Used as a context manager, it holds for the block
    only, in this thread or asynchronous task only, and the value of the process is what it was before the
    call::

        set_matmul_precision("medium")  # everywhere, from now on

        with set_matmul_precision("medium"):  # here only
            out = attention(query, key, value)

    The value is read when an operator is called: the backward pass multiplies like its forward pass, and a
    captured or saved program keeps what was set when it was captured. It concerns the operators where they run
    compiled; the reference implementations, :func:`attention_decode` and losses of up to 16 classes always multiply
    exactly.

    Args:
        precision: ``"highest"`` or ``"medium"``.

    Raises:
        InvalidInputError: ``precision`` is something else.
    """

    def __init__(self, precision: MatmulPrecision | str) -> None:
        check_choice("precision", precision, PRECISIONS)
        self.precision = precision
        self._tokens: list[Token[str | None]] = []
        _process_wide.add(self)

    def __enter__(self) -> None:
        _process_wide.remove(self)
        self._tokens.append(_here.set(self.precision))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _here.reset(self._tokens.pop())


def get_matmul_precision() -> str:
    """Return ``"highest"`` or ``"medium"``: what holds here; see :class:`set_matmul_precision`."""
    return _here.get() or _process_wide.precision
