// What normalizing a row leaves for its backward pass, and how the work on rows is cut. See
// common/norm_body.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/arena.h"

namespace paddle_infra {

// Of a row x: normalized, it is ((x - mean) - rest) * rstd. `mean` is its mean as a float, `rest` what that
// lacks: rounding a mean of 1e4 would be an error of 5e-4 in every result. Both are 0 for an RMS norm.
struct NormStats {
  float mean, rest, rstd;
};

// Vectors of any instruction set fit into a row of this length.
inline int64_t padded_size(int64_t size) { return round_up(size, 16); }

// Rows per task. It depends on the shape alone, so sums over the rows of a task, and then over tasks, are
// the same for any number of threads. A task has enough work to be worth waking a thread, and there are at
// most kMostBlocks, which bounds the memory of partial sums.
constexpr int64_t kBlockElements = 16 << 10, kMostBlocks = 128;

inline int64_t rows_per_block(int64_t rows, int64_t size) {
  return std::max(std::max<int64_t>(1, kBlockElements / size), ceil_div(rows, kMostBlocks));
}

// Sums over rows run in steps of so many: rounding errors grow with the number of steps.
constexpr int64_t kRowsPerSum = 64;

}  // namespace paddle_infra
