// Losses of a linear layer on the CPU: the arithmetic of rows is in linear_cross_entropy_body.h, matrix
// products are those of common/gemm.h.
//
// Chunks of rows go through the head one after another, so no array of rows * classes exists. For each chunk:
// logits, loss, gradients of logits (in place), then of hidden and of weight. Blocks depend on sizes only and
// every number is summed in one order: the result is the same bit for bit with any number of threads.
#include <cmath>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/cpu_target.h"
#include "common/gemm.h"
#include "common/task_threads.h"
#include "linear_cross_entropy/linear_cross_entropy_plan.h"

namespace paddle_infra {
namespace {

struct HeadKernel {
  void (*fold)(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
               float* z, int64_t z_stride, RowState* states);
  void (*gradient)(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
                   double all_weights, float* z, int64_t z_stride, bool round, double* sums);
  void (*few_logits)(const LinearCrossEntropyParams& p, int64_t row, int64_t rows, const float* weight,
                     int64_t stride, float* z, int64_t z_stride);
  void (*few_gradients)(const LinearCrossEntropyParams& p, int64_t row, int64_t rows, const float* weight,
                        int64_t stride, const float* grads, int64_t grad_stride, float* grad_weight);
  void (*round)(const float* from, int64_t count, uint16_t* to);
};

#define PI_TARGET_BODY "linear_cross_entropy/linear_cross_entropy_body.h"
#include "common/foreach_target.h"

const HeadKernel& kernel() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

const auto kNothing = [] {};

double class_weight_of(const LinearCrossEntropyParams& p, int64_t row) {
  return p.class_weight != nullptr && p.kind != HeadLoss::kBinary ? p.class_weight[p.label[row]] : 1.0;
}

bool is_ignored(const LinearCrossEntropyParams& p, int64_t row) {
  return p.kind != HeadLoss::kBinary && p.label[row] == p.ignore_index;
}

bool all_ignored(const LinearCrossEntropyParams& p, int64_t row, int64_t rows) {
  for (int64_t i = row; i < row + rows; ++i) {
    if (!is_ignored(p, i)) return false;
  }
  return true;
}

// scale_i of every row, and what mean divides by.
void fill_scales(const LinearCrossEntropyParams& p) {
  double total = 0.0;
  for (int64_t i = 0; i < p.rows; ++i) {
    const float token = p.token_weight ? p.token_weight[i] : 1.0f;
    p.stats[i].scale = is_ignored(p, i) ? 0.0f : token;
    if (!is_ignored(p, i)) total += token * class_weight_of(p, i);
  }
  if (p.kind == HeadLoss::kBinary) total *= static_cast<double>(p.classes);
  if (p.reduction != Reduction::kMean) return;
  for (int64_t i = 0; i < p.rows; ++i) {
    p.stats[i].scale = total == 0.0 ? 0.0f : static_cast<float>(p.stats[i].scale / total);
  }
}

// One head on its way through the rows.
class Head {
 public:
  explicit Head(const LinearCrossEntropyParams& p, bool wants_loss)
      : p_(p), space_(p), wants_loss_(wants_loss), stride_(space_.classes) {
    for (int64_t c = 0; c < space_.classes; ++c) {
      const bool is_class = c < p.classes;
      space_.bias[c] = is_class && p.bias ? p.bias[c] : 0.0f;
      space_.class_weight[c] = !is_class ? 0.0f : p.class_weight ? p.class_weight[c] : 1.0f;
      all_weights_ += space_.class_weight[c];
    }
  }

  void run() {
    if (has_gradients(p_) && p_.rows == 0) clear_gradients();
    if (p_.rows > 0 && mode_of(p_) == HeadMode::kFew) {
      run_few();
    } else if (p_.rows > 0) {
      run_chunks();
    }
    if (wants_loss_) sum_losses();
  }

 private:
  const LinearCrossEntropyParams& p_;
  const HeadSpace space_;
  const bool wants_loss_;
  const int64_t stride_;  // of logits
  double all_weights_ = 0.0;

  bool weight_is_vd() const { return p_.weight_feature_stride == 1; }

