// Layer norm and RMS norm of one row, and their gradients. No include guard: see common/foreach_target.h.
//
// Rows in work are padded: whole vectors, zeros behind the last element. Rows of tensors are not, so the
// last vector of a tensor's row is read and written in part.
//
// Forward, with d = x - mean (exact, or nearly: Sterbenz) and rest = sum(d) / D:
//   variance = sum(d^2) / D - rest^2       rest is a rounding error, so this subtraction cancels nothing
//   normalized = (d - rest) * rstd         out = normalized * weight + bias
// Backward, with g = grad_out * weight (Ba et al., arXiv:1607.06450; RMS norm without the first mean):
//   grad_x = rstd * (g - sum(g) / D - normalized * sum(g * normalized) / D)

#include "common/simd_body.h"

struct VecPair {
  Vec first, second;
};

struct DoublePair {
  double first, second;
};

#include "common/dropout_body.h"

PI_INLINE Vec load_first(const float* p, int64_t count) {
  return count >= kLanes ? load(p) : load_partial(p, static_cast<int>(count));
}

PI_INLINE void store_first(float* p, Vec v, int64_t count) {
  if (count >= kLanes) return store(p, v);
  store_partial(p, v, static_cast<int>(count));
}

// The first `count` lanes, and 0 in the others.
PI_INLINE Vec keep_first(Vec v, int64_t count) {
  if (count >= kLanes) return v;
  return lane_numbers() < static_cast<int>(count) ? v : Vec{};
}

template <int kWidth, int... I>
PI_INLINE Vec add_other_half(Vec v, std::integer_sequence<int, I...>) {
  return v + __builtin_shufflevector(v, v, (I ^ kWidth)...);
}

// Adds halves: fewer steps one after another than reduce_add, which matters for short rows.
PI_INLINE double reduce_add_by_halves(Vec v) {
  constexpr auto kIndices = std::make_integer_sequence<int, kLanes>();
  if constexpr (kLanes > 8) v = add_other_half<8>(v, kIndices);
  if constexpr (kLanes > 4) v = add_other_half<4>(v, kIndices);
  v = add_other_half<2>(v, kIndices);
  return add_other_half<1>(v, kIndices)[0];
}

// Sums terms(i, count), vectors of the elements from i on, of which `count` or more exist. Four sums of each
// kind at a time hide the latency of additions; blocks of them are added in double.
template <class Terms>
PI_INLINE DoublePair sum_of(int64_t size, Terms terms) {
  constexpr int64_t kStep = 4 * kLanes, kBlock = 4096;
  DoublePair total{0.0, 0.0};
  for (int64_t start = 0; start < size; start += kBlock) {
    const int64_t end = size - start < kBlock ? size : start + kBlock;
    Vec first[4] = {}, second[4] = {};
    int64_t i = start;
    for (; i + kStep <= end; i += kStep) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        const VecPair found = terms(i + u * kLanes, int64_t{kLanes});
        first[u] += found.first;
        second[u] += found.second;
      }
    }
    for (; i < end; i += kLanes) {
      const VecPair found = terms(i, size - i);
      first[0] += found.first;
      second[0] += found.second;
    }
    total.first += reduce_add_by_halves((first[0] + first[1]) + (first[2] + first[3]));
    total.second += reduce_add_by_halves((second[0] + second[1]) + (second[2] + second[3]));
  }
  return total;
}

// The row itself if it consists of whole vectors, else a padded copy of it in `memory`.
static const float* padded_row(const float* row, int64_t size, float* memory) {
  if (size % kLanes == 0) return row;
  for (int64_t i = 0; i < size; i += kLanes) store(memory + i, load_first(row + i, size - i));
  return memory;
}

// What dropout multiplies each number of a row with: 0 or 1 / (1 - probability).
static void dropout_factors(int64_t seed, int64_t row, float probability, int64_t size, float* factor) {
  const uint32_t key = dropout_row_key(dropout_group_key(seed, row >> 32), row);
  const uint32_t threshold = dropout_threshold(probability);
  const Vec kept = splat(1.0f / (1.0f - probability));
  BitsVec counter = reinterpret_cast<BitsVec>(lane_numbers()) * kColumnStep + key;
  for (int64_t i = 0; i < size; i += kLanes) {
    store(factor + i, mix(counter) < threshold ? Vec{} : kept);
    counter += kColumnStep * kLanes;
  }
}

