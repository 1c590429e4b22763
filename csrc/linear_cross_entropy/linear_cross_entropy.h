// Losses of a linear layer's output, without storing the logits: parameters and entry points.
//
// Cross entropy:
// For each row i with label y that is not ignore_index, with logits z = hidden_i W + b, capped to
// softcap * tanh(z / softcap) if softcap > 0, log p = z - logsumexp(z), e = label_smoothing, w = class
// weights:
//
//   l_i = (1 - e) w_y (-log p_y) + (e / C) sum_c w_c (-log p_c) + z_loss * logsumexp(z)^2
//
// and scale_i = t_i (reductions none and sum) or t_i / sum_j t_j w_{y_j} (mean), t = token weights; 0 where
// ignored. Gradient: with k_i = grad_i scale_i, a_i = (1 - e) w_y + (e / C) sum_c w_c,
//
//   dl/dz_c = k_i [p_c (a_i + 2 z_loss logsumexp) - (1 - e) w_y [c = y] - (e / C) w_c] * (1 - (z_c /
//   softcap)^2)
//
// Focal loss (arXiv:1708.02002): -log p_y above becomes (1 - p_y)^g (-log p_y), with e = z_loss = 0.
//
// Binary cross entropy, with targets t in [0, 1] for every class and q_c = positive weights:
//
//   l_ic = q_c t_ic softplus(-z_c) + (1 - t_ic) softplus(z_c),
//   dl/dz_c = k_i [sigmoid(z_c) (q_c t_ic + 1 - t_ic) - q_c t_ic] * (1 - (z_c / softcap)^2)
//
// summed over classes; mean divides by the number of classes too, none gives every l_ic.
//
// The functions neither allocate nor throw nor know Paddle. All arrays are float32 unless `dtype` says
// otherwise, in C order; rows are dense.
#pragma once

#include <cstdint>

#include "common/abi.h"
#include "common/data_type.h"
#include "common/matmul_precision.h"

namespace paddle_infra {

enum class Reduction : int { kNone = 0, kSum = 1, kMean = 2 };

enum class HeadLoss : int { kCrossEntropy = 0, kFocal = 1, kBinary = 2 };

// What the forward pass keeps for the backward pass, for each row. The log-sum-exp is kept as two numbers: as
// one float its rounding error (1e-3 at 1e4) would be a relative error of every probability. So would that of
// log_sum (2e-7 for hundreds of classes): the CPU kernels use inverse_sum.
struct RowStats {
  float max;          // largest logit
  float log_sum;      // log of the sum of exp(logit - max)
  float scale;        // scale_i above
  float log_prob;     // log p_y
  float inverse_sum;  // e^-log_sum
};

struct LinearCrossEntropyParams {
  const float* hidden;        // [rows, hidden_size]
  const float* weight;        // see the two strides
  const float* bias;          // [classes] or null
  const int64_t* label;       // [rows]; null for kBinary
  const float* target;        // [rows, classes] for kBinary
  const float* class_weight;  // [classes] or null (all 1); positive weights for kBinary
  const float* token_weight;  // [rows] or null (all 1)

  int64_t rows, hidden_size, classes;
  int64_t weight_class_stride, weight_feature_stride;  // one of them is 1

  int64_t ignore_index;
  float label_smoothing, z_loss, softcap, focal_gamma;
  Reduction reduction;
  HeadLoss kind;
  MatmulPrecision precision;  // used on the CPU

  RowStats* stats;  // [rows]: written by forward, read by backward
  float* loss;      // forward: [rows] ([rows, classes] for kBinary) for Reduction::kNone, else [1]

  // Backward; forward on the CPU makes the gradients too, as if grad_loss were 1. On the CPU each may be
  // null: then it is not wanted.
  const float* grad_loss;  // same shape as loss
  float* grad_hidden;      // [rows, hidden_size]
  float* grad_weight;      // as weight
  float* grad_bias;        // [classes] or null

  int threads;      // on the CPU, at least 1
  void* workspace;  // of the size below, aligned to 64 bytes

  // Of hidden, weight and their gradients, all others being float32. 16-bit ones are for GPUs only; the four
  // pointers are then to 16-bit numbers.
  DataType dtype;
};

}  // namespace paddle_infra

// Bytes of scratch memory on the CPU: 8 MB or a tenth of all inputs and gradients, whichever is more, but
// never less than the logits of 32 rows, and tens of bytes per row. It does not grow with rows * classes.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_linear_cross_entropy_workspace(const paddle_infra::LinearCrossEntropyParams* params);

// The first row whose label (in CPU memory) is neither ignore_index nor in [0, classes), or -1. Call it
// before the others.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_linear_cross_entropy_bad_row(const paddle_infra::LinearCrossEntropyParams* params);

// The first number of the targets of kBinary (in CPU memory) that is not in [0, 1], or -1.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_linear_cross_entropy_bad_target(const paddle_infra::LinearCrossEntropyParams* params);

PADDLE_INFRA_EXPORT void paddle_infra_linear_cross_entropy_cpu_fwd(
    const paddle_infra::LinearCrossEntropyParams* params);
PADDLE_INFRA_EXPORT void paddle_infra_linear_cross_entropy_cpu_bwd(
    const paddle_infra::LinearCrossEntropyParams* params);

// x *= factor, for gradients that forward made already.
PADDLE_INFRA_EXPORT void paddle_infra_linear_cross_entropy_scale_cpu(float* x, int64_t count, float factor,
                                                                     int threads);

// The same on a GPU (but kBinary and kFocal, and gradients in the forward pass): every pointer is to device
// memory, workspace included. They only queue work on `stream` (a cudaStream_t), and return null or what is
// wrong. A label that is no class makes its row's results NaN. In the library only if it was compiled with
// CUDA.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_linear_cross_entropy_cuda_workspace(const paddle_infra::LinearCrossEntropyParams* params);
PADDLE_INFRA_EXPORT const char* paddle_infra_linear_cross_entropy_cuda_fwd(
    const paddle_infra::LinearCrossEntropyParams* params, void* stream);
PADDLE_INFRA_EXPORT const char* paddle_infra_linear_cross_entropy_cuda_bwd(
    const paddle_infra::LinearCrossEntropyParams* params, void* stream);