  void clear_gradients() const {
    if (p_.grad_weight != nullptr) {
      std::memset(p_.grad_weight, 0, sizeof(float) * p_.classes * p_.hidden_size);
    }
    if (p_.grad_bias != nullptr) std::memset(p_.grad_bias, 0, sizeof(float) * p_.classes);
  }

  void sum_losses() const {
    if (p_.reduction == Reduction::kNone) return;
    double total = 0.0;
    for (int64_t i = 0; i < p_.rows; ++i) total += space_.losses[i];
    p_.loss[0] = static_cast<float>(total);
  }

  ClassBlock block_of(int64_t first, int64_t count) const {
    ClassBlock block{first, count, round_up(count, kWidest), space_.bias + first, space_.class_weight + first,
                     0.0};
    for (int64_t c = 0; c < count; ++c) block.class_weight_sum += block.class_weight[c];
    return block;
  }

  static void begin(RowState* states, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) states[r] = {0.0, 0.0, kMinusHuge, 0.0f};
  }

  // Writes what is known of a row when all of its classes are folded.
  void finish_row(int64_t i, const RowState& state) const {
    RowStats& stats = p_.stats[i];
    if (p_.kind == HeadLoss::kBinary) {
      stats.max = stats.log_sum = stats.log_prob = stats.inverse_sum = 0.0f;
      space_.losses[i] = stats.scale * state.sum;
      return;
    }
    const bool ignored = is_ignored(p_, i);
    const double log_sum = std::log(state.sum), max = state.max;
    const double log_prob = state.target - max - log_sum;
    stats.max = ignored ? 0.0f : state.max;
    stats.log_sum = ignored ? 0.0f : static_cast<float>(log_sum);
    stats.log_prob = ignored ? 0.0f : static_cast<float>(log_prob);
    stats.inverse_sum = ignored ? 0.0f : static_cast<float>(1.0 / state.sum);
    const double loss = ignored ? 0.0 : stats.scale * row_loss(i, state, log_sum, log_prob);
    space_.losses[i] = loss;
    if (p_.reduction == Reduction::kNone) p_.loss[i] = static_cast<float>(loss);
  }

  double row_loss(int64_t i, const RowState& state, double log_sum, double log_prob) const {
    const double weight = class_weight_of(p_, i), max = state.max, lse = max + log_sum;
    if (p_.kind == HeadLoss::kFocal) {
      return -weight * std::pow(-std::expm1(log_prob), static_cast<double>(p_.focal_gamma)) * log_prob;
    }
    double loss = (1.0 - p_.label_smoothing) * weight * -log_prob;
    if (p_.label_smoothing > 0.0f) {
      const double spread = p_.label_smoothing / static_cast<double>(p_.classes);
      loss += spread * (all_weights_ * log_sum - (state.weighted - max * all_weights_));
    }
    return loss + p_.z_loss * lse * lse;
  }

  // Few classes.

  void run_few() const {
    const int64_t group = few_group_rows(p_), features = space_.features;
    for (int64_t c = 0; c < p_.classes; ++c) {
      for (int64_t d = 0; d < features; ++d) {
        space_.weight[c * features + d] =
            d < p_.hidden_size ? p_.weight[c * p_.weight_class_stride + d * p_.weight_feature_stride] : 0.0f;
      }
    }
    const auto task = [&](int64_t index, int) {
      run_few_rows(index, index * group, std::min(p_.rows, (index + 1) * group));
    };
    run_tasks(p_.threads, space_.groups, kNothing, task, kNothing);
    if (has_gradients(p_)) add_few_gradients();
  }

  void run_few_rows(int64_t group, int64_t begin_row, int64_t end_row) const {
    const ClassBlock block = block_of(0, p_.classes);
    float* grad_weight = space_.partial_weight + group * p_.classes * space_.features;
    double* grad_bias = space_.partial_bias + group * stride_;
    std::memset(grad_weight, 0, sizeof(float) * p_.classes * space_.features);
    std::memset(grad_bias, 0, sizeof(double) * stride_);
    alignas(64) float z[kFewRowBlock * kFewClasses];
    RowState states[kFewRowBlock];
    for (int64_t row = begin_row; row < end_row; row += kFewRowBlock) {
      const int64_t rows = std::min(kFewRowBlock, end_row - row);
      kernel().few_logits(p_, row, rows, space_.weight, space_.features, z, stride_);
      begin(states, rows);
      kernel().fold(p_, block, row, rows, z, stride_, wants_loss_ ? states : nullptr);
      for (int64_t r = 0; wants_loss_ && r < rows; ++r) finish_row(row + r, states[r]);
      if (!has_gradients(p_)) continue;
      kernel().gradient(p_, block, row, rows, all_weights_, z, stride_, false, grad_bias);
      kernel().few_gradients(p_, row, rows, space_.weight, space_.features, z, stride_, grad_weight);
    }
  }

