"""Bugs for attention's forward kernel: what is easily got wrong in it."""

from __future__ import annotations

from tests.cuda.mutation import Mutation, Pin, Target

SHARED = "attention/attention_cuda.cuh"
IN_LOOP = "    wait_for_copies<0>();\n    __syncthreads();  // this pair"

BUGS = (
    # Order of threads and copies.
    Mutation(
        "no barrier after Q is copied", "  __syncthreads();\n  const int warp_row", "  const int warp_row"
    ),
    Mutation("no barrier before a tile is used", IN_LOOP, "    wait_for_copies<0>();  // this pair"),
    Mutation("no wait for the copies of the loop", IN_LOOP, "    __syncthreads();  // this pair"),
    Mutation("waits for one group too few", IN_LOOP, IN_LOOP.replace("<0>", "<1>")),
    Mutation(
        "no wait for the first copies",
        "  wait_for_copies<0>();\n  __syncthreads();\n  const int warp_row",
        "  __syncthreads();\n  const int warp_row",
    ),
    Mutation("the next tiles overwrite those in use", "kFwdStages = 2;", "kFwdStages = 1;"),
    Mutation(
        "barrier in a branch that not all take",
        "    __syncthreads();  // this pair",
        "    if (warp == 0) __syncthreads();  // this pair",
    ),
    Mutation(
        "barrier before the wait", IN_LOOP, "    __syncthreads();\n    wait_for_copies<0>();  // this pair"
    ),
    Mutation(
        "no __syncwarp before O takes the place of Q",
        "and their place is used for those of O.\n  __syncwarp();",
        "and their place is used for those of O.",
    ),
    Mutation(
        "no __syncwarp between writing and reading O",
        "    __syncwarp();\n    store_warp_rows",
        "    store_warp_rows",
    ),
    Mutation(
        "copies are still open at the end",
        "  }\n  wait_for_copies<0>();\n",
        "  }\n  close_copy_group(), load_keys(0);\n",
    ),
    # Fragments and tiles.
    Mutation(
        "fragments of K exchanged",
        "q[t], fragment[0], fragment[1]",
        "q[t], fragment[0], fragment[2]",
    ),
    Mutation(
        "K is loaded transposed",
        "      load_matrices(fragment,\n",
        "      load_matrices<true>(fragment,\n",
    ),
    Mutation(
        "V is not loaded transposed", "load_matrices<true>(fragment, v_tile", "load_matrices(fragment, v_tile"
    ),
    Mutation(
        "pairs of weights exchanged",
        "Format::pack(pair[0], pair[1])",
        "Format::pack(pair[1], pair[0])",
    ),
    Mutation(
        "quarters of the weights exchanged",
        "s[t].at[2 * n + i / 2] + i % 2 * 2;",
        "s[t].at[2 * n + i % 2] + i / 2 * 2;",
    ),
    Mutation(
        "a warp reads the rows of Q of another",
        "rows_of_q(q_tile, warp_row, lane)",
        "rows_of_q(q_tile, warp_row ^ 16 * kTiles, lane)",
    ),
    Mutation(
        "tiles are not swizzled",
        "((chunk ^ (kDim % 64 == 0 ? row & 7 : row >> 1 & 3)) << 3)",
        "(chunk << 3)",
        SHARED,
    ),
    Mutation(
        "swizzle of narrow rows by the wrong bits", "row >> 1 & 3", "row & 3", SHARED, {"PI_HEAD_DIM": (32,)}
    ),
    Mutation("swizzle leaves the row", "row & 7 :", "row & 15 :", SHARED),
    Mutation(
        "shared memory is too small",
        "kDim * static_cast<int>(sizeof(uint16_t));",
        "kDim * static_cast<int>(sizeof(uint16_t)) - 1024;",
    ),
    Mutation(
        "a tile lacks its last row",
        "i < kRows * kChunks; i += kThreads",
        "i < (kRows - 1) * kChunks; i += kThreads",
        SHARED,
    ),
    # Who sees whom.
    Mutation("no mask for the last keys", "return keys.end <= s.keys &&\n", "return true &&\n", SHARED),
    Mutation("one key too many", "IntRange keys{0, s.keys};", "IntRange keys{0, s.keys + 1};", SHARED),
    Mutation("one key too few", "IntRange keys{0, s.keys};", "IntRange keys{0, s.keys - 1};", SHARED),
    Mutation(
        "causal mask off by one",
        "queries.end + s.offset + static_cast<int>(p.window_right)",
        "queries.end + s.offset + static_cast<int>(p.window_right) + 1",
        SHARED,
    ),
    Mutation(
        "window's left edge off by one",
        "queries.begin + s.offset - static_cast<int>(p.window_left)",
        "queries.begin + s.offset - static_cast<int>(p.window_left) + 1",
        SHARED,
    ),
    Mutation("causal mask without the offset of the queries", ": s.k_rows - s.q_rows;", ": 0;", SHARED),
    Mutation(
        "alignment to lengths forgotten",
        "p.align_to_lengths ? s.keys - s.q_valid",
        "p.align_to_lengths ? s.k_rows - s.q_rows",
        SHARED,
    ),
    Mutation(
        "blocks on the diagonal are not masked",
        "keys.end - 1 <= queries.begin",
        "keys.begin <= queries.begin",
        SHARED,
    ),
    Mutation(
        "the last block of keys is skipped",
        "(keys.end - keys.begin + kFwdKeys - 1) / kFwdKeys",
        "(keys.end - keys.begin) / kFwdKeys",
    ),
    Mutation(
        "first visible key not rounded down",
        "keys.begin = keys.begin / kFwdKeys * kFwdKeys;",
        "keys.begin += 1;",
    ),
    Mutation(
        "range of visible keys ends one early",
        "queries.end + s.offset + static_cast<int>(p.window_right)",
        "queries.end + s.offset + static_cast<int>(p.window_right) - 1",
        SHARED,
    ),
    Mutation(
        "keys that nobody sees are computed too",
        "keys.end = least(s.keys, queries.end",
        "keys.end = most(s.keys, queries.end",
        SHARED,
    ),
    Mutation(
        "copies rows beyond the last key",
        "const bool exists = first + row < from.rows;",
        "const bool exists = first + row <= from.rows;",
        SHARED,
    ),
    Mutation("copies columns beyond head_dim", "exists && chunk * 8 < from.columns;", "exists;", SHARED),
    Mutation(
        "a masked query's rows are those of the lower half",
        "query = row + mma_row(lane, 2 * half);",
        "query = row + mma_row(lane, half);",
    ),
    # Heads, blocks, memory.
    Mutation(
        "wrong head of keys",
        "head / static_cast<int>(p.heads / p.kv_heads)",
        "head % static_cast<int>(p.kv_heads)",
    ),
    Mutation(
        "batch and head exchanged",
        "b = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y)",
        "b = static_cast<int>(blockIdx.y), head = static_cast<int>(blockIdx.z)",
    ),
    Mutation(
        "block starts one query late",
        "static_cast<int>(blockIdx.x) * kQueries;",
        "static_cast<int>(blockIdx.x) * (kQueries + 1);",
    ),
    Mutation(
        "last block of queries not launched",
        "(p.seq_q + kQueries - 1) / kQueries)",
        "p.seq_q / kQueries)",
    ),
    Mutation(
        "rows that are not aligned are copied by 16 bytes",
        "!kGeneral || is_aligned",
        "true",
    ),
    Mutation(
        "alignment of addresses not looked at",
        "bits % 16 == 0 && elements * element_size(p.dtype) % 16 == 0",
        "elements % 2 == 0",
        "attention/attention_alignment.h",
    ),
    Mutation(
        "unaligned rows read beyond their end", "exists && chunk * 8 + e < from.columns;", "exists;", SHARED
    ),
    Mutation(
        "lse of another head", "head * p.lse_stride[1] + s.q_row", "b * p.lse_stride[1] + s.q_row", SHARED
    ),
    Mutation(
        "rows that do not exist are written",
        "if (first + row >= to.rows ||",
        "if (first + row > to.rows ||",
        SHARED,
    ),
    # Softmax.
    Mutation(
        "O and sum are not faded when the maximum grows",
        "const float fade = fast_exp2((tile.max[half] - top) * factor)",
        "const float fade = 1.0f",
    ),
    Mutation(
        "O is not faded, only the sum", "tile.o.at[d][2 * half] *= fade;", "tile.o.at[d][2 * half] *= 1.0f;"
    ),
    Mutation("maximum not subtracted", "shift = top * factor;", "shift = 0.0f;"),
    Mutation("maximum of a lane, not of the row", "top = max_over_lanes<3>(top);", "top = top + 0.0f;"),
    Mutation(
        "sum of a lane, not of the row",
        "const float all = sum_over_lanes<3>(tile.sum[half])",
        "const float all = tile.sum[half]",
    ),
    Mutation(
        "sum over two lanes of four", "sum_over_lanes<3>(tile.sum[half])", "sum_over_lanes<1>(tile.sum[half])"
    ),
    Mutation("lse in powers of 2", "top * natural + logf(total)", "top * natural + log2f(total)"),
    Mutation("lse without the scale", "top * natural + logf(total)", "top + logf(total)"),
    Mutation(
        "scale forgotten", "const float factor = score_factor(p) * kLog2E;", "const float factor = kLog2E;"
    ),
    Mutation(
        "empty rows divide by zero", "total == 0.0f ? 0.0f : inverse_keep / total", "inverse_keep / total"
    ),
    Mutation("maxima start at -infinity", "kLowestMax = -1e29f", "kLowestMax = -INFINITY", SHARED),
    # Options.
    Mutation(
        "dropout's query and key exchanged",
        "kept.has(row + mma_row(lane, e), key + n * 8 + mma_column(lane, e))",
        "kept.has(key + n * 8 + mma_column(lane, e), row + mma_row(lane, e))",
    ),
    Mutation("dropout of another head", "b * p.heads + head);", "b * p.kv_heads + head);", SHARED),
    Mutation(
        "dropped weights count in no sum",
        "        total += weight;\n        if (kGeneral && !kept",
        "        if (kGeneral && !kept",
    ),
    Mutation(
        "kept weights are not made larger",
        "inverse_keep = 1.0f / (1.0f - p.dropout_p)",
        "inverse_keep = 1.0f",
    ),
    Mutation(
        "softcap after the bias",
        "score = p_.softcap * t;\n    }\n    if (p_.bias != nullptr) score += bias_at(query, key);",
        "score = p_.softcap * t;\n    }\n    if (p_.bias != nullptr) score += p_.softcap * tanhf(bias_at(query, key));",
        SHARED,
    ),
    Mutation(
        "bias by its transposed strides",
        "query * p_.bias_stride[2] + key * p_.bias_stride[3]",
        "query * p_.bias_stride[3] + key * p_.bias_stride[2]",
        SHARED,
    ),
    Mutation(
        "mask that hides what it should show",
        "!= 0 ? 0.0f : minus_infinity();",
        "!= 0 ? minus_infinity() : 0.0f;",
        SHARED,
    ),
    Mutation(
        "slopes without the offset of the queries",
        "const int ahead = key - query - sequence_.offset;",
        "const int ahead = key - query;",
        SHARED,
    ),
    Mutation("a negative scale taken for a plain one", " && p.scale > 0.0f;", ";", SHARED),
)

ATTENTION_FWD = Target(
    name="attention_fwd",
    operator="attention",
    sources=("attention.cu", "attention_fwd_instance.cu"),
    macros={"PI_HEAD_DIM": (64,)},
    pins=(
        Pin(
            "attention/attention.cu", r"integral_constant<int, \d+>", "integral_constant<int, {PI_HEAD_DIM}>"
        ),
    ),
    probe="tests.cuda.attention_fwd_probe",
    probe_arguments=("{PI_HEAD_DIM}",),
    driver="attention_driver",
    driver_arguments=("forward", "{PI_HEAD_DIM}", "float16,bfloat16"),
    file="attention/attention_fwd.cuh",
    bugs=BUGS,
)
