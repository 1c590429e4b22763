// C entry points of attention on GPUs. Every pointer of the parameters is to device memory, workspace
// included; calls queue work on `stream` (a cudaStream_t), and return null or what is wrong. In the library
// only if it was compiled with CUDA.
#pragma once

#include "attention/attention.h"

namespace paddle_infra {

constexpr int64_t kMostCudaHeadDim = 128;

}  // namespace paddle_infra

// Writes o, stats and lse.
PADDLE_INFRA_EXPORT const char* paddle_infra_attention_cuda_fwd(const paddle_infra::AttentionParams* params,
                                                                void* stream);

// Bytes of scratch memory; depends on sizes, not on data.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_attention_cuda_bwd_workspace(const paddle_infra::AttentionParams* params);

// Reads o and stats; writes grad_q, grad_k, grad_v and, if wanted, grad_bias: every element, zeros included.
// Without atomics: the same bits every time.
PADDLE_INFRA_EXPORT const char* paddle_infra_attention_cuda_bwd(const paddle_infra::AttentionParams* params,
                                                                void* stream);

// The same for float32 in full precision, head_dim up to 256, and its gradients: as for the CPU in
// attention.h.
PADDLE_INFRA_EXPORT const char* paddle_infra_attention_f32_cuda_fwd(
    const paddle_infra::AttentionParams* params, void* stream);
PADDLE_INFRA_EXPORT const char* paddle_infra_attention_f32_cuda_bwd(
    const paddle_infra::AttentionParams* params, void* stream);
PADDLE_INFRA_EXPORT int64_t
paddle_infra_attention_f32_cuda_bwd_workspace(const paddle_infra::AttentionParams* params);

// Few queries against a cache, in any of the three formats, head_dim up to 128: as for the CPU in
// attention.h. Writes o and lse.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_attention_decode_cuda_workspace(const paddle_infra::AttentionParams* params);
PADDLE_INFRA_EXPORT const char* paddle_infra_attention_decode_cuda(
    const paddle_infra::AttentionParams* params, void* stream);
