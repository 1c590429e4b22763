// Memory of operators that normalize rows: of each thread, and what threads share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common/norm_stats.h"

namespace paddle_infra {

// A row of a dense matrix; null if there is no matrix.
template <class Number>
inline Number* row_at(Number* matrix, int64_t row, int64_t size) {
  return matrix == nullptr ? nullptr : matrix + row * size;
}

struct RowRange {
  int64_t begin, end;
};

inline RowRange block_of(int64_t block, int64_t rows, int64_t size) {
  const int64_t step = rows_per_block(rows, size);
  return {block * step, std::min(rows, (block + 1) * step)};
}

// Padded rows of one thread.
struct RowMemory {
  float *x, *factor, *grad_out, *scaled, *grad_weight, *grad_bias;

  static int64_t bytes(int64_t size) { return 6 * 4 * padded_size(size); }

  RowMemory(char* memory, int64_t size) {
    const int64_t step = padded_size(size);
    x = reinterpret_cast<float*>(memory);
    factor = x + step;
    grad_out = factor + step;
    scaled = grad_out + step;
    grad_weight = scaled + step;
    grad_bias = grad_weight + step;
  }

  // Before the first row: sums start at 0.
  void clear_sums(int64_t size) const { std::memset(grad_weight, 0, 2 * 4 * padded_size(size)); }
};

// Weight and bias as padded rows, zeros for none.
struct NormWeights {
  const float *weight, *bias;

  static int64_t bytes(int64_t size) { return 2 * 4 * padded_size(size); }

  NormWeights(const float* weight_or_null, const float* bias_or_null, int64_t size, float* memory)
      : weight(padded(weight_or_null, size, memory)),
        bias(padded(bias_or_null, size, memory + padded_size(size))) {}

 private:
  static const float* padded(const float* from, int64_t size, float* memory) {
    if (from != nullptr && size == padded_size(size)) return from;
    std::memset(memory, 0, 4 * padded_size(size));
    if (from != nullptr) std::memcpy(memory, from, 4 * size);
    return memory;
  }
};

}  // namespace paddle_infra
