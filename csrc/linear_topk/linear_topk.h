// The k most probable classes of softmax(hidden weight + bias), without storing the logits.
//
// Plain parameters and C entry points; nothing here knows Paddle.
#pragma once

#include <cstdint>

#include "common/abi.h"
#include "common/data_type.h"
#include "common/matmul_precision.h"

namespace paddle_infra {

struct LinearTopkParams {
  const float* hidden;                    // [rows, hidden_size]
  const float* weight;                    // [classes, hidden_size], or [hidden_size, classes] if weight_is_dv
  const float* bias;                      // [classes]; may be null
  int64_t rows, hidden_size, classes, k;  // 1 <= k <= classes; rows, hidden_size at least 1
  bool weight_is_dv;
  float softcap;  // > 0: logits become softcap * tanh(logit / softcap)
  bool is_log;    // the result is the logarithm of the probabilities
  MatmulPrecision precision;

  int threads;      // OpenMP threads to use, at least 1
  void* workspace;  // 64-byte aligned, as large as ..._workspace() says for these parameters

  // [rows, k], from the largest logit down, equal ones by class. A row whose softmax is not defined (a NaN or
  // +infinity among its logits, or nothing but -infinity) has NaN and the classes 0, 1, ..., k - 1.
  float* prob;
  int64_t* index;

  // Of hidden and weight. 16-bit ones are for GPUs only; the two pointers are then to 16-bit numbers.
  DataType dtype;
};

}  // namespace paddle_infra

// Bytes of scratch memory; depends on sizes, precision and `threads`, not on data.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_linear_topk_cpu_workspace(const paddle_infra::LinearTopkParams* params);

// Writes prob and index.
PADDLE_INFRA_EXPORT void paddle_infra_linear_topk_cpu(const paddle_infra::LinearTopkParams* params);

// The same on a GPU: every pointer is to device memory, workspace included. It only queues work on `stream`
// (a cudaStream_t), and returns null or what is wrong. k is at most 16. In the library only if it was
// compiled with CUDA.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_linear_topk_cuda_workspace(const paddle_infra::LinearTopkParams* params);
PADDLE_INFRA_EXPORT const char* paddle_infra_linear_topk_cuda(const paddle_infra::LinearTopkParams* params,
                                                              void* stream);
