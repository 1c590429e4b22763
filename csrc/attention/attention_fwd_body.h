// Forward attention of a few panels of queries of one head. No include guard: see common/foreach_target.h.
//
// Everything is transposed, so that a query is a vector lane: S^T = K Q^T, softmax runs down the columns
// without any exchange between lanes, O^T = V^T P^T. csrc/README.md explains the tiling.

#include "attention/attention_pack_body.h"
#include "attention/attention_scores_body.h"

template <Form kForm>
constexpr int64_t kFwdKeyBlock = kForm == Form::kPairs ? kWideKeyBlock : kKeyBlock;

// The scratch memory of one thread.
template <Form kForm>
struct FwdSpace {
  FwdSpace(const FwdPlan& plan, void* memory) {
    constexpr int kCount = PackedElement<kForm>::kCount;
    Arena arena(memory);
    k = arena.take<Packed<kForm>>(plan.chunk * plan.dim / kCount);
    v = arena.take<Packed<kForm>>(plan.chunk * plan.dim / kCount);
    scratch = PI_BF16 >= 2 ? arena.take<Packed<kForm>>(plan.chunk * plan.dim / kCount) : nullptr;
    q = arena.take<Packed<kForm>>(plan.panels * plan.dim * kPanel / kCount);
    o = arena.take<float>(plan.panels * plan.dim * kPanel);
    state = arena.take<PanelState>(plan.panels);
    scores = arena.take<float>(kFwdKeyBlock<kForm> * kPanel);
    if constexpr (kForm == Form::kPairs) {
      weights = arena.take<uint32_t>(kFwdKeyBlock<kForm> / 2 * kPanel);
    } else {
      weights = scores;
    }
    bytes = arena.used();
  }

  // Of each lane: running maximum and sum.
  struct PanelState {
    alignas(64) float max[kPanel], sum[kPanel];
    bool is_empty;  // no block of keys yet: the output is not set
  };

  Packed<kForm>*k, *v, *scratch, *q, *weights;
  float *o, *scores;
  PanelState* state;
  int64_t bytes;
};

// Softmax of one block of scores, online: updates maximum and sum of every lane, writes the weights, and in
// `decay` what the earlier output is to be multiplied by.
template <Form kForm, bool kHasDropout, class State>
static void softmax_block(const PanelRows& rows, const Dropout& dropout, int64_t key, int64_t keys,
                          float factor, float* scores, State* state, float* decay, Packed<kForm>* weights) {
  constexpr bool kIsRough = kForm != Form::kFloat;
  const int64_t width = rows.width;
  for (int64_t r = 0; r < width; r += kLanes) {
    Vec most = load(scores + r), other = most;
    int64_t j = 1;
    for (; j + 1 < keys; j += 2) {
      most = vmax(most, load(scores + j * width + r));
      other = vmax(other, load(scores + (j + 1) * width + r));
    }
    if (j < keys) most = vmax(most, load(scores + j * width + r));
    const Vec old = load(state->max + r), top = vmax(old, vmax(most, other));
    const Vec fade = vexp2<kIsRough>((old - top) * factor);
    store(state->max + r, top);
    store(decay + r, fade);
    Vec total[2] = {};
    const auto weight = [&](int64_t at, Vec* sum) __attribute__((always_inline)) {
      const Vec w = weight_of<kIsRough>(load(scores + at * width + r), top, factor);
      *sum += w;
      return kHasDropout ? keep(dropout, w, r, key + at) : w;
    };
    j = 0;
    if constexpr (kForm == Form::kPairs) {
      for (; j < keys; j += 2) {
        const Vec even = weight(j, &total[0]);
        const Vec odd = j + 1 < keys ? weight(j + 1, &total[1]) : Vec{};
        store(reinterpret_cast<float*>(weights + j / 2 * width + r), interleave_bf16(even, odd));
      }
      // The matrix unit sums over 32 keys at a time.
      for (; PI_BF16 >= 2 && j < round_up(keys, 32); j += 2) {
        store(reinterpret_cast<float*>(weights + j / 2 * width + r), Vec{});
      }
    } else {
      for (; j + 1 < keys; j += 2) {
        const Vec even = weight(j, &total[0]), odd = weight(j + 1, &total[1]);
        store(weights + j * width + r, kForm == Form::kRounded ? round_to_bf16(even) : even);
        store(weights + (j + 1) * width + r, kForm == Form::kRounded ? round_to_bf16(odd) : odd);
      }
      if (j < keys) {
        const Vec last = weight(j, &total[0]);
        store(weights + j * width + r, kForm == Form::kRounded ? round_to_bf16(last) : last);
      }
    }
    store(state->sum + r, load(state->sum + r) * fade + (total[0] + total[1]));
  }
}

