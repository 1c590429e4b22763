// Normalization of a sum on the CPU: tasks, threads, choice of the instruction set.
//
// A task is a block of rows. Sums over rows (the gradients of weight and bias) are made within a block, and
// then over blocks, in an order that does not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "add_norm/add_norm.h"
#include "common/cpu_target.h"
#include "common/dropout_hash.h"
#include "common/norm_plan.h"
#include "common/task_threads.h"

namespace paddle_infra {
namespace {

struct AddNormKernel {
  void (*fwd)(const AddNormParams& p, const NormWeights& weights, RowRange rows, const RowMemory& memory);
  void (*bwd)(const AddNormParams& p, const float* weight, RowRange rows, const RowMemory& memory,
              float* weight_sum, float* bias_sum);
  void (*sum_rows)(const float* from, int64_t rows, int64_t stride, int64_t size, float* to);
};

#define PI_TARGET_BODY "add_norm/add_norm_body.h"
#include "common/foreach_target.h"

const AddNormKernel& kernel_for_processor() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

int64_t blocks_of(const AddNormParams& p) { return ceil_div(p.rows, rows_per_block(p.rows, p.size)); }

constexpr auto kNothing = [] {};

}  // namespace
}  // namespace paddle_infra

using paddle_infra::AddNormParams;

int64_t paddle_infra_add_norm_cpu_fwd_workspace(const AddNormParams* params) {
  using namespace paddle_infra;
  return NormWeights::bytes(params->size) + params->threads * RowMemory::bytes(params->size);
}

int64_t paddle_infra_add_norm_cpu_bwd_workspace(const AddNormParams* params) {
  using namespace paddle_infra;
  return paddle_infra_add_norm_cpu_fwd_workspace(params) +
         blocks_of(*params) * 2 * 4 * padded_size(params->size);
}

void paddle_infra_add_norm_cpu_fwd(const AddNormParams* params) {
  using namespace paddle_infra;
  const AddNormParams& p = *params;
  const AddNormKernel& kernel = kernel_for_processor();
  Arena arena(p.workspace);
  const NormWeights weights(p.weight, p.bias, p.size, arena.take<float>(2 * padded_size(p.size)));
  char* memory = arena.take<char>(p.threads * RowMemory::bytes(p.size));
  const auto task = [&](int64_t block, int thread) {
    const RowMemory own(memory + thread * RowMemory::bytes(p.size), p.size);
    kernel.fwd(p, weights, block_of(block, p.rows, p.size), own);
  };
  run_tasks(p.threads, blocks_of(p), kNothing, task, kNothing);
}

void paddle_infra_add_norm_cpu_bwd(const AddNormParams* params) {
  using namespace paddle_infra;
  const AddNormParams& p = *params;
  const AddNormKernel& kernel = kernel_for_processor();
  const int64_t blocks = blocks_of(p), row = padded_size(p.size);
  Arena arena(p.workspace);
  const NormWeights weights(p.weight, nullptr, p.size, arena.take<float>(2 * row));
  char* memory = arena.take<char>(p.threads * RowMemory::bytes(p.size));
  float* sums = arena.take<float>(blocks * 2 * row);  // of each block: for weight, for bias
  const auto task = [&](int64_t block, int thread) {
    const RowMemory own(memory + thread * RowMemory::bytes(p.size), p.size);
    float* sum = sums + block * 2 * row;
    std::memset(sum, 0, 2 * 4 * row);
    own.clear_sums(p.size);
    kernel.bwd(p, weights.weight, block_of(block, p.rows, p.size), own, sum, sum + row);
  };
  run_tasks(p.threads, blocks, kNothing, task, kNothing);
  kernel.sum_rows(sums, blocks, 2 * row, p.size, p.grad_weight);
  if (p.grad_bias != nullptr) kernel.sum_rows(sums + row, blocks, 2 * row, p.size, p.grad_bias);
}
