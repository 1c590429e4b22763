// Forward attention of 16-bit numbers on tensor cores (FlashAttention-2's scheme, arXiv:2307.08691): a block
// of four warps has 64 or 128 queries of a head, 16 or 32 to a warp, and goes through the keys 64 at a time.
//
//   S = Q K^T in registers -> softmax, online -> P, packed in registers -> O += P V
//
// While one pair of tiles of K and V is multiplied, the next is copied. The layout of an mma's result is that
// of its left factor, so P never leaves the registers. Every warp reads K and V whole, so 32 queries to a
// warp halve the traffic of shared memory, which would else take longer than the products; larger head
// dimensions do not leave the registers for it.
#pragma once

#include "attention/attention_cuda.cuh"

namespace paddle_infra {
namespace {

constexpr int kFwdKeys = 64, kFwdWarps = 4, kFwdThreads = 32 * kFwdWarps, kFwdStages = 2;

// How many tiles of 16 queries a warp has, and queries a block.
template <int kDim, bool kGeneral>
constexpr int kRowTiles = kDim <= (kGeneral ? 32 : 64) ? 2 : 1;

template <int kDim, bool kGeneral>
constexpr int kFwdQueries = 16 * kFwdWarps * kRowTiles<kDim, kGeneral>;

// Where a lane's numbers are in the result of an mma: rows lane / 4 + {0, 8}, columns lane % 4 * 2 + {0, 1}.
template <int kColumns>
struct MmaResult {
  float at[kColumns / 8][4] = {};
};
PI_DEVICE int mma_row(int lane, int e) { return lane / 4 + e / 2 * 8; }
PI_DEVICE int mma_column(int lane, int e) { return lane % 4 * 2 + e % 2; }

// Of 16 queries: what is known after some of the keys.
template <int kDim>
struct RowTile {
  MmaResult<kDim> o;
  float max[2] = {kLowestMax, kLowestMax}, sum[2] = {0.0f, 0.0f};
};

// The fragments of Q of a warp's tiles. One tile's stay in registers. Two tiles' would not leave enough of
// them: those are read again for every tile of keys.
template <int kDim, int kTiles>
class Queries {
 public:
  PI_DEVICE Queries(const uint16_t* q_tile, int row, int lane)
      : rows_(q_tile), row_(row + lane % 16), lane_(lane) {
    if constexpr (kTiles == 1) {
      PI_UNROLL
      for (int d = 0; d < kDim / 16; ++d) load(0, d, kept_[d]);
    }
  }
  PI_DEVICE void get(int d, uint32_t (&fragments)[kTiles][4]) const {
    PI_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      if constexpr (kTiles > 1) {
        load(t, d, fragments[t]);
      } else {
        PI_UNROLL
        for (int i = 0; i < 4; ++i) fragments[t][i] = kept_[d][i];
      }
    }
  }

 private:
  PI_DEVICE void load(int t, int d, uint32_t (&fragment)[4]) const {
    load_matrices(fragment, rows_ + swizzled<kDim>(row_ + t * 16, d * 2 + lane_ / 16));
  }

  const uint16_t* rows_;
  int row_, lane_;
  uint32_t kept_[kTiles > 1 ? 1 : kDim / 16][4];
};

// s += Q K^T of every tile of a warp: a fragment of K is loaded once for all of them.
template <class Format, int kDim, int kTiles>
PI_DEVICE void multiply_keys(const Queries<kDim, kTiles>& queries, const uint16_t* k_tile, int lane,
                             MmaResult<kFwdKeys> (&s)[kTiles]) {
  PI_UNROLL
  for (int d = 0; d < kDim / 16; ++d) {
    uint32_t q[kTiles][4];
    queries.get(d, q);
    PI_UNROLL
    for (int n = 0; n < kFwdKeys / 16; ++n) {
      uint32_t fragment[4];
      load_matrices(fragment,
                    k_tile + swizzled<kDim>(n * 16 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
      PI_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        Format::mma(s[t].at[2 * n], q[t], fragment[0], fragment[1]);
        Format::mma(s[t].at[2 * n + 1], q[t], fragment[2], fragment[3]);
      }
    }
  }
}

// O += P V.
template <class Format, int kDim, int kTiles>
PI_DEVICE void add_values(const MmaResult<kFwdKeys> (&s)[kTiles], const uint16_t* v_tile, int lane,
                          RowTile<kDim> (&tiles)[kTiles]) {
  PI_UNROLL
  for (int n = 0; n < kFwdKeys / 16; ++n) {
    uint32_t weights[kTiles][4];
    PI_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      PI_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float* pair = s[t].at[2 * n + i / 2] + i % 2 * 2;
        weights[t][i] = Format::pack(pair[0], pair[1]);
      }
    }
    PI_UNROLL
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t fragment[4];
      load_matrices<true>(fragment, v_tile + swizzled<kDim>(n * 16 + lane % 16, d * 2 + lane / 16));
      PI_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        Format::mma(tiles[t].o.at[2 * d], weights[t], fragment[0], fragment[1]);
        Format::mma(tiles[t].o.at[2 * d + 1], weights[t], fragment[2], fragment[3]);
      }
    }
  }
}

