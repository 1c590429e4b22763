"""What a model holds, computes and keeps in memory, layer by layer."""

from paddle_infra.summary.operations import Cost, Formula, Operation, Value, product
from paddle_infra.summary.result import LayerRow, Summary
from paddle_infra.summary.summary import summary

__all__ = ["Cost", "Formula", "LayerRow", "Operation", "Summary", "Value", "product", "summary"]
