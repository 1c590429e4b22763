// Few float32 queries against a cache, by multiply-adds in full precision. A block has 8, 16 or 32 queries
// that share a key-value head, and goes through a split's keys 32 at a time, as forward attention of float32
// does: see attention_f32_fwd.cuh.
#pragma once

#include "attention/attention_decode.cuh"

namespace paddle_infra {
namespace {

constexpr int kDecodeF32Keys = 32, kDecodeF32Stages = 2;

template <int kDim, int kRows>
constexpr int kDecodeF32Bytes =
    4 * ((kRows * kF32Down + 2 * kDecodeF32Stages * kDecodeF32Keys) * kF32Stride<kDim> +
         kRows * kF32Down * kDecodeF32Keys);

// Copies the queries [first, first + block_rows) into a tile; those that do not exist are zeros.
template <int kDim>
PI_DEVICE void load_decode_queries(const AttentionParams& p, const DecodePlan& plan, int b, int kv_head,
                                   int first, float* tile) {
  for (int i = static_cast<int>(threadIdx.x); i < plan.block_rows * kDim; i += kDecodeThreads) {
    const int row = i / kDim, column = i % kDim;
    const DecodeRow which = decode_row(p, plan, kv_head, first + row);
    const float* from = static_cast<const float*>(p.q) + offset_of(p, p.q_stride, b, which.query, which.head);
    const bool exists = first + row < plan.rows && column < p.head_dim;
    store_shared(tile + row * kF32Stride<kDim> + column, exists ? load_global(from + column) : 0.0f);
  }
}

template <int kDim, int kRows, bool kGeneral>
__global__ void __launch_bounds__(kDecodeThreads, 2)
    attention_decode_f32(AttentionParams p, DecodePlan plan, bool is_aligned) {
  constexpr int kColumns = kDecodeF32Keys / kF32Across, kTile = kDecodeF32Keys * kF32Stride<kDim>;
  constexpr int kPiece = kF32Piece<kDim>;
  PI_SHARED_MEMORY(shared);
  float* const q_tile = reinterpret_cast<float*>(shared);
  float* const k_tiles = q_tile + kRows * kF32Down * kF32Stride<kDim>;
  float* const v_tiles = k_tiles + kDecodeF32Stages * kTile;
  float* const weights = v_tiles + kDecodeF32Stages * kTile;
  const TilePlace place = tile_place();
  const int split = static_cast<int>(blockIdx.x), b = static_cast<int>(blockIdx.z);
  const int kv_head = static_cast<int>(blockIdx.y) / plan.groups;
  const int first_row = static_cast<int>(blockIdx.y) % plan.groups * plan.block_rows;
  const CudaSequence seq = sequence_of(p, b);
  const IntRange keys = keys_of_split(p, seq, plan.splits, split, kDecodeF32Keys);
  if (ends_empty_split(p, plan, b, kv_head, split, first_row, keys)) return;
  const auto cache = [&](const void* data, const AttentionStrides& stride) {
    return FloatRows{static_cast<const float*>(data) + offset_of(p, stride, b, 0, kv_head), stride.sequence,
                     keys.end, static_cast<int>(p.head_dim), is_aligned};
  };
  const FloatRows k = cache(p.k, p.k_stride), v = cache(p.v, p.v_stride);
  const int blocks = (keys.end - keys.begin + kDecodeF32Keys - 1) / kDecodeF32Keys;
  const auto load_keys = [&](int block) {
    const int stage = block % kDecodeF32Stages * kTile, key = keys.begin + block * kDecodeF32Keys;
    load_rows<kDim, kDecodeF32Keys>(k, key, k_tiles + stage);
    load_rows<kDim, kDecodeF32Keys>(v, key, v_tiles + stage);
  };
  if (blocks > 0) load_keys(0);
  close_copy_group();
  load_decode_queries<kDim>(p, plan, b, kv_head, first_row, q_tile);

  const float factor = score_factor(p) * kLog2E;
  float o[kRows][kF32Columns<kDim>] = {}, max[kRows], sum[kRows];
  PI_UNROLL
  for (int i = 0; i < kRows; ++i) {
    max[i] = kLowestMax;
    sum[i] = 0.0f;
  }
  for (int block = 0; block < blocks; ++block) {
    wait_for_copies<0>();
    __syncthreads();  // this pair of tiles is there for all; the other one is not needed by anybody
    if (block + 1 < blocks) load_keys(block + 1);
    close_copy_group();
    const int stage = block % kDecodeF32Stages * kTile, key = keys.begin + block * kDecodeF32Keys;
    float s[kRows][kColumns] = {};
    add_row_products<kDim>(s, q_tile, k_tiles + stage, place);
    const bool hides =
        seq.q_valid < seq.q_rows || !all_visible(p, seq, {0, seq.q_valid}, {key, key + kDecodeF32Keys});
    PI_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const int block_row = place.down + i * kF32Down;
      if (kGeneral || hides) {
        const DecodeRow row = decode_row(p, plan, kv_head, first_row + block_row);
        const Scores score_of(p, seq, b, row.head);
        PI_UNROLL
        for (int j = 0; j < kColumns; ++j) {
          const int at = key + place.across + j * kF32Across;
          if (row.query >= seq.q_valid || !is_visible(p, seq, row.query, at)) {
            s[i][j] = minus_infinity();
          } else if (kGeneral) {
            s[i][j] = score_of(s[i][j], row.query, at);
          }
        }
      }
      float top = max[i];
      PI_UNROLL
      for (int j = 0; j < kColumns; ++j) top = fmaxf(top, s[i][j]);
      top = max_over_lanes<kF32Across - 1>(top);
      const float fade = fast_exp2((max[i] - top) * factor);
      max[i] = top;
      sum[i] *= fade;
      PI_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        const float weight = fast_exp2((s[i][j] - top) * factor);
        sum[i] += weight;
        store_shared(weights + weight_at<kDecodeF32Keys>(block_row, place.across + j * kF32Across), weight);
      }
      PI_UNROLL
      for (int c = 0; c < kF32Columns<kDim>; ++c) o[i][c] *= fade;
    }
    __syncwarp();  // a row of weights is made and used by one warp
    add_weighted_rows<kDim, kDecodeF32Keys>(o, weights, v_tiles + stage, place);
  }
  wait_for_copies<0>();