// Products to scores: options, and -infinity where a key is hidden. `row`: the query of the tile's first row.
template <bool kGeneral>
PI_DEVICE void make_scores(const AttentionParams& p, const CudaSequence& seq, const Scores& score_of, int row,
                           int key, int lane, MmaResult<kFwdKeys>& s) {
  PI_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = row + mma_row(lane, 2 * half);
    const IntRange seen = keys_of(p, seq, query);
    PI_UNROLL
    for (int n = 0; n < kFwdKeys / 8; ++n) {
      PI_UNROLL
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        const int at = key + n * 8 + mma_column(lane, e);
        if (at < seen.begin || at >= seen.end) {
          s.at[n][e] = minus_infinity();
        } else if (kGeneral) {
          s.at[n][e] = score_of(s.at[n][e], query, at);
        }
      }
    }
  }
}

// Scores to weights, online: 2^(factor * (score - max)).
template <bool kGeneral, int kDim>
PI_DEVICE void soften(const KeptWeights& kept, float factor, int row, int key, int lane, RowTile<kDim>& tile,
                      MmaResult<kFwdKeys>& s) {
  PI_UNROLL
  for (int half = 0; half < 2; ++half) {
    float top = tile.max[half];
    PI_UNROLL
    for (int n = 0; n < kFwdKeys / 8; ++n) top = fmaxf(top, fmaxf(s.at[n][2 * half], s.at[n][2 * half + 1]));
    top = max_over_lanes<3>(top);
    const float fade = fast_exp2((tile.max[half] - top) * factor), shift = top * factor;
    tile.max[half] = top;
    float total = 0.0f;
    PI_UNROLL
    for (int n = 0; n < kFwdKeys / 8; ++n) {
      PI_UNROLL
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        float& weight = s.at[n][e];
        weight = fast_exp2(weight * factor - shift);
        total += weight;
        if (kGeneral && !kept.has(row + mma_row(lane, e), key + n * 8 + mma_column(lane, e))) weight = 0.0f;
      }
    }
    tile.sum[half] = tile.sum[half] * fade + total;
    PI_UNROLL
    for (int d = 0; d < kDim / 8; ++d) {
      tile.o.at[d][2 * half] *= fade;
      tile.o.at[d][2 * half + 1] *= fade;
    }
  }
}

// Divides by the sums; writes statistics, and the result to the tile's rows in shared memory.
template <class Format, int kDim>
PI_DEVICE void finish_tile(const AttentionParams& p, const CudaSequence& seq, int b, int head, int row,
                           int lane, const RowTile<kDim>& tile, int shared_row, uint16_t* q_tile) {
  const float natural = score_factor(p), inverse_keep = 1.0f / (1.0f - p.dropout_p);
  PI_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int in_tile = lane / 4 + half * 8, query = row + in_tile;
    const bool exists = query < seq.q_valid;
    const float all = sum_over_lanes<3>(tile.sum[half]), total = exists ? all : 0.0f;
    const float norm = total == 0.0f ? 0.0f : inverse_keep / total;  // not "> 0": a NaN stays one
    if (lane % 4 == 0 && query < seq.q_rows) {
      const int64_t at = stats_offset(p, seq, b, query, head);
      const float top = exists ? tile.max[half] : kLowestMax;
      store_global(&p.stats[at].max, top);
      store_global(&p.stats[at].sum, total);
      store_global(p.lse + at, total == 0.0f ? minus_infinity() : top * natural + logf(total));
    }
    PI_UNROLL
    for (int d = 0; d < kDim / 8; ++d) {
      auto* to = reinterpret_cast<uint32_t*>(q_tile + swizzled<kDim>(shared_row + in_tile, d) + lane % 4 * 2);
      store_shared(to, Format::pack(tile.o.at[d][2 * half] * norm, tile.o.at[d][2 * half + 1] * norm));
    }
  }
}

