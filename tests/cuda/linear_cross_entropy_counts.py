"""What the CUDA kernels of linear_cross_entropy must count in the emulator, by theory."""

from __future__ import annotations

from tests.cuda.linear_cross_entropy_emulated import EmulatedHead
from tests.ops.linear_cross_entropy_cases import make_case

TILE, FEW_ROWS, DEPTH, THREADS = 128, 32, 64, 256
WANTED_BLOCKS, FEWEST_STEPS = 512, 8
PARTIALS = 1024 * 8  # bytes: a sum of the float32 kernels is made of so many
SLICE = 256
#: The first is of whole tiles; then tails in rows, features and classes, few rows, products that are split.
SHAPES = ((256, 128, 512), (130, 72, 304), (32, 72, 2048), (1100, 16, 24))


def ceil_div(value: int, by: int) -> int:
    return -(-value // by)


def product_parts(row_tiles: int, columns: int, summed: int) -> int:
    """Return into how many parts a product of the backward pass is split along its summed axis."""
    steps = ceil_div(summed, DEPTH)
    wanted = min(WANTED_BLOCKS // (row_tiles * ceil_div(columns, TILE)), steps // FEWEST_STEPS)
    return ceil_div(steps, ceil_div(steps, max(1, wanted)))


def operations(rows: int, row_tile: int, columns: int, summed: int) -> int:
    """Return those of a product whose tiles and steps are whole."""
    return 2 * (ceil_div(rows, row_tile) * row_tile) * (ceil_div(columns, TILE) * TILE) * (
        ceil_div(summed, DEPTH) * DEPTH
    )  # fmt: skip


def check_half_counts(head: EmulatedHead, dtype: str, layout: str, shape: tuple[int, int, int]) -> None:
    """Products: 4096 operations each. No bank conflicts; every tile is read once by each block that needs it.

    Features and classes have to be multiples of 8, so that rows are aligned.
    """
    rows, features, classes = shape
    row_tile = FEW_ROWS if rows <= FEW_ROWS else TILE
    row_tiles, class_tiles, feature_tiles = (
        ceil_div(rows, row_tile), ceil_div(classes, TILE), ceil_div(features, TILE)
    )  # fmt: skip
    is_whole = rows % TILE == features % TILE == classes % TILE == 0
    counts: dict[str, dict[str, int]] = {}
    head.emulator.configure(0)
    head.run(make_case(*shape, bias=False, weight_layout=layout), dtype, counts=counts)
    forward, backward = counts["fwd"], counts["bwd"]

    logits = operations(rows, row_tile, classes, features)
    assert forward["mma"] * 4096 == logits, "products of forward"
    of_hidden = operations(rows, row_tile, features, classes)
    m, n = (classes, features) if layout == "vd" else (features, classes)
    of_weight = operations(m, TILE, n, rows)
    assert backward["mma"] * 4096 == logits + of_hidden + of_weight, "products of backward"
    for count in (forward, backward):
        assert count["shared_wavefronts"] == count["shared_ideal"], "bank conflicts"
        assert count["atomics"] == 0, "atomics"
        if is_whole:
            assert count["global_read_sectors"] <= count["global_read_ideal"], "sectors read"

    logit_tiles = 2 * features * (class_tiles * rows + row_tiles * classes)
    sharers = 4 * THREADS // row_tile * class_tiles  # threads that need what belongs to a row
    sums = 8 * rows  # of the weights of rows
    # By a warp of each row: label, target, two totals, a part per tile.
    of_rows = rows * (32 * (8 + 4 + 8 + 8) + 16 * class_tiles) + 8 * rows
    assert forward["global_read_bytes"] == logit_tiles + sharers * 8 * rows + sums + of_rows, "bytes read"
    states = rows * (16 * class_tiles + 4 + 20 + 8)
    assert forward["global_write_bytes"] == states + 2 * 8 + 4, "bytes written"

    # Label, gradient of the loss, total and three statistics.
    read = logit_tiles + sharers * rows * (8 + 4 + 8 + 12) + sums
    read += 2 * feature_tiles * rows * classes + 2 * row_tiles * classes * features  # dHidden
    read += 2 * feature_tiles * rows * classes + 2 * class_tiles * rows * features  # dWeight
    written = 2 * 8 + 2 * (rows * classes + rows * features + classes * features)
    for tiles, columns, summed, numbers in (
        (row_tiles, features, classes, rows * features),
        (ceil_div(m, TILE), n, rows, m * n),
    ):
        parts = product_parts(tiles, columns, summed)
        if parts > 1:  # as floats, added up by a thread for each number
            read += numbers * (4 * parts + 4 + 8)
            written += numbers * 4 * parts
        else:
            read += tiles * ceil_div(columns, TILE) * THREADS * (4 + 8)
    assert backward["global_read_bytes"] == read, "bytes read by backward"
    assert backward["global_write_bytes"] == written, "bytes written by backward"
    if is_whole:
        assert backward["global_write_sectors"] == backward["global_write_ideal"], "sectors written"


def check_float_counts(head: EmulatedHead, shape: tuple[int, int, int] = (7, 12, 300)) -> None:
    """Two floats are read for each multiplication: plain kernels, nothing is kept. No atomics, no tensor cores."""
    rows, features, classes = shape
    slices, product = ceil_div(classes, SLICE), 8 * rows * classes * features
    counts: dict[str, dict[str, int]] = {}
    head.emulator.configure(0)
    head.run(make_case(*shape, bias=False), counts=counts)
    forward, backward = counts["fwd"], counts["bwd"]
    for count in (forward, backward):
        assert count["mma"] == count["atomics"] == count["barriers"] == 0, "tensor cores, atomics, barriers"
    # Three sums; of each row a label twice for its weight, once per slice, twice for its loss, and its logit.
    of_rows = rows * (16 + 8 * slices + 16 + 4 * slices + 8 * features + 8)
    assert forward["global_read_bytes"] == product + of_rows + 3 * PARTIALS, "bytes read"
    assert forward["global_write_bytes"] == 3 * PARTIALS + 8 + 8 + 4 + rows * (20 * slices + 8), (
        "bytes written"
    )
    assert backward["global_read_bytes"] == 3 * product + rows * classes * (8 + 4) + PARTIALS, "bytes read"
    written = 4 * (rows * classes + rows * features + classes * features)
    assert backward["global_write_bytes"] == written + PARTIALS + 8, "bytes written"
