// Losses of a linear layer on the CPU: entry points, and chunks of rows, which go through the head one after
// another, so no array of rows * classes exists.
//
// For each chunk: logits, loss, gradients of logits (in place), then of hidden and of weight. Blocks depend
// on sizes only and every number is summed in one order: the result is the same bit for bit with any number
// of threads.
#include <cstring>

#include "linear_cross_entropy/linear_cross_entropy_head.h"

namespace paddle_infra {
namespace {

void clear_gradients(const LinearCrossEntropyParams& p) {
  if (p.grad_weight != nullptr) {
    std::memset(p.grad_weight, 0, sizeof(float) * p.classes * p.hidden_size);
  }
  if (p.grad_bias != nullptr) std::memset(p.grad_bias, 0, sizeof(float) * p.classes);
}

void round_floats(const Head& head, const float* from, int64_t count, uint16_t* to) {
  constexpr int64_t kStep = 1 << 15;
  head.for_each(ceil_div(count, kStep), [&](int64_t index, int) {
    head_kernel().round(from + index * kStep, std::min(kStep, count - index * kStep), to + index * kStep);
  });
}

void run_chunks(const Head& head) {
  const LinearCrossEntropyParams& p = head.p;
  const HeadSpace& space = head.space;
  const bool by_rows = mode_of(p) == HeadMode::kRows;
  std::memset(space.bias_sums, 0, sizeof(double) * head.stride);
  if (is_medium(p) && by_rows) round_floats(head, p.weight, p.classes * p.hidden_size, space.weight_bf16);
  for (int64_t first = 0; first < p.rows; first += space.rows) {
    const int64_t rows = std::min(space.rows, p.rows - first);
    if (is_medium(p)) {
      round_floats(head, p.hidden + first * p.hidden_size, rows * p.hidden_size, space.hidden_bf16);
    }
    by_rows ? run_chunk_by_rows(head, first, rows) : run_chunk_by_columns(head, first, rows);
  }
  if (p.grad_bias == nullptr) return;
  for (int64_t c = 0; c < p.classes; ++c) p.grad_bias[c] = static_cast<float>(space.bias_sums[c]);
}

void run(const LinearCrossEntropyParams& p, bool wants_loss) {
  const Head head(p, wants_loss);
  if (has_gradients(p) && p.rows == 0) clear_gradients(p);
  if (p.rows > 0 && mode_of(p) == HeadMode::kFew) {
    run_few(head);
  } else if (p.rows > 0) {
    run_chunks(head);
  }
  if (wants_loss) sum_losses(head);
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::LinearCrossEntropyParams;

int64_t paddle_infra_linear_cross_entropy_workspace(const LinearCrossEntropyParams* params) {
  LinearCrossEntropyParams p = *params;
  p.workspace = nullptr;
  return paddle_infra::HeadSpace(p).bytes;
}

void paddle_infra_linear_cross_entropy_cpu_fwd(const LinearCrossEntropyParams* params) {
  paddle_infra::fill_scales(*params);
  paddle_infra::run(*params, true);
}

void paddle_infra_linear_cross_entropy_cpu_bwd(const LinearCrossEntropyParams* params) {
  paddle_infra::run(*params, false);
}

void paddle_infra_linear_cross_entropy_scale_cpu(float* x, int64_t count, float factor, int threads) {
  using namespace paddle_infra;
  constexpr int64_t kStep = 1 << 15;
  const auto nothing = [] {};
  const auto task = [&](int64_t index, int) {
    const int64_t end = std::min(count, (index + 1) * kStep);
    for (int64_t i = index * kStep; i < end; ++i) x[i] *= factor;
  };
  run_tasks(threads, ceil_div(count, kStep), nothing, task, nothing);
}
