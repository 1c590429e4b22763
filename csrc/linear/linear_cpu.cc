// The linear layer on the CPU: blocks, threads, choice of the instruction set.
//
// Blocks depend on sizes only, and every number is summed by one thread in one order: results are the same
// bit for bit for any number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/arena.h"
#include "common/cpu_target.h"
#include "common/gemm.h"
#include "common/task_threads.h"
#include "linear/linear.h"

namespace paddle_infra {
namespace {

// A block of outputs, with what makes it, is in the second-level cache when the activation comes.
constexpr int64_t kRowBlock = 256, kColumnBlock = 384;
constexpr int64_t kFewestColumns = 128;
constexpr int64_t kEnoughTasks = 32;
constexpr int64_t kRoundBlock = 1 << 15;  // numbers rounded to bfloat16 by one task

struct LinearKernel {
  void (*round)(const float* from, int64_t count, uint16_t* to);
  void (*finish)(Activation activation, int64_t rows, int64_t columns, const float* bias, float* z,
                 int64_t z_stride, float* y, int64_t y_stride);
  void (*finish_gated)(int64_t rows, int64_t columns, const float* gate_bias, const float* up_bias,
                       float* gate, float* up, int64_t z_stride, float* y, int64_t y_stride);
  void (*gradient)(const LinearParams& p, Activation activation, int64_t first, int64_t rows, float* to,
                   uint16_t* to_bf16, float* sums);
};

#define PI_TARGET_BODY "linear/linear_body.h"
#include "common/foreach_target.h"

const LinearKernel& kernel() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

bool is_medium(const LinearParams& p) { return p.precision == MatmulPrecision::kMedium; }

Activation activation_of(const LinearParams& p) { return is_medium(p) ? rough(p.activation) : p.activation; }

int64_t columns_of_y(const LinearParams& p) {
  return p.activation == Activation::kSwiglu ? p.out / 2 : p.out;
}

const auto kNothing = [] {};

void round_in_tasks(const float* from, int64_t count, uint16_t* to, int threads) {
  const auto task = [&](int64_t index, int) {
    const int64_t at = index * kRoundBlock;
    kernel().round(from + at, std::min(kRoundBlock, count - at), to + at);
  };
  run_tasks(threads, ceil_div(count, kRoundBlock), kNothing, task, kNothing);
}

// Blocks of rows by groups of columns; a task does one group of one block.
struct Grid {
  int64_t rows, columns;  // of the whole
  int64_t group;          // columns of a task
  int64_t row_blocks, groups;

  Grid(int64_t rows, int64_t columns) : rows(rows), columns(columns) {
    row_blocks = ceil_div(rows, kRowBlock);
    const int64_t fewest = row_blocks <= 2 ? kFewestColumns : kColumnBlock;
    const int64_t most = std::max<int64_t>(1, columns / fewest);
    groups = std::min(most, ceil_div(kEnoughTasks, std::max<int64_t>(1, row_blocks)));
    group = round_up(ceil_div(columns, groups), 64);
    groups = ceil_div(columns, group);
  }

  int64_t tasks() const { return row_blocks * groups; }
};

struct Block {
  int64_t row, rows, column, columns;
};

Block block_of(const Grid& grid, int64_t task) {
  const int64_t row = task / grid.groups * kRowBlock, column = task % grid.groups * grid.group;
  return {row, std::min(kRowBlock, grid.rows - row), column, std::min(grid.group, grid.columns - column)};
}

// The scratch memory of the forward pass; `base` null: only its size is wanted.
struct FwdSpace {
  FwdSpace(const LinearParams& p, void* base) {
    Arena arena(base);
    if (is_medium(p)) {
      weight = p.weight_bf16 == nullptr ? arena.take<uint16_t>(p.in * p.out) : nullptr;
      x = arena.take<uint16_t>(p.threads * kRowBlock * p.in);
      row = arena.take<int64_t>(p.threads);
    }
    if (p.activation == Activation::kSwiglu && p.pre == nullptr) {
      z = arena.take<float>(p.threads * kRowBlock * 2 * kColumnBlock);
    }
    bytes = arena.used();
  }
  uint16_t *weight = nullptr, *x = nullptr;
  int64_t* row = nullptr;  // of each thread: where the rows begin that it has in x
  float* z = nullptr;
  int64_t bytes;
};

// The rows of a block of x, rounded by this thread; its last task may have had the same ones.
const uint16_t* rounded_rows(const LinearParams& p, const FwdSpace& space, const Block& b, int thread) {
  if (space.x == nullptr) return nullptr;
  uint16_t* x = space.x + thread * kRowBlock * p.in;
  if (space.row[thread] != b.row) kernel().round(p.x + b.row * p.in, b.rows * p.in, x);
  space.row[thread] = b.row;
  return x;
}

// z[rows, columns] = x W for some columns of W.
struct Multiply {
  const LinearParams& p;
  const uint16_t* weight_bf16;
  const uint16_t* x_bf16;  // of this block of rows

