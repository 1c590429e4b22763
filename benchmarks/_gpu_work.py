"""The work of each launch of the CUDA kernels, from sizes alone.

What these functions say is what the emulated kernels are counted to do: tests/gpu/test_gpu_bench.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks._gpu_cases import Attention, Case, Decode, Head, Topk
from benchmarks._gpu_peaks import Gpu

TILE, FEW_ROWS, DEPTH = 128, 32, 64  # of products: csrc/common/cuda_tile_product.cuh
KEYS = 64  # of a step of attention
WARPS = 4  # of a block of attention


class Work(NamedTuple):
    """What all blocks of one launch do together."""

    blocks: int
    multiply_adds: float = 0.0  # on tensor cores, of whole tiles
    exponentials: float = 0.0
    float_operations: float = 0.0
    shared_bytes: float = 0.0  # what ldmatrix reads and copies write
    l2_bytes: float = 0.0  # what blocks read, from wherever it is
    memory_bytes: float = 0.0  # what has to come from memory, or go there


def _tiles(size: int, tile: int) -> int:
    return math.ceil(size / tile)


def forward_steps(case: Attention, queries: int, keys: int) -> int:
    """Tiles of keys that all blocks of queries together go through."""
    ends = range(queries, case.length + queries, queries)
    of_head = sum(_tiles(min(end, case.length) if case.is_causal else case.length, keys) for end in ends)
    return case.batch * case.heads * of_head


def attention_forward(case: Attention) -> list[Work]:
    """csrc/attention/attention_fwd.cuh."""
    d, queries = case.head_dim, 128 if case.head_dim <= 64 else 64
    steps = forward_steps(case, queries, KEYS)
    blocks = case.batch * case.heads * _tiles(case.length, queries)
    scores, pair, q_tile = steps * queries * KEYS, 2 * 2 * KEYS * d, 2 * queries * d  # the last two in bytes
    is_wide = queries > 64  # two tiles of a warp, which read their Q again in every step
    # Every warp reads K and V whole; the copy writes them once. Q comes and O goes once.
    shared = (
        steps * ((WARPS + 1) * pair + (q_tile if is_wide else 0)) + blocks * (3 if is_wide else 4) * q_tile
    )
    # Of a score: scale, maximum, sum, half of a packing; the output fades once per step.
    operations = 4.5 * scores + steps * queries * d
    return [
        Work(
            blocks,
            2.0 * scores * d,
            scores,
            operations,
            shared,
            steps * pair + blocks * q_tile,
            case.bytes_moved,
        )
    ]


def attention_backward(case: Attention) -> list[Work]:
    """csrc/attention/attention_bwd_*.cuh: rows; keys and values with four products; queries with three."""
    d, owned, step = case.head_dim, 64, 64 if case.head_dim <= 64 else 32
    rows = case.batch * case.heads * case.length
    blocks = case.batch * case.heads * _tiles(case.length, owned)
    # By symmetry as many tiles of queries see a block of keys as the other way round.
    steps = forward_steps(case, owned, step)
    scores, tile, owned_tile = steps * owned * step, 2 * step * d, 2 * owned * d  # the last two in bytes
    statistics = 16 * step  # bytes of a step's queries; every warp reads them once for each of its 16 keys
    common = {
        "exponentials": float(scores),
        "float_operations": 6.0 * scores,
        "memory_bytes": case.bytes_moved,
    }

    def shared(products: int, owned_tiles: int) -> float:
        """Per step each warp reads its 16 rows of two owned tiles, and a tile for each product; two are copied."""
        return (
            steps * (WARPS * (2 * 2 * 16 * d + products * tile) + 2 * tile)
            + blocks * owned_tiles * owned_tile
        )

    read = steps * 2 * tile + blocks * 2 * owned_tile
    return [
        Work(_tiles(rows, 64), 0.0, 0.0, 2.0 * rows * d, 0.0, rows * (4.0 * d + 12), 4.0 * rows * d),
        Work(blocks, 4.0 * scores * d, shared_bytes=shared(4, 6) + steps * (16 * WARPS + 1) * statistics,
             l2_bytes=read + steps * statistics, **common),
        Work(blocks, 3.0 * scores * d, shared_bytes=shared(3, 4), l2_bytes=read + 64.0 * rows, **common),
    ]  # fmt: skip


def decode(case: Decode) -> list[Work]:
    """csrc/attention/attention_decode_mma.cuh: a block has 16 rows or more, whether there are so many or not."""
    rows, groups = case.heads // case.kv_heads, case.batch * case.kv_heads
    tile = next((size for size in (16, 32) if rows <= size), 64)
    blocks = groups * _tiles(rows, tile)
    splits = max(1, min(_tiles(512, blocks), _tiles(case.length, 256)))
    scores = blocks * tile * case.length
    cache = 4.0 * _tiles(rows, tile) * groups * case.length * case.head_dim  # as often as blocks read it
    works = [Work(blocks * splits, 2.0 * scores * case.head_dim, scores, 4.5 * scores, (2 + tile / 16) * cache, cache,
                  case.bytes_moved)]  # fmt: skip
    if splits > 1:
        found = case.batch * case.heads * case.head_dim
        works.append(
            Work(
                _tiles(found, 128), 0.0, 0.0, splits * found, 0.0, 4.0 * splits * found, 4.0 * splits * found
            )
        )
    return works


def product(
    rows: int, columns: int, depth: int, memory_bytes: float, *, of_each: float = 0.0, is_few: bool = False
) -> Work:
    """A product by tiles; ``of_each`` float operations, and an exponential, for every number of the result."""
    tile = FEW_ROWS if is_few else TILE
    tiles, steps = _tiles(rows, tile) * _tiles(columns, TILE), _tiles(depth, DEPTH)
    numbers = tiles * tile * TILE
    # Bytes of a step: what is copied, and what eight warps read: of 32 rows and 64 columns each, or 32 and 16.
    copied, read = 2 * (tile + TILE) * DEPTH, 8 * 2 * (32 + (16 if is_few else 64)) * DEPTH
    return Work(tiles, float(numbers * steps * DEPTH), numbers if of_each else 0.0, of_each * numbers,
                float(tiles * steps * (read + copied)), float(tiles * steps * copied), memory_bytes)  # fmt: skip


def head(case: Head, gpu: Gpu) -> list[Work]:
    """csrc/linear_cross_entropy: logits; backward makes them again for a chunk of rows, and multiplies twice."""
    rows, features, classes, has_backward = case
    is_few, sums = rows <= FEW_ROWS, Work(1)  # sums of weights, of losses: small launches
    weight, hidden = 2.0 * features * classes, 2.0 * features * rows
    works = [sums, product(rows, classes, features, weight + hidden, of_each=6.0, is_few=is_few), sums, sums]
    if not has_backward:
        return works
    works.append(sums)
    chunk = max(TILE, int(max(16 << 20, weight) / (2 * _tiles(classes, 8) * 8)) // TILE * TILE)
    for first in range(0, rows, chunk):
        count = min(chunk, rows - first)
        gradients, some = 2.0 * count * classes, 2.0 * features * count
        # Written once, read by each product, if the cache does not keep them.
        moved = weight + some + (gradients if gradients > gpu.l2_megabytes * 1e6 else 0.0)
        chunks = 8.0 * features * classes if rows > chunk else 0.0  # the weight's gradient as floats, so far
        works += [
            product(count, classes, features, moved, of_each=8.0, is_few=is_few),
            product(count, features, classes, moved, is_few=is_few),
            product(classes, features, count, moved + chunks),
        ]
    return works


def topk(case: Topk) -> list[Work]:
    """csrc/linear_topk: candidates stay in registers; a small launch merges the lists of blocks."""
    memory = case.bytes_moved + 12.0 * case.rows * case.k
    is_few = case.rows <= FEW_ROWS
    return [product(case.rows, case.classes, case.features, memory, of_each=8.0, is_few=is_few), Work(1)]


def work_of(case: Case, gpu: Gpu) -> list[Work]:
    """Return the work of each launch."""
    if isinstance(case, Attention):
        return attention_backward(case) if case.is_backward else attention_forward(case)
    if isinstance(case, Decode):
        return decode(case)
    return head(case, gpu) if isinstance(case, Head) else topk(case)
