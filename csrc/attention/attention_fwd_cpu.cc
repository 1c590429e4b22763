// Forward attention on the CPU: tasks, threads, choice of the instruction set.
//
// A task is a few panels of queries of one head.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "attention/attention_plan.h"
#include "common/cpu_target.h"
#include "common/dropout_hash.h"
#include "common/task_threads.h"

namespace paddle_infra {
namespace {

// Of a second-level cache of 1 MB: keys and values, and of the queries in work outputs and packed queries.
constexpr int64_t kChunkBytes = 256 << 10;
constexpr int64_t kPanelBytes = 256 << 10;

struct FwdKernel {
  int64_t (*bytes)(const FwdPlan& plan);
  void (*task)(const AttentionParams& p, const FwdPlan& plan, int64_t b, int64_t head, Range queries,
               void* memory);
  void (*begin_thread)();
  void (*end_thread)();
};

#define PI_TARGET_BODY "attention/attention_fwd_body.h"
#define PI_TARGET_BF16
#include "common/foreach_target.h"

const FwdKernel& kernel_for(MatmulPrecision precision) {
  const bool medium = precision == MatmulPrecision::kMedium;
  if (medium && cpu_target() == CpuTarget::kEmulateAmx) return emulate_amx::kMedium;
#if defined(__x86_64__)
  if (medium && cpu_target() == CpuTarget::kAmx) return amx::kMedium;
  if (medium && cpu_target() == CpuTarget::kAvx512Bf16) return avx512_bf16::kMedium;
  if (float_target() == CpuTarget::kAvx512) return medium ? avx512::kMedium : avx512::kHighest;
  if (float_target() == CpuTarget::kAvx2) return medium ? avx2::kMedium : avx2::kHighest;
#endif
  return medium ? portable::kMedium : portable::kHighest;
}

// Large tasks use a packed chunk of keys more often; small ones keep all threads busy.
FwdPlan make_plan(const AttentionParams& p) {
  FwdPlan plan{padded_dim(p), chunk_keys(p, kChunkBytes), 1};
  const int64_t most = std::min(ceil_div(p.seq_q, kPanel), kPanelBytes / (2 * 4 * kPanel * plan.dim));
  const int64_t heads = p.batch * p.heads, wanted = 4 * p.threads;
  plan.panels = std::max<int64_t>(1, std::min(most, heads * ceil_div(p.seq_q, kPanel) / wanted));
  return plan;
}

// First task of every sequence, and the number of all.
int64_t number_tasks(const AttentionParams& p, int64_t rows, int64_t* first_of) {
  int64_t tasks = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    first_of[b] = tasks;
    tasks += p.heads * ceil_div(sequence_of(p, b).q_rows, rows);
  }
  return tasks;
}

void run_task(const AttentionParams& p, const FwdPlan& plan, const FwdKernel& kernel, const int64_t* first_of,
              int64_t task, void* memory) {
  const int64_t b = std::upper_bound(first_of, first_of + p.batch, task) - first_of - 1;
  const int64_t rows = sequence_of(p, b).q_rows, size = plan.panels * kPanel, groups = ceil_div(rows, size);
  const int64_t head = (task - first_of[b]) / groups;
  // The last queries of a causal sequence have most work: first, so that no thread starts with them at the
  // end.
  const int64_t group = groups - 1 - (task - first_of[b]) % groups;
  kernel.task(p, plan, b, head, {group * size, std::min(rows, (group + 1) * size)}, memory);
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::AttentionParams;

int64_t paddle_infra_attention_cpu_fwd_workspace(const AttentionParams* params) {
  using namespace paddle_infra;
  const int64_t each = kernel_for(params->precision).bytes(make_plan(*params));
  return round_up(8 * params->batch, 64) + params->threads * each;
}

void paddle_infra_attention_cpu_fwd(const AttentionParams* params) {
  using namespace paddle_infra;
  const AttentionParams& p = *params;
  const FwdKernel& kernel = kernel_for(p.precision);
  const FwdPlan plan = make_plan(p);
  Arena arena(p.workspace);
  auto* first_of = arena.take<int64_t>(p.batch);
  const int64_t tasks = number_tasks(p, plan.panels * kPanel, first_of), each = kernel.bytes(plan);
  char* memory = arena.take<char>(p.threads * each);
  const auto task = [&](int64_t index, int thread) {
    run_task(p, plan, kernel, first_of, index, memory + thread * each);
  };
  run_tasks(p.threads, tasks, kernel.begin_thread, task, kernel.end_thread);
}

uint32_t paddle_infra_attention_dropout_bits(int64_t seed, int64_t head, int64_t i, int64_t j) {
  using namespace paddle_infra;
  const uint32_t key = dropout_row_key(dropout_group_key(seed, head), i);
  return dropout_mix(key + kColumnStep * static_cast<uint32_t>(j));
}
