// The first kernel of attention's backward pass: what the others need of each row of scores.
#pragma once

#include "attention/attention_bwd_scores.cuh"

namespace paddle_infra {
namespace {

constexpr int kLanesOfRow = 4, kBwdRowsOfBlock = kBwdThreads / kLanesOfRow;

// Eight numbers of a row, from `column` on; zeros beyond its end.
template <class Format>
PI_DEVICE void load_chunk(const uint16_t* row, int column, int columns, bool is_aligned, float (&to)[8]) {
  if (is_aligned) {
    uint4 chunk{0, 0, 0, 0};
    if (column < columns) chunk = load_global(reinterpret_cast<const uint4*>(row + column));
    const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    PI_UNROLL
    for (int e = 0; e < 4; ++e) {
      to[2 * e] = Format::first(pairs[e]);
      to[2 * e + 1] = Format::second(pairs[e]);
    }
    return;
  }
  PI_UNROLL
  for (int e = 0; e < 8; ++e) {
    to[e] = column + e < columns ? Format::to_float(load_global(row + column + e)) : 0.0f;
  }
}

// Four lanes have a row. Rows of queries that are padding are not written, and nobody reads them.
template <class Format, int kDim>
__global__ void __launch_bounds__(kBwdThreads) attention_bwd_rows(AttentionParams p, bool is_aligned) {
  const int thread = static_cast<int>(threadIdx.x), b = static_cast<int>(blockIdx.z);
  const int head = static_cast<int>(blockIdx.y), lane = thread % kLanesOfRow;
  const int query = static_cast<int>(blockIdx.x) * kBwdRowsOfBlock + thread / kLanesOfRow;
  const CudaSequence seq = sequence_of(p, b);
  const bool exists = query < seq.q_valid;
  const int64_t at = offset_of(p, p.q_stride, b, seq.q_row + (exists ? query : 0), head);
  const int columns = exists ? static_cast<int>(p.head_dim) : 0;
  float sum = 0.0f;
  PI_UNROLL
  for (int i = 0; i < kDim / 8 / kLanesOfRow; ++i) {
    const int column = (i * kLanesOfRow + lane) * 8;
    float o[8], grad[8];
    load_chunk<Format>(static_cast<const uint16_t*>(p.o) + at, column, columns, is_aligned, o);
    load_chunk<Format>(static_cast<const uint16_t*>(p.grad_o) + at, column, columns, is_aligned, grad);
    PI_UNROLL
    for (int e = 0; e < 8; ++e) sum += o[e] * grad[e];
  }
  sum = sum_over_lanes<kLanesOfRow - 1>(sum);
  if (!exists || lane != 0) return;
  const int64_t row = stats_offset(p, seq, b, query, head);
  const float total = load_global(&p.stats[row].sum);
  BwdRow result{INFINITY, 0.0f, 0.0f, 0.0f};
  if (total != 0.0f) {  // not "> 0": a NaN stays one
    result.shift = load_global(&p.stats[row].max) * (score_factor(p) * kLog2E);
    result.inverse_sum = 1.0f / total;
    result.delta = p.grad_lse != nullptr ? sum - load_global(p.grad_lse + row) : sum;
  }
  store_global(bwd_rows(p) + row, result);
}

}  // namespace
}  // namespace paddle_infra
