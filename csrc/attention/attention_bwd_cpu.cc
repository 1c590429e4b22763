// Gradients of attention on the CPU: tasks, threads, choice of the instruction set.
//
// With enough heads for all threads, a task is a key-value head: five products make all of its gradients.
// With few, some tasks make grad_k and grad_v of a chunk of keys and others grad_q of a few panels of
// queries: seven products, but any number of threads has work. Every number is summed in the same order in
// both cases, so results are the same bit for bit. A bias that several heads or entries of the batch share
// gets its gradient from tasks of its own, each of which alone writes its part.
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

constexpr int64_t kChunkBytes = 128 << 10;  // of keys and values; as much again of their gradients
constexpr int64_t kQueryGroup = 4 * kPanel;

struct BwdKernel {
  int64_t (*bytes)(const AttentionParams& p, const BwdPlan& plan);
  void (*task)(const AttentionParams& p, const BwdPlan& plan, const BwdTask& task, void* memory);
  void (*begin_thread)();
  void (*end_thread)();
};

#define PI_TARGET_BODY "attention/attention_bwd_body.h"
#define PI_TARGET_BF16
#include "common/foreach_target.h"

const BwdKernel& kernel_for(MatmulPrecision precision) {
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

// A task for each of several entries of the batch and key-value heads, one after another.
struct Work {
  BwdTask task;  // the first
  int64_t batches, kv_heads;
};

bool is_shared(const AttentionParams& p, int axis) { return p.grad_bias_stride[axis] == 0; }

// Whether no two key-value heads add to the same part of grad_bias.
bool bias_is_exclusive(const AttentionParams& p) {
  return (p.batch == 1 || !is_shared(p, 0)) && (p.kv_heads == 1 || !is_shared(p, 1));
}

BwdPlan make_plan(const AttentionParams& p) {
  BwdPlan plan{padded_dim(p), chunk_keys(p, kChunkBytes), false, nullptr};
  // Rounds of whole heads at five products against an even share of seven.
  const int64_t heads = p.batch * p.kv_heads;
  plan.is_by_head = ceil_div(heads, p.threads) * p.threads * 5 <= heads * 7;
  return plan;
}

// Lists all work, the largest pieces of causal attention first; returns how many there are.
class WorkList {
 public:
  explicit WorkList(Work* list) : list_(list) {}

  int64_t fill(const AttentionParams& p, const BwdPlan& plan) {
    const bool bias_with_heads = p.grad_bias != nullptr && plan.is_by_head && bias_is_exclusive(p);
    for (int64_t b = 0; b < p.batch; ++b) {
      const Sequence seq = sequence_of(p, b);
      for (int64_t h = 0; h < p.kv_heads; ++h) {
        plan.is_by_head ? add_head(p, seq, b, h, bias_with_heads) : add_parts(p, plan, seq, b, h);
      }
    }
    if (p.grad_bias != nullptr && !bias_with_heads) add_bias(p, plan);
    return count_;
  }

 private:
  static Range heads_of(const AttentionParams& p, int64_t kv_head) {
    const int64_t group = p.heads / p.kv_heads;
    return {kv_head * group, (kv_head + 1) * group};
  }

  void add(const Work& work) {
    if (list_ != nullptr) list_[count_] = work;
    ++count_;
  }

  void add_head(const AttentionParams& p, const Sequence& seq, int64_t b, int64_t h, bool wants_bias) {
    add({{b, h, heads_of(p, h), {0, seq.q_rows}, {0, seq.k_rows}, true, true, wants_bias}, 1, 1});
  }

  void add_parts(const AttentionParams& p, const BwdPlan& plan, const Sequence& seq, int64_t b, int64_t h) {
    for (int64_t key = 0; key < seq.k_rows; key += plan.chunk) {
      const Range keys{key, std::min(key + plan.chunk, seq.k_rows)};
      add({{b, h, heads_of(p, h), {0, seq.q_rows}, keys, false, true, false}, 1, 1});
    }
    const Range heads = heads_of(p, h);
    for (int64_t head = heads.begin; head < heads.end; ++head) {
      for (int64_t i = round_up(seq.q_rows, kQueryGroup) - kQueryGroup; i >= 0; i -= kQueryGroup) {
        const Range queries{i, std::min(i + kQueryGroup, seq.q_rows)};
        add({{b, h, {head, head + 1}, queries, {0, seq.k_rows}, true, false, false}, 1, 1});
      }
    }
  }

  // One piece of work for every part of grad_bias.
  void add_bias(const AttentionParams& p, const BwdPlan& plan) {
    const int64_t batches = is_shared(p, 0) ? p.batch : 1, step = is_shared(p, 3) ? p.seq_k : plan.chunk;
    for (int64_t b = 0; b < p.batch; b += batches) {
      for (int64_t head = 0; head < (is_shared(p, 1) ? 1 : p.heads); ++head) {
        const int64_t kv_head = head / (p.heads / p.kv_heads);
        const Range heads = is_shared(p, 1) ? heads_of(p, 0) : Range{head, head + 1};
        for (int64_t key = 0; key < p.seq_k; key += step) {
          const Range keys{key, std::min(key + step, p.seq_k)};
          add({{b, kv_head, heads, {0, p.seq_q}, keys, false, false, true},
               batches,
               is_shared(p, 1) ? p.kv_heads : 1});
        }
      }
    }
  }

  Work* list_;
  int64_t count_ = 0;
};

void run_work(const AttentionParams& p, const BwdPlan& plan, const BwdKernel& kernel, const Work& work,
              void* memory) {
  const int64_t group = p.heads / p.kv_heads;
  for (int64_t b = 0; b < work.batches; ++b) {
    for (int64_t h = 0; h < work.kv_heads; ++h) {
      BwdTask task = work.task;
      task.b += b;
      task.kv_head += h;
      task.heads = {task.heads.begin + h * group, task.heads.end + h * group};
      kernel.task(p, plan, task, memory);
    }
  }
}

int64_t bias_elements(const AttentionParams& p) {
  const int64_t sizes[] = {p.batch, p.heads, p.seq_q, p.seq_k};
  int64_t count = 1;
  for (int axis = 0; axis < 4; ++axis) count *= is_shared(p, axis) ? 1 : sizes[axis];
  return count;
}

// The scratch memory; `base` null: only its size is wanted.
struct Workspace {
  Workspace(const AttentionParams& p, BwdPlan* plan, void* base) {
    Arena arena(base);
    count = WorkList(nullptr).fill(p, *plan);
    list = arena.take<Work>(count);
    if (p.dtype != DataType::kFloat32) {
      const int64_t rows = p.cu_seqlens_q != nullptr ? p.cu_seqlens_q[p.batch] : p.batch * p.seq_q;
      plan->grad_q = arena.take<float>(rows * p.heads * p.head_dim);
    }
    each = kernel_for(p.precision).bytes(p, *plan);
    memory = arena.take<char>(p.threads * each);
    bytes = arena.used();
  }

  Work* list;
  char* memory;
  int64_t count, each, bytes;
};

}  // namespace
}  // namespace paddle_infra

using paddle_infra::AttentionParams;

int64_t paddle_infra_attention_cpu_bwd_workspace(const AttentionParams* params) {
  using namespace paddle_infra;
  BwdPlan plan = make_plan(*params);
  return Workspace(*params, &plan, nullptr).bytes;
}

void paddle_infra_attention_cpu_bwd(const AttentionParams* params) {
  using namespace paddle_infra;
  const AttentionParams& p = *params;
  const BwdKernel& kernel = kernel_for(p.precision);
  BwdPlan plan = make_plan(p);
  const Workspace space(p, &plan, p.workspace);
  WorkList(space.list).fill(p, plan);
  if (p.grad_bias != nullptr) std::memset(p.grad_bias, 0, sizeof(float) * bias_elements(p));
  const auto task = [&](int64_t index, int thread) {
    run_work(p, plan, kernel, space.list[index], space.memory + thread * space.each);
  };
  run_tasks(p.threads, space.count, kernel.begin_thread, task, kernel.end_thread);
}
