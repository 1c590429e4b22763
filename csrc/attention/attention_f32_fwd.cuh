// Forward attention of float32 numbers by multiply-adds, in full precision. A block of 128 threads has a tile
// of queries of a head, and goes through the keys a tile at a time:
//
//   S = Q K^T in registers -> softmax, online -> weights, in shared memory -> O += weights V
//
// The tile of values is copied while K is multiplied, and the next tile of keys while V is.
#pragma once

#include "attention/attention_rows_f32.cuh"

namespace paddle_infra {
namespace {

// Shared memory is below 99 KB, what the smallest of the GPUs has.
template <int kDim>
struct F32FwdTile {
  static constexpr int kQueries = kDim <= 128 ? 64 : 32;
  static constexpr int kKeys = kDim <= 64 ? 64 : kDim <= 128 ? 32 : 16;
  static constexpr int kBytes = 4 * ((kQueries + 2 * kKeys) * kF32Stride<kDim> + kQueries * kKeys);
};

template <int kDim, bool kGeneral>
__global__ void __launch_bounds__(kF32Threads) attention_f32_fwd_kernel(AttentionParams p, bool is_aligned) {
  using Tile = F32FwdTile<kDim>;
  constexpr int kRows = Tile::kQueries / kF32Down, kColumns = Tile::kKeys / kF32Across;
  PI_SHARED_MEMORY(shared);
  float* const q_tile = reinterpret_cast<float*>(shared);
  float* const k_tile = q_tile + Tile::kQueries * kF32Stride<kDim>;
  float* const v_tile = k_tile + Tile::kKeys * kF32Stride<kDim>;
  float* const weights = v_tile + Tile::kKeys * kF32Stride<kDim>;
  const TilePlace place = tile_place();
  const int b = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(p.heads / p.kv_heads);
  const int first = static_cast<int>(blockIdx.x) * Tile::kQueries;
  const CudaSequence seq = sequence_of(p, b);
  if (first >= seq.q_rows) return;
  const auto head_rows = [&](const void* data, const AttentionStrides& stride, int64_t row, int rows, int h) {
    return FloatRows{static_cast<const float*>(data) + offset_of(p, stride, b, row, h), stride.sequence, rows,
                     static_cast<int>(p.head_dim), is_aligned};
  };
  const FloatRows q = head_rows(p.q, p.q_stride, seq.q_row, seq.q_valid, head);
  const FloatRows k = head_rows(p.k, p.k_stride, seq.k_row, seq.keys, kv_head);
  const FloatRows v = head_rows(p.v, p.v_stride, seq.k_row, seq.keys, kv_head);
  const IntRange queries{first, least(first + Tile::kQueries, seq.q_valid)};
  IntRange keys = visible_keys(p, seq, queries);
  keys.begin = keys.begin / Tile::kKeys * Tile::kKeys;
  if (queries.begin >= queries.end) keys.end = keys.begin;

  load_rows<kDim, Tile::kQueries>(q, first, q_tile);
  if (keys.begin < keys.end) load_rows<kDim, Tile::kKeys>(k, keys.begin, k_tile);
  close_copy_group();

  const Scores score_of(p, seq, b, head);
  const KeptWeights kept(p, b, head);
  const float factor = score_factor(p) * kLog2E;
  float o[kRows][kF32Columns<kDim>] = {}, max[kRows], sum[kRows];
  PI_UNROLL
  for (int i = 0; i < kRows; ++i) {
    max[i] = kLowestMax;
    sum[i] = 0.0f;
  }
  for (int key = keys.begin; key < keys.end; key += Tile::kKeys) {
    wait_for_copies<0>();
    __syncthreads();  // keys are there; nobody needs the last values and weights
    load_rows<kDim, Tile::kKeys>(v, key, v_tile);
    close_copy_group();
    float s[kRows][kColumns] = {};
    add_row_products<kDim>(s, q_tile, k_tile, place);

    const bool hides = queries.end - queries.begin < Tile::kQueries ||
                       !all_visible(p, seq, queries, {key, key + Tile::kKeys});
    if (kGeneral || hides) {
      PI_UNROLL
      for (int i = 0; i < kRows; ++i) {
        PI_UNROLL
        for (int j = 0; j < kColumns; ++j) {
          const int at = key + place.across + j * kF32Across, query = first + place.down + i * kF32Down;
          if (query >= seq.q_valid || !is_visible(p, seq, query, at)) {
            s[i][j] = minus_infinity();
          } else if (kGeneral) {
            s[i][j] = score_of(s[i][j], query, at);
          }
        }
      }
    }

    PI_UNROLL
    for (int i = 0; i < kRows; ++i) {
      float top = max[i];
      PI_UNROLL
      for (int j = 0; j < kColumns; ++j) top = fmaxf(top, s[i][j]);
      top = max_over_lanes<kF32Across - 1>(top);
      const float fade = fast_exp2((max[i] - top) * factor);
      max[i] = top;
      float total = 0.0f;
      const int row = place.down + i * kF32Down;
      PI_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        // Differences first: they are exact, and products of 10^4 times a factor would not be.
        float weight = fast_exp2((s[i][j] - top) * factor);
        total += weight;
        const int column = place.across + j * kF32Across;
        if (kGeneral && !kept.has(first + row, key + column)) weight = 0.0f;
        store_shared(weights + weight_at<Tile::kKeys>(row, column), weight);
      }
      sum[i] = sum[i] * fade + total;
      PI_UNROLL
      for (int c = 0; c < kF32Columns<kDim>; ++c) o[i][c] *= fade;
    }

    wait_for_copies<0>();
    __syncthreads();  // weights and values are there; nobody needs the keys
    if (key + Tile::kKeys < keys.end) load_rows<kDim, Tile::kKeys>(k, key + Tile::kKeys, k_tile);
    close_copy_group();
    add_weighted_rows<kDim, Tile::kKeys>(o, weights, v_tile, place);
  }
  wait_for_copies<0>();

