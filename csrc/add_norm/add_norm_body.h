// Normalization of a sum for some rows. No include guard: see common/foreach_target.h.

#include "common/norm_body.h"

struct SummedRow {
  const float* x;  // padded
  double sum;
};

// residual + factor * hidden; residual, factor or both may be missing (null).
PI_INLINE SummedRow summed_row(const float* hidden, const float* residual, const float* factor, int64_t size,
                               float* memory) {
  const auto dropped = [&](int64_t i, int64_t count) {
    return load_first(hidden + i, count) * load(factor + i);
  };
  if (residual != nullptr && factor != nullptr) {
    return {memory, build_row(size, memory, [&](int64_t i, int64_t count) {
              return load_first(residual + i, count) + dropped(i, count);
            })};
  }
  if (residual != nullptr) {
    return {memory, build_row(size, memory, [&](int64_t i, int64_t count) {
              return load_first(residual + i, count) + load_first(hidden + i, count);
            })};
  }
  if (factor != nullptr) return {memory, build_row(size, memory, dropped)};
  const float* x = padded_row(hidden, size, memory);
  return {x, sum_of_row(x, size)};
}

// What dropout multiplies this row with; null without dropout.
static const float* factor_row(const AddNormParams& p, int64_t row, float* memory) {
  if (p.dropout_p == 0.0f) return nullptr;
  dropout_factors(*p.seed, row, p.dropout_p, p.size, memory);
  return memory;
}

static void fwd_rows(const AddNormParams& p, const NormWeights& weights, RowRange rows,
                     const RowMemory& memory) {
  const int64_t size = p.size;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const float* factor = factor_row(p, r, memory.factor);
    const SummedRow row =
        summed_row(row_at(p.hidden, r, size), row_at(p.residual, r, size), factor, size, memory.x);
    p.stats[r] = norm_stats(row.x, row.sum, size, p.is_rms, p.epsilon);
    norm_fwd(row.x, p.stats[r], weights.weight, weights.bias, nullptr, size, p.out + r * size);
    if (p.sum == nullptr) continue;
    float* sum = p.sum + r * size;
    for_each_vector(size, [&](int64_t i, int64_t count) { store_first(sum + i, load(row.x + i), count); });
  }
}

// Writes grad_x of a vector, plus the gradient of the sum itself, to where it is wanted.
PI_INLINE void emit_grads(const AddNormParams& p, int64_t row, const float* factor, int64_t i, int64_t count,
                          Vec grad_x) {
  const int64_t at = row * p.size + i;
  if (p.grad_sum != nullptr) grad_x += load_first(p.grad_sum + at, count);
  if (p.grad_residual != nullptr) store_first(p.grad_residual + at, grad_x, count);
  if (factor != nullptr) grad_x *= load(factor + i);
  store_first(p.grad_hidden + at, grad_x, count);
}

// Adds the shares of these rows to the sums for weight and bias, which are padded rows.
static void bwd_rows(const AddNormParams& p, const float* weight, RowRange rows, const RowMemory& memory,
                     float* weight_sum, float* bias_sum) {
  const int64_t size = p.size;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const float* factor = factor_row(p, r, memory.factor);
    const float* x =
        p.sum != nullptr
            ? padded_row(p.sum + r * size, size, memory.x)
            : summed_row(row_at(p.hidden, r, size), row_at(p.residual, r, size), factor, size, memory.x).x;
    const float* grad_out = padded_row(p.grad_out + r * size, size, memory.grad_out);
    norm_bwd(x, p.stats[r], p.is_rms, weight, grad_out, size, memory.scaled, memory.grad_weight,
             memory.grad_bias,
             [&](int64_t i, int64_t count, Vec grad_x) { emit_grads(p, r, factor, i, count, grad_x); });
    if ((r - rows.begin) % kRowsPerSum == kRowsPerSum - 1 || r + 1 == rows.end) {
      flush_sums(memory.grad_weight, weight_sum, size);
      flush_sums(memory.grad_bias, bias_sum, size);
    }
  }
}

static constexpr AddNormKernel kKernel{fwd_rows, bwd_rows, sum_rows};
