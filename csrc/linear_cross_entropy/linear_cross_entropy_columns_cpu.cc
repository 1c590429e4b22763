// Heads of many classes: a task makes a block of classes for all rows of a chunk; what the blocks have found
// of each row is merged.
#include <cmath>

#include "linear_cross_entropy/linear_cross_entropy_products.h"

namespace paddle_infra {
namespace {

// Classes and features of the weight, rounded, in memory of the thread.
const uint16_t* rounded_weight(const Head& head, int64_t first, int64_t classes, int64_t feature,
                               int64_t features, int thread) {
  uint16_t* to = head.space.weight_bf16 + thread * kClassBlock * head.p.hidden_size;
  const WeightPart part = weight_part(head, first, feature);
  const bool is_vd = head.weight_is_vd();
  const int64_t rows = is_vd ? classes : features, columns = is_vd ? features : classes;
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = head.p.weight + part.offset + r * part.stride;
    // Rows are pages apart, which hardware does not see coming.
    for (int64_t c = 0; r + 1 < rows && c < columns; c += 16) __builtin_prefetch(from + part.stride + c);
    head_kernel().round(from, columns, to + r * columns);
  }
  return to;
}

void fold_class_block(const Head& head, int64_t first, int64_t rows, int64_t index, int thread) {
  const LinearCrossEntropyParams& p = head.p;
  const int64_t c = index * kClassBlock, count = std::min(kClassBlock, p.classes - c);
  float* z = head.space.logits + c;
  RowState* states = head.space.states + index * head.space.rows;
  begin_states(states, rows);
  if (is_medium(p)) {
    const uint16_t* hidden = head.space.hidden_bf16;
    const uint16_t* weight = rounded_weight(head, c, count, 0, p.hidden_size, thread);
    multiply_logits(head, rows, count, hidden, weight, head.weight_is_vd() ? p.hidden_size : count, z);
  } else {
    const WeightPart part = weight_part(head, c, 0);
    const float* weight = p.weight + part.offset;
    multiply_logits(head, rows, count, p.hidden + first * p.hidden_size, weight, part.stride, z);
  }
  head_kernel().fold(p, head.block_of(c, count), first, rows, z, head.stride,
                     head.wants_loss ? states : nullptr);
}

RowState merged_state(const Head& head, int64_t row) {
  RowState all{0.0, 0.0, kMinusHuge, 0.0f};
  const int64_t blocks = head.space.class_blocks;
  const auto part_of = [&](int64_t b) -> const RowState& {
    return head.space.states[b * head.space.rows + row];
  };
  for (int64_t b = 0; b < blocks; ++b) {
    const RowState& part = part_of(b);
    all.max = part.max > all.max || part.max != part.max ? part.max : all.max;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const RowState& part = part_of(b);
    all.sum += part.sum * std::exp(static_cast<double>(part.max) - all.max);
    all.weighted += part.weighted;
    all.target += part.target;  // 0 in all blocks but one
  }
  if (head.p.kind != HeadLoss::kBinary) return all;
  all.sum = 0.0;
  for (int64_t b = 0; b < blocks; ++b) all.sum += part_of(b).sum;
  return all;
}

void weight_of_class_block(const Head& head, int64_t first, int64_t rows, int64_t index) {
  const LinearCrossEntropyParams& p = head.p;
  const int64_t c = index * kClassBlock, count = std::min(kClassBlock, p.classes - c);
  float* z = head.space.logits + c;
  head_kernel().gradient(p, head.block_of(c, count), first, rows, head.all_weights, z, head.stride,
                         is_medium(p), head.space.bias_sums + c);
  if (p.grad_weight == nullptr) return;
  multiply_chunk_weight(head, first, rows, c, count, 0, p.hidden_size, rounded_gradients(z));
}

void hidden_of_classes(const Head& head, int64_t rows, int64_t begin, int64_t end, int64_t d, int thread,
                       float* to) {
  const int64_t features = std::min(kHiddenStep, head.p.hidden_size - d);
  const float* gradients = head.space.logits;
  if (!is_medium(head.p)) {
    const WeightPart part = weight_part(head, begin, d);
    multiply_hidden(head, rows, features, end - begin, gradients + begin, head.p.weight + part.offset,
                    part.stride, false, to);
    return;
  }
  for (int64_t c = begin; c < end; c += kClassBlock) {
    const int64_t count = std::min(kClassBlock, end - c);
    const uint16_t* weight = rounded_weight(head, c, count, d, features, thread);
    multiply_hidden(head, rows, features, count, rounded_gradients(gradients + c), weight,
                    head.weight_is_vd() ? features : count, c > begin, to);
  }
}

// Tasks are steps of features by ranges of classes, whose sums are added up in the end.
void hidden_by_features(const Head& head, int64_t first, int64_t rows) {
  const LinearCrossEntropyParams& p = head.p;
  const HeadSpace& space = head.space;
  const int64_t steps = ceil_div(p.hidden_size, kHiddenStep), size = p.hidden_size;
  const int64_t range = ceil_div(space.class_blocks, space.class_ranges) * kClassBlock;
  float* grads = p.grad_hidden + first * size;
  head.for_each(space.class_ranges * steps, [&](int64_t index, int thread) {
    const int64_t part = index / steps, d = index % steps * kHiddenStep;
    float* to = (part == 0 ? grads : space.partial_hidden + (part - 1) * space.rows * size) + d;
    hidden_of_classes(head, rows, part * range, std::min(p.classes, (part + 1) * range), d, thread, to);
  });
  if (space.class_ranges == 1) return;
  head.for_each(rows, [&](int64_t row, int) {
    for (int64_t part = 1; part < space.class_ranges; ++part) {
      const float* from = space.partial_hidden + ((part - 1) * space.rows + row) * size;
      for (int64_t d = 0; d < size; ++d) grads[row * size + d] += from[d];
    }
  });
}

}  // namespace

void run_chunk_by_columns(const Head& head, int64_t first, int64_t rows) {
  const int64_t blocks = head.space.class_blocks;
  head.for_each(blocks,
                [&](int64_t index, int thread) { fold_class_block(head, first, rows, index, thread); });
  if (head.wants_loss) {
    head.for_each(rows, [&](int64_t row, int) { finish_row(head, first + row, merged_state(head, row)); });
  }
  if (!has_gradients(head.p)) return;
  head.for_each(blocks, [&](int64_t index, int) { weight_of_class_block(head, first, rows, index); });
  if (head.p.grad_hidden != nullptr) hidden_by_features(head, first, rows);
}

}  // namespace paddle_infra
