// What the CUDA kernels of attention share: which rows a block has, who sees whom, how tiles lie in shared
// memory, and from products to scores. The same rules as attention_plan.h has for the CPU.
#pragma once

#include <cmath>

#include "attention/attention.h"
#include "common/cuda_primitives.h"
#include "common/dropout_hash.h"

namespace paddle_infra {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
// Running maxima start here, hidden scores are -infinity: their difference is never a NaN.
constexpr float kLowestMax = -1e29f;

PI_DEVICE float minus_infinity() { return -INFINITY; }
PI_DEVICE int least(int a, int b) { return a < b ? a : b; }
PI_DEVICE int most(int a, int b) { return a > b ? a : b; }

// One entry of the batch; rows count from the start of the whole tensor.
struct CudaSequence {
  int64_t q_row, k_row;
  int q_rows, q_valid;  // and how many of them are not padding
  int k_rows, keys;     // and how many of them exist
  int offset;           // query i is level with key i + offset
};

PI_DEVICE CudaSequence sequence_of(const AttentionParams& p, int b) {
  CudaSequence s{0, 0, static_cast<int>(p.seq_q), 0, static_cast<int>(p.seq_k), 0, 0};
  if (p.cu_seqlens_q != nullptr) {
    s.q_row = load_global(p.cu_seqlens_q + b);
    s.q_rows = static_cast<int>(load_global(p.cu_seqlens_q + b + 1) - s.q_row);
    s.k_row = load_global(p.cu_seqlens_k + b);
    s.k_rows = static_cast<int>(load_global(p.cu_seqlens_k + b + 1) - s.k_row);
  }
  s.q_valid = p.q_lengths != nullptr ? least(load_global(p.q_lengths + b), s.q_rows) : s.q_rows;
  s.keys = p.kv_lengths != nullptr ? least(load_global(p.kv_lengths + b), s.k_rows) : s.k_rows;
  s.offset = p.align_to_lengths ? s.keys - s.q_valid : s.k_rows - s.q_rows;
  return s;
}

// Element offset of a row of a head.
PI_DEVICE int64_t offset_of(const AttentionParams& p, const AttentionStrides& stride, int b, int64_t row,
                            int head) {
  return (p.cu_seqlens_q != nullptr ? 0 : b * stride.batch) + row * stride.sequence + head * stride.head;
}

PI_DEVICE int64_t stats_offset(const AttentionParams& p, const CudaSequence& s, int b, int row, int head) {
  return (p.cu_seqlens_q != nullptr ? 0 : b * p.lse_stride[0]) + head * p.lse_stride[1] + s.q_row + row;
}

struct IntRange {
  int begin, end;
};

// The keys that at least one of the queries [begin, end) sees.
PI_DEVICE IntRange visible_keys(const AttentionParams& p, const CudaSequence& s, IntRange queries) {
  IntRange keys{0, s.keys};
  if (p.window_left >= 0) keys.begin = most(0, queries.begin + s.offset - static_cast<int>(p.window_left));
  if (p.window_right >= 0) {
    keys.end = least(s.keys, queries.end + s.offset + static_cast<int>(p.window_right));
  }
  return keys;
}

// The queries that see at least one of the keys [begin, end).
PI_DEVICE IntRange seeing_queries(const AttentionParams& p, const CudaSequence& s, IntRange keys) {
  IntRange queries{0, s.q_valid};
  if (p.window_right >= 0) {
    queries.begin = most(0, keys.begin - s.offset - static_cast<int>(p.window_right));
  }
  if (p.window_left >= 0) {
    queries.end = least(s.q_valid, keys.end - s.offset + static_cast<int>(p.window_left));
  }
  return queries;
}

// The keys that one query sees; none if the query does not exist.
PI_DEVICE IntRange keys_of(const AttentionParams& p, const CudaSequence& s, int query) {
  return query < s.q_valid ? visible_keys(p, s, {query, query + 1}) : IntRange{0, 0};
}

// Of a query that exists.
PI_DEVICE bool is_visible(const AttentionParams& p, const CudaSequence& s, int query, int key) {
  const int ahead = key - query - s.offset;
  return key < s.keys && (p.window_right < 0 || ahead <= p.window_right) &&
         (p.window_left < 0 || -ahead <= p.window_left);
}

// Whether every one of these queries sees every one of these keys, all of which have to exist for that.
PI_DEVICE bool all_visible(const AttentionParams& p, const CudaSequence& s, IntRange queries, IntRange keys) {
  return keys.end <= s.keys &&
         (p.window_left < 0 || keys.begin >= queries.end - 1 + s.offset - p.window_left) &&
         (p.window_right < 0 || keys.end - 1 <= queries.begin + s.offset + p.window_right);
}

// Scores are the bare products, and a factor makes them natural ones.
PI_HOST_DEVICE inline bool is_plain(const AttentionParams& p) {
  return p.softcap == 0.0f && p.bias == nullptr && p.alibi_slopes == nullptr && p.scale > 0.0f;
}
PI_HOST_DEVICE inline float score_factor(const AttentionParams& p) { return is_plain(p) ? p.scale : 1.0f; }

// Scores from products, for every option.
class Scores {
 public:
  PI_DEVICE Scores(const AttentionParams& p, const CudaSequence& s, int b, int head)
      : p_(p), sequence_(s), is_plain_(is_plain(p)) {
    if (p.bias != nullptr) bias_ = b * p.bias_stride[0] + head * p.bias_stride[1];
    if (p.alibi_slopes != nullptr) {
      slope_ = load_global(p.alibi_slopes + b * p.alibi_stride[0] + head * p.alibi_stride[1]);
    }
  }

