"""Paddle's program to ONNX: one small function per operator, in a registry that users can extend."""

from paddle_infra.export.lowering import operators
from paddle_infra.export.lowering.convert import OPSETS, convert
from paddle_infra.export.lowering.registry import lowered_operators, lowers

__all__ = ["OPSETS", "convert", "lowered_operators", "lowers", "operators"]
