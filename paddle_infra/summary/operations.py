"""One operator of a captured program, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Value:
    """A tensor of a program.

    Attributes:
        shape: its sizes; -1 where the program does not know one.
        dtype: for instance ``"float32"``.
        needs_gradient: whether a gradient would flow into it.
    """

    shape: tuple[int, ...]
    dtype: str
    needs_gradient: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operation:
    """One call of an operator.

    Attributes:
        name: with its dialect: ``"pd_op.matmul"``, ``"custom_op.paddle_infra_linear"``.
        inputs: its tensors, those of lists one after the other, without optional ones that are absent.
        outputs: its results that are tensors, without lists.
        attributes: its numbers and flags by name; ``"values_1"`` are the constants given as input 1.
        layer: structured name of the layer in whose ``forward`` it runs; ``""`` is the model itself.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Any]
    layer: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the sizes of the inputs and the first result are known: those that formulas read."""
        return all(size >= 0 for value in (*self.inputs, *self.outputs[:1]) for size in value.shape)


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of one call; a multiply-add is 2.

    Attributes:
        products: of matrix products and convolutions.
        other: of everything else, by the conventions of the formula.
        backward_products: of the products that the backward pass makes for those of the forward pass.
    """

    products: int = 0
    other: int = 0
    backward_products: int = 0

    @property
    def total(self) -> int:
        """Forward pass: products and everything else."""
        return self.products + self.other

    def __add__(self, more: Cost) -> Cost:
        return Cost(
            self.products + more.products,
            self.other + more.other,
            self.backward_products + more.backward_products,
        )


#: What an operation costs; None: that cannot be known from its shapes.
Formula = Callable[[Operation], Cost | None]


def product(operation: Operation, flops: int, other: int = 0) -> Cost:
    """Return the cost of a product of the first two inputs.

    The backward pass makes one product of the same size for every factor that needs a gradient.
    """
    wanted = sum(value.needs_gradient for value in operation.inputs[:2])
    return Cost(flops, other, wanted * flops)