  // Of a query and a key that exist. `derivative`, if not null, gets that with respect to scale * product.
  PI_DEVICE float operator()(float product, int query, int key, float* derivative = nullptr) const {
    if (derivative != nullptr) *derivative = 1.0f;
    if (is_plain_) return product;
    float score = product * p_.scale;
    if (p_.softcap > 0.0f) {
      const float t = tanhf(score / p_.softcap);
      if (derivative != nullptr) *derivative = 1.0f - t * t;
      score = p_.softcap * t;
    }
    if (p_.bias != nullptr) score += bias_at(query, key);
    if (p_.alibi_slopes != nullptr) {
      const int ahead = key - query - sequence_.offset;
      score -= slope_ * static_cast<float>(ahead < 0 ? -ahead : ahead);
    }
    return score;
  }

 private:
  PI_DEVICE float bias_at(int query, int key) const {
    const int64_t at = bias_ + query * p_.bias_stride[2] + key * p_.bias_stride[3];
    if (!p_.bias_is_mask) return load_global(static_cast<const float*>(p_.bias) + at);
    return load_global(static_cast<const uint8_t*>(p_.bias) + at) != 0 ? 0.0f : minus_infinity();
  }

  const AttentionParams& p_;
  const CudaSequence& sequence_;
  const bool is_plain_;
  int64_t bias_ = 0;
  float slope_ = 0.0f;
};

// Which weights dropout keeps: those of common/dropout_hash.h, as on the CPU.
class KeptWeights {
 public:
  PI_DEVICE KeptWeights(const AttentionParams& p, int b, int head) : is_on_(p.dropout_p > 0.0f) {
    if (!is_on_) return;
    threshold_ = dropout_threshold(p.dropout_p);
    head_key_ = dropout_group_key(load_global(p.seed), b * p.heads + head);
  }
  PI_DEVICE bool has(int query, int key) const {
    if (!is_on_) return true;
    return dropout_mix(dropout_row_key(head_key_, query) + kColumnStep * static_cast<uint32_t>(key)) >=
           threshold_;
  }

 private:
  bool is_on_;
  uint32_t threshold_ = 0, head_key_ = 0;
};

// Four numbers of each lane in an mma's result: rows lane / 4 and lane / 4 + 8, columns lane % 4 * 2 + {0,
// 1}.
template <int kCount>
using Accumulators = float[kCount][4];

// Where 16 bytes of a tile [rows][kDim] of 16-bit numbers lie in shared memory: columns are exchanged so that
// eight rows of one column, and eight columns of one row, are in different banks.
template <int kDim>
PI_DEVICE int swizzled(int row, int chunk) {
  return row * kDim + ((chunk ^ (kDim % 64 == 0 ? row & 7 : row >> 1 & 3)) << 3);
}

// Rows of a head: 16-bit numbers in global memory.
struct TileSource {
  const uint16_t* data;  // the first row
  int64_t stride;        // of rows
  int rows;              // that exist, from the first one on
  int columns;           // head_dim
  bool is_aligned;       // head_dim is a multiple of 8, rows start at multiples of 16 bytes
};

// Starts to copy the rows [first, first + kRows) into a tile; those that do not exist, and columns from
// head_dim on, become zeros. Unaligned rows are copied at once.
template <int kDim, int kRows, int kThreads>
PI_DEVICE void load_tile(const TileSource& from, int first, uint16_t* tile) {
  constexpr int kChunks = kDim / 8;
  PI_UNROLL_BY(1)  // addresses of several copies at once would cost registers
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    uint16_t* to = tile + swizzled<kDim>(row, chunk);
    const bool exists = first + row < from.rows;
    const uint16_t* at = from.data + (exists ? first + row : 0) * from.stride + chunk * 8;
    if (from.is_aligned) {
      const bool is_valid = exists && chunk * 8 < from.columns;
      copy_async_16(to, is_valid ? at : from.data, is_valid);
      continue;
    }
    PI_UNROLL
    for (int e = 0; e < 8; ++e) {
      const bool is_valid = exists && chunk * 8 + e < from.columns;
      store_shared(to + e, is_valid ? load_global(at + e) : uint16_t{0});
    }
  }
}

// Where rows of a head go.
struct TileTarget {
  uint16_t* data;
  int64_t stride;
  int rows, columns;
  bool is_aligned;
};

// Writes 16 rows of a tile, from `tile_row` on, which a warp has made, to rows first + tile_row and
// following.
template <int kDim>
PI_DEVICE void store_warp_rows(const uint16_t* tile, int tile_row, int lane, const TileTarget& to,
                               int first) {
  constexpr int kChunks = kDim / 8;
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = tile_row + i / kChunks, chunk = i % kChunks;
    if (first + row >= to.rows || chunk * 8 >= to.columns) continue;
    const uint16_t* from = tile + swizzled<kDim>(row, chunk);
    uint16_t* at = to.data + (first + row) * to.stride + chunk * 8;
    if (to.is_aligned) {
      store_global(reinterpret_cast<uint4*>(at), load_shared(reinterpret_cast<const uint4*>(from)));
      continue;
    }
    for (int e = 0; e < least(8, to.columns - chunk * 8); ++e) store_global(at + e, load_shared(from + e));
  }
}

}  // namespace
}  // namespace paddle_infra
