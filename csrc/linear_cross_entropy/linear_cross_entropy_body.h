// What one thread does with the logits of a few rows and one block of classes. No include guard: see
// common/foreach_target.h.

#include "common/simd_body.h"
// Needs vectors.
#include "common/bfloat16_body.h"

// Products to logits. Padding gets a logit that counts for nothing.
static void finish_logits(const LinearCrossEntropyParams& p, const ClassBlock& block, float* z) {
  const float inverse = p.softcap > 0.0f ? 1.0f / p.softcap : 0.0f;
  for (int64_t c = 0; c < block.padded; c += kLanes) {
    Vec v = load(z + c) + load(block.bias + c);
    if (p.softcap > 0.0f) v = p.softcap * vtanh(v * inverse);
    store(z + c, v);
  }
  for (int64_t c = block.count; c < block.padded; ++c) z[c] = kMinusHuge;
}

// Folds one block of logits into the running maximum, sum of exponentials and weighted sum of one row.
static void fold_row(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t label,
                     const float* z, RowState* state) {
  Vec top = splat(kMinusHuge);
  for (int64_t c = 0; c < block.padded; c += kLanes) top = vmax(load(z + c), top);
  const float block_max = reduce_max(top);
  const float new_max = block_max > state->max ? block_max : state->max;
  Vec sum{};
  for (int64_t c = 0; c < block.padded; c += kLanes) sum += vexp(load(z + c) - new_max);
  state->sum = state->sum * std::exp(static_cast<double>(state->max) - new_max) + reduce_add(sum);
  state->max = new_max;
  if (label >= block.first && label < block.first + block.count) state->target = z[label - block.first];
  if (p.label_smoothing > 0.0f) {
    // Summed relative to the block's maximum, so that large logits do not swallow small differences.
    Vec weighted{};
    for (int64_t c = 0; c < block.padded; c += kLanes) {
      weighted += load(block.class_weight + c) * (load(z + c) - block_max);
    }
    state->weighted += reduce_add(weighted) + static_cast<double>(block_max) * block.class_weight_sum;
  }
}

// log(1 + e^x).
PI_INLINE Vec softplus(Vec x) {
  const Vec small = vexp(x < 0.0f ? x : -x);
  // log(1 + small), with small in (0, 1]: log1p as 2 atanh(s / (2 + s)).
  const Vec s = small / (small + 2.0f), q = s * s;
  Vec r = splat(1.0f / 13.0f) * q + 1.0f / 11.0f;
  r = r * q + 1.0f / 9.0f;
  r = r * q + 1.0f / 7.0f;
  r = r * q + 1.0f / 5.0f;
  r = r * q + 1.0f / 3.0f;
  const Vec log_one_plus = 2.0f * (s + s * q * r);
  return (x > 0.0f ? x : Vec{}) + log_one_plus;
}

// Adds the losses of one block of classes of one row; `each`, if not null, gets them times `scale`.
static void fold_binary(const ClassBlock& block, const float* target, float scale, const float* z,
                        float* each, RowState* state) {
  for (int64_t c = 0; c < block.count; c += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, block.count - c));
    const Vec logit = load_partial_or_whole(z + c, count), t = load_partial_or_whole(target + c, count);
    const Vec loss = load(block.class_weight + c) * t * softplus(-logit) + (1.0f - t) * softplus(logit);
    if (each != nullptr) store_partial_or_whole(each + c, loss * scale, count);
    Vec counted = loss;
    for (int i = count; i < kLanes; ++i) counted[i] = 0.0f;
    state->sum += reduce_add(counted);
  }
}

static void fold_rows(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
                      float* z, int64_t z_stride, RowState* states) {
  for (int64_t r = 0; r < rows; ++r) {
    float* logits = z + r * z_stride;
    finish_logits(p, block, logits);
    if (states == nullptr) continue;
    const int64_t i = row + r;
    if (p.kind == HeadLoss::kBinary) {
      const int64_t at = i * p.classes + block.first;
      float* each = p.reduction == Reduction::kNone ? p.loss + at : nullptr;
      fold_binary(block, p.target + at, p.stats[i].scale, logits, each, states + r);
    } else if (p.label[i] != p.ignore_index) {
      fold_row(p, block, p.label[i], logits, states + r);
    }
  }
}

// How a row's gradient is made of its probabilities.
struct RowGradient {
  float of_probability, of_target, of_weight;
};