// One block of keys, the `at`-th and following of those packed, for one panel.
template <Form kForm>
static void fwd_block(const FwdPlan& plan, const FwdSpace<kForm>& space, const PanelRows& rows,
                      const Dropout& dropout, int64_t panel, int64_t key, int64_t keys, int64_t at,
                      int64_t packed_keys) {
  constexpr int kCount = PackedElement<kForm>::kCount;
  constexpr bool kUsesTiles = PI_BF16 >= 2 && kForm == Form::kPairs;
  const int64_t dim = plan.dim, width = rows.width;
  const int64_t depth = kForm == Form::kPairs ? dim / 2 : rows.p.head_dim;
  // What is beyond the keys was packed as zeros: the matrix unit takes whole tiles.
  product<Into::kOverwrite>(kUsesTiles ? round_up(keys, 16) : keys, width, depth,
                            LeftMatrix<Packed<kForm>>{space.k + at * dim / kCount, dim / kCount, 1},
                            space.q + panel * dim * kPanel / kCount, width, space.scores, width);
  finish_scores(rows, key, keys, space.scores);
  const float factor = score_factor(rows.p) * kLog2E;
  alignas(64) float decay[kPanel];
  auto* state = space.state + panel;
  if (dropout.is_on) {
    softmax_block<kForm, true>(rows, dropout, key, keys, factor, space.scores, state, decay, space.weights);
  } else {
    softmax_block<kForm, false>(rows, dropout, key, keys, factor, space.scores, state, decay, space.weights);
  }
  const auto values = left_for_sum<kForm>(space.v, at, packed_keys, dim);
  const int64_t key_depth = kForm == Form::kPairs ? round_up(keys, kUsesTiles ? 32 : 2) / 2 : keys;
  float* o = space.o + panel * dim * kPanel;
  if (state->is_empty) {
    product<Into::kOverwrite>(dim, width, key_depth, values, space.weights, width, o, width);
  } else {
    product<Into::kScale>(dim, width, key_depth, values, space.weights, width, o, width, decay);
  }
  state->is_empty = false;
}

template <Form kForm>
static void begin_panel(const FwdPlan& plan, const FwdSpace<kForm>& space, const PanelRows& rows,
                        int64_t panel) {
  const AttentionParams& p = rows.p;
  const int64_t size = element_size(p.dtype);
  const char* q = static_cast<const char*>(p.q) + size * q_offset(p, rows.seq, rows.b, rows.first, rows.head);
  pack_lanes<kForm>(Rows{q, size * p.q_stride.sequence, rows.count, p.head_dim, p.dtype, nullptr}, rows.width,
                    plan.dim, space.q + panel * plan.dim * kPanel / PackedElement<kForm>::kCount);
  auto* state = space.state + panel;
  state->is_empty = true;
  for (int64_t r = 0; r < kPanel; ++r) state->max[r] = kLowestMax, state->sum[r] = 0.0f;
}

template <Form kForm>
static void end_panel(const FwdPlan& plan, const FwdSpace<kForm>& space, const PanelRows& rows,
                      int64_t panel) {
  const AttentionParams& p = rows.p;
  auto* state = space.state + panel;
  float* o = space.o + panel * plan.dim * kPanel;
  if (state->is_empty) {
    for (int64_t i = 0; i < plan.dim * rows.width; ++i) o[i] = 0.0f;
  }
  const float inverse_keep = 1.0f / (1.0f - p.dropout_p);
  alignas(64) float factor[kPanel];
  const int64_t at = stats_offset(p, rows.seq, rows.b, rows.first, rows.head);
  for (int64_t r = 0; r < rows.width; ++r) {
    const float sum = state->sum[r];
    factor[r] = sum == 0.0f ? 0.0f : inverse_keep / sum;  // not "> 0": a NaN stays one
    if (r >= rows.count) continue;
    p.stats[at + r] = {state->max[r], sum};
    p.lse[at + r] = sum == 0.0f ? -__builtin_inff() : state->max[r] * score_factor(p) + std::log(sum);
  }
  const int64_t size = element_size(p.dtype);
  char* to = static_cast<char*>(p.o) + size * q_offset(p, rows.seq, rows.b, rows.first, rows.head);
  unpack_lanes<false>(o, rows.width, rows.count, p.head_dim, factor, p.dtype, to, size * p.q_stride.sequence);
}

