"""Bugs for the kernels of attention to a cache: what is easily got wrong in them."""

from __future__ import annotations

from tests.cuda.mutation import Mutation, Pin, Target

SHARED = "attention/attention_cuda.cuh"
MMA = "attention/attention_decode_mma.cuh"
F32 = "attention/attention_decode_f32.cuh"
ENTRY = "attention/attention_decode.cu"
IN_LOOP = "    wait_for_copies<0>();\n    __syncthreads();  // this pair"

BUGS = (
    # Order of threads and copies.
    Mutation(
        "16 bits: no barrier before a tile is used", IN_LOOP, "    wait_for_copies<0>();  // this pair", MMA
    ),
    Mutation("16 bits: waits for one group too few", IN_LOOP, IN_LOOP.replace("<0>", "<1>"), MMA),
    Mutation(
        "float32: no barrier before a tile is used", IN_LOOP, "    wait_for_copies<0>();  // this pair", F32
    ),
    Mutation("float32: no wait for the copies", IN_LOOP, "    __syncthreads();  // this pair", F32),
    Mutation(
        "16 bits: queries are used before they are there",
        "  close_copy_group();\n  wait_for_copies<0>();\n  __syncthreads();\n  uint32_t q_fragments",
        "  close_copy_group();\n  wait_for_copies<0>();\n  uint32_t q_fragments",
        MMA,
    ),
    Mutation(
        "16 bits: the next tiles overwrite those in use", "kDecodeStages = 2,", "kDecodeStages = 1,", MMA
    ),
    Mutation(
        "16 bits: no barrier before results take the place of keys",
        "  __syncthreads();  // nobody needs keys and values: results of warps take their place\n",
        "",
        MMA,
    ),
    Mutation(
        "16 bits: no barrier before warps are put together",
        "  __syncthreads();\n  constexpr int kChunks = kDim / 4;",
        "  constexpr int kChunks = kDim / 4;",
        MMA,
    ),
    Mutation(
        "float32: no __syncwarp between weights and their use",
        "    __syncwarp();  // a row of weights is made and used by one warp\n",
        "",
        F32,
    ),
    # Fragments and tiles.
    Mutation(
        "16 bits: fragments of K exchanged",
        "mma(s[0], q_fragments[d], fragment[0], fragment[1]",
        "mma(s[0], q_fragments[d], fragment[0], fragment[2]",
        MMA,
    ),
    Mutation(
        "16 bits: V is not loaded transposed",
        "load_matrices<true>(fragment, v_tile",
        "load_matrices(fragment, v_tile",
        MMA,
    ),
    Mutation("16 bits: all warps take the same turn", "turn = warp / row_tiles;", "turn = 0;", MMA),
    Mutation(
        "16 bits: a turn is left out",
        "slice < kDecodeKeys / 16; slice += turns",
        "slice < kDecodeKeys / 16 - 1; slice += turns",
        MMA,
    ),
    Mutation("16 bits: sums of warps meet in banks", "kMergeStride = kDim + 8;", "kMergeStride = kDim;", MMA),
    Mutation("16 bits: maximum and sum exchanged", "mine = which == 0 ?", "mine = which == 1 ?", MMA),
    Mutation(
        "swizzle of narrow rows by the wrong bits", "row >> 1 & 3", "row & 3", SHARED, {"PI_HEAD_DIM": (32,)}
    ),
    Mutation(
        "float32: weights of two rows meet in banks",
        "column ^ (row & 1) << 4",
        "column",
        "attention/attention_rows_f32.cuh",
    ),
    # Splits.
    Mutation(
        "splits leave out the last keys",
        "each = ((count + splits - 1) / splits + tile - 1)",
        "each = (count / splits + tile / 2)",
    ),
    Mutation(
        "a split starts one key late",
        "least(count, split * each);",
        "least(count, split * each + (split > 0));",
    ),
    Mutation(
        "a split ends one key late",
        "least(begin + each, all.begin + count)",
        "least(begin + each + 1, all.begin + count)",
    ),
    Mutation(
        "the first keys of a window's split forgotten",
        "const int begin = all.begin + least",
        "const int begin = least",
    ),
    Mutation(
        "splits overlap beyond the length",
        "return {begin, least(begin + each, all.begin + count)};",
        "return {begin, begin + each};",
    ),
    Mutation(
        "combined without the larger maximum",
        "const float weight = fast_exp2((part.at[0] - top) * factor);",
        "const float weight = 1.0f;",
    ),
    Mutation(
        "combined sums are not faded",
        "sum += part.at[1] * fast_exp2((part.at[0] - top) * factor);",
        "sum += part.at[1];",
    ),
    Mutation("maximum of splits of a lane", "  top = max_over_lanes<31>(top);\n", ""),
    Mutation("sum of splits of a lane", "  sum = sum_over_lanes<31>(sum);\n", ""),
    Mutation(
        "combined without the scale",
        "const float factor = score_factor(p) * kLog2E;\n  float top",
        "const float factor = kLog2E;\n  float top",
    ),
    Mutation(
        "empty splits are added",
        "    if (part.at[1] == 0.0f) continue;  // its numbers may not have been written\n",
        "",
    ),
    Mutation(
        "empty splits write nothing",
        "    store_global(partials.stats + at, DecodeStats{{kLowestMax, 0.0f}});\n",
        "    static_cast<void>(partials), static_cast<void>(at);\n",
    ),
    Mutation(
        "an empty split clears the rows of the next block",
        "const int count = least(plan.block_rows, plan.rows - first_row);",
        "const int count = plan.block_rows;",
    ),
    Mutation(
        "splits of another head",
        "((b * p.kv_heads + kv_head) * plan.splits + split)",
        "((b * p.kv_heads) * plan.splits + split)",
    ),
    Mutation(
        "rows of splits exchanged",
        "plan.splits + split) * plan.rows + row;",
        "plan.splits + split) + plan.splits * row;",
    ),
    Mutation(
        "the last split is not combined",
        "for (int split = 0; split < plan.splits; ++split) {",
        "for (int split = 0; split < plan.splits - 1; ++split) {",
    ),
    Mutation("workspace too small by a row", "rows * plan.dim) : 0;", "(rows - 1) * plan.dim) : 0;"),
    Mutation(
        "workspace of unpadded rows",
        "dim = static_cast<int>(p.head_dim + 31) / 32 * 32;",
        "dim = static_cast<int>(p.head_dim);",
    ),
    # Softmax.
    Mutation(
        "16 bits: warps are put together without their maxima",
        "const float weight = fast_exp2((part.at[0] - whole.at[0]) * factor);",
        "const float weight = 1.0f;",
        MMA,
    ),
    Mutation("16 bits: O is not faded", "o[d][2 * half] *= fade;", "", MMA),
    Mutation("float32: O is not faded", "o[i][c] *= fade;", "o[i][c] *= 1.0f;", F32),
    Mutation(
        "float32: sum of a lane, not of the row", "sum_over_lanes<kF32Across - 1>(sum[i])", "sum[i]", F32
    ),
    Mutation(
        "maximum of scores without the scale in lse", "max * score_factor(p) + logf(sum)", "max + logf(sum)"
    ),
    Mutation("empty rows divide by zero", "sum == 0.0f ? 0.0f : o.at[c] * norm", "o.at[c] * (1.0f / sum)"),
    Mutation(
        "lse is written by every piece",
        "if (column == 0) {\n    store_global(p.lse",
        "if (true) {\n    store_global(p.lse",
    ),
    # Who sees whom; heads, memory.
    Mutation("16 bits: the last keys are not masked", "{key, key + 16});", "{key, key + 1});", MMA),
    Mutation("float32: tails are not masked", "{key, key + kDecodeF32Keys});", "{key, key + 1});", F32),
    Mutation(
        "padded queries are not masked", "seq.q_valid < seq.q_rows || !all_visible", "!all_visible", F32
    ),
    Mutation(
        "queries and heads exchanged",
        "existing / seq_q, existing % seq_q}",
        "existing % seq_q, existing / seq_q}",
    ),
    Mutation(
        "rows of a second block are those of the first",
        "static_cast<int>(blockIdx.y) % plan.groups * plan.block_rows",
        "0",
        MMA,
    ),
    Mutation(
        "wrong key-value head",
        "static_cast<int>(blockIdx.y) / plan.groups;",
        "static_cast<int>(blockIdx.y) % static_cast<int>(p.kv_heads);",
        MMA,
    ),
    Mutation("rows that do not exist are written", "if (row >= plan.rows || ", "if ("),
    Mutation(
        "columns that do not exist are written",
        "      if (column + c < p.head_dim) store_global(to + c, o.at[c]);",
        "      store_global(to + c, o.at[c]);",
    ),
    Mutation(
        "rows that are not aligned are written by 16 bytes",
        "rows_are_aligned(p, {p.q, p.k, p.v, p.o})",
        "true",
        ENTRY,
    ),
    Mutation(
        "alignment of addresses not looked at",
        "bits % 16 == 0 && elements",
        "elements",
        "attention/attention_alignment.h",
    ),
    Mutation(
        "keys beyond the split are copied",
        "stride.sequence, keys.end, static_cast<int>(p.head_dim), is_aligned};\n  };\n  const TileSource",
        "stride.sequence, keys.end + kDecodeKeys, static_cast<int>(p.head_dim), is_aligned};\n  };\n  const TileSource",
        MMA,
    ),
)

ATTENTION_DECODE = Target(
    name="attention_decode",
    operator="attention",
    sources=("attention_decode.cu", "attention_decode_mma_instance.cu", "attention_decode_f32_instance.cu"),
    macros={"PI_FORMAT": ("Bfloat16",), "PI_HEAD_DIM": (64,)},
    pins=(Pin(ENTRY, r"integral_constant<int, \d+>", "integral_constant<int, {PI_HEAD_DIM}>"),),
    probe="tests.cuda.attention_decode_probe",
    probe_arguments=("{PI_HEAD_DIM}",),
    driver="attention_driver",
    driver_arguments=("decode", "{PI_HEAD_DIM}", "bfloat16,float32"),
    file="attention/attention_decode.cuh",
    bugs=BUGS,
)
