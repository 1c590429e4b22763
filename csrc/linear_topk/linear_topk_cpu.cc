// The k most probable classes on the CPU: tasks, threads, choice of the instruction set.
//
// A task is a group of rows and a split of the classes. It takes a block of classes after the other, and for
// each of those a block of rows after the other: products into a small buffer, which is used and forgotten.
// Groups and splits depend on sizes only, so results do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "linear_topk/linear_topk.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/arena.h"
#include "common/cpu_target.h"
#include "common/gemm.h"
#include "common/task_threads.h"
#include "linear_topk/linear_topk_rows.h"

namespace paddle_infra {
namespace {

constexpr int64_t kRowBlock = 128, kClassBlock = 1024;  // products that exist at a time: 512 KB
constexpr int64_t kSmallClassBlock = 256;               // for few classes, so that there are several tasks
constexpr int64_t kMostGroup = 1024;                    // rows of a task: they share blocks of classes
constexpr int64_t kTasks = 32;                          // wanted
constexpr int64_t kFewestCandidates = 64;               // kept before the best are chosen
constexpr int64_t kFinishedClasses = 4096;              // of a task that puts splits together
constexpr int64_t kFewRows = 8;                         // up to here reading the weight takes the time

struct TopkKernel {
  // By whether there are a bias and a softcap.
  void (*take_row[2][2])(float* z, int64_t count, int64_t first, const float* bias, float softcap,
                         const Candidates& all, RowState* row);
  void (*to_bf16)(const float* from, int64_t count, uint16_t* to);
};

#define PI_TARGET_BODY "linear_topk/linear_topk_body.h"
#include "common/foreach_target.h"

const TopkKernel& kernel() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

struct Plan {
  explicit Plan(const LinearTopkParams& p)
      : is_rounded(p.precision == MatmulPrecision::kMedium && p.rows > kFewRows),
        block(p.classes > 4 * kClassBlock ? kClassBlock : kSmallClassBlock),
        capacity(std::max(2 * p.k, kFewestCandidates)) {
    // Candidates of all splits may take an eighth of what the logits would, or 1 MB.
    const int64_t row_bytes = p.rows * (capacity * static_cast<int64_t>(sizeof(Candidate)) +
                                        static_cast<int64_t>(sizeof(RowState)));
    const int64_t budget = std::max<int64_t>(1 << 20, p.rows * p.classes / 2);
    const int64_t blocks = ceil_div(p.classes, block);
    const int64_t wanted = std::max<int64_t>(1, std::min({blocks, kTasks, budget / row_bytes}));
    split = ceil_div(blocks, wanted) * block;
    splits = ceil_div(p.classes, split);
    group = kMostGroup;
    while (group > kRowBlock && ceil_div(p.rows, group) * splits < kTasks) group /= 2;
    groups = ceil_div(p.rows, group);
    row_block = std::min(p.rows, kRowBlock);
  }
  bool is_rounded;  // to bfloat16
  int64_t block, capacity, split, splits, group, groups, row_block;
};

// The scratch memory of one thread.
struct TaskSpace {
  TaskSpace(const LinearTopkParams& p, const Plan& plan, void* base) {
    Arena arena(base);
    products = arena.take<float>(plan.row_block * plan.block);
    if (plan.is_rounded) {
      hidden = arena.take<uint16_t>(std::min(p.rows, plan.group) * p.hidden_size);
      weight = arena.take<uint16_t>(plan.block * p.hidden_size);
    }
    bytes = arena.used();
  }
  float* products;
  uint16_t *hidden = nullptr, *weight = nullptr;
  int64_t bytes;
};

struct Workspace {
  Workspace(const LinearTopkParams& p, const Plan& plan, void* base)
      : each(TaskSpace(p, plan, nullptr).bytes) {
    Arena arena(base);
    rows = arena.take<RowState>(plan.splits * p.rows);
    candidates = arena.take<Candidate>(plan.splits * p.rows * plan.capacity);
    memory = arena.take<char>(p.threads * each);
    bytes = arena.used();
  }
  int64_t each, bytes;
  RowState* rows;         // [split][row]
  Candidate* candidates;  // [split][row][capacity]
  char* memory;
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Classes [begin, end) of the weight as the right side of products with rows of hidden, as bfloat16.
void round_weight(const LinearTopkParams& p, const Plan& plan, Range classes, uint16_t* to) {
  if (!p.weight_is_dv) {
    kernel().to_bf16(p.weight + classes.begin * p.hidden_size, classes.size() * p.hidden_size, to);
    return;
  }
  for (int64_t d = 0; d < p.hidden_size; ++d) {
    kernel().to_bf16(p.weight + d * p.classes + classes.begin, classes.size(), to + d * plan.block);
  }
}

// Products of a block of rows, counted from `first` for the rounded ones, with a block of classes.
void multiply(const LinearTopkParams& p, const Plan& plan, const TaskSpace& space, int64_t first, Range rows,
              Range classes) {
  GemmShape shape{rows.size(), classes.size(), p.hidden_size, p.hidden_size, 0, plan.block};
  shape.transpose_b = !p.weight_is_dv;
  if (plan.is_rounded) {
    shape.ldb = p.weight_is_dv ? plan.block : p.hidden_size;
    gemm(shape, space.hidden + (rows.begin - first) * p.hidden_size, space.weight, space.products);
    return;
  }
  shape.ldb = p.weight_is_dv ? p.classes : p.hidden_size;
  const float* weight = p.weight + classes.begin * (p.weight_is_dv ? 1 : p.hidden_size);
  gemm(shape, p.hidden + rows.begin * p.hidden_size, weight, space.products);
}

void run_task(const LinearTopkParams& p, const Plan& plan, const Workspace& workspace, int64_t task,
              void* memory) {
  const TaskSpace space(p, plan, memory);
  const int64_t part = task % plan.splits, first = task / plan.splits * plan.group;
  const Range all_rows{first, std::min(p.rows, first + plan.group)};
  const Range all_classes{part * plan.split, std::min(p.classes, (part + 1) * plan.split)};
  RowState* rows = workspace.rows + part * p.rows;
  Candidate* candidates = workspace.candidates + part * p.rows * plan.capacity;
  const auto take_row = kernel().take_row[p.bias != nullptr][p.softcap > 0.0f];
  for (int64_t i = all_rows.begin; i < all_rows.end; ++i) rows[i] = RowState();
  if (plan.is_rounded) {
    kernel().to_bf16(p.hidden + first * p.hidden_size, all_rows.size() * p.hidden_size, space.hidden);
  }
  for (int64_t c = all_classes.begin; c < all_classes.end; c += plan.block) {
    const Range classes{c, std::min(all_classes.end, c + plan.block)};
    if (plan.is_rounded) round_weight(p, plan, classes, space.weight);
    for (int64_t r = all_rows.begin; r < all_rows.end; r += plan.row_block) {
      const Range block{r, std::min(all_rows.end, r + plan.row_block)};
      multiply(p, plan, space, first, block, classes);
      for (int64_t i = block.begin; i < block.end; ++i) {
        take_row(space.products + (i - r) * plan.block, classes.size(), c, p.bias ? p.bias + c : nullptr,
                 p.softcap, {candidates + i * plan.capacity, p.k, plan.capacity}, rows + i);
      }
    }
  }
  for (int64_t i = all_rows.begin; i < all_rows.end; ++i) {
    sort_candidates({candidates + i * plan.capacity, p.k, plan.capacity}, rows + i);
  }
}

// Puts the splits of a row together, in their order, and writes the result.
void finish_row(const LinearTopkParams& p, const Plan& plan, const Workspace& workspace, int64_t i) {
  const Candidates all{workspace.candidates + i * plan.capacity, p.k, plan.capacity};
  RowState* row = workspace.rows + i;
  for (int64_t part = 1; part < plan.splits; ++part) {
    const int64_t at = part * p.rows + i;
    merge_rows(all, row, workspace.candidates + at * plan.capacity, workspace.rows[at]);
  }
  write_row(p, i, all, row);
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::LinearTopkParams;

int64_t paddle_infra_linear_topk_cpu_workspace(const LinearTopkParams* params) {
  using namespace paddle_infra;
  return Workspace(*params, Plan(*params), nullptr).bytes;
}

void paddle_infra_linear_topk_cpu(const LinearTopkParams* params) {
  using namespace paddle_infra;
  const LinearTopkParams& p = *params;
  const Plan plan(p);
  const Workspace workspace(p, plan, p.workspace);
  const auto none = [] {};
  const auto task = [&](int64_t index, int thread) {
    run_task(p, plan, workspace, index, workspace.memory + thread * workspace.each);
  };
  run_tasks(p.threads, plan.groups * plan.splits, none, task, none);
  const int64_t together = std::max<int64_t>(1, kFinishedClasses / (p.k * plan.splits));
  const auto finish = [&](int64_t index, int) {
    const int64_t end = std::min(p.rows, (index + 1) * together);
    for (int64_t i = index * together; i < end; ++i) finish_row(p, plan, workspace, i);
  };
  run_tasks(p.threads, ceil_div(p.rows, together), none, finish, none);
}
