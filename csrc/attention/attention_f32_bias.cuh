// The gradient of the bias, float32: the gradient of the scores, summed over the axes that the bias is
// broadcast along. A block has a tile of what it writes, and goes through everything that is summed there, in
// a fixed order.
#pragma once

#include "attention/attention_f32_bwd.cuh"

namespace paddle_infra {
namespace {

// Which axes of [batch, heads, seq_q, seq_k] the bias is broadcast along, and the blocks for that.
struct BiasAxes {
  PI_HOST_DEVICE explicit BiasAxes(const AttentionParams& p) {
    for (int axis = 0; axis < 4; ++axis) is_shared[axis] = p.grad_bias_stride[axis] == 0;
  }
  bool is_shared[4];
};

template <int kDim>
__global__ void __launch_bounds__(kF32Threads, 2)
    attention_f32_bwd_bias(AttentionParams p, bool is_aligned, const RowTerms* terms) {
  using Tile = F32BwdTile<kDim>;
  PI_SHARED_MEMORY(shared);
  const F32BwdSpace<kDim> space(shared);
  const TilePlace place = tile_place();
  const BiasAxes axes(p);
  const int heads = static_cast<int>(p.heads), own_heads = axes.is_shared[1] ? 1 : heads;
  const int own_b = static_cast<int>(blockIdx.x) / own_heads,
            own_head = static_cast<int>(blockIdx.x) % own_heads;
  const int own_query = static_cast<int>(blockIdx.y) * Tile::kOwn;
  const int own_key = static_cast<int>(blockIdx.z) * Tile::kOther;
  // What this block sums over: of a broadcast axis everything.
  const IntRange batches{own_b, axes.is_shared[0] ? static_cast<int>(p.batch) : own_b + 1};
  const IntRange all_heads{own_head, axes.is_shared[1] ? heads : own_head + 1};
  float sums[Tile::kRows][Tile::kColumns] = {};

  const auto add_tile = [&](const CudaSequence& seq, const F32BwdRows& rows,
                            const ScoreGradients<true>& gradients, int b, int head, int query, int key) {
    __syncthreads();  // nobody needs the last tiles
    load_rows<kDim, Tile::kOwn>(rows.q, query, space.own[0]);
    load_rows<kDim, Tile::kOwn>(rows.grad_o, query, space.own[1]);
    load_rows<kDim, Tile::kOther>(rows.k, key, space.other[0]);
    load_rows<kDim, Tile::kOther>(rows.v, key, space.other[1]);
    close_copy_group();
    wait_for_copies<0>();
    __syncthreads();
    float s[Tile::kRows][Tile::kColumns] = {}, grad_weight[Tile::kRows][Tile::kColumns] = {};
    add_row_products<kDim>(s, space.own[0], space.other[0], place);
    add_row_products<kDim>(grad_weight, space.own[1], space.other[1], place);
    PI_UNROLL
    for (int i = 0; i < Tile::kRows; ++i) {
      const int row = query + place.down + i * kF32Down;
      const RowTerms row_terms = terms_of(p, seq, b, head, row, terms);
      PI_UNROLL
      for (int j = 0; j < Tile::kColumns; ++j) {
        sums[i][j] +=
            gradients(s[i][j], grad_weight[i][j], row_terms, row, key + place.across + j * kF32Across).score;
      }
    }
  };

  for (int b = batches.begin; b < batches.end; ++b) {
    const CudaSequence seq = sequence_of(p, b);
    const int query_end = axes.is_shared[2] ? seq.q_valid : least(own_query + 1, seq.q_valid);
    for (int head = all_heads.begin; head < all_heads.end; ++head) {
      const F32BwdRows rows(p, seq, b, head, is_aligned);
      const ScoreGradients<true> gradients(p, seq, b, head);
      for (int query = own_query; query < query_end; query += Tile::kOwn) {
        IntRange keys = visible_keys(p, seq, {query, least(query + Tile::kOwn, seq.q_valid)});
        keys.begin = keys.begin / Tile::kOther * Tile::kOther;
        if (!axes.is_shared[3]) {
          keys = {most(keys.begin, own_key), least(keys.end, own_key + 1)};
        }
        for (int key = keys.begin; key < keys.end; key += Tile::kOther) {
          add_tile(seq, rows, gradients, b, head, query, key);
        }
      }
    }
  }

  float* const tile = space.weights[0];
  PI_UNROLL
  for (int i = 0; i < Tile::kRows; ++i) {
    PI_UNROLL
    for (int j = 0; j < Tile::kColumns; ++j) {
      const int row = place.down + i * kF32Down, column = place.across + j * kF32Across;
      store_shared(tile + weight_at<Tile::kOther>(row, column), sums[i][j]);
    }
  }
  __syncthreads();
  const int row_count = axes.is_shared[2] ? 1 : Tile::kOwn, row_step = axes.is_shared[2] ? Tile::kOwn : 1;
  const int column_count = axes.is_shared[3] ? 1 : Tile::kOther,
            column_step = axes.is_shared[3] ? Tile::kOther : 1;
  for (int i = static_cast<int>(threadIdx.x); i < row_count * column_count; i += kF32Threads) {
    const int row = i / column_count, column = i % column_count;
    if (own_query + row >= p.seq_q || own_key + column >= p.seq_k) continue;
    float sum = 0.0f;
    for (int r = row; r < row + row_step; ++r) {
      for (int c = column; c < column + column_step; ++c) {
        sum += load_shared(tile + weight_at<Tile::kOther>(r, c));
      }
    }
    const int64_t* stride = p.grad_bias_stride;
    store_global(p.grad_bias + own_b * stride[0] + own_head * stride[1] + (own_query + row) * stride[2] +
                     (own_key + column) * stride[3],
                 sum);
  }
}

}  // namespace

// terms: as attention_f32_workspace() lays them out.
template <int kDim>
const char* launch_attention_f32_bwd(const AttentionParams& p, bool is_aligned, void* stream) {
  using Tile = F32BwdTile<kDim>;
  auto* const terms = static_cast<RowTerms*>(p.workspace);
  const auto blocks = [](int64_t rows, int tile) { return static_cast<unsigned>((rows + tile - 1) / tile); };
  const auto heads = static_cast<unsigned>(p.heads), kv_heads = static_cast<unsigned>(p.kv_heads),
             batch = static_cast<unsigned>(p.batch);
  const auto stream_of = static_cast<cudaStream_t>(stream);
  PI_LAUNCH(attention_f32_bwd_terms, dim3(blocks(p.seq_q, kF32Threads / 32), heads, batch), kF32Threads, 0,
            stream_of, p, terms);
  cudaError_t error = cudaGetLastError();
  const auto launch = [&](auto kernel, dim3 grid) {
    if (error != cudaSuccess) return;
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kBytes);
    if (error != cudaSuccess) return;
    PI_LAUNCH(kernel, grid, kF32Threads, Tile::kBytes, stream_of, p, is_aligned, terms);
    error = cudaGetLastError();
  };
  const dim3 of_keys(blocks(p.seq_k, Tile::kOwn), kv_heads, batch);
  const dim3 of_queries(blocks(p.seq_q, Tile::kOwn), heads, batch);
  if (is_plain(p) && p.dropout_p == 0.0f) {
    launch(attention_f32_bwd_keys<kDim, false>, of_keys);
    launch(attention_f32_bwd_queries<kDim, false>, of_queries);
  } else {
    launch(attention_f32_bwd_keys<kDim, true>, of_keys);
    launch(attention_f32_bwd_queries<kDim, true>, of_queries);
  }
  if (p.grad_bias != nullptr) {
    const BiasAxes axes(p);
    launch(attention_f32_bwd_bias<kDim>,
           dim3((axes.is_shared[0] ? 1 : batch) * (axes.is_shared[1] ? 1 : heads),
                axes.is_shared[2] ? 1 : blocks(p.seq_q, Tile::kOwn),
                axes.is_shared[3] ? 1 : blocks(p.seq_k, Tile::kOther)));
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace paddle_infra
