"""The lowerings, by family; importing this package registers them."""

from paddle_infra.export.lowering.operators import (
    assignment,
    attention,
    bitwise,
    constants,
    convolution,
    elementwise,
    fused,
    indexing,
    matmul,
    normalization,
    recurrent,
    reduction,
    shape,
)

__all__ = [
    "assignment",
    "attention",
    "bitwise",
    "constants",
    "convolution",
    "elementwise",
    "fused",
    "indexing",
    "matmul",
    "normalization",
    "recurrent",
    "reduction",
    "shape",
]
