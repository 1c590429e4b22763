// The gradient of queries: a block has 64 queries of a head, and goes through the keys that they see.
//
//   S = Q K^T, dP = dO V^T -> dS in registers -> dQ += dS K
#pragma once

#include "attention/attention_bwd_scores.cuh"

namespace paddle_infra {
namespace {

template <int kDim>
constexpr int kBwdQueryBytes = (2 * kBwdRows + 2 * kBwdStages * kBwdStep<kDim>)*kDim * 2;

template <class Format, int kDim, bool kGeneral>
__global__ void __launch_bounds__(kBwdThreads) attention_bwd_query(AttentionParams p, bool is_aligned) {
  constexpr int kStep = kBwdStep<kDim>, kStage = kStep * kDim;
  PI_SHARED_MEMORY(shared);
  uint16_t* const q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* const grad_tile = q_tile + kBwdRows * kDim;
  uint16_t* const k_tiles = grad_tile + kBwdRows * kDim;
  uint16_t* const v_tiles = k_tiles + kBwdStages * kStage;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int b = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(p.heads / p.kv_heads);
  const int first = static_cast<int>(blockIdx.x) * kBwdRows;
  const CudaSequence seq = sequence_of(p, b);
  if (first >= seq.q_rows) return;
  const bool aligned = kGeneral ? is_aligned : true;

  const IntRange queries{first, least(first + kBwdRows, seq.q_valid)};
  IntRange keys = visible_keys(p, seq, queries);
  keys.begin = keys.begin / kStep * kStep;
  const int steps =
      queries.begin < queries.end && keys.begin < keys.end ? (keys.end - keys.begin + kStep - 1) / kStep : 0;
  const auto load_keys = [&](int step) {
    const int stage = step % kBwdStages * kStage, key = keys.begin + step * kStep;
    load_tile<kDim, kStep, kBwdThreads>(
        rows_of_head(p, p.k, p.k_stride, b, seq.k_row, seq.keys, kv_head, aligned), key, k_tiles + stage);
    load_tile<kDim, kStep, kBwdThreads>(
        rows_of_head(p, p.v, p.v_stride, b, seq.k_row, seq.keys, kv_head, aligned), key, v_tiles + stage);
  };
  if (steps > 0) {
    load_tile<kDim, kBwdRows, kBwdThreads>(
        rows_of_head(p, p.q, p.q_stride, b, seq.q_row, seq.q_valid, head, aligned), first, q_tile);
    load_tile<kDim, kBwdRows, kBwdThreads>(
        rows_of_head(p, p.grad_o, p.q_stride, b, seq.q_row, seq.q_valid, head, aligned), first, grad_tile);
    load_keys(0);
  }
  close_copy_group();
  wait_for_copies<0>();
  __syncthreads();
  const int query = first + warp * 16 + lane / 4;  // and query + 8
  const BwdRow rows[2] = {load_bwd_row(p, seq, b, query, head), load_bwd_row(p, seq, b, query + 8, head)};
  const ScoreGradients<kGeneral> finish(p, seq, b, head);
  Accumulators<kDim / 8> grad_q = {};

  for (int step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();  // this step's tiles are there for all; the others are not needed by anybody
    if (step + 1 < steps) load_keys(step + 1);
    close_copy_group();
    const int key = keys.begin + step * kStep, stage = step % kBwdStages * kStage;
    // Not of kStep, a local constant: CUDA 12.6 ends with a segmentation fault when it compiles that.
    Accumulators<kBwdStep<kDim> / 8> weights = {}, grads = {};
    add_products<Format, kDim, kStep>(weights, q_tile, warp * 16, k_tiles + stage, lane);
    add_products<Format, kDim, kStep>(grads, grad_tile, warp * 16, v_tiles + stage, lane);
    const bool hides = !all_visible(p, seq, queries, {key, key + kStep});
    PI_UNROLL
    for (int n = 0; n < kStep / 8; ++n) {
      PI_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int at = key + n * 8 + lane % 4 * 2 + e % 2;
        grads[n][e] *= finish(weights[n][e], grads[n][e], rows[e / 2], query + e / 2 * 8, at, hides);
      }
    }
    add_weighted_rows<Format, kDim, kStep>(grad_q, grads, k_tiles + stage, lane);
  }
  wait_for_copies<0>();

  const TileTarget to{static_cast<uint16_t*>(p.grad_q) + offset_of(p, p.q_stride, b, seq.q_row, head),
                      p.q_stride.sequence, seq.q_rows, static_cast<int>(p.head_dim), aligned};
  store_sums<Format, kDim>(grad_q, p.scale, q_tile, warp * 16, lane, to, first);
}

}  // namespace
}  // namespace paddle_infra