  void add_few_gradients() const {
    for (int64_t c = 0; c < p_.classes; ++c) {
      double bias = 0.0;
      for (int64_t g = 0; g < space_.groups; ++g) bias += space_.partial_bias[g * stride_ + c];
      if (p_.grad_bias != nullptr) p_.grad_bias[c] = static_cast<float>(bias);
      if (p_.grad_weight == nullptr) continue;
      for (int64_t d = 0; d < p_.hidden_size; ++d) {
        float sum = 0.0f;
        for (int64_t g = 0; g < space_.groups; ++g) {
          sum += space_.partial_weight[(g * p_.classes + c) * space_.features + d];
        }
        p_.grad_weight[c * p_.weight_class_stride + d * p_.weight_feature_stride] = sum;
      }
    }
  }

  // More classes.

  void run_chunks() const {
    const bool by_rows = mode_of(p_) == HeadMode::kRows;
    std::memset(space_.bias_sums, 0, sizeof(double) * stride_);
    if (is_medium(p_) && by_rows) round(p_.weight, p_.classes * p_.hidden_size, space_.weight_bf16);
    for (int64_t first = 0; first < p_.rows; first += space_.rows) {
      const int64_t rows = std::min(space_.rows, p_.rows - first);
      if (is_medium(p_)) round(p_.hidden + first * p_.hidden_size, rows * p_.hidden_size, space_.hidden_bf16);
      by_rows ? run_chunk_by_rows(first, rows) : run_chunk_by_columns(first, rows);
    }
    if (p_.grad_bias == nullptr) return;
    for (int64_t c = 0; c < p_.classes; ++c) p_.grad_bias[c] = static_cast<float>(space_.bias_sums[c]);
  }

  void round(const float* from, int64_t count, uint16_t* to) const {
    constexpr int64_t kStep = 1 << 15;
    const auto task = [&](int64_t index, int) {
      kernel().round(from + index * kStep, std::min(kStep, count - index * kStep), to + index * kStep);
    };
    run_tasks(p_.threads, ceil_div(count, kStep), kNothing, task, kNothing);
  }

  // Where a block of classes (and features) of the weight starts, and how far its rows are apart.
  struct WeightPart {
    int64_t offset, stride;
  };
  WeightPart weight_part(int64_t first_class, int64_t first_feature) const {
    return {first_class * p_.weight_class_stride + first_feature * p_.weight_feature_stride,
            weight_is_vd() ? p_.hidden_size : p_.classes};
  }

  // In "medium" precision the gradients of logits are rounded in place: each row of a task's block of classes
  // starts where its floats did.
  static const uint16_t* rounded_gradients(const float* z) { return reinterpret_cast<const uint16_t*>(z); }

  // How far rows of gradients are apart.
  template <class Element>
  int64_t gradient_stride() const {
    return stride_ * static_cast<int64_t>(sizeof(float) / sizeof(Element));
  }

  // logits = hidden W^T, of these classes.
  template <class Element>
  void multiply_logits(int64_t rows, int64_t classes, const Element* hidden, const Element* weight,
                       int64_t weight_stride, float* z) const {
    GemmShape shape{rows, classes, p_.hidden_size, p_.hidden_size, weight_stride, stride_};
    shape.transpose_b = weight_is_vd();
    gemm(shape, hidden, weight, z);
  }

  // `to`, of rows of the hidden size, (+)= G W, of these classes and features.
  template <class Element>
  void multiply_hidden(int64_t rows, int64_t features, int64_t classes, const Element* gradients,
                       const Element* weight, int64_t weight_stride, bool accumulate, float* to) const {
    GemmShape shape{rows, features, classes, gradient_stride<Element>(), weight_stride, p_.hidden_size};
    shape.transpose_b = !weight_is_vd();
    shape.accumulate = accumulate;
    gemm(shape, gradients, weight, to);
  }