  void operator()(const Block& b, int64_t column, int64_t columns, float* z, int64_t z_stride) const {
    const GemmShape shape{b.rows, columns, p.in, p.in, p.out, z_stride};
    if (is_medium(p)) {
      gemm(shape, x_bf16, weight_bf16 + column, z);
    } else {
      gemm(shape, p.x + b.row * p.in, p.weight + column, z);
    }
  }
};

const float* from_column(const float* bias, int64_t column) {
  return bias != nullptr ? bias + column : nullptr;
}

// Columns [column, column + columns) of y.
void fwd_columns(const LinearParams& p, const Multiply& multiply, const Block& b, int64_t column,
                 int64_t columns, float* scratch) {
  const int64_t width = columns_of_y(p);
  float* y = p.y + b.row * width + column;
  if (p.activation == Activation::kSwiglu) {
    const bool is_kept = p.pre != nullptr;
    float* gate = is_kept ? p.pre + b.row * p.out + column : scratch;
    float* up = gate + (is_kept ? width : columns);
    const int64_t stride = is_kept ? p.out : 2 * columns;
    multiply(b, column, columns, gate, stride);
    multiply(b, width + column, columns, up, stride);
    kernel().finish_gated(b.rows, columns, from_column(p.bias, column), from_column(p.bias, width + column),
                          gate, up, stride, y, width);
    return;
  }
  float* z = p.pre != nullptr ? p.pre + b.row * p.out + column : y;
  multiply(b, column, columns, z, p.out);
  if (p.bias == nullptr && p.activation == Activation::kNone) return;
  kernel().finish(activation_of(p), b.rows, columns, from_column(p.bias, column), z, p.out, y, width);
}

// The scratch memory of the backward pass.
struct BwdSpace {
  BwdSpace(const LinearParams& p, void* base) {
    Arena arena(base);
    const bool has_activation = p.activation != Activation::kNone;
    if (is_medium(p)) {
      dz_bf16 = arena.take<uint16_t>(p.rows * p.out);
      if (p.grad_weight != nullptr) x = arena.take<uint16_t>(p.rows * p.in);
      if (p.grad_x != nullptr && p.weight_bf16 == nullptr) weight = arena.take<uint16_t>(p.in * p.out);
    } else if (has_activation) {
      dz = arena.take<float>(p.rows * p.out);
    }
    if (p.grad_bias != nullptr) sums = arena.take<float>(ceil_div(p.rows, kRowBlock) * p.out);
    bytes = arena.used();
  }
  float *dz = nullptr, *sums = nullptr;
  uint16_t *dz_bf16 = nullptr, *x = nullptr, *weight = nullptr;
  int64_t bytes;
};

// Gradients with respect to z, rounded if products are, and their sums over each block of rows.
void make_gradients(const LinearParams& p, const BwdSpace& space) {
  if (space.dz == nullptr && space.dz_bf16 == nullptr && space.sums == nullptr) return;
  const auto task = [&](int64_t index, int) {
    const int64_t row = index * kRowBlock, rows = std::min(kRowBlock, p.rows - row);
    float* sums = space.sums != nullptr ? space.sums + index * p.out : nullptr;
    if (sums != nullptr) std::memset(sums, 0, sizeof(float) * p.out);
    kernel().gradient(p, activation_of(p), row, rows, space.dz, space.dz_bf16, sums);
  };
  run_tasks(p.threads, ceil_div(p.rows, kRowBlock), kNothing, task, kNothing);
}

void add_bias_gradients(const LinearParams& p, const BwdSpace& space) {
  std::memset(p.grad_bias, 0, sizeof(float) * p.out);
  for (int64_t block = 0; block < ceil_div(p.rows, kRowBlock); ++block) {
    for (int64_t c = 0; c < p.out; ++c) p.grad_bias[c] += space.sums[block * p.out + c];
  }
}

template <class Element>
void multiply_gradients(const LinearParams& p, const Element* dz, const Element* x, const Element* weight) {
  const Grid x_grid(p.grad_x != nullptr ? p.rows : 0, p.in);
  const Grid w_grid(p.grad_weight != nullptr ? p.in : 0, p.out);
  const auto task = [&](int64_t index, int) {
    if (index < x_grid.tasks()) {
      const Block b = block_of(x_grid, index);
      GemmShape shape{b.rows, b.columns, p.out, p.out, p.out, p.in};
      shape.transpose_b = true;
      gemm(shape, dz + b.row * p.out, weight + b.column * p.out, p.grad_x + b.row * p.in + b.column);
    } else {
      const Block b = block_of(w_grid, index - x_grid.tasks());
      GemmShape shape{b.rows, b.columns, p.rows, p.in, p.out, p.out};
      shape.transpose_a = true;
      gemm(shape, x + b.row, dz + b.column, p.grad_weight + b.row * p.out + b.column);
    }
  };
  run_tasks(p.threads, x_grid.tasks() + w_grid.tasks(), kNothing, task, kNothing);
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::LinearParams;

int64_t paddle_infra_linear_cpu_fwd_workspace(const LinearParams* params) {
  return paddle_infra::FwdSpace(*params, nullptr).bytes;
}

void paddle_infra_linear_cpu_fwd(const LinearParams* params) {
  using namespace paddle_infra;
  const LinearParams& p = *params;
  const FwdSpace space(p, p.workspace);
  if (space.weight != nullptr) round_in_tasks(p.weight, p.in * p.out, space.weight, p.threads);
  if (space.row != nullptr) std::fill_n(space.row, p.threads, -1);
  const uint16_t* weight = p.weight_bf16 != nullptr ? p.weight_bf16 : space.weight;
  const Grid grid(p.rows, columns_of_y(p));
  const auto task = [&](int64_t index, int thread) {
    const Block b = block_of(grid, index);
    float* scratch = space.z != nullptr ? space.z + thread * kRowBlock * 2 * kColumnBlock : nullptr;
    const Multiply multiply{p, weight, rounded_rows(p, space, b, thread)};
    for (int64_t c = 0; c < b.columns; c += kColumnBlock) {
      fwd_columns(p, multiply, b, b.column + c, std::min(kColumnBlock, b.columns - c), scratch);
    }
  };
  run_tasks(p.threads, grid.tasks(), kNothing, task, kNothing);
}

int64_t paddle_infra_linear_cpu_bwd_workspace(const LinearParams* params) {
  return paddle_infra::BwdSpace(*params, nullptr).bytes;
}

void paddle_infra_linear_cpu_bwd(const LinearParams* params) {
  using namespace paddle_infra;
  const LinearParams& p = *params;
  const BwdSpace space(p, p.workspace);
  make_gradients(p, space);
  if (p.grad_bias != nullptr) add_bias_gradients(p, space);
  if (is_medium(p)) {
    if (space.x != nullptr) round_in_tasks(p.x, p.rows * p.in, space.x, p.threads);
    if (space.weight != nullptr) round_in_tasks(p.weight, p.in * p.out, space.weight, p.threads);
    multiply_gradients(p, space.dz_bf16, space.x, p.weight_bf16 ? p.weight_bf16 : space.weight);
  } else {
    multiply_gradients(p, space.dz != nullptr ? space.dz : p.grad_y, p.x, p.weight);
  }
}

void paddle_infra_round_to_bf16(const float* from, int64_t count, uint16_t* to, int threads) {
  paddle_infra::round_in_tasks(from, count, to, threads);
}
