// What the kernels for few queries against a cache share. Reading the cache once is what takes time, so a
// block has a split of the keys of one key-value head and all queries that share it; results of splits are
// put together by another kernel (Flash-Decoding, Dao et al. 2023).
#pragma once

#include <type_traits>

#include "attention/attention_rows_f32.cuh"

namespace paddle_infra {

constexpr int kDecodeThreads = 128;

// How the work is cut: by sizes alone.
struct DecodePlan {
  explicit DecodePlan(const AttentionParams& p) {
    // Enough for two rounds of two blocks on each of 132 processors, if splits are not too short for that.
    constexpr int64_t kBlocks = 512, kLeastKeys = 256;
    const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    rows = static_cast<int>(p.heads / p.kv_heads * p.seq_q);
    const int least = p.dtype == DataType::kFloat32 ? 8 : 16;
    block_rows = rows <= least ? least : rows <= 2 * least ? 2 * least : 4 * least;
    groups = static_cast<int>(ceil_div(rows, block_rows));
    const int64_t useful = ceil_div(kBlocks, p.batch * p.kv_heads * groups);
    const int64_t most = ceil_div(p.seq_k, kLeastKeys);
    splits = static_cast<int>(useful < most ? useful : most);
    if (splits < 1) splits = 1;
    dim = static_cast<int>(p.head_dim + 31) / 32 * 32;
  }
  int rows, block_rows;  // queries that share a key-value head, and how many of them a block has
  int groups, splits;    // blocks for all of them, for all keys
  int dim;               // head_dim, padded
};

namespace {

// Of a split and a row: the maximum of the scores and the sum of e^(score - maximum).
using DecodeStats = Floats<2>;

// Results of splits in the workspace, rows of a split together.
struct DecodePartials {
  PI_HOST_DEVICE DecodePartials(const AttentionParams& p, const DecodePlan& plan) {
    const int64_t rows = p.batch * p.kv_heads * plan.splits * plan.rows, even_rows = (rows + 1) / 2 * 2;
    stats = static_cast<DecodeStats*>(p.workspace);
    sums = static_cast<float*>(p.workspace) + 2 * even_rows;
    bytes = plan.splits > 1 ? 4 * (2 * even_rows + rows * plan.dim) : 0;
  }
  PI_DEVICE static int64_t index(const AttentionParams& p, const DecodePlan& plan, int b, int kv_head,
                                 int split, int row) {
    return ((b * p.kv_heads + kv_head) * plan.splits + split) * plan.rows + row;
  }
  DecodeStats* stats;
  float* sums;  // [dim] of each row: sum of e^(score - maximum) * value
  int64_t bytes;
};

struct DecodeRow {
  int head, query;
};
PI_DEVICE DecodeRow decode_row(const AttentionParams& p, const DecodePlan& plan, int kv_head, int row) {
  const int seq_q = static_cast<int>(p.seq_q), existing = least(row, plan.rows - 1);
  return {kv_head * static_cast<int>(p.heads / p.kv_heads) + existing / seq_q, existing % seq_q};
}

// Splits share what any query sees, in whole tiles.
PI_DEVICE IntRange keys_of_split(const AttentionParams& p, const CudaSequence& seq, int splits, int split,
                                 int tile) {
  const IntRange all = visible_keys(p, seq, {0, seq.q_valid});
  const int count = seq.q_valid > 0 ? most(0, all.end - all.begin) : 0;
  const int each = ((count + splits - 1) / splits + tile - 1) / tile * tile;
  const int begin = all.begin + least(count, split * each);
  return {begin, least(begin + each, all.begin + count)};
}

// The format of float32 results; 16-bit ones are those of common/cuda_primitives.h.
struct Float32 {};

// Writes neighbours of a row of the output, and its lse with the first of them.
template <class Format, int kCount>
PI_DEVICE void store_decoded(const AttentionParams& p, const CudaSequence& seq, int b, DecodeRow row,
                             int column, const DecodeStats& stats, Floats<kCount> o, bool is_aligned) {
  const float max = stats.at[0], sum = stats.at[1];
  const float norm = sum == 0.0f ? 0.0f : 1.0f / sum;  // not "> 0": a NaN stays one
  PI_UNROLL
  for (int c = 0; c < kCount; ++c) o.at[c] = sum == 0.0f ? 0.0f : o.at[c] * norm;
  if (column == 0) {
    store_global(p.lse + stats_offset(p, seq, b, row.query, row.head),
                 sum == 0.0f ? minus_infinity() : max * score_factor(p) + logf(sum));
  }
  const int64_t at = offset_of(p, p.q_stride, b, row.query, row.head) + column;
  if constexpr (std::is_same<Format, Float32>::value) {
    float* const to = static_cast<float*>(p.o) + at;
    if (is_aligned) return store_global(reinterpret_cast<Floats<kCount>*>(to), o);
    PI_UNROLL
    for (int c = 0; c < kCount; ++c) {
      if (column + c < p.head_dim) store_global(to + c, o.at[c]);
    }
  } else {
    struct alignas(2 * kCount) Pairs {
      uint32_t at[kCount / 2];
    } pairs;
    PI_UNROLL
    for (int c = 0; c < kCount / 2; ++c) pairs.at[c] = Format::pack(o.at[2 * c], o.at[2 * c + 1]);
    auto* const to = static_cast<uint16_t*>(p.o) + at;
    if (is_aligned) return store_global(reinterpret_cast<Pairs*>(to), pairs);
    PI_UNROLL
    for (int c = 0; c < kCount; ++c) {
      if (column + c < p.head_dim) {
        store_global(to + c, static_cast<uint16_t>(pairs.at[c / 2] >> c % 2 * 16));
      }
    }
  }
}

// The same for a split, which may be the only one.
template <class Format, int kCount>
PI_DEVICE void store_split(const AttentionParams& p, const DecodePlan& plan, const CudaSequence& seq, int b,
                           int kv_head, int split, int row, int column, const DecodeStats& stats,
                           const Floats<kCount>& o, bool is_aligned) {
  if (row >= plan.rows || column / 4 * 4 >= p.head_dim) return;
  if (plan.splits == 1) {
    return store_decoded<Format>(p, seq, b, decode_row(p, plan, kv_head, row), column, stats, o, is_aligned);
  }
  const DecodePartials partials(p, plan);
  const int64_t at = DecodePartials::index(p, plan, b, kv_head, split, row);
  if (column == 0) store_global(partials.stats + at, stats);
  store_global(reinterpret_cast<Floats<kCount>*>(partials.sums + at * plan.dim + column), o);
}

// A split without keys has nothing but that to say. Returns whether it is one.
PI_DEVICE bool ends_empty_split(const AttentionParams& p, const DecodePlan& plan, int b, int kv_head,
                                int split, int first_row, IntRange keys) {
  if (plan.splits == 1 || keys.begin < keys.end) return false;
  const DecodePartials partials(p, plan);
  const int count = least(plan.block_rows, plan.rows - first_row);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kDecodeThreads) {
    const int64_t at = DecodePartials::index(p, plan, b, kv_head, split, first_row + i);
    store_global(partials.stats + at, DecodeStats{{kLowestMax, 0.0f}});
  }
  return true;
}

// Puts the splits of a row together, always in the same order. A warp has a row, a lane 4 of its columns.
template <class Format>
__global__ void __launch_bounds__(kDecodeThreads)
    attention_decode_combine(AttentionParams p, DecodePlan plan, bool is_aligned) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int b = static_cast<int>(blockIdx.y),
            index = static_cast<int>(blockIdx.x) * kDecodeThreads / 32 + warp;
  const int kv_head = index / plan.rows, row = index % plan.rows;
  if (kv_head >= p.kv_heads) return;
  const CudaSequence seq = sequence_of(p, b);
  const DecodePartials partials(p, plan);
  const int64_t first = DecodePartials::index(p, plan, b, kv_head, 0, row);
  const float factor = score_factor(p) * kLog2E;
  float top = kLowestMax, sum = 0.0f;
  for (int split = lane; split < plan.splits; split += 32) {
    top = fmaxf(top, load_global(partials.stats + first + split * plan.rows).at[0]);
  }
  top = max_over_lanes<31>(top);
  for (int split = lane; split < plan.splits; split += 32) {
    const DecodeStats part = load_global(partials.stats + first + split * plan.rows);
    sum += part.at[1] * fast_exp2((part.at[0] - top) * factor);
  }
  sum = sum_over_lanes<31>(sum);
  if (lane * 4 >= p.head_dim) return;
  Floats<4> o = {};
  for (int split = 0; split < plan.splits; ++split) {
    const int64_t at = first + split * plan.rows;
    const DecodeStats part = load_global(partials.stats + at);
    if (part.at[1] == 0.0f) continue;  // its numbers may not have been written
    const float weight = fast_exp2((part.at[0] - top) * factor);
    const Floats<4> more =
        load_global(reinterpret_cast<const Floats<4>*>(partials.sums + at * plan.dim + lane * 4));
    PI_UNROLL
    for (int c = 0; c < 4; ++c) o.at[c] += weight * more.at[c];
  }
  store_decoded<Format>(p, seq, b, decode_row(p, plan, kv_head, row), lane * 4, {{top, sum}}, o, is_aligned);
}

// Runs a kernel for the splits, and one that puts them together.
template <class Format, class Kernel>
const char* launch_decode(Kernel kernel, int shared_bytes, const AttentionParams& p, const DecodePlan& plan,
                          bool is_aligned, void* stream) {
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const dim3 grid(static_cast<unsigned>(plan.splits), static_cast<unsigned>(p.kv_heads * plan.groups),
                  static_cast<unsigned>(p.batch));
  PI_LAUNCH(kernel, grid, kDecodeThreads, shared_bytes, static_cast<cudaStream_t>(stream), p, plan,
            is_aligned);
  error = cudaGetLastError();
  if (error == cudaSuccess && plan.splits > 1) {
    constexpr int kRows = kDecodeThreads / 32;
    const dim3 of_rows(static_cast<unsigned>((p.kv_heads * plan.rows + kRows - 1) / kRows),
                       static_cast<unsigned>(p.batch));
    PI_LAUNCH(attention_decode_combine<Format>, of_rows, kDecodeThreads, 0, static_cast<cudaStream_t>(stream),
              p, plan, is_aligned);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace
}  // namespace paddle_infra
