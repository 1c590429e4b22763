// The CPU kernel: threads over rows, then over features; the arithmetic is in linear_cross_entropy_body.h.
//
// Classes are taken in blocks. For each block every row's logits are computed, used and forgotten, so no
// array of rows * classes exists. Every number is summed in an order that depends on the sizes only: the
// result is the same bit for bit with any number of threads.
//
// OpenMP: only parallel regions with static schedules and barriers. Paddle's OpenMP runtime lacks the
// functions that GCC calls for dynamic schedules.
#include <cmath>
#include <cstring>

#include "common/cpu_target.h"
#include "common/flush_denormals.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

namespace paddle_infra {
namespace {

constexpr int64_t kClassBlock =
    240;                             // a multiple of every panel width; logits of kRowBlock rows fit in 32 KB
constexpr int64_t kRowBlock = 32;    // rows that one thread takes at a time
constexpr int64_t kRowGroup = 512;   // rows whose logit gradients exist at the same time
constexpr int64_t kFewClasses = 32;  // up to here a head is bound by memory, not by arithmetic
constexpr int64_t kMaxLanes = 16;    // floats in the widest vector
constexpr float kMinusHuge = -1e30f;  // exp() of it is 0, and unlike -infinity it never makes a NaN

struct ClassBlock {
  int64_t first, count, padded;
  const float* logits_panels;  // weight as [features, classes], packed
  const float* hidden_panels;  // weight as [classes, features], packed
  const float* bias;           // [padded], 0 where there is none
  const float* class_weight;   // [padded], 1 where there is none, 0 in the padding
  double class_weight_sum;
};

struct RowState {
  double sum, weighted;
  float max, target;
};

struct TargetTable {
  int64_t lanes, panel_width;
  void (*pack_panel)(float* packed, const float* source, int64_t depth_stride, int64_t column_stride,
                     int64_t depth, int64_t n, int64_t n0);
  void (*forward_rows)(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
                       float* z, RowState* state);
  void (*backward_rows)(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
                        double all_class_weights, float* z);
  void (*weight_gradient)(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row,
                          int64_t rows, int64_t feature, int64_t features, const float* z, bool accumulate);
};

#define PI_TARGET_BODY "linear_cross_entropy/linear_cross_entropy_body.h"
#include "common/foreach_target.h"

const TargetTable& target_table() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kTable;
  if (float_target() == CpuTarget::kAvx2) return avx2::kTable;
#endif
  return portable::kTable;
}

int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The scratch memory, cut into its arrays.
struct Workspace {
  explicit Workspace(const LinearCrossEntropyParams& p) {
    const int64_t classes = round_up(min_of(p.classes, kClassBlock), kMaxLanes);
    char* at = static_cast<char*>(p.workspace);
    auto take = [&](int64_t bytes) {
      char* start = at;
      at += round_up(bytes, 64);
      return start;
    };
    logits_panels = reinterpret_cast<float*>(take(4 * p.hidden_size * classes));
    hidden_panels = reinterpret_cast<float*>(take(4 * round_up(p.hidden_size, kMaxLanes) * classes));
    bias = reinterpret_cast<float*>(take(4 * classes));
    class_weight = reinterpret_cast<float*>(take(4 * classes));
    logits = reinterpret_cast<float*>(take(4 * classes * min_of(round_up(p.rows, kRowBlock), kRowGroup)));
    states = reinterpret_cast<RowState*>(take(static_cast<int64_t>(sizeof(RowState)) * p.rows));
    bytes = at - static_cast<char*>(p.workspace);
  }