static NormStats norm_stats(const float* x, int64_t size, bool is_rms, float epsilon) {
  const double share = 1.0 / static_cast<double>(size);
  float mean = 0.0f;
  if (!is_rms) {
    mean = static_cast<float>(
        sum_of(size, [&](int64_t i, int64_t) { return VecPair{load(x + i), Vec{}}; }).first * share);
  }
  const Vec center = splat(mean);
  const DoublePair sums = sum_of(size, [&](int64_t i, int64_t count) {
    const Vec d = keep_first(load(x + i) - center, count);
    return VecPair{d, d * d};
  });
  const double rest = is_rms ? 0.0 : sums.first * share;
  const double variance = sums.second * share - rest * rest;
  // In this order a NaN passes through.
  const double known = variance < 0.0 ? 0.0 : variance;
  return {mean, static_cast<float>(rest), static_cast<float>(1.0 / __builtin_sqrt(known + epsilon))};
}

// The normalized row as a function of its place.
struct Normalized {
  __attribute__((always_inline)) Normalized(const float* x, const NormStats& stats)
      : x(x), mean(splat(stats.mean)), rstd(splat(stats.rstd)), shift(splat(-stats.rest * stats.rstd)) {}
  __attribute__((always_inline)) Vec operator()(int64_t i) const {
    return (load(x + i) - mean) * rstd + shift;
  }

  const float* x;
  Vec mean, rstd, shift;
};

// Writes the normalized row times weight plus bias, times factor if there is one.
static void norm_fwd(const float* x, const NormStats& stats, const float* weight, const float* bias,
                     const float* factor, int64_t size, float* out) {
  const Normalized normalized(x, stats);
  if (factor == nullptr) {
    for (int64_t i = 0; i < size; i += kLanes) {
      store_first(out + i, normalized(i) * load(weight + i) + load(bias + i), size - i);
    }
  } else {
    for (int64_t i = 0; i < size; i += kLanes) {
      const Vec v = normalized(i) * load(weight + i) + load(bias + i);
      store_first(out + i, v * load(factor + i), size - i);
    }
  }
}

// Calls emit(i, grad_x) for each vector; adds the row's share to the sums for weight and bias. g goes through
// `memory`, a row: contracted into a multiply-add with what it is compared with, it would not cancel exactly.
template <class Emit>
PI_INLINE void norm_bwd(const float* x, const NormStats& stats, bool is_rms, const float* weight,
                        const float* grad_out, int64_t size, float* memory, float* grad_weight,
                        float* grad_bias, Emit emit) {
  const Normalized normalized(x, stats);
  const DoublePair sums = sum_of(size, [&](int64_t i, int64_t) {
    const Vec g = load(grad_out + i) * load(weight + i);
    store(memory + i, g);
    return VecPair{g, g * normalized(i)};
  });
  const double share = 1.0 / static_cast<double>(size);
  const Vec mean = splat(is_rms ? 0.0f : static_cast<float>(sums.first * share));
  const Vec slope = splat(static_cast<float>(sums.second * share));
  for (int64_t i = 0; i < size; i += kLanes) {
    const Vec dy = load(grad_out + i), n = normalized(i);
    store(grad_weight + i, load(grad_weight + i) + dy * n);
    store(grad_bias + i, load(grad_bias + i) + dy);
    emit(i, (load(memory + i) - mean - n * slope) * normalized.rstd);
  }
}

// Adds a row of sums to another, and starts it again.
static void flush_sums(float* from, float* to, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    store(to + i, load(to + i) + load(from + i));
    store(from + i, Vec{});
  }
}

// Writes the sum of padded rows that are `stride` apart.
static void sum_rows(const float* from, int64_t rows, int64_t stride, int64_t size, float* to) {
  for (int64_t i = 0; i < size; i += kLanes) {
    Vec sum{};
    for (int64_t r = 0; r < rows; ++r) sum += load(from + r * stride + i);
    store_first(to + i, sum, size - i);
  }
}
