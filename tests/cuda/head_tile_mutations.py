"""Bugs for what the heads' products of 16-bit numbers are made of: order of threads and copies, fragments, tiles."""

from __future__ import annotations

from tests.cuda.mutation import Mutation

PRODUCT = "common/cuda_tile_product.cuh"
SHARED = "linear_cross_entropy/linear_cross_entropy_cuda.cuh"
FWD = "linear_cross_entropy/linear_cross_entropy_fwd.cuh"
BWD = "linear_cross_entropy/linear_cross_entropy_bwd.cuh"
DV = {"PI_WEIGHT_IS_VD": ("false",)}
STEP = "      wait_for_copies<kStages - 2>();\n      __syncthreads();  // this step"
SWIZZLE = "((chunk ^ (kColumns % 64 == 0 ? row & 7 : row >> 1 & 3)) << 3)"

ORDER = (
    Mutation("no barrier in the loop", STEP, "      wait_for_copies<kStages - 2>();  // this step", PRODUCT),
    Mutation("no wait for copies", STEP, "      __syncthreads();  // this step", PRODUCT),
    Mutation(
        "waits for one step too few", "wait_for_copies<kStages - 2>", "wait_for_copies<kStages - 1>", PRODUCT
    ),
    Mutation(
        "barrier before the wait",
        STEP,
        "      __syncthreads();\n      wait_for_copies<kStages - 2>();  // this step",
        PRODUCT,
    ),
    Mutation(
        "the next copies overwrite the tiles in use",
        "stage < kStages - 1; ++stage) copy_next();",
        "stage < kStages; ++stage) copy_next();",
        PRODUCT,
    ),
    Mutation(
        "copies are still open at the end",
        "    wait_for_copies<0>();\n  }\n\n private:",
        "  }\n\n private:",
        PRODUCT,
    ),
    Mutation(
        "no barrier before results take the place of tiles",
        "reinterpret_cast<uint16_t*>(shared);\n  __syncthreads();\n",
        "reinterpret_cast<uint16_t*>(shared);\n",
        PRODUCT,
    ),
    Mutation(
        "no barrier between writing and reading results",
        "  __syncthreads();\n  const bool is_aligned",
        "  const bool is_aligned",
        PRODUCT,
    ),
    Mutation(
        "no barrier before the states of rows",
        "  __syncthreads();\n  store_shared(parts",
        "  store_shared(parts",
        FWD,
    ),
    Mutation("no barrier after the states of rows", "mine);\n  __syncthreads();\n", "mine);\n", FWD),
    Mutation("no barrier in a block's sum", "value);\n  __syncthreads();\n", "value);\n", SHARED),
    Mutation(
        "no barrier before sums of columns",
        "[rows of warps][columns]\n  __syncthreads();",
        "[rows of warps][columns]",
        BWD,
    ),
    Mutation(
        "no barrier after sums of columns",
        "  __syncthreads();\n  const int column = static_cast<int>(threadIdx.x);",
        "  const int column = static_cast<int>(threadIdx.x);",
        BWD,
    ),
)

TILES = (
    Mutation("fragments exchanged", "a[m], b[0], b[1]);", "a[m], b[0], b[2]);", PRODUCT),
    Mutation(
        "fragment transposed",
        "load_matrices(fragment, tile + tile_offset<kProductDepth>(row",
        "load_matrices<true>(fragment, tile + tile_offset<kProductDepth>(row",
        PRODUCT,
    ),
    Mutation(
        "fragment of the weight [features, classes] not transposed",
        "load_matrices<true>(fragment, tile + tile_offset<kColumns>(k",
        "load_matrices(fragment, tile + tile_offset<kColumns>(k",
        PRODUCT,
        DV,
    ),
    Mutation(
        "quarters of a transposed fragment exchanged",
        "(k + lane_ / 16 * 8 + lane_ % 8, row / 8 + lane_ / 8 % 2)",
        "(k + lane_ / 8 % 2 * 8 + lane_ % 8, row / 8 + lane_ / 16)",
        PRODUCT,
    ),
    Mutation(
        "a warp's rows are those of another",
        "warp_row_ * 32 + m * 16;",
        "(warp_row_ ^ 1) * 32 + m * 16;",
        PRODUCT,
    ),
    Mutation("tiles are not swizzled", SWIZZLE, "(chunk << 3)", PRODUCT),
    Mutation("swizzle leaves the row", "row & 7 :", "row & 15 :", PRODUCT),
    Mutation(
        "shared memory is too small",
        "kStages * (kLeftNumbers + kRightNumbers) * 2;",
        "kStages * (kLeftNumbers + kRightNumbers) * 2 - 1024;",
        PRODUCT,
    ),
    Mutation(
        "the last step of the summed axis is skipped",
        "(end - first + kProductDepth - 1)",
        "(end - first)",
        PRODUCT,
    ),
    Mutation("sums go on from tile to tile", "      if (step == 0) clear(sums);\n", "", PRODUCT),
    Mutation(
        "copies rows beyond the last",
        "r < from.rows && c < from.columns;",
        "r <= from.rows && c < from.columns;",
        PRODUCT,
    ),
    Mutation(
        "copies features beyond the last", "r < from.rows && c < from.columns;", "r < from.rows;", PRODUCT
    ),
    Mutation(
        "unaligned rows are read beyond their end",
        "r < from.rows && c + e < from.columns",
        "r < from.rows",
        PRODUCT,
    ),
    Mutation(
        "unaligned rows are copied by 16 bytes", "if (from.is_aligned) {", "if (from.rows > 0) {", PRODUCT
    ),
    Mutation(
        "alignment of an array not looked at",
        "reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride",
        "stride",
        PRODUCT,
    ),
    Mutation(
        "alignment of a result not looked at",
        "reinterpret_cast<uintptr_t>(to) % 16 == 0 && stride",
        "stride",
        PRODUCT,
    ),
    Mutation(
        "rows beyond the last are written",
        "if (r >= rows || c >= columns) continue;",
        "if (c >= columns) continue;",
        PRODUCT,
    ),
    Mutation(
        "tiles of 32 rows for any number of rows",
        "  if (has_few_rows(p.rows)) {\n    fold",
        "  if (p.rows > 0) {\n    fold",
        FWD,
    ),
    Mutation(
        "tiles of 32 rows for any number of rows, backward",
        "    if (has_few_rows(p.rows)) {\n      launch_chunk",
        "    if (p.rows > 0) {\n      launch_chunk",
        BWD,
    ),
)
