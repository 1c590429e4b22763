// Normalization of a sum: norm(residual + dropout(hidden)) * weight + bias over the last axis, and its
// gradients.
//
// Plain parameters and C entry points; nothing here knows Paddle.
#pragma once

#include <cstdint>

#include "common/abi.h"
#include "common/norm_stats.h"

namespace paddle_infra {

struct AddNormParams {
  int64_t rows, size;              // all matrices are dense [rows, size]; size at least 1
  const float *hidden, *residual;  // residual null: none. Backward reads neither if it has `sum`
  const float *weight, *bias;      // [size]; bias null: none

  bool
      is_rms;  // divides by the root of the mean square, instead of by the standard deviation around the mean
  float epsilon;
  float dropout_p;  // probability of dropping a number of hidden, in [0, 1); kept ones are divided by 1 - p
  const int64_t* seed;  // one number; not read if dropout_p is 0

  int threads;      // OpenMP threads to use, at least 1
  void* workspace;  // 64-byte aligned, as large as ..._workspace() says for these parameters

  // Results of forward, inputs of backward.
  float* out;
  float* sum;        // residual + dropout(hidden); null: not wanted, and backward adds again
  NormStats* stats;  // [rows]

  // Backward.
  const float *grad_out, *grad_sum;    // grad_sum null: none
  float *grad_hidden, *grad_residual;  // grad_residual null: not wanted
  float *grad_weight, *grad_bias;      // [size]; grad_bias null: not wanted
};

}  // namespace paddle_infra

// Bytes of scratch memory; depends on sizes, options and `threads`, not on data.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_add_norm_cpu_fwd_workspace(const paddle_infra::AddNormParams* params);
PADDLE_INFRA_EXPORT int64_t
paddle_infra_add_norm_cpu_bwd_workspace(const paddle_infra::AddNormParams* params);

// Writes out, stats and, if wanted, sum.
PADDLE_INFRA_EXPORT void paddle_infra_add_norm_cpu_fwd(const paddle_infra::AddNormParams* params);

// Writes the gradients that are wanted: every element.
PADDLE_INFRA_EXPORT void paddle_infra_add_norm_cpu_bwd(const paddle_infra::AddNormParams* params);
