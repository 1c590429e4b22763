// Gradients of float32 attention by multiply-adds, in full precision. Nobody adds to what another block
// writes, so results are the same bit for bit in every run. With S^T = K Q^T and dP^T = V dO^T of a tile:
//
//   P = e^(S - max) / sum      dS = P (dP - delta)      dV += P^T dO      dK += dS^T Q      dQ += dS K
//
// First each row's delta = sum(dO O) - (gradient of lse) is computed. Then a block has a tile of keys, and
// goes through the queries that see it; or a tile of queries, and goes through the keys. The gradient of the
// bias has a kernel of its own: attention_f32_bias.cuh.
#pragma once

#include "attention/attention_rows_f32.cuh"

namespace paddle_infra {
namespace {

// What is known of a row of scores before its gradients; one load.
struct alignas(16) RowTerms {
  float max, inverse_sum, delta, unused;
};

// Rows that a block keeps, and rows that it goes through. Shared memory is below 99 KB.
template <int kDim>
struct F32BwdTile {
  static constexpr int kOwn = kDim <= 64 ? 64 : kDim <= 128 ? 32 : 16;
  static constexpr int kOther = kDim <= 128 ? 32 : 16;
  static constexpr int kRows = kOwn / kF32Down, kColumns = kOther / kF32Across;
  static constexpr int kOwnFloats = kOwn * kF32Stride<kDim>, kOtherFloats = kOther * kF32Stride<kDim>;
  static constexpr int kBytes = 4 * (2 * kOwnFloats + 2 * kOtherFloats + 2 * kOwn * kOther);
};

// The tiles in shared memory: two of rows that the block keeps, two of rows it goes through, two of weights.
template <int kDim>
struct F32BwdSpace {
  using Tile = F32BwdTile<kDim>;
  PI_DEVICE explicit F32BwdSpace(unsigned char* shared) {
    own[0] = reinterpret_cast<float*>(shared);
    own[1] = own[0] + Tile::kOwnFloats;
    other[0] = own[1] + Tile::kOwnFloats;
    other[1] = other[0] + Tile::kOtherFloats;
    weights[0] = other[1] + Tile::kOtherFloats;
    weights[1] = weights[0] + Tile::kOwn * Tile::kOther;
  }
  float *own[2], *other[2], *weights[2];
};

// Rows of q, k, v and grad_o, and of where the gradients go.
struct F32BwdRows {
  PI_DEVICE F32BwdRows(const AttentionParams& p, const CudaSequence& seq, int b, int head, bool is_aligned) {
    const int kv_head = head / static_cast<int>(p.heads / p.kv_heads), columns = static_cast<int>(p.head_dim);
    const int64_t q_at = offset_of(p, p.q_stride, b, seq.q_row, head);
    q = {static_cast<const float*>(p.q) + q_at, p.q_stride.sequence, seq.q_valid, columns, is_aligned};
    grad_o = {static_cast<const float*>(p.grad_o) + q_at, p.q_stride.sequence, seq.q_valid, columns,
              is_aligned};
    k = {static_cast<const float*>(p.k) + offset_of(p, p.k_stride, b, seq.k_row, kv_head),
         p.k_stride.sequence, seq.keys, columns, is_aligned};
    v = {static_cast<const float*>(p.v) + offset_of(p, p.v_stride, b, seq.k_row, kv_head),
         p.v_stride.sequence, seq.keys, columns, is_aligned};
  }
  FloatRows q, grad_o, k, v;
};

// Gradients with respect to the weight's product with v, the score, and scale * (product of q and k).
struct ScoreGradient {
  float weight, score, product;
};

// Makes them from the products of q and k, and of grad_o and v. kGeneral: any options, else plain scores.
template <bool kGeneral>
class ScoreGradients {
 public:
  PI_DEVICE ScoreGradients(const AttentionParams& p, const CudaSequence& seq, int b, int head)
      : p_(p),
        sequence_(seq),
        score_of_(p, seq, b, head),
        kept_(p, b, head),
        factor_(score_factor(p) * kLog2E),
        inverse_keep_(1.0f / (1.0f - p.dropout_p)) {}

  PI_DEVICE ScoreGradient operator()(float product, float grad_weight, const RowTerms& row, int query,
                                     int key) const {
    if (query >= sequence_.q_valid || !is_visible(p_, sequence_, query, key)) return {0.0f, 0.0f, 0.0f};
    float slope = 1.0f, keep = 1.0f;
    if (kGeneral) {
      product = score_of_(product, query, key, &slope);
      keep = kept_.has(query, key) ? inverse_keep_ : 0.0f;
    }
    const float weight = fast_exp2((product - row.max) * factor_) * row.inverse_sum;
    const float score = weight * (grad_weight * keep - row.delta);
    return {weight * keep, score, score * slope};
  }

