"""What the CUDA kernels of linear_topk must count in the emulator, by theory."""

from __future__ import annotations

from tests.cuda.linear_cross_entropy_counts import DEPTH, FEW_ROWS, TILE, ceil_div, operations
from tests.cuda.linear_topk_emulated import EmulatedTopk
from tests.ops.linear_topk_cases import make_case

WARPS = 8
#: Rows, features, classes, k. The first is of whole tiles; then tails everywhere; few rows.
SHAPES = ((256, 128, 512, 5), (130, 72, 304, 16), (32, 72, 600, 1))


def check_counts(kernels: EmulatedTopk, dtype: str, layout: str, shape: tuple[int, int, int, int]) -> None:
    """Products: 4096 operations each. No bank conflicts; every tile is read once by each block that needs it.

    Features and classes have to be multiples of 8, so that rows are aligned.
    """
    rows, features, classes, k = shape
    is_float = dtype == "float32"
    row_tile = FEW_ROWS if rows <= FEW_ROWS else TILE
    row_tiles, class_tiles = ceil_div(rows, row_tile), ceil_div(classes, TILE)
    kernels.emulator.configure(0)
    kernels.emulator.take_counters()
    kernels.run(make_case(*shape, layout=layout), dtype)
    count = kernels.emulator.take_counters()
    assert count["mma"] * 4096 == (0 if is_float else operations(rows, row_tile, classes, features)), (
        "products"
    )
    assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
    assert count["atomics"] == 0, "atomics"
    # A block's tiles meet at a barrier for each step; float tiles at two.
    steps = 2 * ceil_div(features, 16) if is_float else ceil_div(features, DEPTH)
    assert count["barriers"] == 32 * WARPS * row_tiles * class_tiles * steps, "barriers"
    lists = class_tiles * WARPS // (row_tile // 32)  # of every warp in a tile's columns
    tile_bytes = (4 if is_float else 2) * features * (class_tiles * rows + row_tiles * classes)
    states = lists * rows * (8 + 8 * k)
    # Every list's sum, and its candidates up to the first that is none: no lane has 16 of them after its lists.
    width = class_tiles * TILE // lists
    known = [min(max(classes - first, 0), width) for first in range(0, class_tiles * TILE, width)]
    of_lists = rows * sum(8 + 8 * min(k, number + 1) for number in known)
    assert count["global_read_bytes"] == tile_bytes + of_lists, "bytes read"
    assert count["global_write_bytes"] == states + rows * k * (4 + 8), "bytes written"