// Padding rows: no output.
static void clear_rows(const AttentionParams& p, const Sequence& seq, int64_t b, int64_t head, Range rows) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const int64_t size = element_size(p.dtype), at = stats_offset(p, seq, b, i, head);
    std::memset(static_cast<char*>(p.o) + size * q_offset(p, seq, b, i, head), 0, size * p.head_dim);
    p.stats[at] = {kLowestMax, 0.0f};
    p.lse[at] = -__builtin_inff();
  }
}

// The queries [begin, end) of one head, at most plan.panels panels of them.
template <Form kForm>
static void fwd_task(const AttentionParams& p, const FwdPlan& plan, int64_t b, int64_t head, Range queries,
                     void* memory) {
  const FwdSpace<kForm> space(plan, memory);
  const Sequence seq = sequence_of(p, b);
  clear_rows(p, seq, b, head, {std::max(queries.begin, seq.q_valid), queries.end});
  queries.end = std::min(queries.end, seq.q_valid);
  if (queries.empty()) return;
  const auto panel_rows = [&](int64_t panel) {
    const int64_t first = queries.begin + panel * kPanel, count = std::min(kPanel, queries.end - first);
    return PanelRows{p, seq, b, head, first, count, round_up(count, kWidthStep)};
  };
  const int64_t panels = ceil_div(queries.end - queries.begin, kPanel);
  for (int64_t i = 0; i < panels; ++i) begin_panel(plan, space, panel_rows(i), i);
  const Range all = visible_keys(p, seq, queries);
  const int64_t size = element_size(p.dtype), kv_head = head / (p.heads / p.kv_heads);
  const auto rows_of = [&](const void* data, const AttentionStrides& stride, int64_t key, int64_t keys) {
    const int64_t at = offset_of(p, stride, b, seq.k_row + key, kv_head);
    return Rows{static_cast<const char*>(data) + size * at,
                size * stride.sequence,
                keys,
                p.head_dim,
                p.dtype,
                nullptr};
  };
  constexpr int64_t kBlock = kFwdKeyBlock<kForm>;
  // Chunks and blocks start at multiples of their sizes, so that results do not depend on how queries are
  // grouped into tasks.
  for (int64_t chunk = all.begin / plan.chunk * plan.chunk; chunk < all.end; chunk += plan.chunk) {
    const Range packed{std::max(chunk, all.begin / kBlock * kBlock), std::min(chunk + plan.chunk, all.end)};
    const int64_t keys = packed.end - packed.begin, padded = round_up(keys, PI_BF16 >= 2 ? 32 : 2);
    pack_rows<kForm>(rows_of(p.k, p.k_stride, packed.begin, keys), padded, plan.dim, space.k);
    pack_left_for_sum<kForm>(rows_of(p.v, p.v_stride, packed.begin, keys), padded, plan.dim, space.v,
                             space.scratch);
    for (int64_t i = 0; i < panels; ++i) {
      const PanelRows rows = panel_rows(i);
      const Range seen = visible_keys(p, seq, {rows.first, rows.first + rows.count});
      const int64_t begin = std::max(packed.begin, seen.begin / kBlock * kBlock);
      const int64_t end = std::min(packed.end, seen.end);
      if (begin >= end) continue;
      const Dropout dropout(rows);
      for (int64_t key = begin; key < end; key += kBlock) {
        fwd_block(plan, space, rows, dropout, i, key, std::min(kBlock, end - key), key - packed.begin,
                  padded);
      }
    }
  }
  for (int64_t i = 0; i < panels; ++i) end_panel(plan, space, panel_rows(i), i);
}

template <Form kForm>
static int64_t fwd_bytes(const FwdPlan& plan) {
  return FwdSpace<kForm>(plan, nullptr).bytes;
}

constexpr Form kMediumForm = PI_BF16 > 0 ? Form::kPairs : Form::kRounded;
#if PI_BF16 == 0
constexpr FwdKernel kHighest{fwd_bytes<Form::kFloat>, fwd_task<Form::kFloat>, begin_thread, end_thread};
#endif
constexpr FwdKernel kMedium{fwd_bytes<kMediumForm>, fwd_task<kMediumForm>, begin_thread, end_thread};
