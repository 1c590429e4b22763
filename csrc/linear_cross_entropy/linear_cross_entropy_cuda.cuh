// What the passes of the head for 16-bit numbers share on a GPU: from products to logits, labels and weights
// of rows, and sums over rows and classes. Formulas: linear_cross_entropy.h.
#pragma once

#include "common/cuda_logits.cuh"
#include "common/cuda_tile_product.cuh"
#include "linear_cross_entropy/linear_cross_entropy_cuda.h"

namespace paddle_infra {
namespace {

template <class Format, int kRows, bool kWeightIsVd>
using LogitProduct = TileProduct<Format, kRows, kTile, true, kWeightIsVd>;

PI_DEVICE bool is_class(const LinearCrossEntropyParams& p, int64_t label) {
  return label >= 0 && label < p.classes;
}

// NaN for a label that is no class.
PI_DEVICE float label_weight(const LinearCrossEntropyParams& p, int64_t label) {
  if (!is_class(p, label)) return NAN;
  return p.class_weight != nullptr ? load_global(p.class_weight + label) : 1.0f;
}

PI_DEVICE float class_weight_at(const LinearCrossEntropyParams& p, int64_t c) {
  return p.class_weight != nullptr ? load_global(p.class_weight + c) : 1.0f;
}

PI_DEVICE float token_weight_at(const LinearCrossEntropyParams& p, int64_t row) {
  return p.token_weight != nullptr ? load_global(p.token_weight + row) : 1.0f;
}

// Adds up over a block, in an order that depends on the size of the block only; thread 0 has the result.
template <int kThreads>
PI_DEVICE double sum_over_block(double value, double* shared) {
  PI_UNROLL
  for (int bit = 1; bit < 32; bit *= 2) value += __shfl_xor_sync(kAllLanes, value, bit);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % 32 == 0) store_shared(shared + thread / 32, value);
  __syncthreads();
  if (thread != 0) return 0.0;
  double all = 0.0;
  for (int warp = 0; warp < kThreads / 32; ++warp) all += load_shared(shared + warp);
  return all;
}

constexpr int kSumThreads = 512, kSumSharedBytes = kSumThreads / 32 * 8;

// Two blocks, a sum each.
__global__ void __launch_bounds__(kSumThreads) sum_weights(LinearCrossEntropyParams p, HeadTotals* totals) {
  PI_SHARED_MEMORY(shared);
  double sum = 0.0;
  const bool of_classes = blockIdx.x == 0;
  if (of_classes) {
    for (int64_t c = threadIdx.x; c < p.classes; c += kSumThreads) sum += class_weight_at(p, c);
  } else {
    for (int64_t row = threadIdx.x; row < p.rows; row += kSumThreads) {
      const int64_t label = load_global(p.label + row);
      if (label == p.ignore_index) continue;
      sum += static_cast<double>(token_weight_at(p, row)) * label_weight(p, label);
    }
  }
  sum = sum_over_block<kSumThreads>(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) store_global(of_classes ? &totals->class_weights : &totals->row_weights, sum);
}

// One block.
__global__ void __launch_bounds__(kSumThreads) sum_losses(const double* losses, int64_t rows, float* loss) {
  PI_SHARED_MEMORY(shared);
  double sum = 0.0;
  for (int64_t row = threadIdx.x; row < rows; row += kSumThreads) sum += load_global(losses + row);
  sum = sum_over_block<kSumThreads>(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) store_global(loss, static_cast<float>(sum));
}

}  // namespace
}  // namespace paddle_infra
