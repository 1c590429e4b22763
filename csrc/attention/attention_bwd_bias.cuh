// The gradient of a bias. A block owns 64 x 64 numbers of it, or fewer where the bias has one number for all
// queries or keys, and goes through all scores that they were added to: nobody else adds to its sums. This
// makes scores and their gradients once more, but only for those who want the gradient of a bias.
#pragma once

#include "attention/attention_bwd_scores.cuh"

namespace paddle_infra {
namespace {

struct alignas(8) FloatPair {
  float first, second;
};

// From row to row of a block's sums in shared memory, where the tiles were: the pairs of four rows, which
// half a warp writes at a time, are in different banks.
constexpr int kSumsPitch = kBwdRows + 8;

template <int kDim>
constexpr int kBwdBiasBytes =
    4 * kBwdRows * kDim * 2 > kBwdRows * kSumsPitch * 4 ? 4 * kBwdRows * kDim * 2 : kBwdRows * kSumsPitch * 4;

// What block `index` on an axis of `size` goes through: its part, or everything if the bias is broadcast.
PI_DEVICE IntRange part_of_axis(int64_t size, int width, bool is_shared, int index) {
  const int all = static_cast<int>(size), begin = is_shared ? 0 : index * width;
  return {begin, is_shared ? all : least(begin + width, all)};
}

// Writes the sums of a block; axes that the bias does not have are added up, always in the same order.
PI_DEVICE void store_bias_sums(const AttentionParams& p, const Accumulators<kBwdRows / 8>& sums,
                               float* shared, int64_t offset, IntRange queries, IntRange keys) {
  const int64_t* const stride = p.grad_bias_stride;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const bool for_all_queries = stride[2] == 0, for_all_keys = stride[3] == 0;
  PI_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + lane / 4 + half * 8;
    float total = 0.0f;  // of the columns that this lane has
    PI_UNROLL
    for (int n = 0; n < kBwdRows / 8; ++n) {
      const FloatPair pair{sums[n][2 * half], sums[n][2 * half + 1]};
      total += pair.first + pair.second;
      float* const to = shared + row * kSumsPitch + n * 8 + lane % 4 * 2;
      if (!for_all_keys) store_shared(reinterpret_cast<FloatPair*>(to), pair);
    }
    if (for_all_keys) store_shared(shared + lane % 4 * kSumsPitch + row, total);
  }
  __syncthreads();
  const auto sum_at = [&](int row, int column) {
    if (!for_all_keys) return load_shared(shared + row * kSumsPitch + column);
    float total = 0.0f;
    for (int part = 0; part < 4; ++part) total += load_shared(shared + part * kSumsPitch + row);
    return total;
  };
  const int columns = for_all_keys ? 1 : keys.end - keys.begin;
  const int rows = for_all_queries ? 1 : queries.end - queries.begin;
  for (int i = thread; i < rows * columns; i += kBwdThreads) {
    const int row = i / columns, column = i % columns;
    float total = sum_at(row, column);
    for (int r = 1; for_all_queries && r < kBwdRows; ++r) total += sum_at(r, column);
    const int64_t at = (queries.begin + row) * stride[2] + (keys.begin + column) * stride[3];
    store_global(p.grad_bias + offset + at, total);
  }
}

template <class Format, int kDim>
__global__ void __launch_bounds__(kBwdThreads, 2) attention_bwd_bias(AttentionParams p, bool is_aligned) {
  PI_SHARED_MEMORY(shared);
  uint16_t* const q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* const grad_tile = q_tile + kBwdRows * kDim;
  uint16_t* const k_tile = grad_tile + kBwdRows * kDim;
  uint16_t* const v_tile = k_tile + kBwdRows * kDim;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t* const stride = p.grad_bias_stride;
  const int group = static_cast<int>(p.heads / p.kv_heads);
  const int key_tiles = stride[3] == 0 ? 1 : static_cast<int>((p.seq_k + kBwdRows - 1) / kBwdRows);
  const int tile = static_cast<int>(blockIdx.x), block_head = static_cast<int>(blockIdx.y),
            block_b = static_cast<int>(blockIdx.z);
  const IntRange all_b = part_of_axis(p.batch, 1, stride[0] == 0, block_b);
  const IntRange all_heads = part_of_axis(p.heads, 1, stride[1] == 0, block_head);
  const IntRange all_queries = part_of_axis(p.seq_q, kBwdRows, stride[2] == 0, tile / key_tiles);
  const IntRange all_keys = part_of_axis(p.seq_k, kBwdRows, stride[3] == 0, tile % key_tiles);
  Accumulators<kBwdRows / 8> sums = {};

  const auto add_scores = [&](const CudaSequence& seq, int b, int head, IntRange queries) {
    const IntRange seen = visible_keys(p, seq, queries);
    const int begin = most(all_keys.begin, seen.begin / kBwdRows * kBwdRows);
    const int end = least(all_keys.end, seen.end), kv_head = head / group;
    if (begin >= end) return;
    const ScoreGradients<true> finish(p, seq, b, head);
    const int query = queries.begin + warp * 16 + lane / 4;  // and query + 8
    const BwdRow rows[2] = {load_bwd_row(p, seq, b, query, head), load_bwd_row(p, seq, b, query + 8, head)};
    const auto load = [&](const void* data, const AttentionStrides& from, int64_t row, int count, int h,
                          int at, uint16_t* to) {
      load_tile<kDim, kBwdRows, kBwdThreads>(rows_of_head(p, data, from, b, row, count, h, is_aligned), at,
                                             to);
    };
    for (int key = begin; key < end; key += kBwdRows) {
      __syncthreads();  // nobody needs the tiles before
      if (key == begin) {
        load(p.q, p.q_stride, seq.q_row, seq.q_valid, head, queries.begin, q_tile);
        load(p.grad_o, p.q_stride, seq.q_row, seq.q_valid, head, queries.begin, grad_tile);
      }
      load(p.k, p.k_stride, seq.k_row, seq.keys, kv_head, key, k_tile);
      load(p.v, p.v_stride, seq.k_row, seq.keys, kv_head, key, v_tile);
      close_copy_group();
      wait_for_copies<0>();
      __syncthreads();
      Accumulators<kBwdRows / 8> weights = {}, grads = {};
      add_products<Format, kDim, kBwdRows>(weights, q_tile, warp * 16, k_tile, lane);
      add_products<Format, kDim, kBwdRows>(grads, grad_tile, warp * 16, v_tile, lane);
      PI_UNROLL
      for (int n = 0; n < kBwdRows / 8; ++n) {
        PI_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int at = key + n * 8 + lane % 4 * 2 + e % 2;
          finish(weights[n][e], grads[n][e], rows[e / 2], query + e / 2 * 8, at, true);
          sums[n][e] += grads[n][e];
        }
      }
    }
  };
  for (int b = all_b.begin; b < all_b.end; ++b) {
    const CudaSequence seq = sequence_of(p, b);
    const int end = least(all_queries.end, seq.q_valid);
    for (int head = all_heads.begin; head < all_heads.end; ++head) {
      for (int query = all_queries.begin; query < end; query += kBwdRows) {
        add_scores(seq, b, head, {query, least(query + kBwdRows, end)});
      }
    }
  }
  __syncthreads();  // nobody needs the tiles any more
  store_bias_sums(p, sums, reinterpret_cast<float*>(shared), block_b * stride[0] + block_head * stride[1],
                  all_queries, all_keys);
}

}  // namespace
}  // namespace paddle_infra
