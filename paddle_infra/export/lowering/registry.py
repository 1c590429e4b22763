"""Which function lowers which operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from paddle_infra._core.errors import InvalidInputError

if TYPE_CHECKING:
    from paddle_infra.export.lowering.graph import Graph
    from paddle_infra.export.lowering.program import Operator

Lowering = Callable[["Graph", "Operator"], "str | Sequence[str | None] | None"]
"""``lowering(graph, operator)`` adds ONNX nodes and returns the name of each output: one name, a sequence (None for an
output that nothing reads), or None if it has bound them itself."""

_Function = TypeVar("_Function", bound=Lowering)
_REGISTRY: dict[str, Lowering] = {}


def lowers(*names: str, replace: bool = False) -> Callable[[_Function], _Function]:
    """Register a function for operators, as a decorator.

    Args:
        names: with their dialect, for instance ``"pd_op.relu"`` or ``"custom_op.my_operator"``.
        replace: whether another function may be there already.

    Raises:
        InvalidInputError: there is one.
    """

    def register(function: _Function) -> _Function:
        taken = sorted(name for name in names if name in _REGISTRY)
        if taken and not replace:
            raise InvalidInputError(f"{taken}: expected operators without a lowering, or replace=True")
        _REGISTRY.update(dict.fromkeys(names, function))
        return function

    return register


def find_lowering(name: str) -> Lowering | None:
    """Return the function for an operator, or None."""
    return _REGISTRY.get(name)


def lowered_operators() -> list[str]:
    """Return the names of all operators that can be lowered, sorted."""
    return sorted(_REGISTRY)
