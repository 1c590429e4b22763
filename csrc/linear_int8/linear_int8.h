// A linear layer in int8: activation(x weight + bias), with rows of x quantized as they come.
//
// Plain parameters and C entry points; nothing here knows Paddle.
#pragma once

#include <cstdint>

#include "common/abi.h"
#include "common/activation.h"

namespace paddle_infra {

// Sums of this many products of int8 numbers fit in int32.
constexpr int64_t kMostInt8Depth = 1 << 17;

// A row x becomes int8 numbers q = round(x * (127 / max|x|)), ties to even, and a scale max|x| / 127, so that
// x is about q * scale. A row whose max|x| is below 1e-30 counts as 0. A row with a NaN or an infinity gives
// NaN.
struct LinearInt8Params {
  const float* x;                // [rows, depth]
  const int8_t* weight;          // [depth, columns]
  const float* weight_scale;     // [columns]
  const float* bias;             // [columns]; may be null
  int64_t rows, depth, columns;  // at least 1; depth at most kMostInt8Depth
  Activation activation;

  int threads;      // OpenMP threads to use, at least 1
  void* workspace;  // 64-byte aligned, as large as ..._workspace() says for these parameters

  float* y;  // [rows, columns]
};

}  // namespace paddle_infra

// Bytes of scratch memory; depends on sizes and `threads`, not on data.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_linear_int8_cpu_workspace(const paddle_infra::LinearInt8Params* params);

// Writes y: the same numbers for any number of threads.
PADDLE_INFRA_EXPORT void paddle_infra_linear_int8_cpu(const paddle_infra::LinearInt8Params* params);
