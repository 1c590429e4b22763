// From products q k^T to scores, and the weights that dropout keeps. No include guard: see
// common/foreach_target.h.

#include "common/dropout_body.h"

// A panel of queries of one head: lane r is query first + r.
struct PanelRows {
  const AttentionParams& p;
  const Sequence& seq;
  int64_t b, head;
  int64_t first, count;  // queries
  int64_t width;         // lanes, a multiple of kWidthStep
};

PI_INLINE Vec to_float(IntVec v) { return __builtin_convertvector(v, Vec); }

// mask[i] ? 0 : -infinity, of the first `count` bytes.
PI_INLINE Vec bias_of_mask(const uint8_t* mask, int count) {
  const float hidden = -__builtin_inff();
#if PI_LANES == 16
  const __mmask16 valid = static_cast<__mmask16>((1u << count) - 1);
  const __m128i bytes = _mm_maskz_loadu_epi8(valid, mask);
  return _mm512_mask_blend_ps(_mm_test_epi8_mask(bytes, bytes), _mm512_set1_ps(hidden), _mm512_setzero_ps());
#else
  Vec v{};
  for (int i = 0; i < count; ++i) v[i] = mask[i] ? 0.0f : hidden;
  return v;
#endif
}

PI_INLINE Vec load_bias(const AttentionParams& p, int64_t at, int count) {
  if (p.bias_is_mask) return bias_of_mask(static_cast<const uint8_t*>(p.bias) + at, count);
  const float* bias = static_cast<const float*>(p.bias) + at;
  return count == kLanes ? load(bias) : load_partial(bias, count);
}

PI_INLINE float bias_at(const AttentionParams& p, int64_t at) {
  if (p.bias_is_mask) return static_cast<const uint8_t*>(p.bias)[at] ? 0.0f : -__builtin_inff();
  return static_cast<const float*>(p.bias)[at];
}

// Adds the bias to scores [key][lane] of the keys [key, key + keys).
static void add_bias(const PanelRows& rows, int64_t key, int64_t keys, float* scores) {
  const AttentionParams& p = rows.p;
  const int64_t* stride = p.bias_stride;
  const int64_t base = rows.b * stride[0] + rows.head * stride[1] + rows.first * stride[2] + key * stride[3];
  if (stride[2] == 0) {  // one number for all queries
    for (int64_t j = 0; j < keys; ++j) {
      const Vec bias = splat(bias_at(p, base + j * stride[3]));
      float* s = scores + j * rows.width;
      for (int64_t r = 0; r < rows.width; r += kLanes) store(s + r, load(s + r) + bias);
    }
    return;
  }
  for (int64_t r = 0; r < rows.width; r += kLanes) {
    for (int64_t j = 0; j < keys; j += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, keys - j));
      Vec tile[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        // Lanes without a query repeat the last one: nothing outside the array is read.
        const int64_t row = base + std::min<int64_t>(r + i, rows.count - 1) * stride[2];
        tile[i] = stride[3] == 0 ? splat(bias_at(p, row)) : load_bias(p, row + j, count);
      }
      transpose(tile);
      for (int i = 0; i < count; ++i) {
        float* s = scores + (j + i) * rows.width + r;
        store(s, load(s) + tile[i]);
      }
    }
  }
}

// Hides what the window hides.
static void apply_window(const PanelRows& rows, int64_t key, int64_t keys, float* scores) {
  const AttentionParams& p = rows.p;
  const Vec hidden = splat(-__builtin_inff());
  constexpr int64_t kFar = 1 << 30;  // farther than any key
  const int left = static_cast<int>(std::min(p.window_left, kFar));
  const int right = static_cast<int>(std::min(p.window_right, kFar));
  for (int64_t r = 0; r < rows.width; r += kLanes) {
    // Positions relative to the first query: small numbers, whatever the length.
    const IntVec query = lane_numbers() + static_cast<int>(r);
    const int64_t level = key - rows.first - rows.seq.offset;
    for (int64_t j = 0; j < keys; ++j) {
      const IntVec ahead = static_cast<int>(level + j) - query;  // how far the key is after the query
      float* s = scores + j * rows.width + r;
      Vec v = load(s);
      if (p.window_right >= 0) v = ahead > right ? hidden : v;
      if (p.window_left >= 0) v = ahead < -left ? hidden : v;
      store(s, v);
    }
  }
}