static RowGradient row_gradient(const LinearCrossEntropyParams& p, int64_t row, float grad,
                                double all_weights) {
  const RowStats& stats = p.stats[row];
  const double weight = p.class_weight ? p.class_weight[p.label[row]] : 1.0f;
  if (p.kind == HeadLoss::kFocal) {
    // d/dz of -(1 - p)^g log p, over p_c - [c = y].
    const double log_p = stats.log_prob, rest = -std::expm1(log_p), g = p.focal_gamma;
    const double factor =
        std::pow(rest, g) -
        (g == 0.0 || rest == 0.0 ? 0.0 : g * std::exp(log_p) * log_p * std::pow(rest, g - 1.0));
    const float both = static_cast<float>(grad * weight * factor);
    return {both, both, 0.0f};
  }
  const double spread = p.label_smoothing / static_cast<double>(p.classes);
  const double on_target = (1.0 - p.label_smoothing) * weight;
  const double lse = static_cast<double>(stats.max) + stats.log_sum;
  return {static_cast<float>(grad * (on_target + spread * all_weights + 2.0 * p.z_loss * lse)),
          static_cast<float>(grad * on_target), static_cast<float>(grad * spread)};
}

// Turns one row of logits into the gradient with respect to them, before softcap.
static void logit_gradient(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                           double all_weights, float* z) {
  const RowStats& stats = p.stats[row];
  const bool each_has_its_own = p.grad_loss != nullptr && p.reduction == Reduction::kNone;
  const float grad =
      p.grad_loss == nullptr ? stats.scale : stats.scale * p.grad_loss[each_has_its_own ? row : 0];
  if (p.label[row] == p.ignore_index || grad == 0.0f) {
    for (int64_t c = 0; c < block.padded; c += kLanes) store(z + c, Vec{});
    return;
  }
  const RowGradient of = row_gradient(p, row, grad, all_weights);
  const float inverse = p.softcap > 0.0f ? 1.0f / p.softcap : 0.0f;
  const int64_t label = p.label[row];
  const int64_t target = label >= block.first && label < block.first + block.count ? label - block.first : -1;
  const float capped = target >= 0 ? z[target] * inverse : 0.0f;
  const float of_exponential = of.of_probability * stats.inverse_sum;
  for (int64_t c = 0; c < block.padded; c += kLanes) {
    const Vec logit = load(z + c);
    Vec g = of_exponential * vexp(logit - stats.max);
    if (of.of_weight != 0.0f) g -= of.of_weight * load(block.class_weight + c);
    if (p.softcap > 0.0f) g *= 1.0f - (logit * inverse) * (logit * inverse);
    store(z + c, g);
  }
  if (target >= 0) z[target] -= of.of_target * (1.0f - capped * capped);
}

static void binary_gradient(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                            float* z) {
  const int64_t at = row * p.classes + block.first;
  const float* grads = p.grad_loss != nullptr && p.reduction == Reduction::kNone ? p.grad_loss + at : nullptr;
  const float common =
      p.stats[row].scale * (p.grad_loss != nullptr && grads == nullptr ? p.grad_loss[0] : 1.0f);
  const float inverse = p.softcap > 0.0f ? 1.0f / p.softcap : 0.0f;
  for (int64_t c = 0; c < block.count; c += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, block.count - c));
    const Vec logit = load_partial_or_whole(z + c, count),
              t = load_partial_or_whole(p.target + at + c, count);
    const Vec positive = load(block.class_weight + c) * t;
    const Vec e = vexp(logit < 0.0f ? logit : -logit),
              sigmoid = (logit < 0.0f ? e : splat(1.0f)) / (1.0f + e);
    Vec g = sigmoid * (positive + (1.0f - t)) - positive;
    g *= grads != nullptr ? load_partial_or_whole(grads + c, count) * common : splat(common);
    if (p.softcap > 0.0f) g *= 1.0f - (logit * inverse) * (logit * inverse);
    store_partial_or_whole(z + c, g, count);
  }
}

// Adds a row to `sums`.
static void add_row(const float* row, int64_t count, float* sums) {
  for (int64_t c = 0; c < count; c += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, count - c));
    store(sums + c, load(sums + c) + load_partial_or_whole(row + c, lanes));
  }
}

// A row of floats to bfloat16 numbers, from where the floats start.
static void round_in_place(float* row, int64_t count) {
  // By way of a buffer: what is written never overtakes what is read.
  constexpr int64_t kStep = 256;
  alignas(64) uint16_t rounded[kStep];
  for (int64_t c = 0; c < count; c += kStep) {
    const int64_t step = std::min(kStep, count - c);
    round_array_to_bf16(row + c, step, rounded);
    std::memcpy(reinterpret_cast<char*>(row) + c * sizeof(uint16_t), rounded, step * sizeof(uint16_t));
  }
}