  const float natural = score_factor(p), inverse_keep = 1.0f / (1.0f - p.dropout_p);
  float* const out = static_cast<float*>(p.o) + offset_of(p, p.q_stride, b, seq.q_row, head);
  PI_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const int query = first + place.down + i * kF32Down;
    const float total = sum_over_lanes<kF32Across - 1>(sum[i]);
    if (query >= seq.q_rows) continue;
    const float norm = total == 0.0f ? 0.0f : inverse_keep / total;  // not "> 0": a NaN stays one
    if (place.across == 0) {
      const int64_t at = stats_offset(p, seq, b, query, head);
      store_global(&p.stats[at].max, max[i]);
      store_global(&p.stats[at].sum, total);
      store_global(p.lse + at, total == 0.0f ? minus_infinity() : max[i] * natural + logf(total));
    }
    store_row<kDim>(o[i], norm, out + query * p.q_stride.sequence, static_cast<int>(p.head_dim), is_aligned,
                    place.across);
  }
}

}  // namespace

template <int kDim>
const char* launch_attention_f32_fwd(const AttentionParams& p, bool is_aligned, void* stream) {
  using Tile = F32FwdTile<kDim>;
  const dim3 grid(static_cast<unsigned>((p.seq_q + Tile::kQueries - 1) / Tile::kQueries),
                  static_cast<unsigned>(p.heads), static_cast<unsigned>(p.batch));
  const auto launch = [&](auto kernel) -> const char* {
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kBytes);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    PI_LAUNCH(kernel, grid, kF32Threads, Tile::kBytes, static_cast<cudaStream_t>(stream), p, is_aligned);
    error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  };
  const bool is_general = !is_plain(p) || p.dropout_p > 0.0f;
  return is_general ? launch(attention_f32_fwd_kernel<kDim, true>)
                    : launch(attention_f32_fwd_kernel<kDim, false>);
}

}  // namespace paddle_infra
