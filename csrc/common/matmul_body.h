// A small matrix product for blocks that fit in the caches. No include guard: see common/simd_body.h.
//
//   C[m, n] (+)= sum_k A[m, k] B[k, n]
//
// A is read one element at a time, so it may have any strides; vectors run along n. Every element of the
// product is one chain of multiply-adds in the order of k, whatever the block sizes: results do not depend on
// how work is divided. The chain starts at 0 and is then added to C, so that a sum over many calls is one of
// partial sums: its rounding error grows with the root of the number of calls plus that of depth, not of all
// terms.

#include "common/simd_body.h"

#if PI_LANES == 16
constexpr int kTileRows = 8, kTileVecs = 3;  // 24 of 32 registers hold C
#elif PI_LANES == 8
constexpr int kTileRows = 4, kTileVecs = 3;  // 12 of 16
#else
constexpr int kTileRows = 4, kTileVecs = 2;  // 8 of 16
#endif
constexpr int kPanelWidth = kTileVecs * kLanes;

struct MatrixA {
  const float* data;
  int64_t row_stride, depth_stride;
};

// Either rows in memory (depth_stride > 0), or packed by pack_panel (depth_stride == 0). is_padded: whole
// vectors may be read at the end of a row, as they may in packed panels.
struct MatrixB {
  const float* data;
  int64_t depth_stride;
  bool is_padded;
};

// The last vector of a row of C, and of B: whole or partial.
enum Tail { kWhole, kPartialC, kPartialBoth };

template <int kRows, int kVecs, Tail kTail>
static void matmul_tile(const MatrixA& a, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                        int64_t depth, int last_lanes, bool accumulate) {
  Vec acc[kRows][kVecs] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const float* row = b + k * b_stride;
    Vec bv[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      const bool partial = kTail == kPartialBoth && v == kVecs - 1;
      bv[v] = partial ? load_partial(row + v * kLanes, last_lanes) : load(row + v * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec av = splat(a.data[r * a.row_stride + k * a.depth_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) acc[r][v] += av * bv[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      float* to = c + r * c_stride + v * kLanes;
      if (kTail != kWhole && v == kVecs - 1) {
        store_partial(to, accumulate ? load_partial(to, last_lanes) + acc[r][v] : acc[r][v], last_lanes);
      } else {
        store(to, accumulate ? load(to) + acc[r][v] : acc[r][v]);
      }
    }
  }
}

// Turns the run-time number of rows, then of vectors, into template arguments.
template <int kRows, int kVecs, Tail kTail>
static void dispatch_tile(int rows, int vecs, const MatrixA& a, const float* b, int64_t b_stride, float* c,
                          int64_t c_stride, int64_t depth, int last_lanes, bool accumulate) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return dispatch_tile<kRows - 1, kVecs, kTail>(rows, vecs, a, b, b_stride, c, c_stride, depth,
                                                    last_lanes, accumulate);
    }
  }
  if constexpr (kVecs > 1) {
    if (vecs < kVecs) {
      return dispatch_tile<kRows, kVecs - 1, kTail>(rows, vecs, a, b, b_stride, c, c_stride, depth,
                                                    last_lanes, accumulate);
    }
  }
  matmul_tile<kRows, kVecs, kTail>(a, b, b_stride, c, c_stride, depth, last_lanes, accumulate);
}

static void matmul(int64_t m, int64_t n, int64_t depth, const MatrixA& a, const MatrixB& b, float* c,
                   int64_t c_stride, bool accumulate) {
  for (int64_t n0 = 0; n0 < n; n0 += kPanelWidth) {
    const int64_t width = n - n0 < kPanelWidth ? n - n0 : kPanelWidth;
    const int vecs = static_cast<int>((width + kLanes - 1) / kLanes);
    const int last = static_cast<int>(width - (vecs - 1) * kLanes);
    const float* b_data = b.depth_stride > 0 ? b.data + n0 : b.data + n0 * depth;
    const int64_t b_stride = b.depth_stride > 0 ? b.depth_stride : vecs * kLanes;
    for (int64_t m0 = 0; m0 < m; m0 += kTileRows) {
      const int rows = static_cast<int>(m - m0 < kTileRows ? m - m0 : kTileRows);
      const MatrixA block{a.data + m0 * a.row_stride, a.row_stride, a.depth_stride};
      float* to = c + m0 * c_stride + n0;
      const auto tile = last == kLanes ? dispatch_tile<kTileRows, kTileVecs, kWhole>
                        : b.is_padded  ? dispatch_tile<kTileRows, kTileVecs, kPartialC>
                                       : dispatch_tile<kTileRows, kTileVecs, kPartialBoth>;
      tile(rows, vecs, block, b_data, b_stride, to, c_stride, depth, last, accumulate);
    }
  }
}

// Copies columns [n0, n0 + kPanelWidth) of a [depth, n] matrix with any strides so that matmul() reads it in
// one stream. Missing columns of the last vector become 0. `packed` is the start of the whole packed matrix.
static void pack_panel(float* packed, const float* source, int64_t depth_stride, int64_t column_stride,
                       int64_t depth, int64_t n, int64_t n0) {
  const int64_t count = n - n0 < kPanelWidth ? n - n0 : kPanelWidth;
  const int64_t width = (count + kLanes - 1) / kLanes * kLanes;
  float* to = packed + n0 * depth;
  const float* from = source + n0 * column_stride;
  if (column_stride == 1) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < count; ++j) to[k * width + j] = from[k * depth_stride + j];
    }
  } else {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t k = 0; k < depth; ++k) to[k * width + j] = from[k * depth_stride + j * column_stride];
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t j = count; j < width; ++j) to[k * width + j] = 0.0f;
  }
}