// Logits to gradients, in place, and their sums over rows added to `sums`, of the block. If `round`, each row
// of gradients is then rounded, in place too. A row stays in the first-level cache meanwhile.
static void gradient_rows(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                          int64_t rows, double all_weights, float* z, int64_t z_stride, bool round,
                          double* sums) {
  constexpr int64_t kStep = 64;  // so many rows are added in float32
  alignas(64) float part[kMostBlockClasses];
  for (int64_t first = 0; first < rows; first += kStep) {
    std::memset(part, 0, sizeof(float) * block.padded);
    for (int64_t r = first; r < std::min(rows, first + kStep); ++r) {
      float* logits = z + r * z_stride;
      if (p.kind == HeadLoss::kBinary) {
        binary_gradient(p, block, row + r, logits);
      } else {
        logit_gradient(p, block, row + r, all_weights, logits);
      }
      add_row(logits, block.count, part);
      if (round) round_in_place(logits, block.count);
    }
    for (int64_t c = 0; c < block.count; ++c) sums[c] += part[c];
  }
}

// Few classes: vectors run along features, so that hidden is read once for the logits and once, from the
// first-level cache, for both gradients. `weight`: [classes][padded features].

PI_INLINE float sum_of_lanes(Vec v) {
  alignas(64) float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

template <int kClasses>
PI_INLINE void few_products(const LinearCrossEntropyParams& p, const float* hidden, const float* weight,
                            int64_t stride, float* z) {
  Vec sum[kClasses] = {};
  int64_t d = 0;
  for (; d + kLanes <= p.hidden_size; d += kLanes) {
    const Vec h = load(hidden + d);
    for (int c = 0; c < kClasses; ++c) sum[c] += h * load(weight + c * stride + d);
  }
  if (d < p.hidden_size) {
    const Vec h = load_partial(hidden + d, static_cast<int>(p.hidden_size - d));
    for (int c = 0; c < kClasses; ++c) sum[c] += h * load(weight + c * stride + d);
  }
  for (int c = 0; c < kClasses; ++c) z[c] = sum_of_lanes(sum[c]);
}

// Calls work(first class, a constant: how many) for groups of up to four classes, which registers hold.
template <class Work>
PI_INLINE void for_few_classes(int64_t classes, Work work) {
  int64_t c = 0;
  for (; c + 4 <= classes; c += 4) work(c, std::integral_constant<int, 4>());
  if (classes - c == 3) work(c, std::integral_constant<int, 3>());
  if (classes - c == 2) work(c, std::integral_constant<int, 2>());
  if (classes - c == 1) work(c, std::integral_constant<int, 1>());
}

static void few_logits(const LinearCrossEntropyParams& p, int64_t row, int64_t rows, const float* weight,
                       int64_t stride, float* z, int64_t z_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* hidden = p.hidden + (row + r) * p.hidden_size;
    float* to = z + r * z_stride;
    for_few_classes(p.classes, [&](int64_t c, auto count) {
      few_products<count()>(p, hidden, weight + c * stride, stride, to + c);
    });
  }
}

// Both gradients of kClasses classes, of which the arrays start at the first one: every number of hidden is
// read once.
template <int kClasses>
PI_INLINE void few_gradients_of(const LinearCrossEntropyParams& p, int64_t row, int64_t rows, bool is_first,
                                const float* weight, int64_t stride, const float* grads, int64_t grad_stride,
                                float* grad_weight) {
  for (int64_t d = 0; d < p.hidden_size; d += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, p.hidden_size - d));
    Vec of_class[kClasses], sum[kClasses] = {};
    for (int c = 0; c < kClasses; ++c) of_class[c] = load(weight + c * stride + d);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (row + r) * p.hidden_size + d;
      const Vec h = load_partial_or_whole(p.hidden + at, count);
      Vec grad =
          is_first || p.grad_hidden == nullptr ? Vec{} : load_partial_or_whole(p.grad_hidden + at, count);
      for (int c = 0; c < kClasses; ++c) {
        const Vec g = splat(grads[r * grad_stride + c]);
        grad += g * of_class[c];
        sum[c] += g * h;
      }
      if (p.grad_hidden != nullptr) store_partial_or_whole(p.grad_hidden + at, grad, count);
    }
    for (int c = 0; p.grad_weight != nullptr && c < kClasses; ++c) {
      float* to = grad_weight + c * stride + d;
      store(to, load(to) + sum[c]);
    }
  }
}

// Adds to grad_weight [classes][padded features].
static void few_gradients(const LinearCrossEntropyParams& p, int64_t row, int64_t rows, const float* weight,
                          int64_t stride, const float* grads, int64_t grad_stride, float* grad_weight) {
  for_few_classes(p.classes, [&](int64_t c, auto count) {
    few_gradients_of<count()>(p, row, rows, c == 0, weight + c * stride, stride, grads + c, grad_stride,
                              grad_weight + c * stride);
  });
}

static const HeadKernel kKernel{fold_rows, gradient_rows, few_logits, few_gradients, round_array_to_bf16};
