// Attention of few queries against a cache of keys and values. No include guard: see common/foreach_target.h.
//
// What takes time is reading the cache, once. Vectors run along head_dim, as the cache lies: nothing is
// packed. All queries that share a key-value head go through a block of keys while it is in the first-level
// cache. Long caches are cut into splits, whose partial results are put together at the end (Flash-Decoding,
// Dao et al. 2023).

#include "common/simd_body.h"
// Needs vectors.
#include "attention/attention_rows_body.h"

// The scratch memory of one thread.
struct DecodeSpace {
  DecodeSpace(const AttentionParams& p, void* memory) {
    Arena arena(memory);
    const int64_t rows = decode_rows(p), dim = padded_dim(p);
    q = arena.take<float>(rows * dim);
    partial = arena.take<float>(rows * decode_partial_size(p));
    keys = arena.take<float>(kKeyBlock * kRowBuffer);
    values = arena.take<float>(kKeyBlock * kRowBuffer);
    bytes = arena.used();
  }
  float *q, *partial, *keys, *values;
  int64_t bytes;
};

// Scores of kLanes keys with one query.
PI_INLINE Vec dot_lanes(const float* const* keys, const float* q, int64_t dim) {
  Vec sums[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    Vec sum{};
    for (int64_t d = 0; d < dim; d += kLanes) sum += load(keys[i] + d) * load(q + d);
    sums[i] = sum;
  }
  transpose(sums);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

// One query, of all that share a key-value head.
struct DecodeRow {
  DecodeRow(const AttentionParams& p, const Sequence& seq, int64_t b, int64_t kv_head, int64_t row)
      : head(kv_head * (p.heads / p.kv_heads) + row / p.seq_q), query(row % p.seq_q) {
    const int64_t level = query + seq.offset;
    seen = {0, seq.keys};
    if (p.window_left >= 0) seen.begin = std::max<int64_t>(0, level - p.window_left);
    if (p.window_right >= 0) seen.end = std::min(seq.keys, level + p.window_right + 1);
    if (p.bias != nullptr) {
      bias = b * p.bias_stride[0] + head * p.bias_stride[1] + query * p.bias_stride[2];
    }
    if (p.alibi_slopes != nullptr) {
      slope = p.alibi_slopes[b * p.alibi_stride[0] + head * p.alibi_stride[1]];
    }
    this->level = level;
  }
  int64_t head, query, level, bias = 0;
  Range seen;
  float slope = 0.0f;
};

// The bias of `count` keys from `key` on.
PI_INLINE Vec decode_bias(const AttentionParams& p, const DecodeRow& row, int64_t key, int count) {
  Vec bias{};
  for (int i = 0; i < count; ++i) {
    const int64_t at = row.bias + (key + i) * p.bias_stride[3];
    bias[i] = !p.bias_is_mask                           ? static_cast<const float*>(p.bias)[at]
              : static_cast<const uint8_t*>(p.bias)[at] ? 0.0f
                                                        : -__builtin_inff();
  }
  return bias;
}

// From products to scores; -infinity for keys that the query does not see.
PI_INLINE Vec decode_scores(const AttentionParams& p, const DecodeRow& row, Vec product, int64_t key) {
  Vec score = p.softcap > 0.0f ? vtanh(product * (p.scale / p.softcap)) * p.softcap : product * p.scale;
  const int count = static_cast<int>(std::min<int64_t>(kLanes, row.seen.end - key));
  if (p.bias != nullptr) score += decode_bias(p, row, key, count);
  IntVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  if (p.alibi_slopes != nullptr) {
    const IntVec ahead = static_cast<int>(key - row.level) + lane;
    score -= row.slope * __builtin_convertvector(ahead < 0 ? -ahead : ahead, Vec);
  }
  const int first = static_cast<int>(std::max<int64_t>(0, row.seen.begin - key));
  const Vec hidden = splat(-__builtin_inff());
  score = lane >= count ? hidden : score;
  return lane < first ? hidden : score;
}

// o = o * fade + sum of weight * value.
static void add_values(const float* weights, const float* const* values, Range keys, int64_t dim, float fade,
                       float* o) {
  constexpr int kVecs = 4;
  int64_t d = 0;
  for (; d + kVecs * kLanes <= dim; d += kVecs * kLanes) {
    Vec sum[kVecs];
    for (int v = 0; v < kVecs; ++v) sum[v] = load(o + d + v * kLanes) * fade;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const Vec weight = splat(weights[j]);
      for (int v = 0; v < kVecs; ++v) sum[v] += weight * load(values[j] + d + v * kLanes);
    }
    for (int v = 0; v < kVecs; ++v) store(o + d + v * kLanes, sum[v]);
  }
  for (; d < dim; d += kLanes) {
    Vec sum = load(o + d) * fade;
    for (int64_t j = keys.begin; j < keys.end; ++j) sum += splat(weights[j]) * load(values[j] + d);
    store(o + d, sum);
  }
}

