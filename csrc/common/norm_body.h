// Layer norm and RMS norm of one row, and their gradients. No include guard: see common/foreach_target.h.
//
// Forward, with d = x - mean (exact, or nearly: Sterbenz) and rest = sum(d) / D:
//   variance = sum(d^2) / D - rest^2       rest is a rounding error, so this subtraction cancels nothing
//   normalized = (d - rest) * rstd         out = normalized * weight + bias
// Backward, with g = grad_out * weight (Ba et al., arXiv:1607.06450; RMS norm without the first mean):
//   grad_x = rstd * (g - sum(g) / D - normalized * sum(g * normalized) / D)

#include "common/row_body.h"

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

// `sum` is that of x.
PI_INLINE NormStats norm_stats(const float* x, double sum, int64_t size, bool is_rms, float epsilon) {
  const double share = 1.0 / static_cast<double>(size);
  const float mean = is_rms ? 0.0f : static_cast<float>(sum * share);
  const Vec center = splat(mean);
  const Sums<2> sums = sum_of<2>(size, [&](int64_t i, int64_t count) {
    const Vec d = keep_first(load(x + i) - center, count);
    return Vecs<2>{{d, d * d}};
  });
  const double rest = is_rms ? 0.0 : sums.of[0] * share;
  const double variance = sums.of[1] * share - rest * rest;
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
  const auto value = [&](int64_t i) { return normalized(i) * load(weight + i) + load(bias + i); };
  if (factor == nullptr) {
    for_each_vector(size, [&](int64_t i, int64_t count) { store_first(out + i, value(i), count); });
  } else {
    for_each_vector(
        size, [&](int64_t i, int64_t count) { store_first(out + i, value(i) * load(factor + i), count); });
  }
}

// Calls emit(i, count, grad_x) for each vector; adds the row's share to the sums for weight and bias. g goes
// through `memory`, a row: contracted into a multiply-add with what it is compared with, it would not cancel
// exactly.
template <class Emit>
PI_INLINE void norm_bwd(const float* x, const NormStats& stats, bool is_rms, const float* weight,
                        const float* grad_out, int64_t size, float* memory, float* grad_weight,
                        float* grad_bias, Emit emit) {
  const Normalized normalized(x, stats);
  const Sums<2> sums = sum_of<2>(size, [&](int64_t i, int64_t) {
    const Vec g = load(grad_out + i) * load(weight + i);
    store(memory + i, g);
    return Vecs<2>{{g, g * normalized(i)}};
  });
  const double share = 1.0 / static_cast<double>(size);
  const Vec mean = splat(is_rms ? 0.0f : static_cast<float>(sums.of[0] * share));
  const Vec slope = splat(static_cast<float>(sums.of[1] * share));
  for_each_vector(size, [&](int64_t i, int64_t count) {
    const Vec dy = load(grad_out + i), n = normalized(i);
    store(grad_weight + i, load(grad_weight + i) + dy * n);
    store(grad_bias + i, load(grad_bias + i) + dy);
    emit(i, count, (load(memory + i) - mean - n * slope) * normalized.rstd);
  });
}
