// A linear layer in int8 on the CPU: tasks, threads, choice of the instruction set.
//
// First all rows are quantized. Then a task is a block of rows and columns: its products, and while those are
// in the cache, their scales, bias and activation. Sums are exact, so how work is cut changes no result.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "linear_int8/linear_int8.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/arena.h"
#include "common/cpu_target.h"
#include "common/gemm.h"
#include "common/task_threads.h"

namespace paddle_infra {
namespace {

constexpr int64_t kRowBlock = 256, kColumnBlock = 384;    // sums of a task: 384 KB
constexpr int64_t kFewestRows = 32, kFewestColumns = 96;  // products of less are slow
constexpr int64_t kQuantizedNumbers = 16 << 10;           // of a task: its reads fill the first-level cache
constexpr float kZeroRow = 1e-30f;

struct Int8Kernel {
  void (*quantize_row)(const float* x, int64_t depth, int8_t* codes, float* scale);
  // By activation and whether there is a bias.
  void (*finish_row[kActivations][2])(const int32_t* sums, int64_t columns, float row_scale,
                                      const float* scale, const float* bias, float* y);
};

#define PI_TARGET_BODY "linear_int8/linear_int8_body.h"
#include "common/foreach_target.h"

const Int8Kernel& kernel() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

// Blocks as large as leave several for every thread.
struct Plan {
  explicit Plan(const LinearInt8Params& p)
      : rows(std::min(p.rows, kRowBlock)), columns(std::min(p.columns, kColumnBlock)) {
    const int64_t wanted = p.threads == 1 ? 1 : 2 * p.threads;
    while (columns > kFewestColumns && blocks(p) < wanted) columns = round_up(columns / 2, kFewestColumns);
    while (rows > kFewestRows && blocks(p) < wanted) rows = ceil_div(rows, 2);
    across = ceil_div(p.columns, columns);
  }
  int64_t blocks(const LinearInt8Params& p) const {
    return ceil_div(p.rows, rows) * ceil_div(p.columns, columns);
  }
  int64_t rows, columns, across;
};

struct Workspace {
  Workspace(const LinearInt8Params& p, const Plan& plan, void* base) {
    Arena arena(base);
    codes = arena.take<int8_t>(p.rows * p.depth);
    scales = arena.take<float>(p.rows);
    each = round_up(plan.rows * plan.columns, 16);
    sums = arena.take<int32_t>(p.threads * each);
    bytes = arena.used();
  }
  int64_t each, bytes;
  int8_t* codes;  // [rows, depth]
  float* scales;  // [rows]
  int32_t* sums;  // [threads][rows of a block, columns of a block]
};

// All rows, by all threads: each takes some, and waits until there are none left in work. Within the team
// that goes on to multiply, because starting another one takes longer than the work of a small call.
class Quantization {
 public:
  Quantization(const LinearInt8Params& p, const Workspace& space)
      : p_(p),
        space_(space),
        together_(std::max<int64_t>(1, kQuantizedNumbers / p.depth)),
        parts_(ceil_div(p.rows, together_)) {}

  void run() {
    for (int64_t part = next_++; part < parts_; part = next_++) {
      const int64_t end = std::min(p_.rows, (part + 1) * together_);
      for (int64_t i = part * together_; i < end; ++i) {
        kernel().quantize_row(p_.x + i * p_.depth, p_.depth, space_.codes + i * p_.depth, space_.scales + i);
      }
      ++done_;
    }
    while (done_ < parts_) std::this_thread::yield();
  }

 private:
  const LinearInt8Params& p_;
  const Workspace& space_;
  const int64_t together_, parts_;
  std::atomic<int64_t> next_{0}, done_{0};
};

void run_block(const LinearInt8Params& p, const Plan& plan, const Workspace& space, int64_t index,
               int32_t* sums) {
  const int64_t row = index / plan.across * plan.rows, column = index % plan.across * plan.columns;
  const int64_t rows = std::min(plan.rows, p.rows - row),
                columns = std::min(plan.columns, p.columns - column);
  const GemmShape shape{rows, columns, p.depth, p.depth, p.columns, columns};
  gemm(shape, space.codes + row * p.depth, p.weight + column, sums);
  const auto finish = kernel().finish_row[static_cast<int>(p.activation)][p.bias != nullptr];
  for (int64_t i = 0; i < rows; ++i) {
    finish(sums + i * columns, columns, space.scales[row + i], p.weight_scale + column,
           p.bias ? p.bias + column : nullptr, p.y + (row + i) * p.columns + column);
  }
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::LinearInt8Params;

int64_t paddle_infra_linear_int8_cpu_workspace(const LinearInt8Params* params) {
  using namespace paddle_infra;
  return Workspace(*params, Plan(*params), nullptr).bytes;
}

void paddle_infra_linear_int8_cpu(const LinearInt8Params* params) {
  using namespace paddle_infra;
  const LinearInt8Params& p = *params;
  const Plan plan(p);
  const Workspace space(p, plan, p.workspace);
  Quantization quantization(p, space);
  const auto begin = [&] { quantization.run(); };
  const auto task = [&](int64_t index, int thread) {
    run_block(p, plan, space, index, space.sums + thread * space.each);
  };
  run_tasks(p.threads, plan.blocks(p), begin, task, [] {});
}