 private:
  const AttentionParams& p_;
  const CudaSequence& sequence_;
  const Scores score_of_;
  const KeptWeights kept_;
  const float factor_, inverse_keep_;
};

// The terms of a query, zeros if there is no such query.
PI_DEVICE RowTerms terms_of(const AttentionParams& p, const CudaSequence& seq, int b, int head, int query,
                            const RowTerms* terms) {
  if (query >= seq.q_valid) return {0.0f, 0.0f, 0.0f, 0.0f};
  return load_global(terms + stats_offset(p, seq, b, query, head));
}

// One warp to a row of queries.
__global__ void __launch_bounds__(kF32Threads) attention_f32_bwd_terms(AttentionParams p, RowTerms* terms) {
  constexpr int kWarps = kF32Threads / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int b = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int query = static_cast<int>(blockIdx.x) * kWarps + warp;
  const CudaSequence seq = sequence_of(p, b);
  if (query >= seq.q_valid) return;
  const int64_t row = offset_of(p, p.q_stride, b, seq.q_row + query, head);
  float sum = 0.0f;
  for (int64_t d = lane; d < p.head_dim; d += 32) {
    sum += load_global(static_cast<const float*>(p.grad_o) + row + d) *
           load_global(static_cast<const float*>(p.o) + row + d);
  }
  sum = sum_over_lanes<31>(sum);
  if (lane != 0) return;
  const int64_t at = stats_offset(p, seq, b, query, head);
  const float total = load_global(&p.stats[at].sum);
  if (p.grad_lse != nullptr) sum -= load_global(p.grad_lse + at);
  store_global(terms + at,
               RowTerms{load_global(&p.stats[at].max), total == 0.0f ? 0.0f : 1.0f / total, sum, 0.0f});
}

// grad_k and grad_v of a tile of keys: rows of products are keys, columns queries.
template <int kDim, bool kGeneral>
__global__ void __launch_bounds__(kF32Threads, 2)
    attention_f32_bwd_keys(AttentionParams p, bool is_aligned, const RowTerms* terms) {
  using Tile = F32BwdTile<kDim>;
  PI_SHARED_MEMORY(shared);
  const F32BwdSpace<kDim> space(shared);
  const TilePlace place = tile_place();
  const int b = static_cast<int>(blockIdx.z), kv_head = static_cast<int>(blockIdx.y);
  const int group = static_cast<int>(p.heads / p.kv_heads), first = static_cast<int>(blockIdx.x) * Tile::kOwn;
  const CudaSequence seq = sequence_of(p, b);
  const int k_rows = p.cu_seqlens_k != nullptr
                         ? static_cast<int>(load_global(p.cu_seqlens_k + b + 1) - seq.k_row)
                         : static_cast<int>(p.seq_k);
  if (first >= k_rows) return;
  const IntRange keys{first, least(first + Tile::kOwn, seq.keys)};
  IntRange queries = seeing_queries(p, seq, keys);
  queries.begin = queries.begin / Tile::kOther * Tile::kOther;
  if (keys.begin >= keys.end) queries.end = queries.begin;
  float grad_k[Tile::kRows][kF32Columns<kDim>] = {}, grad_v[Tile::kRows][kF32Columns<kDim>] = {};

  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const F32BwdRows rows(p, seq, b, head, is_aligned);
    if (head == kv_head * group && queries.begin < queries.end) {
      load_rows<kDim, Tile::kOwn>(rows.k, first, space.own[0]);
      load_rows<kDim, Tile::kOwn>(rows.v, first, space.own[1]);
    }
    const ScoreGradients<kGeneral> gradients(p, seq, b, head);
    for (int query = queries.begin; query < queries.end; query += Tile::kOther) {
      __syncthreads();  // nobody needs the last tiles
      load_rows<kDim, Tile::kOther>(rows.q, query, space.other[0]);
      load_rows<kDim, Tile::kOther>(rows.grad_o, query, space.other[1]);
      close_copy_group();
      wait_for_copies<0>();
      __syncthreads();
      float s[Tile::kRows][Tile::kColumns] = {}, grad_weight[Tile::kRows][Tile::kColumns] = {};
      add_row_products<kDim>(s, space.own[0], space.other[0], place);
      add_row_products<kDim>(grad_weight, space.own[1], space.other[1], place);
      PI_UNROLL
      for (int j = 0; j < Tile::kColumns; ++j) {
        const int column = place.across + j * kF32Across;
        const RowTerms row_terms = terms_of(p, seq, b, head, query + column, terms);
        PI_UNROLL
        for (int i = 0; i < Tile::kRows; ++i) {
          const int row = place.down + i * kF32Down, at = weight_at<Tile::kOther>(row, column);
          const ScoreGradient g =
              gradients(s[i][j], grad_weight[i][j], row_terms, query + column, first + row);
          store_shared(space.weights[0] + at, g.weight);
          store_shared(space.weights[1] + at, g.product);
        }
      }
      __syncwarp();  // a row of weights is made and used by one warp
      add_weighted_rows<kDim, Tile::kOther>(grad_v, space.weights[0], space.other[1], place);
      add_weighted_rows<kDim, Tile::kOther>(grad_k, space.weights[1], space.other[0], place);
    }
  }