  // grad_weight (+)= G^T hidden, of these classes and features.
  template <class Element>
  void multiply_weight(int64_t rows, int64_t first, int64_t count, int64_t feature, int64_t features,
                       const Element* gradients, const Element* hidden, bool accumulate) const {
    const WeightPart to = weight_part(first, feature);
    GemmShape shape{count, features, rows,      gradient_stride<Element>(), p_.hidden_size, to.stride,
                    true,  false,    accumulate};
    if (weight_is_vd()) return gemm(shape, gradients, hidden + feature, p_.grad_weight + to.offset);
    std::swap(shape.m, shape.n);
    std::swap(shape.lda, shape.ldb);
    gemm(shape, hidden + feature, gradients, p_.grad_weight + to.offset);
  }

  void multiply_weight(int64_t first_row, int64_t rows, int64_t first, int64_t count, int64_t feature,
                       int64_t features) const {
    if (is_medium(p_)) {
      const bool by_rows = mode_of(p_) == HeadMode::kRows;  // blocks of whole rows
      const uint16_t* gradients =
          rounded_gradients(space_.logits + (by_rows ? 0 : first)) + (by_rows ? first : 0);
      multiply_weight(rows, first, count, feature, features, gradients, space_.hidden_bf16, first_row > 0);
    } else {
      multiply_weight(rows, first, count, feature, features, space_.logits + first,
                      p_.hidden + first_row * p_.hidden_size, first_row > 0);
    }
  }

  // `row` counts in the chunk, which starts at `first`.
  void run_row_block(int64_t first, int64_t row, int64_t rows, double* bias_sums) const {
    const ClassBlock block = block_of(0, p_.classes);
    float* z = space_.logits + row * stride_;
    RowState* states = space_.states + row;
    const int64_t stride = weight_part(0, 0).stride;
    begin(states, rows);
    if (all_ignored(p_, first + row, rows)) {  // also what hidden holds does not count
      std::memset(z, 0, sizeof(float) * rows * stride_);
    } else if (is_medium(p_)) {
      multiply_logits(rows, p_.classes, space_.hidden_bf16 + row * p_.hidden_size, space_.weight_bf16, stride,
                      z);
    } else {
      multiply_logits(rows, p_.classes, p_.hidden + (first + row) * p_.hidden_size, p_.weight, stride, z);
    }
    kernel().fold(p_, block, first + row, rows, z, stride_, wants_loss_ ? states : nullptr);
    for (int64_t r = 0; wants_loss_ && r < rows; ++r) finish_row(first + row + r, states[r]);
    if (!has_gradients(p_)) return;
    std::memset(bias_sums, 0, sizeof(double) * stride_);
    kernel().gradient(p_, block, first + row, rows, all_weights_, z, stride_, is_medium(p_), bias_sums);
    if (p_.grad_hidden == nullptr) return;
    float* to = p_.grad_hidden + (first + row) * p_.hidden_size;
    if (is_medium(p_)) {
      multiply_hidden(rows, p_.hidden_size, p_.classes, rounded_gradients(z), space_.weight_bf16, stride,
                      false, to);
    } else {
      multiply_hidden(rows, p_.hidden_size, p_.classes, z, p_.weight, stride, false, to);
    }
  }

