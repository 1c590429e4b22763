// Attention: softmax(scale * q k^T + bias, masked) v, and its gradients, without storing the scores.
//
// Plain parameters and C entry points; nothing here knows Paddle.
#pragma once

#include <cstdint>

#include "common/abi.h"
#include "common/data_type.h"
#include "common/matmul_precision.h"

namespace paddle_infra {

// Where a [batch, sequence, head, head_dim] tensor lies: strides count elements, the last axis has stride 1.
struct AttentionStrides {
  int64_t batch, sequence, head;
};

// What the backward pass needs of one row of scores: with s the scores times log2(e), their maximum, and
// the sum of 2^(s - max). The sum is 0 for a row without any visible key.
struct AttentionRowStats {
  float max, sum;
};

struct AttentionParams {
  // q, o, grad_o, grad_q: [batch, seq_q, heads, head_dim]; k, v, grad_k, grad_v: [batch, seq_k, kv_heads,
  // head_dim]; heads is a multiple of kv_heads. All of `dtype`.
  DataType dtype;
  const void *q, *k, *v;
  AttentionStrides q_stride, k_stride, v_stride;
  int64_t batch, seq_q, seq_k, heads, kv_heads, head_dim;  // head_dim at most 256

  // Packed sequences: sequence b has the rows [cu_seqlens[b], cu_seqlens[b + 1]) of an axis of all of them;
  // batch strides are not used, and seq_q, seq_k are the longest lengths. Both are null or neither.
  const int32_t *cu_seqlens_q, *cu_seqlens_k;
  // [batch]: later queries give 0, later keys are not there (never read); null: all count.
  const int32_t *q_lengths, *kv_lengths;

  // Query i sees the keys j with i + offset - window_left <= j <= i + offset + window_right; -1: no limit.
  // offset is seq_k - seq_q (of the sequence, if packed): the last query is level with the last key. Causal
  // attention is window_right = 0. With `align_to_lengths` offset is kv_lengths - q_lengths instead.
  int64_t window_left, window_right;
  bool align_to_lengths;

  // Added to the scores, [batch, heads, seq_q, seq_k] by strides of which any may be 0; float32, or bool
  // (bytes: 0 hides a key) if bias_is_mask. The last stride is 1 or 0.
  const void* bias;
  int64_t bias_stride[4];
  bool bias_is_mask;

  const float* alibi_slopes;  // adds -slope * |i + offset - j|; null: none
  int64_t alibi_stride[2];    // of batch (or 0) and head

  float scale,
      softcap;          // softcap > 0: scores become softcap * tanh(scale * q k^T / softcap), before the bias
  float dropout_p;      // probability of dropping a weight, in [0, 1); weights kept are divided by 1 - p
  const int64_t* seed;  // one number; not read if dropout_p is 0
  MatmulPrecision precision;

  int threads;      // OpenMP threads to use, at least 1
  void* workspace;  // 64-byte aligned, as large as ..._workspace() says for these parameters

  // Results of forward, inputs of backward. Packed: lse and stats are [heads, all rows of q], else
  // [batch, heads, seq_q]; lse_stride counts elements of batch (not used if packed) and head.
  void* o;  // q_stride
  AttentionRowStats* stats;
  float* lse;  // natural logarithm of the sum of exp(score); -infinity for a row without any visible key
  int64_t lse_stride[2];

  // Backward.
  const void* grad_o;              // q_stride
  const float* grad_lse;           // as lse; may be null
  void *grad_q, *grad_k, *grad_v;  // q_stride, k_stride, v_stride
  float* grad_bias;  // dense, of the shape that bias has without its broadcast axes; null: not wanted
  int64_t grad_bias_stride[4];
};

}  // namespace paddle_infra

// Bytes of scratch memory; depends on sizes, options and `threads`, not on data.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_attention_cpu_fwd_workspace(const paddle_infra::AttentionParams* params);
PADDLE_INFRA_EXPORT int64_t
paddle_infra_attention_cpu_bwd_workspace(const paddle_infra::AttentionParams* params);

// Writes o, stats and lse.
PADDLE_INFRA_EXPORT void paddle_infra_attention_cpu_fwd(const paddle_infra::AttentionParams* params);

// Reads o and stats; writes grad_q, grad_k, grad_v and, if wanted, grad_bias: every element, zeros included.
PADDLE_INFRA_EXPORT void paddle_infra_attention_cpu_bwd(const paddle_infra::AttentionParams* params);

// The number that decides about dropping the weight of query i and key j: it is dropped if the number is
// below dropout_p * 2^32. `head` counts batch * heads + head. For tests.
PADDLE_INFRA_EXPORT uint32_t paddle_infra_attention_dropout_bits(int64_t seed, int64_t head, int64_t i,
                                                                 int64_t j);

// Forward only, for few queries and keys that are mostly memory (a cache): [batch, seq_q, ...] against
// [batch, seq_k, ...] with kv_lengths. Takes the same parameters; bias only if it is a float or a mask with
// strides as above; dropout, cu_seqlens and stats are not used. Splits long caches over threads.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_attention_decode_cpu_workspace(const paddle_infra::AttentionParams* params);
PADDLE_INFRA_EXPORT void paddle_infra_attention_decode_cpu(const paddle_infra::AttentionParams* params);
