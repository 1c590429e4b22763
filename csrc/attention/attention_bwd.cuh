// Backward attention of 16-bit numbers on tensor cores: first what is needed of every row of scores, then
// three kernels, each of which makes the scores again and alone writes its gradients. Seven products instead
// of five, but no atomics: results are the same bit for bit, in whatever order blocks run.
#pragma once

#include "attention/attention_bwd_bias.cuh"
#include "attention/attention_bwd_key_value.cuh"
#include "attention/attention_bwd_query.cuh"
#include "attention/attention_bwd_rows.cuh"

namespace paddle_infra {

template <class Format, int kDim>
const char* launch_attention_bwd(const AttentionParams& p, bool is_aligned, void* stream) {
  cudaError_t error = cudaSuccess;
  const auto launch = [&](auto kernel, int64_t blocks, int64_t heads, int64_t batch, int bytes) {
    if (error != cudaSuccess || blocks * heads * batch == 0) return;
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(heads),
                    static_cast<unsigned>(batch));
    PI_LAUNCH(kernel, grid, kBwdThreads, bytes, static_cast<cudaStream_t>(stream), p, is_aligned);
    error = cudaGetLastError();
  };
  const auto blocks_of = [](int64_t rows, int64_t each) { return (rows + each - 1) / each; };
  const int64_t query_blocks = blocks_of(p.seq_q, kBwdRows), key_blocks = blocks_of(p.seq_k, kBwdRows);
  const bool is_general = !is_aligned || !is_plain(p) || p.dropout_p > 0.0f;
  launch(attention_bwd_rows<Format, kDim>, blocks_of(p.seq_q, kBwdRowsOfBlock), p.heads, p.batch, 0);
  launch(
      is_general ? attention_bwd_key_value<Format, kDim, true> : attention_bwd_key_value<Format, kDim, false>,
      key_blocks, p.kv_heads, p.batch, kBwdKeyValueBytes<kDim>);
  launch(is_general ? attention_bwd_query<Format, kDim, true> : attention_bwd_query<Format, kDim, false>,
         query_blocks, p.heads, p.batch, kBwdQueryBytes<kDim>);
  if (p.grad_bias != nullptr) {
    const int64_t* const stride = p.grad_bias_stride;
    launch(attention_bwd_bias<Format, kDim>,
           (stride[2] == 0 ? 1 : query_blocks) * (stride[3] == 0 ? 1 : key_blocks),
           stride[1] == 0 ? 1 : p.heads, stride[0] == 0 ? 1 : p.batch, kBwdBiasBytes<kDim>);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace paddle_infra
