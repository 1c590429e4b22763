// Embedding and normalization on the CPU: tasks, threads, choice of the instruction set.
//
// A task is a block of tokens. Backward, the gradients of the tokens' sums are made first, by blocks of
// tokens, while others clear the gradients of the tables; then tasks that each have some columns add them to
// the tables. No result depends on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/cpu_target.h"
#include "common/dropout_hash.h"
#include "common/norm_plan.h"
#include "common/task_threads.h"
#include "embedding_norm/embedding_norm.h"

namespace paddle_infra {
namespace {

constexpr int64_t kColumns = 64;               // of a task that adds to tables: whole cache lines
constexpr int64_t kClearedElements = 1 << 18;  // of a task that clears tables

// The rows that a token reads.
struct TokenRows {
  int64_t word, position, token_type;
};

inline int64_t row_in(const EmbeddingTable& table, int64_t b, int64_t s, int64_t otherwise) {
  return table.index != nullptr ? table.index[b * table.batch_stride + s] : otherwise;
}

inline TokenRows rows_of_token(const EmbeddingNormParams& p, int64_t token) {
  const int64_t b = token / p.sequence, s = token % p.sequence;
  return {row_in(p.word, b, s, 0), row_in(p.position, b, s, s), row_in(p.token_type, b, s, 0)};
}

struct EmbeddingNormKernel {
  void (*fwd)(const EmbeddingNormParams& p, const NormWeights& weights, RowRange rows,
              const RowMemory& memory);
  void (*bwd)(const EmbeddingNormParams& p, const float* weight, RowRange rows, const RowMemory& memory,
              float* grad_x, float* weight_sum, float* bias_sum);
  void (*scatter)(const EmbeddingNormParams& p, const float* grad_x, int64_t begin, int64_t end);
  void (*sum_rows)(const float* from, int64_t rows, int64_t stride, int64_t size, float* to);
};

#define PI_TARGET_BODY "embedding_norm/embedding_norm_body.h"
#include "common/foreach_target.h"

const EmbeddingNormKernel& kernel_for_processor() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

int64_t tokens_of(const EmbeddingNormParams& p) { return p.batch * p.sequence; }

int64_t blocks_of(const EmbeddingNormParams& p) {
  return ceil_div(tokens_of(p), rows_per_block(tokens_of(p), p.size));
}

// The gradients of the tables, cut into pieces to be cleared.
class TablePieces {
 public:
  explicit TablePieces(const EmbeddingNormParams& p) : tables_{&p.word, &p.position, &p.token_type} {
    for (int t = 0; t < 3; ++t) {
      elements_[t] = tables_[t]->grad != nullptr ? tables_[t]->count * p.size : 0;
      count_ += ceil_div(elements_[t], kClearedElements);
    }
  }

  int64_t count() const { return count_; }

  void clear(int64_t piece) const {
    int t = 0;
    for (; piece >= ceil_div(elements_[t], kClearedElements); ++t) {
      piece -= ceil_div(elements_[t], kClearedElements);
    }
    const int64_t begin = piece * kClearedElements, end = std::min(elements_[t], begin + kClearedElements);
    std::memset(tables_[t]->grad + begin, 0, (end - begin) * sizeof(float));
  }

 private:
  const EmbeddingTable* tables_[3];
  int64_t elements_[3], count_ = 0;
};

constexpr auto kNothing = [] {};

}  // namespace
}  // namespace paddle_infra

using paddle_infra::EmbeddingNormParams;

int64_t paddle_infra_embedding_norm_cpu_fwd_workspace(const EmbeddingNormParams* params) {
  using namespace paddle_infra;
  return NormWeights::bytes(params->size) + params->threads * RowMemory::bytes(params->size);
}

int64_t paddle_infra_embedding_norm_cpu_bwd_workspace(const EmbeddingNormParams* params) {
  using namespace paddle_infra;
  const int64_t rows = 2 * blocks_of(*params) + tokens_of(*params);
  return paddle_infra_embedding_norm_cpu_fwd_workspace(params) + rows * 4 * padded_size(params->size);
}

void paddle_infra_embedding_norm_cpu_fwd(const EmbeddingNormParams* params) {
  using namespace paddle_infra;
  const EmbeddingNormParams& p = *params;
  const EmbeddingNormKernel& kernel = kernel_for_processor();
  Arena arena(p.workspace);
  const NormWeights weights(p.weight, p.bias, p.size, arena.take<float>(2 * padded_size(p.size)));
  char* memory = arena.take<char>(p.threads * RowMemory::bytes(p.size));
  const auto task = [&](int64_t block, int thread) {
    const RowMemory own(memory + thread * RowMemory::bytes(p.size), p.size);
    kernel.fwd(p, weights, block_of(block, tokens_of(p), p.size), own);
  };
  run_tasks(p.threads, blocks_of(p), kNothing, task, kNothing);
}

void paddle_infra_embedding_norm_cpu_bwd(const EmbeddingNormParams* params) {
  using namespace paddle_infra;
  const EmbeddingNormParams& p = *params;
  const EmbeddingNormKernel& kernel = kernel_for_processor();
  const TablePieces pieces(p);
  const int64_t blocks = blocks_of(p), row = padded_size(p.size);
  Arena arena(p.workspace);
  const NormWeights weights(p.weight, p.bias, p.size, arena.take<float>(2 * row));
  char* memory = arena.take<char>(p.threads * RowMemory::bytes(p.size));
  float* sums = arena.take<float>(blocks * 2 * row);  // of each block: for weight, for bias
  float* grad_x = arena.take<float>(tokens_of(p) * row);
  const auto task = [&](int64_t index, int thread) {
    if (index < pieces.count()) return pieces.clear(index);
    const int64_t block = index - pieces.count();
    const RowMemory own(memory + thread * RowMemory::bytes(p.size), p.size);
    float* sum = sums + block * 2 * row;
    std::memset(sum, 0, 2 * 4 * row);
    own.clear_sums(p.size);
    kernel.bwd(p, weights.weight, block_of(block, tokens_of(p), p.size), own, grad_x, sum, sum + row);
  };
  run_tasks(p.threads, pieces.count() + blocks, kNothing, task, kNothing);
  const auto add = [&](int64_t index, int) {
    kernel.scatter(p, grad_x, index * kColumns, std::min(p.size, (index + 1) * kColumns));
  };
  run_tasks(p.threads, ceil_div(p.size, kColumns), kNothing, add, kNothing);
  kernel.sum_rows(sums, blocks, 2 * row, p.size, p.grad_weight);
  kernel.sum_rows(sums + row, blocks, 2 * row, p.size, p.grad_bias);
}
