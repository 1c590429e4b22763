// The gradients of keys and values: a block has 64 keys of a key-value head, and goes through the queries
// that see them, of all heads of the group, so that nobody else adds to its sums.
//
//   S^T = K Q^T, dP^T = V dO^T -> P^T, dS^T in registers -> dV += P^T dO, dK += dS^T Q
//
// Transposed, because the layout of an mma's result is that of its left factor.
#pragma once

#include "attention/attention_bwd_scores.cuh"

namespace paddle_infra {
namespace {

template <int kDim>
constexpr int kBwdKeyValueBytes = (2 * kBwdRows + 2 * kBwdStages * kBwdStep<kDim>)*kDim * 2 +
                                  kBwdStages * kBwdStep<kDim> * static_cast<int>(sizeof(BwdRow));

template <class Format, int kDim, bool kGeneral>
__global__ void __launch_bounds__(kBwdThreads) attention_bwd_key_value(AttentionParams p, bool is_aligned) {
  constexpr int kStep = kBwdStep<kDim>, kStage = kStep * kDim;
  PI_SHARED_MEMORY(shared);
  uint16_t* const k_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* const v_tile = k_tile + kBwdRows * kDim;
  uint16_t* const q_tiles = v_tile + kBwdRows * kDim;
  uint16_t* const grad_tiles = q_tiles + kBwdStages * kStage;
  BwdRow* const row_tiles = reinterpret_cast<BwdRow*>(grad_tiles + kBwdStages * kStage);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int b = static_cast<int>(blockIdx.z), kv_head = static_cast<int>(blockIdx.y);
  const int group = static_cast<int>(p.heads / p.kv_heads);
  const int first = static_cast<int>(blockIdx.x) * kBwdRows;
  const CudaSequence seq = sequence_of(p, b);
  if (first >= seq.k_rows) return;
  const bool aligned = kGeneral ? is_aligned : true;

  const IntRange keys{first, least(first + kBwdRows, seq.keys)};
  IntRange queries = seeing_queries(p, seq, keys);
  queries.begin = queries.begin / kStep * kStep;
  const int blocks = keys.begin < keys.end && queries.begin < queries.end
                         ? (queries.end - queries.begin + kStep - 1) / kStep
                         : 0;
  const int steps = blocks * group;
  const auto load_queries = [&](int step) {
    const int head = kv_head * group + step / blocks, query = queries.begin + step % blocks * kStep;
    const int stage = step % kBwdStages;
    load_tile<kDim, kStep, kBwdThreads>(
        rows_of_head(p, p.q, p.q_stride, b, seq.q_row, seq.q_valid, head, aligned), query,
        q_tiles + stage * kStage);
    load_tile<kDim, kStep, kBwdThreads>(
        rows_of_head(p, p.grad_o, p.q_stride, b, seq.q_row, seq.q_valid, head, aligned), query,
        grad_tiles + stage * kStage);
    if (thread >= kStep) return;
    const bool exists = query + thread < seq.q_valid;
    copy_async_16(row_tiles + stage * kStep + thread,
                  bwd_rows(p) + stats_offset(p, seq, b, exists ? query + thread : 0, head), exists);
  };

  if (steps > 0) {
    load_tile<kDim, kBwdRows, kBwdThreads>(
        rows_of_head(p, p.k, p.k_stride, b, seq.k_row, seq.keys, kv_head, aligned), first, k_tile);
    load_tile<kDim, kBwdRows, kBwdThreads>(
        rows_of_head(p, p.v, p.v_stride, b, seq.k_row, seq.keys, kv_head, aligned), first, v_tile);
    load_queries(0);
  }
  close_copy_group();
  wait_for_copies<0>();
  __syncthreads();
  Accumulators<kDim / 8> grad_k = {}, grad_v = {};

  for (int step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();  // this step's tiles are there for all; the others are not needed by anybody
    if (step + 1 < steps) load_queries(step + 1);
    close_copy_group();
    const int query = queries.begin + step % blocks * kStep, stage = step % kBwdStages;
    const uint16_t* const q_tile = q_tiles + stage * kStage;
    const uint16_t* const grad_tile = grad_tiles + stage * kStage;
    const BwdRow* const rows = row_tiles + stage * kStep;

    // Not of kStep, a local constant: CUDA 12.6 ends with a segmentation fault when it compiles that.
    Accumulators<kBwdStep<kDim> / 8> weights = {}, grads = {};
    add_products<Format, kDim, kStep>(weights, k_tile, warp * 16, q_tile, lane);
    add_products<Format, kDim, kStep>(grads, v_tile, warp * 16, grad_tile, lane);
    const ScoreGradients<kGeneral> finish(p, seq, b, kv_head * group + step / blocks);
    const bool hides =
        !all_visible(p, seq, {query, least(query + kStep, seq.q_valid)}, {first, first + kBwdRows});
    PI_UNROLL
    for (int n = 0; n < kStep / 8; ++n) {
      PI_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int at = n * 8 + lane % 4 * 2 + e % 2, key = first + warp * 16 + lane / 4 + e / 2 * 8;
        const BwdRow row = load_shared(rows + at);
        grads[n][e] *= finish(weights[n][e], grads[n][e], row, query + at, key, hides);
      }
    }
    add_weighted_rows<Format, kDim, kStep>(grad_v, weights, grad_tile, lane);
    add_weighted_rows<Format, kDim, kStep>(grad_k, grads, q_tile, lane);
  }
  wait_for_copies<0>();

  const auto target = [&](void* data, const AttentionStrides& stride) {
    return TileTarget{static_cast<uint16_t*>(data) + offset_of(p, stride, b, seq.k_row, kv_head),
                      stride.sequence, seq.k_rows, static_cast<int>(p.head_dim), aligned};
  };
  store_sums<Format, kDim>(grad_k, p.scale, k_tile, warp * 16, lane, target(p.grad_k, p.k_stride), first);
  store_sums<Format, kDim>(grad_v, 1.0f / (1.0f - p.dropout_p), v_tile, warp * 16, lane,
                           target(p.grad_v, p.v_stride), first);
}

}  // namespace
}  // namespace paddle_infra
