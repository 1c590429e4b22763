// A linear layer with an activation: y = f(x W + b), and its gradients.
//
// The functions neither allocate nor throw nor know Paddle. All arrays are float32, dense, row-major.
#pragma once

#include <cstdint>

#include "common/abi.h"
#include "common/activation.h"
#include "common/matmul_precision.h"

namespace paddle_infra {

struct LinearParams {
  const float* x;               // [rows, in]
  const float* weight;          // [in, out]
  const uint16_t* weight_bf16;  // the same rounded to bfloat16, if the caller keeps it; or null
  const float* bias;            // [out] or null
  int64_t rows, in, out;
  // kSwiglu: y = silu(z[:, :out / 2]) * z[:, out / 2:], and y has out / 2 columns.
  Activation activation;
  MatmulPrecision precision;

  int threads;      // at least 1
  void* workspace;  // 64-byte aligned, as large as ..._workspace() says

  float* y;  // forward: [rows, out] or, for kSwiglu, [rows, out / 2]
  float*
      pre;  // [rows, out]: x W + b, which forward writes and backward reads; null: not kept, or no activation

  const float* grad_y;                      // backward: as y
  float *grad_x, *grad_weight, *grad_bias;  // as x, weight, bias; null: not wanted
};

}  // namespace paddle_infra

PADDLE_INFRA_EXPORT int64_t paddle_infra_linear_cpu_fwd_workspace(const paddle_infra::LinearParams* params);
PADDLE_INFRA_EXPORT void paddle_infra_linear_cpu_fwd(const paddle_infra::LinearParams* params);
PADDLE_INFRA_EXPORT int64_t paddle_infra_linear_cpu_bwd_workspace(const paddle_infra::LinearParams* params);
PADDLE_INFRA_EXPORT void paddle_infra_linear_cpu_bwd(const paddle_infra::LinearParams* params);

// Rounds to bfloat16: for weight_bf16.
PADDLE_INFRA_EXPORT void paddle_infra_round_to_bf16(const float* from, int64_t count, uint16_t* to,
                                                    int threads);
