"""The lowerings, by family; importing this package registers them."""

from paddle_infra.export.lowering.operators import (
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