// Softcap, bias and slopes. Turns products into scores. `slope` gets the derivative of the
// score with respect to scale * product if it is not null.
static void apply_options(const PanelRows& rows, int64_t key, int64_t keys, float* scores, float* slope) {
  const AttentionParams& p = rows.p;
  const int64_t total = keys * rows.width;
  if (p.softcap > 0.0f) {
    const float inner = p.scale / p.softcap, outer = p.softcap;
    for (int64_t e = 0; e < total; e += kLanes) {
      const Vec t = vtanh(load(scores + e) * inner);
      if (slope != nullptr) store(slope + e, 1.0f - t * t);
      store(scores + e, t * outer);
    }
  } else {
    for (int64_t e = 0; e < total; e += kLanes) store(scores + e, load(scores + e) * p.scale);
  }
  if (p.bias != nullptr) add_bias(rows, key, keys, scores);
  if (p.alibi_slopes != nullptr) {
    const float alibi = p.alibi_slopes[rows.b * p.alibi_stride[0] + rows.head * p.alibi_stride[1]];
    for (int64_t j = 0; j < keys; ++j) {
      const int level = static_cast<int>(key + j - rows.first - rows.seq.offset);
      float* s = scores + j * rows.width;
      for (int64_t r = 0; r < rows.width; r += kLanes) {
        const IntVec ahead = level - (lane_numbers() + static_cast<int>(r));
        store(s + r, load(s + r) - alibi * to_float(ahead < 0 ? -ahead : ahead));
      }
    }
  }
}

// Everything between the product and the exponential.
PI_INLINE void finish_scores(const PanelRows& rows, int64_t key, int64_t keys, float* scores,
                             float* slope = nullptr) {
  const AttentionParams& p = rows.p;
  const bool plain = is_plain(p);
  if (!plain) apply_options(rows, key, keys, scores, slope);
  if (!all_visible(p, rows.seq, {rows.first, rows.first + rows.count}, {key, key + keys})) {
    apply_window(rows, key, keys, scores);
  }
}

// The weight of a score: 2^(factor * (score - max)), which is 1 for the largest. Not of scores that were
// multiplied by the factor before: large ones would be rounded, and every one differently. A multiply-add
// rounds only factor * max, which is common to the whole row.
template <bool kIsRough>
PI_INLINE Vec weight_of(Vec score, Vec max, float factor) {
#if PI_LANES > 4 || defined(__aarch64__)
  return vexp2<kIsRough>(score * factor - max * factor);
#else
  return vexp2<kIsRough>((score - max) * factor);
#endif
}

// The weights that dropout keeps in a panel.
struct Dropout {
  explicit Dropout(const PanelRows& rows) {
    const AttentionParams& p = rows.p;
    is_on = p.dropout_p > 0.0f;
    if (!is_on) return;
    threshold = dropout_threshold(p.dropout_p);
    inverse_keep = 1.0f / (1.0f - p.dropout_p);
    const uint32_t head = dropout_group_key(*p.seed, rows.b * p.heads + rows.head);
    for (int64_t r = 0; r < rows.width; ++r) row_key[r] = dropout_row_key(head, rows.first + r);
  }

  bool is_on;
  uint32_t threshold;
  float inverse_keep;
  alignas(64) uint32_t row_key[kPanel];
};

// x where the weights of one key for the lanes from r on are kept, else 0.
PI_INLINE Vec keep(const Dropout& dropout, Vec x, int64_t r, int64_t key) {
  const BitsVec row_key =
      reinterpret_cast<BitsVec>(load(reinterpret_cast<const float*>(dropout.row_key + r)));
  const BitsVec bits = mix(row_key + kColumnStep * static_cast<uint32_t>(key));
  return bits < dropout.threshold ? Vec{} : x;
}
