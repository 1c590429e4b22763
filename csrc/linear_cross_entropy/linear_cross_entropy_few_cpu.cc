// Heads of few classes, which are bound by reading `hidden`: one pass over the rows does everything.
#include <cstring>

#include "linear_cross_entropy/linear_cross_entropy_head.h"

namespace paddle_infra {
namespace {

// To rows of whole vectors, whatever the layout.
void copy_weight(const Head& head) {
  const LinearCrossEntropyParams& p = head.p;
  const int64_t features = head.space.features;
  for (int64_t c = 0; c < p.classes; ++c) {
    for (int64_t d = 0; d < features; ++d) {
      head.space.weight[c * features + d] =
          d < p.hidden_size ? p.weight[c * p.weight_class_stride + d * p.weight_feature_stride] : 0.0f;
    }
  }
}

void run_group(const Head& head, int64_t group, int64_t begin_row, int64_t end_row) {
  const LinearCrossEntropyParams& p = head.p;
  const HeadSpace& space = head.space;
  const ClassBlock block = head.block_of(0, p.classes);
  float* grad_weight = space.partial_weight + group * p.classes * space.features;
  double* grad_bias = space.partial_bias + group * head.stride;
  std::memset(grad_weight, 0, sizeof(float) * p.classes * space.features);
  std::memset(grad_bias, 0, sizeof(double) * head.stride);
  alignas(64) float z[kFewRowBlock * kFewClasses];
  RowState states[kFewRowBlock];
  for (int64_t row = begin_row; row < end_row; row += kFewRowBlock) {
    const int64_t rows = std::min(kFewRowBlock, end_row - row);
    head_kernel().few_logits(p, row, rows, space.weight, space.features, z, head.stride);
    begin_states(states, rows);
    head_kernel().fold(p, block, row, rows, z, head.stride, head.wants_loss ? states : nullptr);
    for (int64_t r = 0; head.wants_loss && r < rows; ++r) finish_row(head, row + r, states[r]);
    if (!has_gradients(p)) continue;
    head_kernel().gradient(p, block, row, rows, head.all_weights, z, head.stride, false, grad_bias);
    head_kernel().few_gradients(p, row, rows, space.weight, space.features, z, head.stride, grad_weight);
  }
}

// Those of the groups, always in the same order.
void add_gradients(const Head& head) {
  const LinearCrossEntropyParams& p = head.p;
  const HeadSpace& space = head.space;
  for (int64_t c = 0; c < p.classes; ++c) {
    double bias = 0.0;
    for (int64_t g = 0; g < space.groups; ++g) bias += space.partial_bias[g * head.stride + c];
    if (p.grad_bias != nullptr) p.grad_bias[c] = static_cast<float>(bias);
    if (p.grad_weight == nullptr) continue;
    for (int64_t d = 0; d < p.hidden_size; ++d) {
      float sum = 0.0f;
      for (int64_t g = 0; g < space.groups; ++g) {
        sum += space.partial_weight[(g * p.classes + c) * space.features + d];
      }
      p.grad_weight[c * p.weight_class_stride + d * p.weight_feature_stride] = sum;
    }
  }
}

}  // namespace

void run_few(const Head& head) {
  const int64_t group = few_group_rows(head.p);
  copy_weight(head);
  head.for_each(head.space.groups, [&](int64_t index, int) {
    run_group(head, index, index * group, std::min(head.p.rows, (index + 1) * group));
  });
  if (has_gradients(head.p)) add_gradients(head);
}

}  // namespace paddle_infra
