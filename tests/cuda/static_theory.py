"""What is known of every CUDA kernel from the sizes of its tiles alone: dynamic shared memory, and instructions.

Machine code has every instruction once that a step of a kernel's loop executes, because loops over a tile are unrolled;
copies before the loop and in it are counted together. Not counted, because the compiler chooses:

- exponentials where options may be on (``general``) or the logits of a head are capped: ``tanhf`` is made of some, and
  the compiler may make a path of its own for scores that are hidden;
- exponentials of what joins parts (``attention_decode_mma`` at its end, ``attention_decode_combine``, ``merge_rows``,
  ``merge_topk``, where loops are as long as there are parts) and of kernels of plain floats (``expf``, ``logf``);
- copies of float32 attention, whose loops the compiler unrolls as it likes.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.cuda.static_names import split_name

#: Of a product with tiles in steps of 64 along the summed axis: csrc/common/cuda_tile_product.cuh.
DEPTH, PRODUCT_WARPS, PRODUCT_THREADS, PRODUCT_STAGES, CLASSES = 64, 8, 256, 3, 128
#: Attention: rows that a block of four warps has in the backward pass; keys of a tile.
BWD_ROWS, KEYS, STAGES, THREADS = 64, 64, 2, 128
#: Float32 attention: a thread has every 8th row and every 16th column of a product.
DOWN, ACROSS = 8, 16
#: Backward kernels ask of each score whether it is hidden: not at all, or by the left edge of a window, the right one,
#: or both. For sm_100 ptxas makes paths of these, which branches common to all threads choose from; for others it
#: predicates. Each path has all exponentials of its scores, and one path is taken.
ASKS_OF_EACH_SCORE = (
    "attention_bwd_query",
    "attention_bwd_key_value",
    "attention_f32_bwd_keys",
    "attention_f32_bwd_queries",
)
WINDOW_PATHS = 4
Counts = dict[str, int]


def dynamic_shared(key: str) -> int:
    """Return the bytes of dynamic shared memory that a kernel is launched with; the most, if that depends on sizes."""
    name, arguments = split_name(key)
    return _SHARED[name](arguments) if name in _SHARED and arguments else _PLAIN_SHARED.get(key, 0)


def theory(key: str, arch: str) -> dict[str, tuple[int, ...]]:
    """Return the numbers of instructions of a kernel that are known; each may be any of those given."""
    name, arguments = split_name(key)
    counts = _THEORY[name](arguments) if name in _THEORY and arguments else {"async_copies": 0}
    # Without tensor cores there are none of their instructions.
    allowed = {what: (number,) for what, number in ({"mma": 0, "ldmatrix": 0} | counts).items()}
    if arch == "100" and name in ASKS_OF_EACH_SCORE and "exp2" in counts:
        allowed["exp2"] = counts["exp2"], WINDOW_PATHS * counts["exp2"]
    return allowed


# Attention of 16-bit numbers: arguments are format, padded head_dim, and plain or general.


def _row_tiles(a: list[str]) -> int:
    """Tiles of 16 queries of a warp of attention_fwd: kRowTiles."""
    return 2 if int(a[1]) <= (32 if a[2] == "general" else 64) else 1


def _fwd(a: list[str]) -> Counts:
    dim, tiles = int(a[1]), _row_tiles(a)
    scores, rows = tiles * 16 * KEYS // 32, tiles * 2  # of a lane
    # Each score has one, each row has one for the sums so far.
    exponentials = {} if a[2] == "general" else {"exp2": scores + rows}
    return exponentials | {
        # m16n8k16 products: S has 64 / 8 columns of them and dim / 16 steps, O has dim / 8 and 64 / 16.
        "mma": tiles * (KEYS // 8 * dim // 16 + dim // 8 * KEYS // 16),
        # Four matrices of 8 x 8 each: Q (of one tile before the loop, of two in it); K and V.
        "ldmatrix": tiles * dim // 16 + 2 * (KEYS * dim // 256),
        # Loops of copies: Q; K and V before the loop and in it.
        "async_copies": 1 + 2 * 2,
    }


def _bwd_step(dim: int) -> int:
    """Rows that a block goes through at a time: kBwdStep."""
    return 64 if dim <= 64 else 32


def _bwd_products(dim: int, columns: int) -> Counts:
    """Sixteen rows times rows of a tile, as add_products has them in code."""
    # Steps of 16 along head_dim, unrolled by four: a loop has those once, and what is left over.
    steps = dim // 16
    steps = steps if steps <= 4 else 4 + steps % 4
    return {"mma": steps * columns // 8, "ldmatrix": steps * (1 + columns // 16)}


def _bwd_sums(dim: int, depth: int) -> Counts:
    """Factors in registers times a tile: add_weighted_rows."""
    return {"mma": dim // 8 * depth // 16, "ldmatrix": dim // 16 * depth // 16}


def _bwd(sums: int, copies: int) -> Callable[[list[str]], Counts]:
    """Two products make the scores and the gradients of weights; ``sums`` more add to results."""

    def counts(a: list[str]) -> Counts:
        dim, is_general = int(a[1]), a[2:] != ["plain"]
        step = _bwd_step(dim) if sums else BWD_ROWS
        products, added = _bwd_products(dim, step), _bwd_sums(dim, step)
        found = {what: 2 * products[what] + sums * added[what] for what in products}
        # One for each score of a lane.
        return found | {"async_copies": copies} | ({} if is_general else {"exp2": 16 * step // 32})

    return counts


def _decode_mma(a: list[str]) -> Counts:
    """Sixteen queries and a slice of sixteen keys."""
    dim = int(a[1])
    return {
        "mma": 16 // 8 * dim // 16 + dim // 8,
        "ldmatrix": 3 * dim // 16,  # Q before the loop, K and V
        "async_copies": 1 + 2 * 2,  # loops of copies: as attention_fwd
    }


# Attention of float32 numbers.


def _f32_fwd_tile(dim: int) -> tuple[int, int]:
    """Queries and keys of a tile: F32FwdTile."""
    return (64 if dim <= 128 else 32), (64 if dim <= 64 else 32 if dim <= 128 else 16)


def _f32_bwd_tile(dim: int) -> tuple[int, int]:
    """Rows that a block keeps, and that it goes through: F32BwdTile."""
    return (64 if dim <= 64 else 32 if dim <= 128 else 16), (32 if dim <= 128 else 16)


def _f32_fwd_shared(queries: int, keys: int, tiles: int, dim: int) -> int:
    """Queries, tiles of keys and values with rows that are 16 bytes longer, weights."""
    return 4 * ((queries + tiles * keys) * (dim + 4) + queries * keys)


def _f32_bwd_shared(dim: int) -> int:
    own, other = _f32_bwd_tile(dim)
    return 4 * (2 * (own + other) * (dim + 4) + 2 * own * other)


def _online(rows: int, columns: int, kind: str) -> Counts:
    """Exponentials of a thread for one tile of keys: each weight has one, each row one for the sums so far."""
    return {} if kind == "general" else {"exp2": rows * (columns + 1)}


def _f32_fwd(a: list[str]) -> Counts:
    queries, keys = _f32_fwd_tile(int(a[0]))
    return _online(queries // DOWN, keys // ACROSS, a[1])


def _f32_bwd(a: list[str]) -> Counts:
    own, other = _f32_bwd_tile(int(a[0]))
    return {} if a[1] == "general" else {"exp2": own // DOWN * other // ACROSS}


# Heads.


def _product_shared(rows: int, columns: int, stages: int = PRODUCT_STAGES) -> int:
    return stages * (rows + columns) * DEPTH * 2


def _product(rows: int, columns: int, stages: int = PRODUCT_STAGES) -> Counts:
    """TileProduct: a warp has 32 rows; the warps that share them have a part of the columns each."""
    blocks = columns // (PRODUCT_WARPS // (rows // 32)) // 8
    return {
        "mma": DEPTH // 16 * 2 * blocks,
        "ldmatrix": DEPTH // 16 * (2 + blocks // 2),
        # Of 16 bytes a thread: one step in the loop, and the stages before it but one.
        "async_copies": stages * (rows + columns) * DEPTH // 8 // PRODUCT_THREADS,
    }


def _shared_of(product: str) -> int:
    """Shared memory of a kernel that is made of a TileProduct or FloatProduct."""
    name, a = split_name(product)
    if name == "FloatProduct":  # tiles of 16 along the summed axis, two columns longer
        return 4 * 16 * (int(a[0]) + 2 + int(a[1]) + 2)
    return _product_shared(int(a[1]), int(a[2]), int(a[5]))


def _counts_of(product: str) -> Counts:
    name, a = split_name(product)
    return {"async_copies": 0} if name == "FloatProduct" else _product(int(a[1]), int(a[2]), int(a[5]))


_SHARED: dict[str, Callable[[list[str]], int]] = {
    "attention_fwd": lambda a: (16 * 4 * _row_tiles(a) + 2 * STAGES * KEYS) * int(a[1]) * 2,
    "attention_bwd_query": lambda a: (2 * BWD_ROWS + 2 * STAGES * _bwd_step(int(a[1]))) * int(a[1]) * 2,
    # And 16 bytes for each query of a step.
    "attention_bwd_key_value": lambda a: (
        (2 * BWD_ROWS + 2 * STAGES * _bwd_step(int(a[1]))) * int(a[1]) * 2
        + STAGES * _bwd_step(int(a[1])) * 16
    ),
    # Four tiles, and then in their place 64 x 64 sums with rows that are 8 longer.
    "attention_bwd_bias": lambda a: max(4 * BWD_ROWS * int(a[1]) * 2, BWD_ROWS * (BWD_ROWS + 8) * 4),
    # With 64 queries, which is the most.
    "attention_decode_mma": lambda a: (64 + 2 * STAGES * KEYS) * int(a[1]) * 2,
    "attention_decode_f32": lambda a: _f32_fwd_shared(int(a[1]) * DOWN, 32, 2 * STAGES, int(a[0])),
    "attention_f32_fwd_kernel": lambda a: _f32_fwd_shared(*_f32_fwd_tile(int(a[0])), 2, int(a[0])),
    "attention_f32_bwd_keys": lambda a: _f32_bwd_shared(int(a[0])),
    "attention_f32_bwd_queries": lambda a: _f32_bwd_shared(int(a[0])),
    "attention_f32_bwd_bias": lambda a: _f32_bwd_shared(int(a[0])),
    "linear_cross_entropy_fwd": lambda a: _product_shared(int(a[1]), CLASSES),
    "logit_gradients": lambda a: _product_shared(int(a[1]), CLASSES),
    "gradient_product": lambda a: _shared_of(a[0]),
    "fold_topk": lambda a: _shared_of(a[0]),
}
#: A double for each of 16 warps.
_PLAIN_SHARED = {"sum_weights": 16 * 8, "sum_losses": 16 * 8}
_THEORY: dict[str, Callable[[list[str]], Counts]] = {
    "attention_fwd": _fwd,
    # Loops of copies: Q and dO (K and V); the tiles of a step, before the loop and in it, and BwdRow.
    "attention_bwd_query": _bwd(sums=1, copies=2 + 2 * 2),
    "attention_bwd_key_value": _bwd(sums=2, copies=2 + 2 * 3),
    "attention_bwd_bias": _bwd(sums=0, copies=4),
    "attention_decode_mma": _decode_mma,
    "attention_decode_f32": lambda a: _online(int(a[1]), 32 // ACROSS, a[2]),
    "attention_f32_fwd_kernel": _f32_fwd,
    "attention_f32_bwd_keys": _f32_bwd,
    "attention_f32_bwd_queries": _f32_bwd,
    "attention_f32_bwd_bias": lambda _: {},
    "linear_cross_entropy_fwd": lambda a: _product(int(a[1]), CLASSES),
    "logit_gradients": lambda a: _product(int(a[1]), CLASSES),
    "gradient_product": lambda a: _counts_of(a[0]) | {"exp2": 0},
    "fold_topk": lambda a: _counts_of(a[0]),
}