template <class Format, int kDim, bool kGeneral>
__global__ void __launch_bounds__(kFwdThreads) attention_fwd(AttentionParams p, bool is_aligned) {
  constexpr int kTiles = kRowTiles<kDim, kGeneral>, kQueries = kFwdQueries<kDim, kGeneral>,
                kTileSize = kFwdKeys * kDim;
  PI_SHARED_MEMORY(shared);
  uint16_t* const q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* const k_tiles = q_tile + kQueries * kDim;
  uint16_t* const v_tiles = k_tiles + kFwdStages * kTileSize;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int b = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(p.heads / p.kv_heads);
  const int first = static_cast<int>(blockIdx.x) * kQueries;
  const CudaSequence seq = sequence_of(p, b);
  if (first >= seq.q_rows) return;
  const auto head_rows = [&](const void* data, const AttentionStrides& stride, int64_t row, int rows, int h) {
    return TileSource{static_cast<const uint16_t*>(data) + offset_of(p, stride, b, row, h), stride.sequence,
                      rows, static_cast<int>(p.head_dim), !kGeneral || is_aligned};
  };
  const TileSource q = head_rows(p.q, p.q_stride, seq.q_row, seq.q_valid, head);
  const TileSource k = head_rows(p.k, p.k_stride, seq.k_row, seq.keys, kv_head);
  const TileSource v = head_rows(p.v, p.v_stride, seq.k_row, seq.keys, kv_head);
  const IntRange queries{first, least(first + kQueries, seq.q_valid)};
  IntRange keys = visible_keys(p, seq, queries);
  keys.begin = keys.begin / kFwdKeys * kFwdKeys;
  const bool has_work = queries.begin < queries.end && keys.begin < keys.end;
  const int steps = has_work ? (keys.end - keys.begin + kFwdKeys - 1) / kFwdKeys : 0;
  const auto load_keys = [&](int step) {
    const int stage = step % kFwdStages * kTileSize, key = keys.begin + step * kFwdKeys;
    load_tile<kDim, kFwdKeys, kFwdThreads>(k, key, k_tiles + stage);
    load_tile<kDim, kFwdKeys, kFwdThreads>(v, key, v_tiles + stage);
  };

  load_tile<kDim, kQueries, kFwdThreads>(q, first, q_tile);
  if (steps > 0) load_keys(0);
  close_copy_group();
  wait_for_copies<0>();
  __syncthreads();
  const int warp_row = warp * 16 * kTiles;
  const Queries<kDim, kTiles> rows_of_q(q_tile, warp_row, lane);
  RowTile<kDim> tiles[kTiles];

  const Scores score_of(p, seq, b, head);
  const KeptWeights kept(p, b, head);
  const float factor = score_factor(p) * kLog2E;
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();  // this pair of tiles is there for all; the other one is not needed by anybody
    if (step + 1 < steps) load_keys(step + 1);
    close_copy_group();
    const int key = keys.begin + step * kFwdKeys, stage = step % kFwdStages * kTileSize;
    MmaResult<kFwdKeys> s[kTiles];
    multiply_keys<Format>(rows_of_q, k_tiles + stage, lane, s);
    const bool hides = !all_visible(p, seq, queries, {key, key + kFwdKeys});
    PI_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const int row = first + warp_row + t * 16;
      if (kGeneral || hides) make_scores<kGeneral>(p, seq, score_of, row, key, lane, s[t]);
      soften<kGeneral>(kept, factor, row, key, lane, tiles[t], s[t]);
    }
    add_values<Format>(s, v_tiles + stage, lane, tiles);
  }
  wait_for_copies<0>();

  // The warp's rows of Q have been read, by all of its lanes, and their place is used for those of O.
  __syncwarp();
  const TileTarget out{static_cast<uint16_t*>(p.o) + offset_of(p, p.q_stride, b, seq.q_row, head),
                       p.q_stride.sequence, seq.q_rows, static_cast<int>(p.head_dim), q.is_aligned};
  PI_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    const int row = warp_row + t * 16;
    finish_tile<Format, kDim>(p, seq, b, head, first + row, lane, tiles[t], row, q_tile);
    __syncwarp();
    store_warp_rows<kDim>(q_tile, row, lane, out, first);
  }
}

template <class Format, int kDim, bool kGeneral>
const char* launch_variant(const AttentionParams& p, bool is_aligned, void* stream) {
  constexpr int kQueries = kFwdQueries<kDim, kGeneral>;
  constexpr int kBytes = (kQueries + 2 * kFwdStages * kFwdKeys) * kDim * static_cast<int>(sizeof(uint16_t));
  const dim3 grid(static_cast<unsigned>((p.seq_q + kQueries - 1) / kQueries), static_cast<unsigned>(p.heads),
                  static_cast<unsigned>(p.batch));
  const auto kernel = attention_fwd<Format, kDim, kGeneral>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  PI_LAUNCH(kernel, grid, kFwdThreads, kBytes, static_cast<cudaStream_t>(stream), p, is_aligned);
  error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

template <class Format, int kDim>
const char* launch_attention_fwd(const AttentionParams& p, bool is_aligned, void* stream) {
  if (p.seq_q * p.heads * p.batch == 0) return nullptr;  // a GPU refuses a grid without blocks
  const bool is_general = !is_aligned || !is_plain(p) || p.dropout_p > 0.0f;
  return is_general ? launch_variant<Format, kDim, true>(p, is_aligned, stream)
                    : launch_variant<Format, kDim, false>(p, is_aligned, stream);
}

}  // namespace paddle_infra
