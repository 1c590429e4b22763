"""Bugs for attention's backward kernels: what is easily got wrong in them."""

from __future__ import annotations

from tests.cuda.mutation import Mutation, Pin, Target

SHARED = "attention/attention_cuda.cuh"
ROWS = "attention/attention_bwd_rows.cuh"
QUERY = "attention/attention_bwd_query.cuh"
KEY_VALUE = "attention/attention_bwd_key_value.cuh"
BIAS = "attention/attention_bwd_bias.cuh"
LAUNCH = "attention/attention_bwd.cuh"
IN_LOOP = "    wait_for_copies<0>();\n    __syncthreads();  // this step's"

BUGS = (
    # Order of threads and copies.
    Mutation(
        "keys: no barrier before a step", IN_LOOP, "    wait_for_copies<0>();  // this step's", KEY_VALUE
    ),
    Mutation(
        "keys: no wait for the copies of a step", IN_LOOP, "    __syncthreads();  // this step's", KEY_VALUE
    ),
    Mutation("keys: waits for one group too few", IN_LOOP, IN_LOOP.replace("<0>", "<1>"), KEY_VALUE),
    Mutation(
        "queries: no barrier before a step", IN_LOOP, "    wait_for_copies<0>();  // this step's", QUERY
    ),
    Mutation("queries: waits for one group too few", IN_LOOP, IN_LOOP.replace("<0>", "<1>"), QUERY),
    Mutation("the next tiles overwrite those in use", "kBwdStages = 2;", "kBwdStages = 1;"),
    Mutation(
        "no __syncwarp between writing and reading sums",
        "  __syncwarp();\n  store_warp_rows",
        "  store_warp_rows",
    ),
    Mutation(
        "no __syncwarp before sums take the place of a tile",
        "  __syncwarp();  // all lanes have read what was there\n",
        "",
    ),
    Mutation(
        "bias: no barrier before tiles are copied",
        "      __syncthreads();  // nobody needs the tiles before\n",
        "",
        BIAS,
    ),
    Mutation(
        "bias: no barrier before sums take the place of tiles",
        "  __syncthreads();  // nobody needs the tiles any more\n",
        "",
        BIAS,
    ),
    Mutation(
        "bias: no barrier between writing and reading sums",
        "  __syncthreads();\n  const auto sum_at",
        "  const auto sum_at",
        BIAS,
    ),
    Mutation(
        "bias: no wait for the tiles",
        "      wait_for_copies<0>();\n      __syncthreads();",
        "      __syncthreads();",
        BIAS,
    ),
    # Fragments and tiles.
    Mutation(
        "fragments of the right factor exchanged",
        "mma(products[2 * n], rows, fragment[0], fragment[1]",
        "mma(products[2 * n], rows, fragment[0], fragment[2]",
    ),
    Mutation(
        "the right factor is loaded transposed",
        "      load_matrices(fragment,\n",
        "      load_matrices<true>(fragment,\n",
    ),
    Mutation(
        "weighted rows are not loaded transposed",
        "load_matrices<true>(fragment, tile",
        "load_matrices(fragment, tile",
    ),
    Mutation(
        "quarters of the weights exchanged",
        "Format::pack(even[2], even[3]),\n                                 Format::pack(odd[0], odd[1])",
        "Format::pack(odd[0], odd[1]),\n                                 Format::pack(even[2], even[3])",
    ),
    Mutation(
        "keys: shared memory without the rows of queries",
        "kBwdStages * kBwdStep<kDim> * static_cast<int>(sizeof(BwdRow));",
        "0;",
        KEY_VALUE,
    ),
    Mutation("bias: sums meet in banks", "kSumsPitch = kBwdRows + 8;", "kSumsPitch = kBwdRows;", BIAS),
    Mutation(
        "swizzle of narrow rows by the wrong bits", "row >> 1 & 3", "row & 3", SHARED, {"PI_HEAD_DIM": (32,)}
    ),
    Mutation(
        "queries: narrow steps copied as wide ones",
        "const int stage = step % kBwdStages * kStage, key = keys.begin + step * kStep;",
        "const int stage = step % kBwdStages * kStage, key = keys.begin + step * kBwdRows;",
        QUERY,
        {"PI_HEAD_DIM": (96,)},
    ),
    # What is known of rows.
    Mutation("delta from out alone", "sum += o[e] * grad[e];", "sum += o[e] * o[e];", ROWS),
    Mutation("delta of a lane, not of the row", "sum = sum_over_lanes<kLanesOfRow - 1>(sum);", "", ROWS),
    Mutation(
        "the gradient of lse is added to delta",
        "sum - load_global(p.grad_lse",
        "sum + load_global(p.grad_lse",
        ROWS,
    ),
    Mutation("maximum without the scale", ".max) * (score_factor(p) * kLog2E)", ".max) * kLog2E", ROWS),
    Mutation("empty rows divide by zero", "if (total != 0.0f) {", "{", ROWS),
    Mutation(
        "rows read beyond head_dim",
        "column + e < columns ? Format::to_float",
        "true ? Format::to_float",
        ROWS,
    ),
    Mutation(
        "a lane's chunks are those of its neighbour",
        "(i * kLanesOfRow + lane) * 8",
        "(lane * (kDim / 8 / kLanesOfRow) + i + 1) * 8",
        ROWS,
    ),
    Mutation(
        "rows of queries lack the last block",
        "blocks_of(p.seq_q, kBwdRowsOfBlock)",
        "p.seq_q / kBwdRowsOfBlock",
        LAUNCH,
    ),
    Mutation(
        "padding gets a row of another query",
        "  if (query >= s.q_valid) return {0.0f, 0.0f, 0.0f, 0.0f};\n",
        "",
    ),
    # From products to gradients.
    Mutation("delta not subtracted", "grad = weight * (grad - row.delta);", "grad = weight * grad;"),
    Mutation("weights not divided by their sum", "- row.shift) * row.inverse_sum", "- row.shift)"),
    Mutation(
        "dropped weights get gradients",
        "grad = is_kept ? grad * inverse_keep_ : 0.0f;",
        "grad *= inverse_keep_;",
    ),
    Mutation(
        "dropped weights give gradients to values", "product = is_kept ? weight : 0.0f;", "product = weight;"
    ),
    Mutation(
        "gradients of kept weights are not made larger",
        "is_kept ? grad * inverse_keep_ : 0.0f",
        "is_kept ? grad : 0.0f",
    ),
    Mutation(
        "values without the factor of dropout",
        "1.0f / (1.0f - p.dropout_p), v_tile",
        "1.0f, v_tile",
        KEY_VALUE,
    ),
    Mutation(
        "dropout of another head",
        "finish(p, seq, b, kv_head * group + step / blocks)",
        "finish(p, seq, b, kv_head)",
        KEY_VALUE,
    ),
    Mutation("softcap has no derivative", "*derivative = 1.0f - t * t;", "*derivative = 1.0f;", SHARED),
    Mutation("softcap's derivative is not squared", "1.0f - t * t;", "1.0f - t;", SHARED),
    Mutation("queries: softcap's derivative forgotten", "grads[n][e] *= finish(", "finish(", QUERY),
    Mutation("keys: softcap's derivative forgotten", "grads[n][e] *= finish(", "finish(", KEY_VALUE),
    Mutation(
        "the gradient of keys without the scale",
        "store_sums<Format, kDim>(grad_k, p.scale",
        "store_sums<Format, kDim>(grad_k, 1.0f",
        KEY_VALUE,
    ),
    Mutation(
        "the gradient of queries in powers of 2", "(grad_q, p.scale", "(grad_q, p.scale * kLog2E", QUERY
    ),
    Mutation(
        "the gradient of keys from the gradient of out",
        "add_weighted_rows<Format, kDim, kStep>(grad_k, grads, q_tile",
        "add_weighted_rows<Format, kDim, kStep>(grad_k, grads, grad_tile",
        KEY_VALUE,
    ),
    Mutation(
        "the gradient of values from those of scores",
        "(grad_v, weights, grad_tile",
        "(grad_v, grads, grad_tile",
        KEY_VALUE,
    ),
    # Who sees whom.
    Mutation(
        "queries that see a key start one late",
        "keys.begin - s.offset - static_cast<int>(p.window_right)",
        "keys.begin + 1 - s.offset - static_cast<int>(p.window_right)",
        SHARED,
        {"PI_HEAD_DIM": (64,)},
    ),
    Mutation(
        "queries that see a key end one early",
        "keys.end - s.offset + static_cast<int>(p.window_left)",
        "keys.end - 1 - s.offset + static_cast<int>(p.window_left)",
        SHARED,
    ),
    Mutation(
        "first query not rounded down",
        "queries.begin = queries.begin / kStep * kStep;",
        "queries.begin += queries.begin > 0;",
        KEY_VALUE,
    ),
    Mutation(
        "keys: the last step is skipped",
        "(queries.end - queries.begin + kStep - 1) / kStep",
        "(queries.end - queries.begin) / kStep",
        KEY_VALUE,
    ),
    Mutation(
        "keys: tiles on the diagonal are not masked",
        "{first, first + kBwdRows});",
        "{first, first + 1});",
        KEY_VALUE,
    ),
    Mutation(
        "queries: tiles on the diagonal are not masked",
        "{key, key + kStep});",
        "{key, key + 1});",
        QUERY,
    ),
    Mutation("padding is not hidden", "query >= sequence_.q_valid || ", ""),
    # Heads, blocks, memory.
    Mutation(
        "queries: wrong head of keys",
        "head / static_cast<int>(p.heads / p.kv_heads)",
        "head % static_cast<int>(p.kv_heads)",
        QUERY,
    ),
    Mutation(
        "keys: only the first head of a group",
        "const int steps = blocks * group;",
        "const int steps = blocks;",
        KEY_VALUE,
    ),
    Mutation(
        "keys: heads of a group in the wrong order of steps",
        "kv_head * group + step / blocks, query",
        "kv_head * group + step % group, query",
        KEY_VALUE,
    ),
    Mutation(
        "rows that are not aligned are copied by 16 bytes",
        "!is_aligned || !is_plain(p)",
        "!is_plain(p)",
        LAUNCH,
    ),
    Mutation(
        "alignment of addresses not looked at",
        "bits % 16 == 0 && elements",
        "elements",
        "attention/attention_alignment.h",
    ),
    Mutation("dropout taken for a plain case", " || p.dropout_p > 0.0f;", ";", LAUNCH),
    Mutation(
        "keys beyond the length are not written",
        "stride.sequence, seq.k_rows,",
        "stride.sequence, seq.keys,",
        KEY_VALUE,
    ),
    Mutation(
        "workspace of one row only",
        "return kBytesOfRow * (batch + ",
        "return kBytesOfRow * (",
        "attention/attention.cu",
    ),
    # The gradient of a bias.
    Mutation(
        "bias: batch entries are not added up",
        "part_of_axis(p.batch, 1, stride[0] == 0, block_b)",
        "part_of_axis(p.batch, 1, false, block_b)",
        BIAS,
    ),
    Mutation(
        "bias: heads are not added up",
        "part_of_axis(p.heads, 1, stride[1] == 0, block_head)",
        "part_of_axis(p.heads, 1, false, block_head)",
        BIAS,
    ),
    Mutation(
        "bias: queries are not added up",
        "part_of_axis(p.seq_q, kBwdRows, stride[2] == 0,",
        "part_of_axis(p.seq_q, kBwdRows, false,",
        BIAS,
    ),
    Mutation(
        "bias: only the keys of one tile are added up",
        "part_of_axis(p.seq_k, kBwdRows, stride[3] == 0,",
        "part_of_axis(p.seq_k, kBwdRows, false,",
        BIAS,
    ),
    Mutation("bias: columns of three lanes of four", "part < 4; ++part", "part < 3; ++part", BIAS),
    Mutation(
        "bias: rows of a tile added up but the last", "r < kBwdRows; ++r", "r < kBwdRows - 1; ++r", BIAS
    ),
    Mutation(
        "bias: with softcap's derivative",
        "          finish(weights[n][e], grads[n][e], rows[e / 2]",
        "          grads[n][e] *= finish(weights[n][e], grads[n][e], rows[e / 2]",
        BIAS,
    ),
    Mutation(
        "bias: queries and keys of a tile exchanged",
        "stride[2] == 0, tile / key_tiles)",
        "stride[2] == 0, tile % key_tiles)",
        BIAS,
    ),
    Mutation("bias: wrong head of keys", "kv_head = head / group;", "kv_head = head % group;", BIAS),
    Mutation(
        "bias: one query for both halves",
        "{load_bwd_row(p, seq, b, query, head), load_bwd_row(p, seq, b, query + 8, head)}",
        "{load_bwd_row(p, seq, b, query, head), load_bwd_row(p, seq, b, query, head)}",
        BIAS,
    ),
)

ATTENTION_BWD = Target(
    name="attention_bwd",
    operator="attention",
    sources=("attention.cu", "attention_fwd_instance.cu", "attention_bwd_instance.cu"),
    macros={"PI_FORMAT": ("Bfloat16",), "PI_HEAD_DIM": (64,)},
    pins=(
        Pin(
            "attention/attention.cu", r"integral_constant<int, \d+>", "integral_constant<int, {PI_HEAD_DIM}>"
        ),
    ),
    probe="tests.cuda.attention_bwd_probe",
    probe_arguments=("{PI_HEAD_DIM}",),
    driver="attention_driver",
    driver_arguments=("backward", "{PI_HEAD_DIM}", "bfloat16"),
    file="attention/attention_bwd_scores.cuh",
    bugs=BUGS,
)
