"""Bugs for attention's float32 kernels, forward and backward: what is easily got wrong in them."""

from __future__ import annotations

from tests.cuda.mutation import Mutation, Pin, Target

SHARED = "attention/attention_cuda.cuh"
TILES = "attention/attention_rows_f32.cuh"
BACKWARD = "attention/attention_f32_bwd.cuh"
BIAS = "attention/attention_f32_bias.cuh"
ENTRY = "attention/attention_f32.cu"

BUGS = (
    # Order of threads and copies.
    Mutation(
        "no barrier before keys are used",
        "    __syncthreads();  // keys are there; nobody needs the last values and weights\n",
        "",
    ),
    Mutation(
        "no wait for keys",
        "    wait_for_copies<0>();\n    __syncthreads();  // keys",
        "    __syncthreads();  // keys",
    ),
    Mutation(
        "no barrier before values are used",
        "    __syncthreads();  // weights and values are there; nobody needs the keys\n",
        "",
    ),
    Mutation(
        "no wait for values",
        "    wait_for_copies<0>();\n    __syncthreads();  // weights",
        "    __syncthreads();  // weights",
    ),
    Mutation(
        "backward: no barrier before tiles are copied",
        "      __syncthreads();  // nobody needs the last tiles\n      load_rows<kDim, Tile::kOther>(rows.q",
        "      load_rows<kDim, Tile::kOther>(rows.q",
        BACKWARD,
    ),
    Mutation(
        "backward: no barrier before tiles are used",
        "    wait_for_copies<0>();\n    __syncthreads();\n    float s",
        "    wait_for_copies<0>();\n    float s",
        BACKWARD,
    ),
    Mutation(
        "backward: no __syncwarp between weights and their use",
        "__syncwarp();  // a row of weights",
        "// a row of weights",
        BACKWARD,
    ),
    Mutation(
        "bias: no barrier before tiles are copied",
        "    __syncthreads();  // nobody needs the last tiles\n",
        "",
        BIAS,
    ),
    Mutation(
        "bias: no barrier between writing and reading sums",
        "  __syncthreads();\n  const int row_count",
        "  const int row_count",
        BIAS,
    ),
    # Tiles.
    Mutation(
        "columns of the right tile are neighbours",
        "right += place.across * kStride;",
        "right += place.across * 2 * kStride;",
        TILES,
    ),
    Mutation("rows of tiles meet in banks", "kF32Stride = kDim + 4;", "kF32Stride = kDim;", TILES),
    Mutation("weights of two rows meet in banks", "column ^ (row & 1) << 4", "column", TILES),
    Mutation(
        "weights are read where those of even rows lie",
        "weight_at<kCount>(place.down, j)",
        "weight_at<kCount>(place.down & ~1, j) + (place.down & 1) * kCount",
        TILES,
    ),
    Mutation(
        "a tile lacks its last row",
        "i < kRows * kChunks; i += kF32Threads",
        "i < (kRows - 1) * kChunks; i += kF32Threads",
        TILES,
    ),
    Mutation(
        "copies rows beyond the last",
        "const bool exists = first + row < from.rows;",
        "const bool exists = first + row <= from.rows;",
        TILES,
    ),
    Mutation("copies columns beyond head_dim", "exists && column < from.columns;", "exists;", TILES),
    Mutation(
        "unaligned rows read beyond their end", "exists && column + e < from.columns ?", "exists ?", TILES
    ),
    Mutation(
        "columns beyond head_dim are written", "if (column + c < columns) store_global", "store_global", TILES
    ),
    Mutation(
        "shared memory without the weights", "* kF32Stride<kDim> + kQueries * kKeys);", "* kF32Stride<kDim>);"
    ),
    Mutation(
        "alignment of addresses not looked at",
        "bits % 16 == 0 && elements",
        "elements",
        "attention/attention_alignment.h",
    ),
    Mutation(
        "gaps between rows not looked at",
        "elements |= s.batch | s.sequence | s.head;",
        "elements |= s.batch;",
        "attention/attention_alignment.h",
    ),
    # Forward.
    Mutation("O is not faded", "o[i][c] *= fade;", "o[i][c] *= 1.0f;"),
    Mutation("sum is not faded", "sum[i] = sum[i] * fade + total;", "sum[i] = sum[i] + total;"),
    Mutation("maximum of a lane, not of the row", "      top = max_over_lanes<kF32Across - 1>(top);\n", ""),
    Mutation(
        "maximum not subtracted",
        "fast_exp2((s[i][j] - top) * factor);",
        "fast_exp2(s[i][j] * factor);",
    ),
    Mutation(
        "tails of queries are not hidden", "queries.end - queries.begin < Tile::kQueries ||\n", "false ||\n"
    ),
    Mutation("keys: tails are not hidden", "{key, key + Tile::kKeys});", "{key, key + 1});"),
    Mutation(
        "dropped weights count in no sum",
        "        total += weight;\n",
        "        total += !kGeneral || kept.has(first + row, key + place.across + j * kF32Across) ? weight : 0.0f;\n",
    ),
    Mutation(
        "kept weights are not made larger",
        "inverse_keep = 1.0f / (1.0f - p.dropout_p);\n  float* const out",
        "inverse_keep = 1.0f;\n  float* const out",
    ),
    Mutation("lse without the scale", "max[i] * natural + logf(total)", "max[i] + logf(total)"),
    Mutation("dropout taken for a plain case", "!is_plain(p) || p.dropout_p > 0.0f", "!is_plain(p)"),
    # Backward.
    Mutation(
        "delta of out alone",
        "load_global(static_cast<const float*>(p.o) + row + d);",
        "load_global(static_cast<const float*>(p.grad_o) + row + d);",
        BACKWARD,
    ),
    Mutation("delta of a lane, not of the row", "  sum = sum_over_lanes<31>(sum);\n", "", BACKWARD),
    Mutation(
        "the gradient of lse is added to delta",
        "sum -= load_global(p.grad_lse + at);",
        "sum += load_global(p.grad_lse + at);",
        BACKWARD,
    ),
    Mutation(
        "delta is dropped out too",
        "(grad_weight * keep - row.delta)",
        "(grad_weight - row.delta) * keep",
        BACKWARD,
    ),
    Mutation(
        "values get gradients of dropped weights",
        "return {weight * keep, score",
        "return {weight, score",
        BACKWARD,
    ),
    Mutation("softcap's derivative forgotten", "score, score * slope};", "score, score};", BACKWARD),
    Mutation(
        "the gradient of keys is not scaled", "exists ? p.scale : 0.0f", "exists ? 1.0f : 0.0f", BACKWARD
    ),
    Mutation(
        "the gradient of keys of the first head only",
        "head < (kv_head + 1) * group",
        "head < kv_head * group + 1",
        BACKWARD,
    ),
    Mutation(
        "keys: first query not rounded down",
        "queries.begin = queries.begin / Tile::kOther * Tile::kOther;",
        "queries.begin += queries.begin > 0;",
        BACKWARD,
    ),
    Mutation(
        "queries: terms of one row for all",
        "first + place.down + i * kF32Down, terms)",
        "first + place.down, terms)",
        BACKWARD,
    ),
    Mutation(
        "terms of padding are read",
        "  if (query >= seq.q_valid) return {0.0f, 0.0f, 0.0f, 0.0f};\n",
        "",
        BACKWARD,
    ),
    Mutation(
        "gradients of keys and values exchanged",
        "space.weights[0], space.other[1]",
        "space.weights[1], space.other[1]",
        BACKWARD,
    ),
    Mutation("workspace of one batch entry", "(p.batch - 1) * p.lse_stride[0] + ", "", ENTRY),
    # The gradient of a bias.
    Mutation(
        "bias: batch entries are not added up",
        "axes.is_shared[0] ? static_cast<int>(p.batch) : own_b + 1",
        "own_b + 1",
        BIAS,
    ),
    Mutation(
        "bias: heads are not added up", "axes.is_shared[1] ? heads : own_head + 1", "own_head + 1", BIAS
    ),
    Mutation(
        "bias: queries of one tile are added up", "axes.is_shared[2] ? seq.q_valid : least", "least", BIAS
    ),
    Mutation(
        "bias: with softcap's derivative",
        "key + place.across + j * kF32Across).score;",
        "key + place.across + j * kF32Across).product;",
        BIAS,
    ),
    Mutation(
        "bias: goes on to the keys of other blocks",
        "keys = {most(keys.begin, own_key), least(keys.end, own_key + 1)};",
        "keys = {most(keys.begin, own_key), keys.end};",
        BIAS,
    ),
    Mutation(
        "bias: columns are added up but the last",
        "c < column + column_step; ++c",
        "c < column + column_step - (column_step > 1); ++c",
        BIAS,
    ),
    Mutation("bias: rows that do not exist are written", "own_query + row >= p.seq_q || ", "", BIAS),
)

ATTENTION_F32 = Target(
    name="attention_f32",
    operator="attention",
    sources=(
        "attention.cu",
        "attention_f32.cu",
        "attention_f32_fwd_instance.cu",
        "attention_f32_bwd_instance.cu",
    ),
    macros={"PI_HEAD_DIM": (64,)},
    pins=(Pin(ENTRY, r"(launch_attention_f32_(?:fwd|bwd))<\d+>", r"\1<{PI_HEAD_DIM}>"),),
    probe="tests.cuda.attention_f32_probe",
    probe_arguments=("{PI_HEAD_DIM}",),
    driver="attention_driver",
    driver_arguments=("backward", "{PI_HEAD_DIM}", "float32"),
    driver_cases=8,
    file="attention/attention_f32_fwd.cuh",
    bugs=BUGS,
)
