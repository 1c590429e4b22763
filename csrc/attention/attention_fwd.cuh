// Forward attention of 16-bit numbers on tensor cores (FlashAttention-2's scheme, arXiv:2307.08691): a block
// of four warps has 64 queries of a head, 16 to a warp, and goes through the keys 64 at a time.
//
//   S = Q K^T in registers -> softmax, online -> P, packed in registers -> O += P V
//
// While one pair of tiles of K and V is multiplied, the next is copied. The layout of an mma's result is that
// of its left factor, so P never leaves the registers.
#pragma once

#include "attention/attention_cuda.cuh"

namespace paddle_infra {
namespace {

constexpr int kFwdQueries = 64, kFwdKeys = 64, kFwdThreads = 128, kFwdStages = 2;

template <int kDim>
constexpr int kFwdSharedBytes = (kFwdQueries + 2 * kFwdStages * kFwdKeys) * kDim * 2;

// Four numbers of each lane in an mma's result: rows lane / 4 and lane / 4 + 8, columns lane % 4 * 2 + {0,
// 1}.
template <int kCount>
using Accumulators = float[kCount][4];

// Blocks that a multiprocessor is to run at a time; 0 leaves it to the compiler, which for 32 wants four and
// spills registers for that.
template <int kDim>
constexpr int kFwdBlocks = kDim == 32 ? 3 : 0;

template <class Format, int kDim, bool kGeneral>
__global__ void __launch_bounds__(kFwdThreads, kFwdBlocks<kDim>)
    attention_fwd(AttentionParams p, bool is_aligned) {
  PI_SHARED_MEMORY(shared);
  uint16_t* const q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* const k_tiles = q_tile + kFwdQueries * kDim;
  uint16_t* const v_tiles = k_tiles + kFwdStages * kFwdKeys * kDim;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int b = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(p.heads / p.kv_heads);
  const int first = static_cast<int>(blockIdx.x) * kFwdQueries;
  const CudaSequence seq = sequence_of(p, b);
  if (first >= seq.q_rows) return;
  const auto head_rows = [&](const void* data, const AttentionStrides& stride, int64_t row, int rows, int h) {
    const bool aligned = kGeneral ? is_aligned : true;
    return TileSource{static_cast<const uint16_t*>(data) + offset_of(p, stride, b, row, h), stride.sequence,
                      rows, static_cast<int>(p.head_dim), aligned};
  };
  const TileSource q = head_rows(p.q, p.q_stride, seq.q_row, seq.q_valid, head);
  const TileSource k = head_rows(p.k, p.k_stride, seq.k_row, seq.keys, kv_head);
  const TileSource v = head_rows(p.v, p.v_stride, seq.k_row, seq.keys, kv_head);
  const IntRange queries{first, least(first + kFwdQueries, seq.q_valid)};
  IntRange keys = visible_keys(p, seq, queries);
  keys.begin = keys.begin / kFwdKeys * kFwdKeys;
  const int blocks = queries.begin < queries.end && keys.begin < keys.end
                         ? (keys.end - keys.begin + kFwdKeys - 1) / kFwdKeys
                         : 0;
  const auto load_keys = [&](int block) {
    const int stage = block % kFwdStages * kFwdKeys * kDim, key = keys.begin + block * kFwdKeys;
    load_tile<kDim, kFwdKeys, kFwdThreads>(k, key, k_tiles + stage);
    load_tile<kDim, kFwdKeys, kFwdThreads>(v, key, v_tiles + stage);
  };

  load_tile<kDim, kFwdQueries, kFwdThreads>(q, first, q_tile);
  if (blocks > 0) load_keys(0);
  close_copy_group();
  wait_for_copies<0>();
  __syncthreads();
  uint32_t q_fragments[kDim / 16][4];
  PI_UNROLL
  for (int d = 0; d < kDim / 16; ++d) {
    load_matrices(q_fragments[d], q_tile + swizzled<kDim>(warp * 16 + lane % 16, d * 2 + lane / 16));
  }

  const Scores score_of(p, seq, b, head);
  const KeptWeights kept(p, b, head);
  const float factor = score_factor(p) * kLog2E;
  const int row = first + warp * 16 + lane / 4;  // and row + 8
  Accumulators<kDim / 8> o = {};
  float max[2] = {kLowestMax, kLowestMax}, sum[2] = {0.0f, 0.0f};

  for (int block = 0; block < blocks; ++block) {
    wait_for_copies<0>();
    __syncthreads();  // this pair of tiles is there for all; the other one is not needed by anybody
    if (block + 1 < blocks) load_keys(block + 1);
    close_copy_group();
    const int key = keys.begin + block * kFwdKeys;
    const uint16_t* const k_tile = k_tiles + block % kFwdStages * kFwdKeys * kDim;
    const uint16_t* const v_tile = v_tiles + block % kFwdStages * kFwdKeys * kDim;

    Accumulators<kFwdKeys / 8> s = {};
    PI_UNROLL
    for (int d = 0; d < kDim / 16; ++d) {
      PI_UNROLL
      for (int n = 0; n < kFwdKeys / 16; ++n) {
        uint32_t fragment[4];
        load_matrices(fragment,
                      k_tile + swizzled<kDim>(n * 16 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
        Format::mma(s[2 * n], q_fragments[d], fragment[0], fragment[1]);
        Format::mma(s[2 * n + 1], q_fragments[d], fragment[2], fragment[3]);
      }
    }

    const bool hides = !all_visible(p, seq, queries, {key, key + kFwdKeys});
    if (kGeneral || hides) {
      PI_UNROLL
      for (int n = 0; n < kFwdKeys / 8; ++n) {
        PI_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int at = key + n * 8 + lane % 4 * 2 + e % 2, query = row + e / 2 * 8;
          const bool exists = query < seq.q_valid && is_visible(p, seq, query, at);
          if (!exists) {
            s[n][e] = minus_infinity();
          } else if (kGeneral) {
            s[n][e] = score_of(s[n][e], query, at);
          }
        }
      }
    }

    PI_UNROLL
    for (int half = 0; half < 2; ++half) {
      float top = max[half];
      PI_UNROLL
      for (int n = 0; n < kFwdKeys / 8; ++n) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      top = max_over_lanes<3>(top);
      const float fade = fast_exp2((max[half] - top) * factor), shift = top * factor;
      max[half] = top;
      float total = 0.0f;
      PI_UNROLL
      for (int n = 0; n < kFwdKeys / 8; ++n) {
        PI_UNROLL
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] = fast_exp2(s[n][e] * factor - shift);
          total += s[n][e];
          if (kGeneral && !kept.has(row + half * 8, key + n * 8 + lane % 4 * 2 + e % 2)) s[n][e] = 0.0f;
        }
      }
      sum[half] = sum[half] * fade + total;
      PI_UNROLL
      for (int d = 0; d < kDim / 8; ++d) {
        o[d][2 * half] *= fade;
        o[d][2 * half + 1] *= fade;
      }
    }

    PI_UNROLL
    for (int n = 0; n < kFwdKeys / 16; ++n) {
      const uint32_t weights[4] = {
          Format::pack(s[2 * n][0], s[2 * n][1]), Format::pack(s[2 * n][2], s[2 * n][3]),
          Format::pack(s[2 * n + 1][0], s[2 * n + 1][1]), Format::pack(s[2 * n + 1][2], s[2 * n + 1][3])};
      PI_UNROLL
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t fragment[4];
        load_matrices<true>(fragment, v_tile + swizzled<kDim>(n * 16 + lane % 16, d * 2 + lane / 16));
        Format::mma(o[2 * d], weights, fragment[0], fragment[1]);
        Format::mma(o[2 * d + 1], weights, fragment[2], fragment[3]);
      }
    }
  }
  wait_for_copies<0>();

