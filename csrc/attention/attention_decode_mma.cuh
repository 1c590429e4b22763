// Few 16-bit queries against a cache, on tensor cores: a plain multiply-add per number of the cache and query
// would take longer than reading it as soon as there are a few queries. Four warps go through a split's keys
// 64 at a time; a warp has 16 of the queries, and every slice of 16 keys, or every second or fourth one.
#pragma once

#include "attention/attention_decode.cuh"

namespace paddle_infra {
namespace {

constexpr int kDecodeKeys = 64, kDecodeStages = 2, kDecodeWarps = kDecodeThreads / 32;

// Where warps leave 16 rows of sums to be put together; longer by 8 numbers, against bank conflicts.
template <int kDim>
constexpr int kMergeStride = kDim + 8;

// Starts to copy the queries [first, first + block_rows) into a tile; those that do not exist are zeros.
template <int kDim>
PI_DEVICE void load_decode_queries(const AttentionParams& p, const DecodePlan& plan, int b, int kv_head,
                                   int first, bool is_aligned, uint16_t* tile) {
  constexpr int kChunks = kDim / 8;
  for (int i = static_cast<int>(threadIdx.x); i < plan.block_rows * kChunks; i += kDecodeThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const DecodeRow which = decode_row(p, plan, kv_head, first + row);
    uint16_t* to = tile + swizzled<kDim>(row, chunk);
    const bool exists = first + row < plan.rows;
    const uint16_t* from =
        static_cast<const uint16_t*>(p.q) + offset_of(p, p.q_stride, b, which.query, which.head) + chunk * 8;
    if (is_aligned) {
      const bool is_valid = exists && chunk * 8 < p.head_dim;
      copy_async_16(to, is_valid ? from : p.q, is_valid);
      continue;
    }
    PI_UNROLL
    for (int e = 0; e < 8; ++e) {
      store_shared(to + e, exists && chunk * 8 + e < p.head_dim ? load_global(from + e) : uint16_t{0});
    }
  }
}

template <class Format, int kDim, bool kGeneral>
__global__ void __launch_bounds__(kDecodeThreads, 2)
    attention_decode_mma(AttentionParams p, DecodePlan plan, bool is_aligned) {
  PI_SHARED_MEMORY(shared);
  uint16_t* const k_tiles = reinterpret_cast<uint16_t*>(shared);
  uint16_t* const v_tiles = k_tiles + kDecodeStages * kDecodeKeys * kDim;
  uint16_t* const q_tile = v_tiles + kDecodeStages * kDecodeKeys * kDim;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int split = static_cast<int>(blockIdx.x), b = static_cast<int>(blockIdx.z);
  const int kv_head = static_cast<int>(blockIdx.y) / plan.groups;
  const int first_row = static_cast<int>(blockIdx.y) % plan.groups * plan.block_rows;
  const CudaSequence seq = sequence_of(p, b);
  const IntRange keys = keys_of_split(p, seq, plan.splits, split, kDecodeKeys);
  if (ends_empty_split(p, plan, b, kv_head, split, first_row, keys)) return;
  const auto cache = [&](const void* data, const AttentionStrides& stride) {
    return TileSource{static_cast<const uint16_t*>(data) + offset_of(p, stride, b, 0, kv_head),
                      stride.sequence, keys.end, static_cast<int>(p.head_dim), is_aligned};
  };
  const TileSource k = cache(p.k, p.k_stride), v = cache(p.v, p.v_stride);
  const int blocks = (keys.end - keys.begin + kDecodeKeys - 1) / kDecodeKeys;
  const auto load_keys = [&](int block) {
    const int stage = block % kDecodeStages * kDecodeKeys * kDim, key = keys.begin + block * kDecodeKeys;
    load_tile<kDim, kDecodeKeys, kDecodeThreads>(k, key, k_tiles + stage);
    load_tile<kDim, kDecodeKeys, kDecodeThreads>(v, key, v_tiles + stage);
  };
  // Warps that share 16 rows take turns at slices of keys.
  const int row_tiles = plan.block_rows / 16, turns = kDecodeWarps / row_tiles;
  const int row_tile = warp % row_tiles, turn = warp / row_tiles;

  load_decode_queries<kDim>(p, plan, b, kv_head, first_row, is_aligned, q_tile);
  if (blocks > 0) load_keys(0);
  close_copy_group();
  wait_for_copies<0>();
  __syncthreads();
  uint32_t q_fragments[kDim / 16][4];
  PI_UNROLL
  for (int d = 0; d < kDim / 16; ++d) {
    load_matrices(q_fragments[d], q_tile + swizzled<kDim>(row_tile * 16 + lane % 16, d * 2 + lane / 16));
  }
  const int row = first_row + row_tile * 16 + lane / 4;
  const DecodeRow rows[2] = {decode_row(p, plan, kv_head, row), decode_row(p, plan, kv_head, row + 8)};
  const Scores score_of[2] = {Scores(p, seq, b, rows[0].head), Scores(p, seq, b, rows[1].head)};
  const float factor = score_factor(p) * kLog2E;
  float o[kDim / 8][4] = {}, max[2] = {kLowestMax, kLowestMax}, sum[2] = {0.0f, 0.0f};

  for (int block = 0; block < blocks; ++block) {
    wait_for_copies<0>();
    __syncthreads();  // this pair of tiles is there for all; the other one is not needed by anybody
    if (block + 1 < blocks) load_keys(block + 1);
    close_copy_group();
    const uint16_t* const k_tile = k_tiles + block % kDecodeStages * kDecodeKeys * kDim;
    const uint16_t* const v_tile = v_tiles + block % kDecodeStages * kDecodeKeys * kDim;
    for (int slice = turn; slice < kDecodeKeys / 16; slice += turns) {
      const int key = keys.begin + block * kDecodeKeys + slice * 16;
      if (key >= keys.end) break;
      float s[2][4] = {};
      PI_UNROLL
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t fragment[4];
        load_matrices(fragment,
                      k_tile + swizzled<kDim>(slice * 16 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
        Format::mma(s[0], q_fragments[d], fragment[0], fragment[1]);
        Format::mma(s[1], q_fragments[d], fragment[2], fragment[3]);
      }
      const bool hides = seq.q_valid < seq.q_rows || !all_visible(p, seq, {0, seq.q_valid}, {key, key + 16});
      if (kGeneral || hides) {
        PI_UNROLL
        for (int n = 0; n < 2; ++n) {
          PI_UNROLL
          for (int e = 0; e < 4; ++e) {
            const int at = key + n * 8 + lane % 4 * 2 + e % 2, query = rows[e / 2].query;
            if (query >= seq.q_valid || !is_visible(p, seq, query, at)) {
              s[n][e] = minus_infinity();
            } else if (kGeneral) {
              s[n][e] = score_of[e / 2](s[n][e], query, at);
            }
          }
        }
      }
      PI_UNROLL
      for (int half = 0; half < 2; ++half) {
        float top = fmaxf(max[half], fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]),
                                           fmaxf(s[1][2 * half], s[1][2 * half + 1])));
        top = max_over_lanes<3>(top);
        const float fade = fast_exp2((max[half] - top) * factor);
        max[half] = top;
        sum[half] *= fade;
        PI_UNROLL
        for (int n = 0; n < 2; ++n) {
          PI_UNROLL
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[n][e] = fast_exp2((s[n][e] - top) * factor);
            sum[half] += s[n][e];
          }
        }
        PI_UNROLL
        for (int d = 0; d < kDim / 8; ++d) {
          o[d][2 * half] *= fade;
          o[d][2 * half + 1] *= fade;
        }
      }
      const uint32_t weights[4] = {Format::pack(s[0][0], s[0][1]), Format::pack(s[0][2], s[0][3]),
                                   Format::pack(s[1][0], s[1][1]), Format::pack(s[1][2], s[1][3])};
      PI_UNROLL
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t fragment[4];
        load_matrices<true>(fragment, v_tile + swizzled<kDim>(slice * 16 + lane % 16, d * 2 + lane / 16));
        Format::mma(o[2 * d], weights, fragment[0], fragment[1]);
        Format::mma(o[2 * d + 1], weights, fragment[2], fragment[3]);
      }
    }
  }
  wait_for_copies<0>();
  __syncthreads();  // nobody needs keys and values: results of warps take their place

  float* const sums = reinterpret_cast<float*>(shared);
  auto* const stats = reinterpret_cast<DecodeStats*>(sums + kDecodeThreads / 2 * kMergeStride<kDim>);
  PI_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int at = warp * 16 + lane / 4 + half * 8;
    sum[half] = sum_over_lanes<3>(sum[half]);
    PI_UNROLL
    for (int d = 0; d < kDim / 8; ++d) {
      store_shared(reinterpret_cast<Floats<2>*>(sums + at * kMergeStride<kDim> + d * 8 + lane % 4 * 2),
                   Floats<2>{{o[d][2 * half], o[d][2 * half + 1]}});
    }
  }
  // The four lanes of two rows write one number each: maximum or sum of either.
  const int half = lane & 1, which = lane >> 1 & 1;
  const float mine = which == 0 ? (half == 0 ? max[0] : max[1]) : (half == 0 ? sum[0] : sum[1]);
  store_shared(&stats[warp * 16 + lane / 4 + half * 8].at[which], mine);
  __syncthreads();
  constexpr int kChunks = kDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < plan.block_rows * kChunks; i += kDecodeThreads) {
    const int block_row = i / kChunks, column = i % kChunks * 4;
    DecodeStats whole{{kLowestMax, 0.0f}};
    for (int t = 0; t < turns; ++t) {
      whole.at[0] = fmaxf(whole.at[0], load_shared(stats + t * plan.block_rows + block_row).at[0]);
    }
    Floats<4> result = {};
    for (int t = 0; t < turns; ++t) {
      const int at = t * plan.block_rows + block_row;
      const DecodeStats part = load_shared(stats + at);
      const float weight = fast_exp2((part.at[0] - whole.at[0]) * factor);
      const Floats<4> more =
          load_shared(reinterpret_cast<const Floats<4>*>(sums + at * kMergeStride<kDim> + column));
      whole.at[1] += weight * part.at[1];
      PI_UNROLL
      for (int c = 0; c < 4; ++c) result.at[c] += weight * more.at[c];
    }
    store_split<Format>(p, plan, seq, b, kv_head, split, first_row + block_row, column, whole, result,
                        is_aligned);
  }
}

}  // namespace

template <class Format, int kDim>
const char* launch_attention_decode_mma(const AttentionParams& p, bool is_aligned, void* stream) {
  const DecodePlan plan(p);
  const int bytes = (plan.block_rows + 2 * kDecodeStages * kDecodeKeys) * kDim * 2;
  return is_plain(p) ? launch_decode<Format>(attention_decode_mma<Format, kDim, false>, bytes, p, plan,
                                             is_aligned, stream)
                     : launch_decode<Format>(attention_decode_mma<Format, kDim, true>, bytes, p, plan,
                                             is_aligned, stream);
}

}  // namespace paddle_infra
