// Heads whose logits of a block of rows stay in the cache: a task makes all of a block, and what follows.
#include <cstring>

#include "linear_cross_entropy/linear_cross_entropy_products.h"

namespace paddle_infra {
namespace {

// `row` counts in the chunk, which starts at `first`.
void make_logits(const Head& head, int64_t first, int64_t row, int64_t rows, float* z) {
  const LinearCrossEntropyParams& p = head.p;
  const int64_t stride = weight_part(head, 0, 0).stride;
  if (all_ignored(p, first + row, rows)) {  // also what hidden holds does not count
    std::memset(z, 0, sizeof(float) * rows * head.stride);
  } else if (is_medium(p)) {
    const uint16_t *hidden = head.space.hidden_bf16 + row * p.hidden_size, *weight = head.space.weight_bf16;
    multiply_logits(head, rows, p.classes, hidden, weight, stride, z);
  } else {
    multiply_logits(head, rows, p.classes, p.hidden + (first + row) * p.hidden_size, p.weight, stride, z);
  }
}

void run_block(const Head& head, int64_t first, int64_t row, int64_t rows, double* bias_sums) {
  const LinearCrossEntropyParams& p = head.p;
  const ClassBlock block = head.block_of(0, p.classes);
  float* z = head.space.logits + row * head.stride;
  RowState* states = head.space.states + row;
  const int64_t stride = weight_part(head, 0, 0).stride;
  begin_states(states, rows);
  make_logits(head, first, row, rows, z);
  head_kernel().fold(p, block, first + row, rows, z, head.stride, head.wants_loss ? states : nullptr);
  for (int64_t r = 0; head.wants_loss && r < rows; ++r) finish_row(head, first + row + r, states[r]);
  if (!has_gradients(p)) return;
  std::memset(bias_sums, 0, sizeof(double) * head.stride);
  head_kernel().gradient(p, block, first + row, rows, head.all_weights, z, head.stride, is_medium(p),
                         bias_sums);
  if (p.grad_hidden == nullptr) return;
  float* to = p.grad_hidden + (first + row) * p.hidden_size;
  if (is_medium(p)) {
    const uint16_t *gradients = rounded_gradients(z), *weight = head.space.weight_bf16;
    multiply_hidden(head, rows, p.hidden_size, p.classes, gradients, weight, stride, false, to);
  } else {
    const float* gradients = z;
    multiply_hidden(head, rows, p.hidden_size, p.classes, gradients, p.weight, stride, false, to);
  }
}

void add_bias_sums(const Head& head, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t c = 0; c < head.p.classes; ++c) {
      head.space.bias_sums[c] += head.space.partial_bias[b * head.stride + c];
    }
  }
}

}  // namespace

void run_chunk_by_rows(const Head& head, int64_t first, int64_t rows) {
  const LinearCrossEntropyParams& p = head.p;
  const int64_t blocks = ceil_div(rows, kRowBlock);
  head.for_each(blocks, [&](int64_t index, int) {
    const int64_t row = index * kRowBlock;
    double* const bias_sums = head.space.partial_bias + index * head.stride;
    run_block(head, first, row, std::min(kRowBlock, rows - row), bias_sums);
  });
  if (!has_gradients(p)) return;
  add_bias_sums(head, blocks);
  if (p.grad_weight == nullptr) return;
  const int64_t feature_blocks = ceil_div(p.hidden_size, kFeatureBlock);
  head.for_each(ceil_div(p.classes, kFeatureBlock) * feature_blocks, [&](int64_t index, int) {
    const int64_t c = index / feature_blocks * kFeatureBlock, d = index % feature_blocks * kFeatureBlock;
    const int64_t classes = std::min(kFeatureBlock, p.classes - c);
    multiply_chunk_weight(head, first, rows, c, classes, d, std::min(kFeatureBlock, p.hidden_size - d),
                          rounded_gradients(head.space.logits) + c);  // blocks of whole rows
  });
}

}  // namespace paddle_infra
