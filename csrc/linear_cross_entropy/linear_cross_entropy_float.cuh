// The CUDA kernels for float32 numbers. Formulas: linear_cross_entropy.h. Launch order and memory:
// linear_cross_entropy_float.cu.
//
// Plain and exact: sums are made of short ones in double. Every thread computes what it alone writes, without
// shared memory, barriers or atomics, so results are the same bit for bit in every run.
#pragma once

#include <cmath>

#include "common/cuda_launch.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

namespace paddle_infra {
namespace {

constexpr int64_t kSlice = 256;       // classes that one thread folds in the forward pass
constexpr int64_t kPartials = 1024;   // threads that share a sum over rows or classes
constexpr int64_t kSumBlock = 64;     // floats that are added in float before they are added in double
constexpr float kMinusHuge = -1e30f;  // exp() of it is 0, and unlike -infinity it never makes a NaN

// A slice of one row of logits: its maximum, sum of exp(logit - max), and sum of class weight * logit.
struct SliceState {
  double sum, weighted;
  float max;
};

// Sums that every row needs.
struct Totals {
  double class_weights;  // of all classes
  double row_weights;    // of token weight * class weight of the label, over the rows that count
};

// Rows that are processed together. Scratch memory holds one value per class, or per slice, for each of them.
struct Chunk {
  int64_t first, rows;
};

__host__ __device__ inline int64_t slice_count(int64_t classes) { return (classes + kSlice - 1) / kSlice; }

PI_DEVICE double class_weight_of(const LinearCrossEntropyParams& p, int64_t c) {
  return p.class_weight ? load_global(p.class_weight + c) : 1.0;
}

// Adds up term(0) ... term(count - 1): the rounding error grows with kSumBlock, not with count.
template <class Term>
__device__ float sum_of(int64_t count, Term term) {
  double sum = 0.0;
  for (int64_t first = 0; first < count; first += kSumBlock) {
    const int64_t end = first + kSumBlock < count ? first + kSumBlock : count;
    float partial = 0.0f;
    for (int64_t k = first; k < end; ++k) partial += term(k);
    sum += partial;
  }
  return static_cast<float>(sum);
}

// The product of two vectors, each with its stride.
PI_DEVICE float dot(int64_t size, const float* a, int64_t a_stride, const float* b, int64_t b_stride) {
  return sum_of(size,
                [=](int64_t k) { return load_global(a + k * a_stride) * load_global(b + k * b_stride); });
}

PI_DEVICE float logit_of(const LinearCrossEntropyParams& p, int64_t row, int64_t c) {
  const float z = dot(p.hidden_size, p.hidden + row * p.hidden_size, 1, p.weight + c * p.weight_class_stride,
                      p.weight_feature_stride) +
                  (p.bias ? load_global(p.bias + c) : 0.0f);
  return p.softcap > 0.0f ? p.softcap * tanhf(z / p.softcap) : z;
}

// One thread for each row of the chunk and slice of classes. states: [slices, chunk.rows].
__global__ void fold_slices(LinearCrossEntropyParams p, Chunk chunk, SliceState* states) {
  const int64_t i = thread_number();
  if (i >= chunk.rows * slice_count(p.classes)) return;
  const int64_t row = chunk.first + i % chunk.rows, first = i / chunk.rows * kSlice;
  if (load_global(p.label + row) == p.ignore_index) return;
  const int64_t end = first + kSlice < p.classes ? first + kSlice : p.classes;
  SliceState state = {0.0, 0.0, kMinusHuge};
  for (int64_t c = first; c < end; ++c) {
    const float z = logit_of(p, row, c);
    if (z > state.max) {
      state.sum *= exp(static_cast<double>(state.max) - z);
      state.max = z;
    }
    state.sum += expf(z - state.max);
    if (p.label_smoothing > 0.0f) state.weighted += class_weight_of(p, c) * z;
  }
  store_global(&states[i].sum, state.sum);
  store_global(&states[i].weighted, state.weighted);
  store_global(&states[i].max, state.max);
}

// Loss of one row before scaling. state: of all its slices together.
PI_DEVICE double row_loss(const LinearCrossEntropyParams& p, int64_t row, const SliceState& state,
                          double class_weights) {
  const int64_t label = load_global(p.label + row);
  const double max = state.max, log_sum = log(state.sum), lse = max + log_sum;
  const double target = logit_of(p, row, label);
  double loss = (1.0 - p.label_smoothing) * class_weight_of(p, label) * (log_sum - (target - max));
  if (p.label_smoothing > 0.0f) {
    const double spread = p.label_smoothing / static_cast<double>(p.classes);
    loss += spread * (class_weights * log_sum - (state.weighted - max * class_weights));
  }
  return loss + p.z_loss * lse * lse;
}

// One thread for each row of the chunk: joins its slices, writes its statistics and scaled loss.
__global__ void finish_rows(LinearCrossEntropyParams p, Chunk chunk, const SliceState* states,
                            const Totals* totals, double* losses) {
  const int64_t i = thread_number();
  if (i >= chunk.rows) return;
  const int64_t row = chunk.first + i, slices = slice_count(p.classes);
  RowStats stats = {};
  double loss = 0.0;
  if (load_global(p.label + row) != p.ignore_index) {
    SliceState all = {0.0, 0.0, kMinusHuge};
    for (int64_t s = 0; s < slices; ++s)
      all.max = fmaxf(all.max, load_global(&states[s * chunk.rows + i].max));
    for (int64_t s = 0; s < slices; ++s) {
      const SliceState& slice = states[s * chunk.rows + i];
      all.sum += slice.sum * exp(static_cast<double>(slice.max) - all.max);
      all.weighted += slice.weighted;
    }
    double scale = p.token_weight ? load_global(p.token_weight + row) : 1.0;
    if (p.reduction == Reduction::kMean)
      scale = totals->row_weights == 0.0 ? 0.0 : scale / totals->row_weights;
    stats.max = all.max;
    stats.log_sum = static_cast<float>(log(all.sum));
    stats.scale = static_cast<float>(scale);
    loss = stats.scale * row_loss(p, row, all, totals->class_weights);
  }
  p.stats[row] = stats;
  if (p.reduction == Reduction::kNone) {
    store_global(p.loss + row, static_cast<float>(loss));
  } else {
    store_global(losses + row, loss);
  }
}

// One thread for each row of the chunk and class: the gradient with respect to the logit before softcap.
// gradients: [chunk.rows, classes].
__global__ void float_logit_gradients(LinearCrossEntropyParams p, Chunk chunk, const Totals* totals,
                                      float* gradients) {
  const int64_t i = thread_number();
  if (i >= chunk.rows * p.classes) return;
  const int64_t row = chunk.first + i / p.classes, c = i % p.classes, label = load_global(p.label + row);
  const RowStats stats = p.stats[row];
  const float grad = stats.scale * load_global(p.grad_loss + (p.reduction == Reduction::kNone ? row : 0));
  if (label == p.ignore_index || grad == 0.0f) return store_global(gradients + i, 0.0f);
  const double on_target = (1.0 - p.label_smoothing) * class_weight_of(p, label);
  const double spread = p.label_smoothing / static_cast<double>(p.classes);
  const double lse = static_cast<double>(stats.max) + stats.log_sum;
  const float z = logit_of(p, row, c);
  double gradient = expf((z - stats.max) - stats.log_sum) *
                    (on_target + spread * totals->class_weights + 2.0 * p.z_loss * lse);
  gradient -= spread * class_weight_of(p, c);
  if (c == label) gradient -= on_target;
  const double capped = p.softcap > 0.0f ? z / p.softcap : 0.0;
  store_global(gradients + i, static_cast<float>(grad * gradient * (1.0 - capped * capped)));
}

// One thread for each element of the chunk's rows of grad_hidden.
__global__ void float_hidden_gradients(LinearCrossEntropyParams p, Chunk chunk, const float* gradients) {
  const int64_t i = thread_number();
  if (i >= chunk.rows * p.hidden_size) return;
  const int64_t row = i / p.hidden_size, feature = i % p.hidden_size;
  store_global(p.grad_hidden + chunk.first * p.hidden_size + i,
               dot(p.classes, gradients + row * p.classes, 1, p.weight + feature * p.weight_feature_stride,
                   p.weight_class_stride));
}

// The first chunk's share of a gradient is written, later ones are added.
PI_DEVICE void add_share(const Chunk& chunk, float share, float* gradient) {
  store_global(gradient, chunk.first > 0 ? load_global(gradient) + share : share);
}

// One thread for each element of grad_weight: adds the chunk's share.
__global__ void float_weight_gradients(LinearCrossEntropyParams p, Chunk chunk, const float* gradients) {
  const int64_t i = thread_number();
  if (i >= p.classes * p.hidden_size) return;
  const bool is_class_major = p.weight_feature_stride == 1;
  const int64_t c = is_class_major ? i / p.hidden_size : i % p.classes;
  const int64_t feature = is_class_major ? i % p.hidden_size : i / p.classes;
  const float share = dot(chunk.rows, gradients + c, p.classes,
                          p.hidden + chunk.first * p.hidden_size + feature, p.hidden_size);
  add_share(chunk, share, p.grad_weight + i);
}

// One thread for each element of grad_bias: adds the chunk's share.
__global__ void float_bias_gradients(LinearCrossEntropyParams p, Chunk chunk, const float* gradients) {
  const int64_t c = thread_number();
  if (c >= p.classes) return;
  const float share =
      sum_of(chunk.rows, [=](int64_t row) { return load_global(gradients + row * p.classes + c); });
  add_share(chunk, share, p.grad_bias + c);
}

// What the sums over classes and rows add up.
struct ClassWeights {
  LinearCrossEntropyParams p;
  __device__ double operator()(int64_t c) const { return class_weight_of(p, c); }
};

struct RowWeights {
  LinearCrossEntropyParams p;
  __device__ double operator()(int64_t row) const {
    if (load_global(p.label + row) == p.ignore_index) return 0.0;
    return (p.token_weight ? load_global(p.token_weight + row) : 1.0) *
           class_weight_of(p, load_global(p.label + row));
  }
};

struct RowLosses {
  const double* losses;
  __device__ double operator()(int64_t row) const { return load_global(losses + row); }
};

// kPartials threads: each adds up every kPartials-th term.
template <class Term>
__global__ void sum_partially(int64_t count, Term term, double* partials) {
  const int64_t i = thread_number();
  if (i >= kPartials) return;
  double sum = 0.0;
  for (int64_t k = i; k < count; k += kPartials) sum += term(k);
  store_global(partials + i, sum);
}

// One thread.
template <class Result>
__global__ void finish_sum(const double* partials, Result* result) {
  if (thread_number() > 0) return;
  double sum = 0.0;
  for (int64_t i = 0; i < kPartials; ++i) sum += load_global(partials + i);
  store_global(result, static_cast<Result>(sum));
}

}  // namespace
}  // namespace paddle_infra