  void run_chunk_by_rows(int64_t first, int64_t rows) const {
    const int64_t blocks = ceil_div(rows, kRowBlock);
    const auto task = [&](int64_t index, int) {
      const int64_t row = index * kRowBlock;
      run_row_block(first, row, std::min(kRowBlock, rows - row), space_.partial_bias + index * stride_);
    };
    run_tasks(p_.threads, blocks, kNothing, task, kNothing);
    if (!has_gradients(p_)) return;
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t c = 0; c < p_.classes; ++c) space_.bias_sums[c] += space_.partial_bias[b * stride_ + c];
    }
    if (p_.grad_weight == nullptr) return;
    const int64_t feature_blocks = ceil_div(p_.hidden_size, kFeatureBlock);
    const auto weight_task = [&](int64_t index, int) {
      const int64_t c = index / feature_blocks * kFeatureBlock, d = index % feature_blocks * kFeatureBlock;
      multiply_weight(first, rows, c, std::min(kFeatureBlock, p_.classes - c), d,
                      std::min(kFeatureBlock, p_.hidden_size - d));
    };
    run_tasks(p_.threads, ceil_div(p_.classes, kFeatureBlock) * feature_blocks, kNothing, weight_task,
              kNothing);
  }

  // Many classes.

  // Classes and features of the weight, rounded, in memory of the thread.
  const uint16_t* rounded_weight(int64_t first, int64_t classes, int64_t feature, int64_t features,
                                 int thread) const {
    uint16_t* to = space_.weight_bf16 + thread * kClassBlock * p_.hidden_size;
    const WeightPart part = weight_part(first, feature);
    const int64_t rows = weight_is_vd() ? classes : features, columns = weight_is_vd() ? features : classes;
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = p_.weight + part.offset + r * part.stride;
      // Rows are pages apart, which hardware does not see coming.
      for (int64_t c = 0; r + 1 < rows && c < columns; c += 16) __builtin_prefetch(from + part.stride + c);
      kernel().round(from, columns, to + r * columns);
    }
    return to;
  }

  void fold_class_block(int64_t first, int64_t rows, int64_t index, int thread) const {
    const int64_t c = index * kClassBlock, count = std::min(kClassBlock, p_.classes - c);
    float* z = space_.logits + c;
    RowState* states = space_.states + index * space_.rows;
    begin(states, rows);
    if (is_medium(p_)) {
      const uint16_t* weight = rounded_weight(c, count, 0, p_.hidden_size, thread);
      multiply_logits(rows, count, space_.hidden_bf16, weight, weight_is_vd() ? p_.hidden_size : count, z);
    } else {
      const WeightPart part = weight_part(c, 0);
      multiply_logits(rows, count, p_.hidden + first * p_.hidden_size, p_.weight + part.offset, part.stride,
                      z);
    }
    kernel().fold(p_, block_of(c, count), first, rows, z, stride_, wants_loss_ ? states : nullptr);
  }

  RowState merged_state(int64_t row) const {
    RowState all{0.0, 0.0, kMinusHuge, 0.0f};
    for (int64_t b = 0; b < space_.class_blocks; ++b) {
      const RowState& part = space_.states[b * space_.rows + row];
      all.max = part.max > all.max || part.max != part.max ? part.max : all.max;
    }
    for (int64_t b = 0; b < space_.class_blocks; ++b) {
      const RowState& part = space_.states[b * space_.rows + row];
      all.sum += part.sum * std::exp(static_cast<double>(part.max) - all.max);
      all.weighted += part.weighted;
      all.target += part.target;  // 0 in all blocks but one
    }
    if (p_.kind != HeadLoss::kBinary) return all;
    all.sum = 0.0;
    for (int64_t b = 0; b < space_.class_blocks; ++b) all.sum += space_.states[b * space_.rows + row].sum;
    return all;
  }

  void run_chunk_by_columns(int64_t first, int64_t rows) const {
    const auto fold = [&](int64_t index, int thread) { fold_class_block(first, rows, index, thread); };
    run_tasks(p_.threads, space_.class_blocks, kNothing, fold, kNothing);
    if (wants_loss_) {
      const auto finish = [&](int64_t row, int) { finish_row(first + row, merged_state(row)); };
      run_tasks(p_.threads, rows, kNothing, finish, kNothing);
    }
    if (!has_gradients(p_)) return;
    const auto weight = [&](int64_t index, int) {
      const int64_t c = index * kClassBlock, count = std::min(kClassBlock, p_.classes - c);
      kernel().gradient(p_, block_of(c, count), first, rows, all_weights_, space_.logits + c, stride_,
                        is_medium(p_), space_.bias_sums + c);
      if (p_.grad_weight != nullptr) multiply_weight(first, rows, c, count, 0, p_.hidden_size);
    };
    run_tasks(p_.threads, space_.class_blocks, kNothing, weight, kNothing);
    if (p_.grad_hidden != nullptr) hidden_by_features(first, rows);
  }

  // Tasks are steps of features by ranges of classes, whose sums are added up in the end.
  void hidden_by_features(int64_t first, int64_t rows) const {
    const int64_t steps = ceil_div(p_.hidden_size, kHiddenStep), size = p_.hidden_size;
    const int64_t range = ceil_div(space_.class_blocks, space_.class_ranges) * kClassBlock;
    float* grads = p_.grad_hidden + first * size;
    const auto task = [&](int64_t index, int thread) {
      const int64_t part = index / steps, d = index % steps * kHiddenStep;
      float* to = (part == 0 ? grads : space_.partial_hidden + (part - 1) * space_.rows * size) + d;
      hidden_of_classes(rows, part * range, std::min(p_.classes, (part + 1) * range), d, thread, to);
    };
    run_tasks(p_.threads, space_.class_ranges * steps, kNothing, task, kNothing);
    if (space_.class_ranges == 1) return;
    const auto add = [&](int64_t row, int) {
      for (int64_t part = 1; part < space_.class_ranges; ++part) {
        const float* from = space_.partial_hidden + ((part - 1) * space_.rows + row) * size;
        for (int64_t d = 0; d < size; ++d) grads[row * size + d] += from[d];
      }
    };
    run_tasks(p_.threads, rows, kNothing, add, kNothing);
  }

  void hidden_of_classes(int64_t rows, int64_t begin, int64_t end, int64_t d, int thread, float* to) const {
    const int64_t features = std::min(kHiddenStep, p_.hidden_size - d);
    if (!is_medium(p_)) {
      const WeightPart part = weight_part(begin, d);
      multiply_hidden(rows, features, end - begin, space_.logits + begin, p_.weight + part.offset,
                      part.stride, false, to);
      return;
    }
    for (int64_t c = begin; c < end; c += kClassBlock) {
      const int64_t count = std::min(kClassBlock, end - c);
      const uint16_t* weight = rounded_weight(c, count, d, features, thread);
      multiply_hidden(rows, features, count, rounded_gradients(space_.logits + c), weight,
                      weight_is_vd() ? features : count, c > begin, to);
    }
  }
};

}  // namespace
}  // namespace paddle_infra

