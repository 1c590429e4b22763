"""Position embeddings of a grid of patches, for another grid."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor


def resized_positions(positions: Tensor, grid: int, rows: int, columns: int) -> Tensor:
    """Interpolate learned positions.

    Bicubic as in ``torch.nn.functional.interpolate(..., mode="bicubic", align_corners=False)``, which Hugging Face
    uses: Keys' kernel with a = -0.75, centres aligned, borders repeated, no smoothing where there are fewer patches
    than before. Rows and columns are interpolated by two matrix products, which have gradients and can be exported.

    Args:
        positions: ``[1, 1 + grid², D]``, the class token's first, which stays as it is.
        grid: patches in a row and a column that they were made for.
        rows: patches in a column.
        columns: patches in a row.

    Returns:
        ``[1, 1 + rows · columns, D]``.
    """
    if (rows, columns) == (grid, grid):
        return positions
    width = positions.shape[-1]
    matrices = (
        paddle.to_tensor(bicubic_matrix(grid, size)).astype(positions.dtype) for size in (rows, columns)
    )
    vertical, horizontal = matrices
    table = paddle.matmul(vertical, positions[0, 1:].reshape([grid, grid * width]))
    table = paddle.matmul(horizontal, table.reshape([rows, grid, width]))
    return paddle.concat([positions[:, :1], table.reshape([1, rows * columns, width])], axis=1)


def bicubic_matrix(old: int, new: int) -> np.ndarray:
    """Return the float64 matrix ``[new, old]`` that interpolates ``old`` values at ``new`` places.

    References:
        R. Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 15 with a = -0.75.
    """
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(place).astype(int)
    matrix = np.zeros((new, old))
    for offset in range(-1, 3):
        distance = np.abs(place - (first + offset))
        near = ((1.25 * distance - 2.25) * distance) * distance + 1.0
        far = ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0
        weight = np.where(distance <= 1.0, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(first + offset, 0, old - 1)), weight)
    return matrix
