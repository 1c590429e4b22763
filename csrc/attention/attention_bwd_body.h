// Gradients of attention for one block of work. No include guard: see common/foreach_target.h.
//
// Scores and weights are computed again, transposed as in the forward pass (a query is a vector lane):
//   S^T = K Q^T, dP^T = V dO^T, P^T = 2^(S^T - max) / sum, dS^T = P^T (dP^T - delta)
//   dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T,   delta = rowsum(dO * O) - d(lse)
// dO and delta are divided by the sums when they are packed, so the sums need no work later.
// FlashAttention-2, arXiv:2307.08691, section 3.1.2.

#include "attention/attention_pack_body.h"
#include "attention/attention_scores_body.h"
// Needs both.
#include "attention/attention_bias_grad_body.h"

// The scratch memory of one thread.
template <Form kForm>
struct BwdSpace {
  BwdSpace(const AttentionParams& p, const BwdPlan& plan, void* memory) {
    constexpr int kCount = PackedElement<kForm>::kCount;
    constexpr bool kIsPairs = kForm == Form::kPairs;
    Arena arena(memory);
    const int64_t keys = plan.chunk * plan.dim, rows = kPanel * plan.dim, block = kKeyBlock * kPanel;
    k = arena.take<Packed<kForm>>(keys / kCount);
    v = arena.take<Packed<kForm>>(keys / kCount);
    k_left = kIsPairs ? arena.take<Packed<kForm>>(keys / kCount) : k;
    scratch = PI_BF16 >= 2 ? arena.take<Packed<kForm>>(keys / kCount) : nullptr;
    grad_k = arena.take<float>(keys);
    grad_v = arena.take<float>(keys);
    q_lanes = arena.take<Packed<kForm>>(rows / kCount);
    g_lanes = arena.take<Packed<kForm>>(rows / kCount);
    q_rows = arena.take<Packed<kForm>>(rows / kCount);
    g_rows = arena.take<Packed<kForm>>(rows / kCount);
    grad_q = arena.take<float>(rows);
    scores = arena.take<float>(block);
    grads = arena.take<float>(block);
    slope = p.softcap > 0.0f ? arena.take<float>(block) : nullptr;
    if constexpr (kIsPairs) {
      weight_rows = arena.take<uint32_t>(block / 2);
      grad_rows = arena.take<uint32_t>(block / 2);
      grad_pairs = arena.take<uint32_t>(block / 2);
    } else {
      weight_rows = scores;
      grad_rows = grad_pairs = grads;
    }
    bytes = arena.used();
  }

  Packed<kForm>*k, *v, *k_left, *scratch, *q_lanes, *g_lanes, *q_rows, *g_rows;
  float *grad_k, *grad_v, *grad_q, *scores, *grads, *slope;
  Packed<kForm>*weight_rows, *grad_rows;  // [key][lane element]: sums over queries
  Packed<kForm>* grad_pairs;              // [key element][lane]: sums over keys
  int64_t bytes;
};

// What the lanes of a panel need of the forward pass.
struct LaneStats {
  alignas(64) float max[kPanel], factor[kPanel], delta[kPanel];
};

