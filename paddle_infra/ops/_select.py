"""Chooses the implementation of an operator, and explains the choice.

An implementation answers with the list of reasons why it cannot take the given inputs; the first with none
runs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from paddle_infra._core import extension
from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import InvalidInputError, UnsupportedError

ImplementationName = Literal["auto", "fused", "reference"]
_NAMES = ("auto", "fused", "reference")

#: Operators that explain_dispatch knows, and the module of this package that has each.
OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "add_norm": "add_norm",
        "add_norm_with_sum": "add_norm",
        "attention": "attention",
        "attention_decode": "attention_decode",
        "attention_varlen": "attention_varlen",
        "attention_with_lse": "attention",
        "embedding_norm": "embedding_norm",
        "linear": "linear",
        "linear_binary_cross_entropy": "linear_binary_cross_entropy",
        "linear_cross_entropy": "linear_cross_entropy",
        "linear_focal": "linear_focal",
        "linear_int8": "linear_int8",
        "linear_topk": "linear_topk",
        "linear_topk_log_prob": "linear_topk",
    }
)

_wanted: ContextVar[str] = ContextVar("paddle_infra_implementation", default="auto")


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operator.

    Attributes:
        name: ``"fused"`` or ``"reference"``.
        refusals: Given the checked arguments, the reasons why this implementation cannot take them.
        run: Given the checked arguments, the result.
    """

    name: str
    refusals: Callable[[Any], list[str]]
    run: Callable[[Any], Any]


@dataclass(frozen=True)
class Dispatch:
    """Which implementation takes given arguments.

    Attributes:
        operator: Name of the operator.
        chosen: Name of the implementation that runs, or None if none can.
        refusals: For every implementation tried before it, the reasons why it cannot.
    """

    operator: str
    chosen: str | None
    refusals: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        lines = [f"{self.operator}: {self.chosen or 'no implementation'} runs"]
        lines += [
            f"  {name} cannot: {reason}" for name, reasons in self.refusals.items() for reason in reasons
        ]
        return "\n".join(lines)


@contextmanager
def implementation(name: ImplementationName) -> Iterator[None]:
    """Choose what ``impl="auto"`` means for the operators called in the block, in this thread or task.

    An explicit ``impl=`` argument takes precedence. Blocks nest; ``"auto"`` lifts an outer choice.

    Example:
        >>> with implementation("reference"):
        ...     pass  # every operator is plain Paddle here: what an ONNX export needs

    Raises:
        InvalidInputError: ``name`` is not ``"auto"``, ``"fused"`` or ``"reference"``.
    """
    check_choice("implementation", name, _NAMES)
    token = _wanted.set(name)
    try:
        yield
    finally:
        _wanted.reset(token)


def may_run(name: str, impl: str) -> bool:
    """Whether ``impl`` or, if that is ``"auto"``, the context allows the implementation of that name."""
    return (_wanted.get() if impl == "auto" else impl) in ("auto", name)


def decide(
    operator: str, implementations: Sequence[Implementation], arguments: Any, impl: str
) -> tuple[Dispatch, Implementation | None]:
    """Find the first implementation allowed by ``impl`` or the context that takes ``arguments``."""
    check_choice("impl", impl, _NAMES)
    refusals: dict[str, list[str]] = {}
    for candidate in implementations:
        if not may_run(candidate.name, impl):
            continue
        reasons = candidate.refusals(arguments)
        if not reasons:
            return Dispatch(operator, candidate.name, refusals), candidate
        refusals[candidate.name] = reasons
    return Dispatch(operator, None, refusals), None


def run(operator: str, implementations: Sequence[Implementation], arguments: Any, impl: str) -> Any:
    """Run the first implementation that takes ``arguments``.

    Warns once per process if that is the plain one only because the compiled library is missing.

    Raises:
        InvalidInputError: ``impl`` is unknown.
        UnsupportedError: none can; the message has every reason.
    """
    dispatch, chosen = decide(operator, implementations, arguments, impl)
    if chosen is None:
        raise UnsupportedError(f"no implementation can run.\n{dispatch}")
    if dispatch.refusals:
        extension.warn_once()
    return chosen.run(arguments)


def explain_dispatch(operator: str, /, *args: Any, **kwargs: Any) -> Dispatch:
    """Say which implementation an operator would run for these arguments, and why the others cannot.

    Runs nothing. Arguments are checked as by the operator itself.

    Args:
        operator: Name of the operator, such as ``"linear_cross_entropy"``.
        *args: Its positional arguments.
        **kwargs: Its keyword arguments, including ``impl``.

    Raises:
        InvalidInputError: the operator is unknown, or an argument is invalid.
        TypeError: an argument is missing, or the operator does not have it.
    """
    if operator not in OPERATORS:
        raise InvalidInputError(f"operator: expected one of {', '.join(OPERATORS)}, got {operator!r}")
    module = importlib.import_module(f"paddle_infra.ops.{OPERATORS[operator]}")
    bound = inspect.signature(getattr(module, operator)).bind(*args, **kwargs)
    bound.apply_defaults()
    impl = bound.arguments.pop("impl")
    return decide(operator, module.IMPLEMENTATIONS, module.check(**bound.arguments), impl)[0]