  float *logits_panels, *hidden_panels, *bias, *class_weight, *logits;
  RowState* states;
  int64_t bytes;
};

double sum_of_class_weights(const LinearCrossEntropyParams& p) {
  if (p.class_weight == nullptr) return static_cast<double>(p.classes);
  double sum = 0.0;
  for (int64_t c = 0; c < p.classes; ++c) sum += p.class_weight[c];
  return sum;
}

double class_weight_of(const LinearCrossEntropyParams& p, int64_t label) {
  return p.class_weight ? p.class_weight[label] : 1.0;
}

// Called by every thread of a team; ends with a barrier, after which all of them may read the block.
ClassBlock prepare_block(const LinearCrossEntropyParams& p, const TargetTable& table, const Workspace& space,
                         int64_t first, bool with_hidden_panels) {
  const int64_t count = min_of(kClassBlock, p.classes - first);
  const int64_t padded = round_up(count, table.lanes);
  const float* weight = p.weight + first * p.weight_class_stride;
#pragma omp for schedule(static) nowait
  for (int64_t n0 = 0; n0 < count; n0 += table.panel_width) {
    table.pack_panel(space.logits_panels, weight, p.weight_feature_stride, p.weight_class_stride,
                     p.hidden_size, count, n0);
  }
  if (with_hidden_panels) {
#pragma omp for schedule(static) nowait
    for (int64_t n0 = 0; n0 < p.hidden_size; n0 += table.panel_width) {
      table.pack_panel(space.hidden_panels, weight, p.weight_class_stride, p.weight_feature_stride, count,
                       p.hidden_size, n0);
    }
  }
#pragma omp single
  for (int64_t c = 0; c < padded; ++c) {
    space.bias[c] = c < count && p.bias ? p.bias[first + c] : 0.0f;
    space.class_weight[c] = c >= count ? 0.0f : p.class_weight ? p.class_weight[first + c] : 1.0f;
  }
  double weight_sum = 0.0;
  for (int64_t c = 0; c < count; ++c) weight_sum += space.class_weight[c];
  return {first,     count, padded, space.logits_panels, space.hidden_panels, space.bias, space.class_weight,
          weight_sum};
}

// scale_i of every row, and what mean divides by.
void fill_scales(const LinearCrossEntropyParams& p) {
  double total = 0.0;
  for (int64_t i = 0; i < p.rows; ++i) {
    const bool valid = p.label[i] != p.ignore_index;
    const float token = p.token_weight ? p.token_weight[i] : 1.0f;
    p.stats[i].scale = valid ? token : 0.0f;
    if (valid) total += token * class_weight_of(p, p.label[i]);
  }
  if (p.reduction != Reduction::kMean) return;
  for (int64_t i = 0; i < p.rows; ++i) {
    p.stats[i].scale = total == 0.0 ? 0.0f : static_cast<float>(p.stats[i].scale / total);
  }
}

double row_loss(const LinearCrossEntropyParams& p, int64_t label, const RowState& state, double all_weights) {
  const double log_sum = std::log(state.sum), max = state.max, lse = max + log_sum;
  double loss = (1.0 - p.label_smoothing) * class_weight_of(p, label) * (log_sum - (state.target - max));
  if (p.label_smoothing > 0.0f) {
    const double spread = p.label_smoothing / static_cast<double>(p.classes);
    loss += spread * (all_weights * log_sum - (state.weighted - max * all_weights));
  }
  return loss + p.z_loss * lse * lse;
}

void write_losses(const LinearCrossEntropyParams& p, const RowState* states) {
  const double all_weights = sum_of_class_weights(p);
  double total = 0.0;
  for (int64_t i = 0; i < p.rows; ++i) {
    const bool valid = p.label[i] != p.ignore_index;
    const double loss = valid ? p.stats[i].scale * row_loss(p, p.label[i], states[i], all_weights) : 0.0;
    p.stats[i].max = valid ? states[i].max : 0.0f;
    p.stats[i].log_sum = valid ? static_cast<float>(std::log(states[i].sum)) : 0.0f;
    if (p.reduction == Reduction::kNone) {
      p.loss[i] = static_cast<float>(loss);
    } else {
      total += loss;
    }
  }
  if (p.reduction != Reduction::kNone) p.loss[0] = static_cast<float>(total);
}

bool is_block_ignored(const LinearCrossEntropyParams& p, int64_t row, int64_t rows) {
  for (int64_t i = row; i < row + rows; ++i) {
    if (p.label[i] != p.ignore_index) return false;
  }
  return true;
}

void backward_block(const LinearCrossEntropyParams& p, const TargetTable& table, const Workspace& space,
                    const ClassBlock& block, double all_weights) {
  const int64_t feature_block = block.count <= kFewClasses ? 192 : 48;
  for (int64_t group = 0; group < p.rows; group += kRowGroup) {
    const int64_t group_rows = min_of(kRowGroup, p.rows - group);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < group_rows; row += kRowBlock) {
      const int64_t rows = min_of(kRowBlock, group_rows - row);
      float* z = space.logits + row * block.padded;
      if (!is_block_ignored(p, group + row, rows)) {
        table.backward_rows(p, block, group + row, rows, all_weights, z);
        continue;
      }
      std::memset(z, 0, sizeof(float) * rows * block.padded);
      if (block.first == 0) {
        std::memset(p.grad_hidden + (group + row) * p.hidden_size, 0, sizeof(float) * rows * p.hidden_size);
      }
    }
    if (p.grad_bias != nullptr) {
#pragma omp single nowait
      for (int64_t c = 0; c < block.count; ++c) {
        double sum = group == 0 ? 0.0 : p.grad_bias[block.first + c];
        for (int64_t row = 0; row < group_rows; ++row) sum += space.logits[row * block.padded + c];
        p.grad_bias[block.first + c] = static_cast<float>(sum);
      }
    }
#pragma omp for schedule(static)
    for (int64_t feature = 0; feature < p.hidden_size; feature += feature_block) {
      table.weight_gradient(p, block, group, group_rows, feature,
                            min_of(feature_block, p.hidden_size - feature), space.logits, group > 0);
    }
  }
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::LinearCrossEntropyParams;

int64_t paddle_infra_linear_cross_entropy_workspace(const LinearCrossEntropyParams* params) {
  return paddle_infra::Workspace(*params).bytes;
}

int64_t paddle_infra_linear_cross_entropy_bad_row(const LinearCrossEntropyParams* params) {
  for (int64_t i = 0; i < params->rows; ++i) {
    const int64_t label = params->label[i];
    if (label != params->ignore_index && (label < 0 || label >= params->classes)) return i;
  }
  return -1;
}

void paddle_infra_linear_cross_entropy_cpu_fwd(const LinearCrossEntropyParams* params) {
  using namespace paddle_infra;
  const LinearCrossEntropyParams& p = *params;
  const Workspace space(p);
  const TargetTable& table = target_table();
  for (int64_t i = 0; i < p.rows; ++i) space.states[i] = {0.0, 0.0, kMinusHuge, 0.0f};
#pragma omp parallel
  {
    const FlushDenormals guard;
    alignas(64) float logits[kRowBlock * kClassBlock];
    for (int64_t first = 0; first < p.classes; first += kClassBlock) {
      const ClassBlock block = prepare_block(p, table, space, first, false);
#pragma omp for schedule(static)
      for (int64_t row = 0; row < p.rows; row += kRowBlock) {
        const int64_t rows = min_of(kRowBlock, p.rows - row);
        if (!is_block_ignored(p, row, rows)) {
          table.forward_rows(p, block, row, rows, logits, space.states + row);
        }
      }
    }
  }
  fill_scales(p);
  write_losses(p, space.states);
}

void paddle_infra_linear_cross_entropy_cpu_bwd(const LinearCrossEntropyParams* params) {
  using namespace paddle_infra;
  const LinearCrossEntropyParams& p = *params;
  const Workspace space(p);
  const TargetTable& table = target_table();
  const double all_weights = sum_of_class_weights(p);
  if (p.rows == 0) {
    std::memset(p.grad_weight, 0, sizeof(float) * p.classes * p.hidden_size);
    if (p.grad_bias != nullptr) std::memset(p.grad_bias, 0, sizeof(float) * p.classes);
    return;
  }
#pragma omp parallel
  {
    const FlushDenormals guard;
    for (int64_t first = 0; first < p.classes; first += kClassBlock) {
      const ClassBlock block = prepare_block(p, table, space, first, true);
      backward_block(p, table, space, block, all_weights);
    }
  }
}
