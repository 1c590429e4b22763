// The input block of an encoder: dropout(norm(word[id] + token_type[type] + position[place]) * weight +
// bias), and its gradients.
//
// Plain parameters and C entry points; nothing here knows Paddle.
#pragma once

#include <cstdint>

#include "common/abi.h"
#include "common/norm_stats.h"

namespace paddle_infra {

// Rows of a table that are looked up: token s of sequence b reads row index[b * batch_stride + s]. Without
// indices it reads row s of a table of positions, and row 0 of a table of token types.
struct EmbeddingTable {
  const float* rows;  // [count, size], dense; null: no such table
  int64_t count;
  const int64_t* index;  // every one in [0, count)
  int64_t batch_stride;
  float* grad;  // backward: as rows
};

struct EmbeddingNormParams {
  int64_t batch, sequence, size;
  EmbeddingTable word, position, token_type;
  int64_t padding_idx;         // a row of word that gets no gradient; -1: none
  const float *weight, *bias;  // [size]

  bool is_rms;
  float epsilon;
  float dropout_p;      // probability of dropping a number of the result, in [0, 1)
  const int64_t* seed;  // one number; not read if dropout_p is 0

  int threads;      // OpenMP threads to use, at least 1
  void* workspace;  // 64-byte aligned, as large as ..._workspace() says for these parameters

  // Results of forward; backward reads stats.
  float* out;        // [batch, sequence, size]
  NormStats* stats;  // [batch, sequence]

  // Backward.
  const float* grad_out;
  float *grad_weight, *grad_bias;
};

}  // namespace paddle_infra

// Bytes of scratch memory; depends on sizes, options and `threads`, not on data.
PADDLE_INFRA_EXPORT int64_t
paddle_infra_embedding_norm_cpu_fwd_workspace(const paddle_infra::EmbeddingNormParams* params);
PADDLE_INFRA_EXPORT int64_t
paddle_infra_embedding_norm_cpu_bwd_workspace(const paddle_infra::EmbeddingNormParams* params);

// Writes out and stats.
PADDLE_INFRA_EXPORT void paddle_infra_embedding_norm_cpu_fwd(const paddle_infra::EmbeddingNormParams* params);

// Writes all gradients: every element, zeros for rows of tables that no token read.
PADDLE_INFRA_EXPORT void paddle_infra_embedding_norm_cpu_bwd(const paddle_infra::EmbeddingNormParams* params);
