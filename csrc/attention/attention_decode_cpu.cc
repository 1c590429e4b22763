// Attention of few queries against a cache on the CPU: tasks, threads, choice of the instruction set.
//
// A task is a split of the keys of one key-value head. Splits do not depend on the number of threads, so
// results do not either.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "attention/attention_plan.h"
#include "common/cpu_target.h"
#include "common/task_threads.h"

namespace paddle_infra {
namespace {

constexpr int64_t kSplit = 512;      // keys
constexpr int64_t kDecodeHead = 16;  // floats before the output of a partial result: maximum, sum, alignment

// Queries that share a key-value head.
int64_t decode_rows(const AttentionParams& p) { return p.heads / p.kv_heads * p.seq_q; }

int64_t decode_partial_size(const AttentionParams& p) { return kDecodeHead + padded_dim(p); }

struct DecodeKernel {
  int64_t (*bytes)(const AttentionParams& p);
  void (*task)(const AttentionParams& p, int64_t b, int64_t kv_head, Range split, float* partials,
               void* memory);
  void (*combine)(const AttentionParams& p, int64_t b, int64_t kv_head, int64_t splits, float* partials);
};

#define PI_TARGET_BODY "attention/attention_decode_body.h"
#include "common/foreach_target.h"

const DecodeKernel& kernel() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

// The scratch memory; `base` null: only its size is wanted.
struct Workspace {
  Workspace(const AttentionParams& p, void* base) {
    Arena arena(base);
    splits = ceil_div(p.seq_k, kSplit);
    head = splits * decode_rows(p) * decode_partial_size(p);
    partials = splits > 1 ? arena.take<float>(p.batch * p.kv_heads * head) : nullptr;
    each = kernel().bytes(p);
    memory = arena.take<char>(p.threads * each);
    bytes = arena.used();
  }
  int64_t splits, head, each, bytes;  // head: floats of all partial results of a key-value head
  float* partials;
  char* memory;
};

}  // namespace
}  // namespace paddle_infra

using paddle_infra::AttentionParams;

int64_t paddle_infra_attention_decode_cpu_workspace(const AttentionParams* params) {
  return paddle_infra::Workspace(*params, nullptr).bytes;
}

void paddle_infra_attention_decode_cpu(const AttentionParams* params) {
  using namespace paddle_infra;
  const AttentionParams& p = *params;
  const Workspace space(p, p.workspace);
  const int64_t heads = p.batch * p.kv_heads, size = space.head / space.splits;
  const auto none = [] {};
  const auto task = [&](int64_t index, int thread) {
    const int64_t head = index / space.splits, split = index % space.splits;
    float* partials = space.partials ? space.partials + head * space.head + split * size : nullptr;
    kernel().task(p, head / p.kv_heads, head % p.kv_heads, {split * kSplit, (split + 1) * kSplit}, partials,
                  space.memory + thread * space.each);
  };
  run_tasks(p.threads, heads * space.splits, none, task, none);
  if (space.splits == 1) return;
  const auto combine = [&](int64_t head, int) {
    kernel().combine(p, head / p.kv_heads, head % p.kv_heads, space.splits,
                     space.partials + head * space.head);
  };
  run_tasks(p.threads, heads, none, combine, none);
}
