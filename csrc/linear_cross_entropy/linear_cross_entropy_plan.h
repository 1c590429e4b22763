// How a head is cut into blocks on the CPU, and its scratch memory. Nothing here depends on the number of
// threads but memory that each has for itself.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/arena.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

namespace paddle_infra {

constexpr int64_t kFewClasses = 16;        // up to here a head is bound by memory, not by arithmetic
constexpr int64_t kMostRowClasses = 2048;  // up to here the logits of a block of rows stay in the cache
constexpr int64_t kRowBlock = 128;
constexpr int64_t kClassBlock = 1024;
constexpr int64_t kMostBlockClasses = kMostRowClasses > kClassBlock ? kMostRowClasses : kClassBlock;
constexpr int64_t kFeatureBlock = 256;
constexpr int64_t kHiddenStep = 192;  // features of a task of the gradient of hidden
constexpr int64_t kRangeBlocks = 4;   // blocks of classes of such a task, at least
constexpr int64_t kMostClassRanges = 8;
constexpr int64_t kFewRowBlock = 16;   // of few classes: these rows of hidden stay in the first-level cache
constexpr int64_t kFewRowGroup = 128;  // rows of a task, if there are not more than kFewGroups of them
constexpr int64_t kFewGroups = 16;
constexpr int64_t kLogitBytes = 8 << 20;
constexpr int64_t kFewestChunkRows = 32;
constexpr int64_t kWidest = 16;       // floats in the widest vector
constexpr float kMinusHuge = -1e30f;  // exp() of it is 0, and unlike -infinity it never makes a NaN

enum class HeadMode {
  kFew,      // one pass over the rows, with vectors along features
  kRows,     // a task makes the whole logits of a block of rows
  kColumns,  // a task makes a block of classes for all rows of a chunk
};

inline HeadMode mode_of(const LinearCrossEntropyParams& p) {
  if (p.classes <= kFewClasses) return HeadMode::kFew;
  return p.classes <= kMostRowClasses ? HeadMode::kRows : HeadMode::kColumns;
}

// Whether the gradients of logits are wanted; which of the others, each pointer says.
inline bool has_gradients(const LinearCrossEntropyParams& p) {
  return p.grad_hidden != nullptr || p.grad_weight != nullptr || p.grad_bias != nullptr;
}

inline bool is_medium(const LinearCrossEntropyParams& p) {
  return p.precision == MatmulPrecision::kMedium && mode_of(p) != HeadMode::kFew;
}

// Logits of a row, or of a block of classes of it, folded so far.
struct RowState {
  double sum, weighted;
  float max, target;
};

// A range of classes; arrays start at its first one.
struct ClassBlock {
  int64_t first, count, padded;  // padded: whole vectors
  const float* bias;             // [padded], 0 where there is none
  const float* class_weight;     // [padded], 1 where there is none, 0 in the padding
  double class_weight_sum;
};

// Rows whose logit gradients exist at the same time.
inline int64_t chunk_rows(const LinearCrossEntropyParams& p) {
  const int64_t classes = round_up(p.classes, kWidest);
  const int64_t bytes_per_row = classes * 4;
  // A twelfth of inputs and gradients: large heads go through their weights once per chunk.
  const int64_t share = 4 * 2 * p.hidden_size * (p.classes + p.rows) / 12;
  const int64_t budget = mode_of(p) == HeadMode::kColumns ? std::max(kLogitBytes, share) : kLogitBytes;
  const int64_t rows = std::max(kFewestChunkRows, budget / bytes_per_row);
  // A whole number of blocks where there is more than one.
  const int64_t whole = rows > kRowBlock ? rows / kRowBlock * kRowBlock : rows;
  return std::max<int64_t>(1, std::min(whole, p.rows));
}

// Rows of a task of few classes.
inline int64_t few_group_rows(const LinearCrossEntropyParams& p) {
  return std::max(kFewRowGroup, round_up(ceil_div(p.rows, kFewGroups), kFewRowBlock));
}

// The scratch memory; `p.workspace` null: only its size is wanted.
struct HeadSpace {
  explicit HeadSpace(const LinearCrossEntropyParams& p) {
    Arena arena(p.workspace);
    classes = round_up(p.classes, kWidest);
    features = round_up(p.hidden_size, kWidest);
    rows = chunk_rows(p);
    bias = arena.take<float>(classes);
    class_weight = arena.take<float>(classes);
    losses = arena.take<double>(p.rows);
    class_blocks = ceil_div(p.classes, kClassBlock);
    const bool few = mode_of(p) == HeadMode::kFew, columns = mode_of(p) == HeadMode::kColumns;
    if (few) {
      groups = ceil_div(p.rows, few_group_rows(p));
      weight = arena.take<float>(p.classes * features);
      partial_weight = arena.take<float>(groups * p.classes * features);
      partial_bias = arena.take<double>(groups * classes);
      bytes = arena.used();
      return;
    }
    states = arena.take<RowState>(rows * (columns ? class_blocks : 1));
    logits = arena.take<float>(rows * classes);
    bias_sums = arena.take<double>(classes);
    class_ranges = columns ? std::clamp<int64_t>(class_blocks / kRangeBlocks, 1, kMostClassRanges) : 1;
    // Every range begins within the classes.
    class_ranges = ceil_div(class_blocks, ceil_div(class_blocks, class_ranges));
    if (p.grad_hidden != nullptr)
      partial_hidden = arena.take<float>((class_ranges - 1) * rows * p.hidden_size);
    if (!columns) partial_bias = arena.take<double>(ceil_div(rows, kRowBlock) * classes);
    if (is_medium(p)) {
      hidden_bf16 = arena.take<uint16_t>(rows * p.hidden_size);
      weight_bf16 =
          arena.take<uint16_t>(columns ? p.threads * kClassBlock * p.hidden_size : p.classes * p.hidden_size);
    }
    bytes = arena.used();
  }

  int64_t classes, features, rows, class_blocks, class_ranges = 1, groups = 0, bytes;
  float *bias, *class_weight, *logits = nullptr, *weight = nullptr, *partial_weight = nullptr;
  float* partial_hidden = nullptr;
  double *losses, *bias_sums = nullptr, *partial_bias = nullptr;
  RowState* states = nullptr;
  uint16_t *hidden_bf16 = nullptr, *weight_bf16 = nullptr;
};

}  // namespace paddle_infra