  float* const to_k = static_cast<float*>(p.grad_k) + offset_of(p, p.k_stride, b, seq.k_row, kv_head);
  float* const to_v = static_cast<float*>(p.grad_v) + offset_of(p, p.v_stride, b, seq.k_row, kv_head);
  PI_UNROLL
  for (int i = 0; i < Tile::kRows; ++i) {
    const int key = first + place.down + i * kF32Down, columns = static_cast<int>(p.head_dim);
    if (key >= k_rows) continue;
    const bool exists = key < seq.keys;
    store_row<kDim>(grad_k[i], exists ? p.scale : 0.0f, to_k + key * p.k_stride.sequence, columns, is_aligned,
                    place.across);
    store_row<kDim>(grad_v[i], exists ? 1.0f : 0.0f, to_v + key * p.v_stride.sequence, columns, is_aligned,
                    place.across);
  }
}

// grad_q of a tile of queries: rows of products are queries, columns keys.
template <int kDim, bool kGeneral>
__global__ void __launch_bounds__(kF32Threads, 2)
    attention_f32_bwd_queries(AttentionParams p, bool is_aligned, const RowTerms* terms) {
  using Tile = F32BwdTile<kDim>;
  PI_SHARED_MEMORY(shared);
  const F32BwdSpace<kDim> space(shared);
  const TilePlace place = tile_place();
  const int b = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * Tile::kOwn;
  const CudaSequence seq = sequence_of(p, b);
  if (first >= seq.q_rows) return;
  const F32BwdRows rows(p, seq, b, head, is_aligned);
  const IntRange queries{first, least(first + Tile::kOwn, seq.q_valid)};
  IntRange keys = visible_keys(p, seq, queries);
  keys.begin = keys.begin / Tile::kOther * Tile::kOther;
  if (queries.begin >= queries.end) keys.end = keys.begin;
  if (keys.begin < keys.end) {
    load_rows<kDim, Tile::kOwn>(rows.q, first, space.own[0]);
    load_rows<kDim, Tile::kOwn>(rows.grad_o, first, space.own[1]);
  }
  const ScoreGradients<kGeneral> gradients(p, seq, b, head);
  RowTerms row_terms[Tile::kRows];
  PI_UNROLL
  for (int i = 0; i < Tile::kRows; ++i) {
    row_terms[i] = terms_of(p, seq, b, head, first + place.down + i * kF32Down, terms);
  }
  float grad_q[Tile::kRows][kF32Columns<kDim>] = {};
  for (int key = keys.begin; key < keys.end; key += Tile::kOther) {
    __syncthreads();  // nobody needs the last tiles
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
      const int row = place.down + i * kF32Down;
      PI_UNROLL
      for (int j = 0; j < Tile::kColumns; ++j) {
        const int column = place.across + j * kF32Across;
        const ScoreGradient g =
            gradients(s[i][j], grad_weight[i][j], row_terms[i], first + row, key + column);
        store_shared(space.weights[0] + weight_at<Tile::kOther>(row, column), g.product);
      }
    }
    __syncwarp();  // a row of weights is made and used by one warp
    add_weighted_rows<kDim, Tile::kOther>(grad_q, space.weights[0], space.other[0], place);
  }
  float* const to = static_cast<float*>(p.grad_q) + offset_of(p, p.q_stride, b, seq.q_row, head);
  PI_UNROLL
  for (int i = 0; i < Tile::kRows; ++i) {
    const int query = first + place.down + i * kF32Down;
    if (query >= seq.q_rows) continue;
    store_row<kDim>(grad_q[i], query < seq.q_valid ? p.scale : 0.0f, to + query * p.q_stride.sequence,
                    static_cast<int>(p.head_dim), is_aligned, place.across);
  }
}

}  // namespace
}  // namespace paddle_infra