static float dot(const float* a, const float* b, int64_t padded) {
  Vec sum{};
  for (int64_t d = 0; d < padded; d += kLanes) sum += load(a + d) * load(b + d);
  alignas(64) float lane[kLanes];
  store(lane, sum);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

static LaneStats lane_stats(const PanelRows& rows) {
  const AttentionParams& p = rows.p;
  LaneStats stats;
  const int64_t at = stats_offset(p, rows.seq, rows.b, rows.first, rows.head), size = element_size(p.dtype);
  const int64_t offset = size * q_offset(p, rows.seq, rows.b, rows.first, rows.head);
  const auto rows_of = [&](const void* data) {
    return Rows{static_cast<const char*>(data) + offset,
                size * p.q_stride.sequence,
                rows.count,
                p.head_dim,
                p.dtype,
                nullptr};
  };
  const Rows o = rows_of(p.o), grad = rows_of(p.grad_o);
  alignas(64) float buffers[2][kRowBuffer];
  for (int64_t r = 0; r < rows.width; ++r) {
    if (r >= rows.count) {  // no query: its weights are 0, whatever its scores
      stats.max[r] = -kLowestMax;
      stats.factor[r] = stats.delta[r] = 0.0f;
      continue;
    }
    const AttentionRowStats& row = p.stats[at + r];
    const float delta = dot(float_row(o, r, kLanes, buffers[0]), float_row(grad, r, kLanes, buffers[1]),
                            round_up(p.head_dim, kLanes)) -
                        (p.grad_lse != nullptr ? p.grad_lse[at + r] : 0.0f);
    stats.max[r] = row.max;
    stats.factor[r] = row.sum == 0.0f ? 0.0f : 1.0f / row.sum;
    stats.delta[r] = row.sum == 0.0f ? 0.0f : delta * stats.factor[r];
  }
  return stats;
}

// Products to weights (in place of scores) and gradients of scores (in place of grads).
template <bool kIsRough, bool kHasDropout>
static void weights_and_grads(const PanelRows& rows, const LaneStats& stats, const Dropout& dropout,
                              int64_t key, int64_t keys, float factor, float* scores, float* grads) {
  for (int64_t r = 0; r < rows.width; r += kLanes) {
    const Vec max = load(stats.max + r), delta = load(stats.delta + r);
    for (int64_t j = 0; j < keys; ++j) {
      float *score = scores + j * rows.width + r, *grad = grads + j * rows.width + r;
      const Vec w = weight_of<kIsRough>(load(score), max, factor);
      if constexpr (kHasDropout) {
        store(score, keep(dropout, w, r, key + j));
        store(grad, w * (keep(dropout, load(grad), r, key + j) * dropout.inverse_keep - delta));
      } else {
        store(score, w);
        store(grad, w * (load(grad) - delta));
      }
    }
  }
}

// Rounds weights and gradients to bfloat16, in the layouts of the three products that read them.
template <Form kForm>
static void pack_block(const BwdSpace<kForm>& space, int64_t keys, int64_t width) {
  if constexpr (kForm == Form::kRounded) {
    for (int64_t e = 0; e < keys * width; e += kLanes) {
      store(space.scores + e, round_to_bf16(load(space.scores + e)));
      store(space.grads + e, round_to_bf16(load(space.grads + e)));
    }
  }
  if constexpr (kForm == Form::kPairs) {
    // The matrix unit takes 16 rows of keys, and sums over 32: beyond the keys there must be zeros.
    const int64_t padded = round_up(keys, PI_BF16 >= 2 ? 32 : 2);
    for (int64_t e = keys * width; e < padded * width; e += kLanes) {
      store(space.scores + e, Vec{});
      store(space.grads + e, Vec{});
    }
    const auto as_floats = [](uint32_t* at) { return reinterpret_cast<float*>(at); };
    for (int64_t j = 0; j < padded; j += 2) {
      for (int64_t r = 0; r < width; r += 2 * kLanes) {
        const float *w = space.scores + j * width + r, *g = space.grads + j * width + r;
        const Vec g00 = load(g), g01 = load(g + kLanes), g10 = load(g + width),
                  g11 = load(g + width + kLanes);
        store(as_floats(space.weight_rows + (j * width + r) / 2),
              concatenate_bf16(load(w), load(w + kLanes)));
        store(as_floats(space.weight_rows + ((j + 1) * width + r) / 2),
              concatenate_bf16(load(w + width), load(w + width + kLanes)));
        store(as_floats(space.grad_rows + (j * width + r) / 2), concatenate_bf16(g00, g01));
        store(as_floats(space.grad_rows + ((j + 1) * width + r) / 2), concatenate_bf16(g10, g11));
        store(as_floats(space.grad_pairs + j / 2 * width + r), interleave_bf16(g00, g10));
        store(as_floats(space.grad_pairs + j / 2 * width + r + kLanes), interleave_bf16(g01, g11));
      }
    }
  }
}

// One block of keys, the `at`-th and following of those packed, for one panel.
template <Form kForm>
static void bwd_block(const BwdPlan& plan, const BwdTask& task, const BwdSpace<kForm>& space,
                      const PanelRows& rows, const LaneStats& stats, const Dropout& dropout, int64_t key,
                      int64_t keys, int64_t at, int64_t packed_keys, bool is_first) {
  constexpr int kCount = PackedElement<kForm>::kCount;
  constexpr bool kIsPairs = kForm == Form::kPairs, kUsesTiles = PI_BF16 >= 2 && kIsPairs;
  using Left = LeftMatrix<Packed<kForm>>;
  const int64_t dim = plan.dim, width = rows.width, row = dim / kCount;
  const int64_t tile_keys = kUsesTiles ? round_up(keys, 16) : keys, depth = kIsPairs ? row : rows.p.head_dim;
  product<Into::kOverwrite>(tile_keys, width, depth, Left{space.k + at * row, row, 1}, space.q_lanes, width,
                            space.scores, width);
  product<Into::kOverwrite>(tile_keys, width, depth, Left{space.v + at * row, row, 1}, space.g_lanes, width,
                            space.grads, width);
  finish_scores(rows, key, keys, space.scores, space.slope);
  const float factor = score_factor(rows.p) * kLog2E;
  const auto elementwise = dropout.is_on ? weights_and_grads<kForm != Form::kFloat, true>
                                         : weights_and_grads<kForm != Form::kFloat, false>;
  elementwise(rows, stats, dropout, key, keys, factor, space.scores, space.grads);
  if (task.wants_bias) add_bias_grad(rows, key, keys, space.grads);
  for (int64_t e = 0; space.slope != nullptr && e < keys * width; e += kLanes) {
    store(space.grads + e, load(space.grads + e) * load(space.slope + e));
  }
  if (!task.wants_query && !task.wants_key_value) return;
  pack_block(space, keys, width);
  if (task.wants_key_value) {
    const int64_t queries = kIsPairs ? width / 2 : rows.count;
    product<Into::kAdd>(tile_keys, dim, queries, Left{space.weight_rows, width / kCount, 1}, space.g_rows,
                        dim, space.grad_v + at * dim, dim);
    product<Into::kAdd>(tile_keys, dim, queries, Left{space.grad_rows, width / kCount, 1}, space.q_rows, dim,
                        space.grad_k + at * dim, dim);
  }
  if (task.wants_query) {
    const auto left = left_for_sum<kForm>(space.k_left, at, packed_keys, dim);
    const int64_t key_depth = kIsPairs ? round_up(keys, kUsesTiles ? 32 : 2) / 2 : keys;
    if (is_first) {
      product<Into::kOverwrite>(dim, width, key_depth, left, space.grad_pairs, width, space.grad_q, width);
    } else {
      product<Into::kAdd>(dim, width, key_depth, left, space.grad_pairs, width, space.grad_q, width);
    }
  }
}

struct GradQ {
  char* data;
  int64_t stride;  // bytes from row to row
};

// Where the sums of grad_q are: in the result, or for narrow types in float32 elsewhere.
static GradQ grad_q_of(const AttentionParams& p, const BwdPlan& plan, const Sequence& seq, int64_t b,
                       int64_t head, int64_t row) {
  if (p.dtype == DataType::kFloat32) {
    return {reinterpret_cast<char*>(static_cast<float*>(p.grad_q) + q_offset(p, seq, b, row, head)),
            4 * p.q_stride.sequence};
  }
  const int64_t first = p.cu_seqlens_q != nullptr ? seq.q_row : b * p.seq_q;
  return {reinterpret_cast<char*>(plan.grad_q + ((first + row) * p.heads + head) * p.head_dim),
          4 * p.heads * p.head_dim};
}

// All blocks of a chunk of keys for one panel.
template <Form kForm>
static void bwd_panel(const BwdPlan& plan, const BwdTask& task, const BwdSpace<kForm>& space,
                      const PanelRows& rows, Range packed, int64_t packed_keys) {
  const AttentionParams& p = rows.p;
  const Range seen = visible_keys(p, rows.seq, {rows.first, rows.first + rows.count});
  const int64_t begin = std::max(packed.begin, seen.begin / kKeyBlock * kKeyBlock);
  const int64_t end = std::min(packed.end, seen.end);
  if (begin >= end) return;
  const LaneStats stats = lane_stats(rows);
  const int64_t size = element_size(p.dtype);
  const int64_t offset = size * q_offset(p, rows.seq, rows.b, rows.first, rows.head);
  const auto rows_of = [&](const void* data, const float* factor) {
    return Rows{static_cast<const char*>(data) + offset,
                size * p.q_stride.sequence,
                rows.count,
                p.head_dim,
                p.dtype,
                factor};
  };
  pack_lanes<kForm>(rows_of(p.q, nullptr), rows.width, plan.dim, space.q_lanes);
  pack_lanes<kForm>(rows_of(p.grad_o, stats.factor), rows.width, plan.dim, space.g_lanes);
  if (task.wants_key_value) {
    pack_rows_for_sum<kForm>(rows_of(p.q, nullptr), rows.width, plan.dim, space.q_rows);
    pack_rows_for_sum<kForm>(rows_of(p.grad_o, stats.factor), rows.width, plan.dim, space.g_rows);
  }
  const Dropout dropout(rows);
  for (int64_t key = begin; key < end; key += kKeyBlock) {
    bwd_block(plan, task, space, rows, stats, dropout, key, std::min(kKeyBlock, end - key),
              key - packed.begin, packed_keys, key == begin);
  }
  if (!task.wants_query) return;
  alignas(64) float scale[kPanel];
  for (float& s : scale) s = p.scale;
  const GradQ to = grad_q_of(p, plan, rows.seq, rows.b, rows.head, rows.first);
  unpack_lanes<true>(space.grad_q, rows.width, rows.count, p.head_dim, scale, DataType::kFloat32, to.data,
                     to.stride);
}

// Rows of grad_k or grad_v, times a factor; zeros if there are no sums.
static void write_key_rows(const AttentionParams& p, const AttentionStrides& stride, const Sequence& seq,
                           const BwdTask& task, Range keys, const float* sums, int64_t dim, float factor,
                           void* to) {
  const int64_t size = element_size(p.dtype);
  alignas(64) float row[kRowBuffer];
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const int64_t at = offset_of(p, stride, task.b, seq.k_row + j, task.kv_head);
    char* out = static_cast<char*>(to) + size * at;
    if (sums == nullptr) {
      std::memset(out, 0, size * p.head_dim);
      continue;
    }
    for (int64_t d = 0; d < round_up(p.head_dim, kLanes); d += kLanes) {
      store(row + d, load(sums + (j - keys.begin) * dim + d) * factor);
    }
    convert_from_float(p.dtype, row, out, p.head_dim);
  }
}

