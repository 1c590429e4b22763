// Embedding and normalization of some tokens. No include guard: see common/foreach_target.h.

#include "common/norm_body.h"

// Writes the sum of a token's rows, padded; returns the sum of that. Adds in the order of the plain
// implementation.
static double gather_row(const EmbeddingNormParams& p, const TokenRows& token, float* x) {
  const float* word = row_at(p.word.rows, token.word, p.size);
  const float* type = row_at(p.token_type.rows, token.token_type, p.size);
  const float* position = row_at(p.position.rows, token.position, p.size);
  if (type != nullptr && position != nullptr) {
    return build_row(p.size, x, [&](int64_t i, int64_t count) {
      return load_first(word + i, count) + load_first(type + i, count) + load_first(position + i, count);
    });
  }
  const float* other = type != nullptr ? type : position;
  return build_row(p.size, x, [&](int64_t i, int64_t count) {
    const Vec v = load_first(word + i, count);
    return other != nullptr ? v + load_first(other + i, count) : v;
  });
}

// What dropout multiplies this row of the result with; null without dropout.
static const float* factor_row(const EmbeddingNormParams& p, int64_t row, float* memory) {
  if (p.dropout_p == 0.0f) return nullptr;
  dropout_factors(*p.seed, row, p.dropout_p, p.size, memory);
  return memory;
}

static void fwd_rows(const EmbeddingNormParams& p, const NormWeights& weights, RowRange rows,
                     const RowMemory& memory) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const double sum = gather_row(p, rows_of_token(p, r), memory.x);
    p.stats[r] = norm_stats(memory.x, sum, p.size, p.is_rms, p.epsilon);
    const float* factor = factor_row(p, r, memory.factor);
    norm_fwd(memory.x, p.stats[r], weights.weight, weights.bias, factor, p.size, p.out + r * p.size);
  }
}

// The gradient of a row of the normalized result before dropout, padded.
static const float* upstream_row(const EmbeddingNormParams& p, int64_t row, const RowMemory& memory) {
  const float* grad_out = p.grad_out + row * p.size;
  const float* factor = factor_row(p, row, memory.factor);
  if (factor == nullptr) return padded_row(grad_out, p.size, memory.grad_out);
  for (int64_t i = 0; i < p.size; i += kLanes) {
    store(memory.grad_out + i, load_first(grad_out + i, p.size - i) * load(factor + i));
  }
  return memory.grad_out;
}

// Writes the gradients of these tokens' sums as padded rows of grad_x; adds the shares of these rows to the
// sums for weight and bias, which are padded rows.
static void bwd_rows(const EmbeddingNormParams& p, const float* weight, RowRange rows,
                     const RowMemory& memory, float* grad_x, float* weight_sum, float* bias_sum) {
  const int64_t size = p.size, step = padded_size(size);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    gather_row(p, rows_of_token(p, r), memory.x);
    const float* grad_out = upstream_row(p, r, memory);
    norm_bwd(memory.x, p.stats[r], p.is_rms, weight, grad_out, size, memory.scaled, memory.grad_weight,
             memory.grad_bias, [&](int64_t i, int64_t, Vec grad) { store(grad_x + r * step + i, grad); });
    if ((r - rows.begin) % kRowsPerSum == kRowsPerSum - 1 || r + 1 == rows.end) {
      flush_sums(memory.grad_weight, weight_sum, size);
      flush_sums(memory.grad_bias, bias_sum, size);
    }
  }
}

PI_INLINE void add_to(float* to, Vec v, int64_t count) { store_first(to, load_first(to, count) + v, count); }

// Adds these columns of all tokens' gradients to the tables' rows, token by token: nobody else writes these
// columns, so each number is summed in the order of the tokens.
static void scatter_columns(const EmbeddingNormParams& p, const float* grad_x, int64_t begin, int64_t end) {
  const int64_t step = padded_size(p.size), tokens = p.batch * p.sequence;
  for (int64_t r = 0; r < tokens; ++r) {
    const TokenRows token = rows_of_token(p, r);
    float* word = token.word == p.padding_idx ? nullptr : row_at(p.word.grad, token.word, p.size);
    float* type = row_at(p.token_type.grad, token.token_type, p.size);
    float* position = row_at(p.position.grad, token.position, p.size);
    for (int64_t i = begin; i < end; i += kLanes) {
      const Vec grad = load(grad_x + r * step + i);
      if (word != nullptr) add_to(word + i, grad, end - i);
      if (type != nullptr) add_to(type + i, grad, end - i);
      if (position != nullptr) add_to(position + i, grad, end - i);
    }
  }
}

static constexpr EmbeddingNormKernel kKernel{fwd_rows, bwd_rows, scatter_columns, sum_rows};
