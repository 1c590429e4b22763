// What every part of the CPU kernels must agree on: which rows and keys a sequence has, who sees whom, and
// how work is cut. Nothing here depends on the number of threads but the size of a task, which changes no
// result.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/attention.h"
#include "common/workspace.h"

namespace paddle_infra {

constexpr int64_t kPanel = 64;     // queries that go through the kernel together, one to a vector lane
constexpr int64_t kKeyBlock = 64;  // keys whose scores exist at the same time
constexpr int64_t kWideKeyBlock =
    128;  // the same, forward in bfloat16: sums stay longer in registers and tiles
constexpr int64_t kMostLanes = 16;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
// Running maxima start here, and hidden scores are -infinity: exp2 of their difference is 0, never a NaN. So
// a score below this counts as hidden too.
constexpr float kLowestMax = -1e29f;

// One entry of the batch. Rows of the tensors are counted from the start of the whole tensor.
struct Sequence {
  int64_t q_row, q_rows, q_valid;  // first row, rows, and how many of them are not padding
  int64_t k_row, k_rows, keys;     // first row, rows, and how many of them exist
  int64_t offset;                  // query i is level with key i + offset
};

inline Sequence sequence_of(const AttentionParams& p, int64_t b) {
  Sequence s{};
  s.q_rows = p.seq_q;
  s.k_rows = p.seq_k;
  if (p.cu_seqlens_q != nullptr) {
    s.q_row = p.cu_seqlens_q[b];
    s.q_rows = p.cu_seqlens_q[b + 1] - s.q_row;
    s.k_row = p.cu_seqlens_k[b];
    s.k_rows = p.cu_seqlens_k[b + 1] - s.k_row;
  }
  s.q_valid = p.q_lengths ? std::min<int64_t>(p.q_lengths[b], s.q_rows) : s.q_rows;
  s.keys = p.kv_lengths ? std::min<int64_t>(p.kv_lengths[b], s.k_rows) : s.k_rows;
  s.offset = p.align_to_lengths ? s.keys - s.q_valid : s.k_rows - s.q_rows;
  return s;
}

inline int64_t batch_stride(const AttentionParams& p, const AttentionStrides& s) {
  return p.cu_seqlens_q != nullptr ? 0 : s.batch;
}

struct Range {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
};

// The keys that at least one of the queries [begin, end) sees.
inline Range visible_keys(const AttentionParams& p, const Sequence& s, Range queries) {
  Range keys{0, s.keys};
  if (p.window_left >= 0) keys.begin = std::max<int64_t>(0, queries.begin + s.offset - p.window_left);
  if (p.window_right >= 0) keys.end = std::min(s.keys, queries.end + s.offset + p.window_right);
  return keys;
}

// Whether every one of these queries sees every one of these keys.
inline bool all_visible(const AttentionParams& p, const Sequence& s, Range queries, Range keys) {
  return (p.window_left < 0 || keys.begin >= queries.end - 1 + s.offset - p.window_left) &&
         (p.window_right < 0 || keys.end - 1 <= queries.begin + s.offset + p.window_right);
}

// Scores need no more than a factor: no softcap, bias, slopes; a positive scale keeps the order of scores.
inline bool is_plain(const AttentionParams& p) {
  return p.softcap == 0.0f && p.bias == nullptr && p.alibi_slopes == nullptr && p.scale > 0.0f;
}

// head_dim as it is stored in packed blocks: whole vectors, and for bfloat16 whole tiles of 32.
inline int64_t padded_dim(const AttentionParams& p) {
  return round_up(p.head_dim, p.precision == MatmulPrecision::kMedium ? 32 : kMostLanes);
}

// Keys that are packed at a time: with values they take `bytes`, half of a small second-level cache.
inline int64_t chunk_keys(const AttentionParams& p, int64_t bytes) {
  const int64_t keys = bytes / (2 * 4 * padded_dim(p)) / kWideKeyBlock * kWideKeyBlock;
  return std::min(std::max(keys, kWideKeyBlock), round_up(std::max<int64_t>(p.seq_k, 1), kWideKeyBlock));
}

// Element offsets of a row of a head.
inline int64_t offset_of(const AttentionParams& p, const AttentionStrides& stride, int64_t b, int64_t row,
                         int64_t head) {
  return b * batch_stride(p, stride) + row * stride.sequence + head * stride.head;
}

inline int64_t q_offset(const AttentionParams& p, const Sequence& s, int64_t b, int64_t row, int64_t head) {
  return offset_of(p, p.q_stride, b, s.q_row + row, head);
}

inline int64_t stats_offset(const AttentionParams& p, const Sequence& s, int64_t b, int64_t row,
                            int64_t head) {
  return (p.cu_seqlens_q != nullptr ? 0 : b * p.lse_stride[0]) + head * p.lse_stride[1] + s.q_row + row;
}

// How a pass is cut.
struct FwdPlan {
  int64_t dim;     // padded head_dim
  int64_t chunk;   // keys packed at a time
  int64_t panels;  // of one task
};

struct BwdPlan {
  int64_t dim, chunk;
  bool is_by_head;  // one task makes all gradients of a key-value head; else tasks are smaller
  float* grad_q;    // for narrow types: sums of grad_q in float32, dense [rows, heads, head_dim]
};

// Makes the gradients that are asked for, from these queries of these heads and these keys.
struct BwdTask {
  int64_t b, kv_head;
  Range heads, queries, keys;  // queries and keys start at multiples of panel and chunk
  bool wants_query, wants_key_value, wants_bias;
};

}  // namespace paddle_infra