using paddle_infra::LinearCrossEntropyParams;

int64_t paddle_infra_linear_cross_entropy_workspace(const LinearCrossEntropyParams* params) {
  LinearCrossEntropyParams p = *params;
  p.workspace = nullptr;
  return paddle_infra::HeadSpace(p).bytes;
}

int64_t paddle_infra_linear_cross_entropy_bad_row(const LinearCrossEntropyParams* params) {
  for (int64_t i = 0; i < params->rows; ++i) {
    const int64_t label = params->label[i];
    if (label != params->ignore_index && (label < 0 || label >= params->classes)) return i;
  }
  return -1;
}

int64_t paddle_infra_linear_cross_entropy_bad_target(const LinearCrossEntropyParams* params) {
  constexpr int64_t kStep = 1024;
  const int64_t count = params->rows * params->classes;
  for (int64_t first = 0; first < count; first += kStep) {
    const int64_t end = std::min(count, first + kStep);
    int bad = 0;  // without a branch, for vectors; a NaN is bad too
    for (int64_t i = first; i < end; ++i) bad |= !(params->target[i] >= 0.0f) | !(params->target[i] <= 1.0f);
    if (!bad) continue;
    for (int64_t i = first; i < end; ++i) {
      if (!(params->target[i] >= 0.0f && params->target[i] <= 1.0f)) return i;
    }
  }
  return -1;
}

void paddle_infra_linear_cross_entropy_cpu_fwd(const LinearCrossEntropyParams* params) {
  using namespace paddle_infra;
  fill_scales(*params);
  Head(*params, true).run();
}

void paddle_infra_linear_cross_entropy_cpu_bwd(const LinearCrossEntropyParams* params) {
  paddle_infra::Head(*params, false).run();
}

void paddle_infra_linear_cross_entropy_scale_cpu(float* x, int64_t count, float factor, int threads) {
  using namespace paddle_infra;
  constexpr int64_t kStep = 1 << 15;
  const auto task = [&](int64_t index, int) {
    const int64_t end = std::min(count, (index + 1) * kStep);
    for (int64_t i = index * kStep; i < end; ++i) x[i] *= factor;
  };
  run_tasks(threads, ceil_div(count, kStep), kNothing, task, kNothing);
}