  // The warp's rows of Q have been read, by all of its lanes, and their place is used for those of O.
  __syncwarp();
  const float natural = score_factor(p), inverse_keep = 1.0f / (1.0f - p.dropout_p);
  PI_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = row + half * 8, tile_row = warp * 16 + lane / 4 + half * 8;
    const float all = sum_over_lanes<3>(sum[half]), total = query < seq.q_valid ? all : 0.0f;
    const float norm = total == 0.0f ? 0.0f : inverse_keep / total;  // not "> 0": a NaN stays one
    if (lane % 4 == 0 && query < seq.q_rows) {
      const int64_t at = stats_offset(p, seq, b, query, head);
      const float top = query < seq.q_valid ? max[half] : kLowestMax;
      store_global(&p.stats[at].max, top);
      store_global(&p.stats[at].sum, total);
      store_global(p.lse + at, total == 0.0f ? minus_infinity() : top * natural + logf(total));
    }
    PI_UNROLL
    for (int d = 0; d < kDim / 8; ++d) {
      auto* to = reinterpret_cast<uint32_t*>(q_tile + swizzled<kDim>(tile_row, d) + lane % 4 * 2);
      store_shared(to, Format::pack(o[d][2 * half] * norm, o[d][2 * half + 1] * norm));
    }
  }
  __syncwarp();
  const TileTarget out{static_cast<uint16_t*>(p.o) + offset_of(p, p.q_stride, b, seq.q_row, head),
                       p.q_stride.sequence, seq.q_rows, static_cast<int>(p.head_dim), q.is_aligned};
  store_warp_rows<kDim>(q_tile, warp * 16, lane, out, first);
}

}  // namespace

template <class Format, int kDim>
const char* launch_attention_fwd(const AttentionParams& p, bool is_aligned, void* stream) {
  const dim3 grid(static_cast<unsigned>((p.seq_q + kFwdQueries - 1) / kFwdQueries),
                  static_cast<unsigned>(p.heads), static_cast<unsigned>(p.batch));
  constexpr int kBytes = kFwdSharedBytes<kDim>;
  const bool is_general = !is_aligned || !is_plain(p) || p.dropout_p > 0.0f;
  const auto launch = [&](auto kernel) -> const char* {
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    PI_LAUNCH(kernel, grid, kFwdThreads, kBytes, static_cast<cudaStream_t>(stream), p, is_aligned);
    error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  };
  return is_general ? launch(attention_fwd<Format, kDim, true>) : launch(attention_fwd<Format, kDim, false>);
}

}  // namespace paddle_infra
