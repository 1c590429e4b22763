// What one thread does with a few rows and one block of classes. No include guard: see
// common/foreach_target.h.

#include "common/matmul_body.h"

PI_INLINE void add_bias_and_cap(float* z, const ClassBlock& block, float softcap) {
  const float inverse = softcap > 0.0f ? 1.0f / softcap : 0.0f;
  for (int64_t c = 0; c < block.padded; c += kLanes) {
    Vec v = load(z + c) + load(block.bias + c);
    if (softcap > 0.0f) v = softcap * vtanh(v * inverse);
    store(z + c, v);
  }
  for (int64_t c = block.count; c < block.padded; ++c) z[c] = kMinusHuge;
}

static void logits_of(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
                      float* z) {
  const MatrixA hidden{p.hidden + row * p.hidden_size, p.hidden_size, 1};
  matmul(rows, block.padded, p.hidden_size, hidden, MatrixB{block.logits_panels, 0, true}, z, block.padded,
         false);
  for (int64_t r = 0; r < rows; ++r) add_bias_and_cap(z + r * block.padded, block, p.softcap);
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

static void forward_rows(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                         int64_t rows, float* z, RowState* state) {
  logits_of(p, block, row, rows, z);
  for (int64_t r = 0; r < rows; ++r) {
    if (p.label[row + r] == p.ignore_index) continue;
    fold_row(p, block, p.label[row + r], z + r * block.padded, state + r);
  }
}

// Turns one row of logits into the gradient with respect to them, before softcap.
static void logit_gradient(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                           double all_class_weights, float* z) {
  const RowStats& stats = p.stats[row];
  const float grad = stats.scale * p.grad_loss[p.reduction == Reduction::kNone ? row : 0];
  const int64_t label = p.label[row];
  if (label == p.ignore_index || grad == 0.0f) {
    for (int64_t c = 0; c < block.padded; c += kLanes) store(z + c, Vec{});
    return;
  }
  const double spread = p.label_smoothing / static_cast<double>(p.classes);
  const double on_target = (1.0 - p.label_smoothing) * (p.class_weight ? p.class_weight[label] : 1.0f);
  const double lse = static_cast<double>(stats.max) + stats.log_sum;
  const float of_probability =
      static_cast<float>(grad * (on_target + spread * all_class_weights + 2.0 * p.z_loss * lse));
  const float of_weight = static_cast<float>(grad * spread);
  const float of_target = static_cast<float>(grad * on_target);
  const float inverse = p.softcap > 0.0f ? 1.0f / p.softcap : 0.0f;
  const int64_t target = label >= block.first && label < block.first + block.count ? label - block.first : -1;
  const float capped = target >= 0 ? z[target] * inverse : 0.0f;
  for (int64_t c = 0; c < block.padded; c += kLanes) {
    const Vec logit = load(z + c);
    Vec g = of_probability * vexp((logit - stats.max) - stats.log_sum);
    if (of_weight != 0.0f) g -= of_weight * load(block.class_weight + c);
    if (p.softcap > 0.0f) g *= 1.0f - (logit * inverse) * (logit * inverse);
    store(z + c, g);
  }
  if (target >= 0) z[target] -= of_target * (1.0f - capped * capped);
}

// z: [rows, block.padded], becomes the gradient of the logits; grad_hidden gets this block's share.
static void backward_rows(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                          int64_t rows, double all_class_weights, float* z) {
  logits_of(p, block, row, rows, z);
  for (int64_t r = 0; r < rows; ++r) {
    logit_gradient(p, block, row + r, all_class_weights, z + r * block.padded);
  }
  matmul(rows, p.hidden_size, block.count, MatrixA{z, block.padded, 1}, MatrixB{block.hidden_panels, 0, true},
         p.grad_hidden + row * p.hidden_size, p.hidden_size, block.first > 0);
}

// Adds the share of `rows` rows to the weight gradient of one block of classes, features [feature,
// +features).
static void weight_gradient(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                            int64_t rows, int64_t feature, int64_t features, const float* z,
                            bool accumulate) {
  // With few classes each element of hidden is used a few times only: take few rows at a time, so that they
  // are read along. Otherwise more: the sums in memory are read and written once a step.
  const int64_t step = block.count <= kFewClasses ? kRowBlock : kRowGroup / 4;
  float* to = p.grad_weight + block.first * p.weight_class_stride + feature * p.weight_feature_stride;
  for (int64_t r = 0; r < rows; r += step) {
    const int64_t depth = rows - r < step ? rows - r : step;
    const float* hidden = p.hidden + (row + r) * p.hidden_size + feature;
    const float* dz = z + r * block.padded;
    const bool add = accumulate || r > 0;
    if (p.weight_feature_stride == 1) {  // [classes, features]: rows of the product are classes
      matmul(block.count, features, depth, MatrixA{dz, 1, block.padded},
             MatrixB{hidden, p.hidden_size, false}, to, p.weight_class_stride, add);
    } else {
      matmul(features, block.count, depth, MatrixA{hidden, 1, p.hidden_size}, MatrixB{dz, block.padded, true},
             to, p.weight_feature_stride, add);
    }
  }
}

static const TargetTable kTable{kLanes,       kPanelWidth,   pack_panel,
                                forward_rows, backward_rows, weight_gradient};