template <Form kForm>
static void bwd_task(const AttentionParams& p, const BwdPlan& plan, const BwdTask& task, void* memory) {
  const BwdSpace<kForm> space(p, plan, memory);
  const Sequence seq = sequence_of(p, task.b);
  const int64_t size = element_size(p.dtype);
  const auto rows_of = [&](const void* data, const AttentionStrides& stride, Range keys) {
    const int64_t at = offset_of(p, stride, task.b, seq.k_row + keys.begin, task.kv_head);
    return Rows{static_cast<const char*>(data) + size * at,
                size * stride.sequence,
                keys.end - keys.begin,
                p.head_dim,
                p.dtype,
                nullptr};
  };
  for (int64_t head = task.heads.begin; task.wants_query && head < task.heads.end; ++head) {
    for (int64_t i = task.queries.begin; i < task.queries.end; ++i) {
      const GradQ to = grad_q_of(p, plan, seq, task.b, head, i);
      for (int64_t d = 0; d < p.head_dim; ++d) reinterpret_cast<float*>(to.data)[d] = 0.0f;
    }
  }
  const Range valid{task.queries.begin, std::min(task.queries.end, seq.q_valid)};
  Range seen = visible_keys(p, seq, valid);
  if (valid.empty()) seen = {0, 0};
  for (int64_t chunk = task.keys.begin; chunk < task.keys.end; chunk += plan.chunk) {
    const Range all{chunk, std::min(chunk + plan.chunk, task.keys.end)};
    const Range packed{std::max(chunk, seen.begin / kKeyBlock * kKeyBlock), std::min(all.end, seen.end)};
    // Sums start at the first key that anybody sees; what lies outside of these keys is touched by no query.
    const Range used = packed.empty() ? Range{all.end, all.end} : Range{packed.begin, all.end};
    if (task.wants_key_value) {
      // The matrix unit adds to whole tiles.
      const int64_t rows = std::min(plan.chunk, round_up(used.end - used.begin, 32));
      for (int64_t e = 0; e < rows * plan.dim; e += kLanes) {
        store(space.grad_k + e, Vec{});
        store(space.grad_v + e, Vec{});
      }
    }
    if (!packed.empty()) {
      const int64_t padded = round_up(packed.end - packed.begin, PI_BF16 >= 2 ? 32 : 2);
      pack_rows<kForm>(rows_of(p.k, p.k_stride, packed), padded, plan.dim, space.k);
      pack_rows<kForm>(rows_of(p.v, p.v_stride, packed), padded, plan.dim, space.v);
      if (kForm == Form::kPairs && task.wants_query) {
        pack_left_for_sum<kForm>(rows_of(p.k, p.k_stride, packed), padded, plan.dim, space.k_left,
                                 space.scratch);
      }
      for (int64_t head = task.heads.begin; head < task.heads.end; ++head) {
        for (int64_t first = valid.begin; first < valid.end; first += kPanel) {
          const int64_t count = std::min(kPanel, valid.end - first);
          const PanelRows rows{p, seq, task.b, head, first, count, round_up(count, kSumWidthStep<kForm>)};
          bwd_panel(plan, task, space, rows, packed, padded);
        }
      }
    }
    if (task.wants_key_value) {
      const float keep = 1.0f / (1.0f - p.dropout_p);
      const Range before{chunk, used.begin};
      write_key_rows(p, p.k_stride, seq, task, before, nullptr, plan.dim, 0.0f, p.grad_k);
      write_key_rows(p, p.v_stride, seq, task, before, nullptr, plan.dim, 0.0f, p.grad_v);
      write_key_rows(p, p.k_stride, seq, task, used, space.grad_k, plan.dim, p.scale, p.grad_k);
      write_key_rows(p, p.v_stride, seq, task, used, space.grad_v, plan.dim, keep, p.grad_v);
    }
  }
  if (p.dtype == DataType::kFloat32 || !task.wants_query) return;
  for (int64_t head = task.heads.begin; head < task.heads.end; ++head) {
    for (int64_t i = task.queries.begin; i < task.queries.end; ++i) {
      const auto* sums = reinterpret_cast<const float*>(grad_q_of(p, plan, seq, task.b, head, i).data);
      convert_from_float(p.dtype, sums,
                         static_cast<char*>(p.grad_q) + size * q_offset(p, seq, task.b, i, head), p.head_dim);
    }
  }
}

template <Form kForm>
static int64_t bwd_bytes(const AttentionParams& p, const BwdPlan& plan) {
  return BwdSpace<kForm>(p, plan, nullptr).bytes;
}

constexpr Form kMediumForm = PI_BF16 > 0 ? Form::kPairs : Form::kRounded;
#if PI_BF16 == 0
constexpr BwdKernel kHighest{bwd_bytes<Form::kFloat>, bwd_task<Form::kFloat>, begin_thread, end_thread};
#endif
constexpr BwdKernel kMedium{bwd_bytes<kMediumForm>, bwd_task<kMediumForm>, begin_thread, end_thread};