// One block of keys for one query. `partial` is the running maximum, the sum, and the output.
static void decode_block(const AttentionParams& p, const DecodeRow& row, const float* q, Range block,
                         const float* const* keys, const float* const* values, float* partial) {
  const Range seen{std::max(block.begin, row.seen.begin), std::min(block.end, row.seen.end)};
  if (seen.empty()) return;
  alignas(64) float scores[kKeyBlock];
  const Range local{seen.begin - block.begin, seen.end - block.begin};
  const int64_t first = local.begin / kLanes * kLanes, dim = round_up(p.head_dim, kLanes);
  Vec most = splat(kLowestMax);
  for (int64_t j = first; j < local.end; j += kLanes) {
    const Vec score = decode_scores(p, row, dot_lanes(keys + j, q, dim), block.begin + j);
    store(scores + j, score);
    most = vmax(most, score);
  }
  const float top = std::max(partial[0], reduce_max(most));
  const float fade = vexp2<false>(splat((partial[0] - top) * kLog2E))[0];
  Vec total{};
  for (int64_t j = first; j < local.end; j += kLanes) {
    const Vec weight = vexp2<false>((load(scores + j) - top) * kLog2E);
    store(scores + j, weight);
    total += weight;
  }
  partial[0] = top;
  partial[1] = partial[1] * fade + static_cast<float>(reduce_add(total));
  add_values(scores, values, local, dim, fade, partial + kDecodeHead);
}

static void begin_partial(float* partial, int64_t size) {
  for (int64_t i = 0; i < size; ++i) partial[i] = 0.0f;
  partial[0] = kLowestMax;
}

// Turns a row's result into output and lse.
static void end_row(const AttentionParams& p, const Sequence& seq, int64_t b, const DecodeRow& row,
                    float* partial) {
  const float sum = partial[1], factor = sum == 0.0f ? 0.0f : 1.0f / sum;  // not "> 0": a NaN stays one
  float* o = partial + kDecodeHead;
  for (int64_t d = 0; d < padded_dim(p); d += kLanes) store(o + d, load(o + d) * factor);
  const int64_t size = element_size(p.dtype), at = q_offset(p, seq, b, row.query, row.head);
  convert_from_float(p.dtype, o, static_cast<char*>(p.o) + size * at, p.head_dim);
  p.lse[stats_offset(p, seq, b, row.query, row.head)] =
      sum == 0.0f ? -__builtin_inff() : partial[0] + std::log(sum);
}

// The keys of one split for all queries that share a key-value head. `partials`: where their results go; null
// if there are no other splits.
static void decode_task(const AttentionParams& p, int64_t b, int64_t kv_head, Range split, float* partials,
                        void* memory) {
  const DecodeSpace space(p, memory);
  const Sequence seq = sequence_of(p, b);
  const int64_t rows = decode_rows(p), dim = round_up(p.head_dim, kLanes), stride = decode_partial_size(p);
  const int64_t size = element_size(p.dtype);
  float* const results = partials != nullptr ? partials : space.partial;
  for (int64_t r = 0; r < rows; ++r) {
    const DecodeRow row(p, seq, b, kv_head, r);
    convert_to_float(p.dtype, static_cast<const char*>(p.q) + size * q_offset(p, seq, b, row.query, row.head),
                     space.q + r * dim, p.head_dim);
    for (int64_t d = p.head_dim; d < dim; ++d) space.q[r * dim + d] = 0.0f;
    begin_partial(results + r * stride, stride);
  }
  const auto rows_of = [&](const void* data, const AttentionStrides& strides, Range keys) {
    const int64_t at = offset_of(p, strides, b, seq.k_row + keys.begin, kv_head);
    return Rows{static_cast<const char*>(data) + size * at,
                size * strides.sequence,
                keys.end - keys.begin,
                p.head_dim,
                p.dtype,
                nullptr};
  };
  split.end = std::min(split.end, seq.keys);
  for (int64_t first = split.begin; first < split.end; first += kKeyBlock) {
    const Range block{first, std::min(first + kKeyBlock, split.end)};
    const Rows k = rows_of(p.k, p.k_stride, block), v = rows_of(p.v, p.v_stride, block);
    const float *keys[kKeyBlock], *values[kKeyBlock];
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      keys[j] = j < k.count ? float_row(k, j, kLanes, space.keys + j * kRowBuffer) : keys[k.count - 1];
      values[j] = j < k.count ? float_row(v, j, kLanes, space.values + j * kRowBuffer) : values[k.count - 1];
    }
    for (int64_t r = 0; r < rows; ++r) {
      decode_block(p, DecodeRow(p, seq, b, kv_head, r), space.q + r * dim, block, keys, values,
                   results + r * stride);
    }
  }
  for (int64_t r = 0; partials == nullptr && r < rows; ++r) {
    end_row(p, seq, b, DecodeRow(p, seq, b, kv_head, r), results + r * stride);
  }
}

// Puts the results of all splits together, in the first one's place.
static void decode_combine(const AttentionParams& p, int64_t b, int64_t kv_head, int64_t splits,
                           float* partials) {
  const Sequence seq = sequence_of(p, b);
  const int64_t rows = decode_rows(p), stride = decode_partial_size(p), dim = round_up(p.head_dim, kLanes);
  for (int64_t r = 0; r < rows; ++r) {
    float* whole = partials + r * stride;
    for (int64_t s = 1; s < splits; ++s) {
      const float* part = partials + (s * rows + r) * stride;
      const float top = std::max(whole[0], part[0]);
      const float keep = vexp2<false>(splat((whole[0] - top) * kLog2E))[0],
                  add = vexp2<false>(splat((part[0] - top) * kLog2E))[0];
      whole[0] = top;
      whole[1] = whole[1] * keep + part[1] * add;
      for (int64_t d = kDecodeHead; d < kDecodeHead + dim; d += kLanes) {
        store(whole + d, load(whole + d) * keep + load(part + d) * add);
      }
    }
    end_row(p, seq, b, DecodeRow(p, seq, b, kv_head, r), whole);
  }
}

static int64_t decode_bytes(const AttentionParams& p) { return DecodeSpace(p, nullptr).bytes; }

constexpr DecodeKernel kKernel{decode_bytes, decode_task, decode_combine};
