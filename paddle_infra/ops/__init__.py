"""Operators: pure functions of tensors, each with a compiled and a plain implementation.

The compiled ones are registered with Paddle when ``paddle_infra`` is imported. If they cannot be loaded,
plain Paddle runs in their place and a warning says why.
"""

from __future__ import annotations

from paddle_infra.ops._select import explain_dispatch, implementation
from paddle_infra.ops.linear_cross_entropy import linear_cross_entropy

__all__ = ["explain_dispatch", "implementation", "linear_cross_entropy"]