  PI_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const DecodeStats stats{{max[i], sum_over_lanes<kF32Across - 1>(sum[i])}};
    PI_UNROLL
    for (int n = 0; n < kF32Columns<kDim> / kPiece; ++n) {
      Floats<kPiece> piece;
      PI_UNROLL
      for (int c = 0; c < kPiece; ++c) piece.at[c] = o[i][n * kPiece + c];
      store_split<Float32>(p, plan, seq, b, kv_head, split, first_row + place.down + i * kF32Down,
                           piece_column<kDim>(n, place.across), stats, piece, is_aligned);
    }
  }
}

}  // namespace

template <int kDim>
const char* launch_attention_decode_f32(const AttentionParams& p, bool is_aligned, void* stream) {
  const DecodePlan plan(p);
  const auto launch = [&](auto plain, auto general, int bytes) {
    return launch_decode<Float32>(is_plain(p) ? plain : general, bytes, p, plan, is_aligned, stream);
  };
  if (plan.block_rows == kF32Down) {
    return launch(attention_decode_f32<kDim, 1, false>, attention_decode_f32<kDim, 1, true>,
                  kDecodeF32Bytes<kDim, 1>);
  }
  if (plan.block_rows == 2 * kF32Down) {
    return launch(attention_decode_f32<kDim, 2, false>, attention_decode_f32<kDim, 2, true>,
                  kDecodeF32Bytes<kDim, 2>);
  }
  return launch(attention_decode_f32<kDim, 4, false>, attention_decode_f32<kDim, 4, true>,
                kDecodeF32Bytes<kDim, 4>);
}

}  // namespace paddle_infra
