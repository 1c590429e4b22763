// Tiles of float32 rows in shared memory, and their two products in registers. What a block of 128 threads
// computes is 8 x 16 threads: a thread has the rows down + 8 i and the columns across + 16 j of a product.
//
// Rows of a tile are 16 bytes longer than head_dim, so eight rows at the same column are in different banks:
// no tile has to be transposed, and copies go straight into it.
#pragma once

#include "attention/attention_cuda.cuh"

namespace paddle_infra {
namespace {

constexpr int kF32Threads = 128, kF32Across = 16, kF32Down = kF32Threads / kF32Across;

// Neighbours in memory, loaded and stored at once.
template <int kCount>
struct alignas(4 * kCount) Floats {
  float at[kCount];
};

template <int kDim>
constexpr int kF32Stride = kDim + 4;

struct TilePlace {
  int down, across;
};
PI_DEVICE TilePlace tile_place() {
  const int thread = static_cast<int>(threadIdx.x);
  return {thread / kF32Across, thread % kF32Across};
}

// Rows of a head in global memory.
struct FloatRows {
  const float* data;  // the first row
  int64_t stride;
  int rows, columns;  // that exist
  bool is_aligned;    // columns are a multiple of 4, rows start at multiples of 16 bytes
};

// Starts to copy the rows [first, first + kRows) into a tile; what does not exist becomes zeros.
template <int kDim, int kRows>
PI_DEVICE void load_rows(const FloatRows& from, int first, float* tile) {
  constexpr int kChunks = kDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kF32Threads) {
    const int row = i / kChunks, column = i % kChunks * 4;
    float* to = tile + row * kF32Stride<kDim> + column;
    const bool exists = first + row < from.rows;
    const float* at = from.data + (exists ? first + row : 0) * from.stride + column;
    if (from.is_aligned) {
      const bool is_valid = exists && column < from.columns;
      copy_async_16(to, is_valid ? at : from.data, is_valid);
      continue;
    }
    PI_UNROLL
    for (int e = 0; e < 4; ++e) {
      store_shared(to + e, exists && column + e < from.columns ? load_global(at + e) : 0.0f);
    }
  }
}

// sums[i][j] += row down + 8 i of `left` times row across + 16 j of `right`.
template <int kDim, int kRows, int kColumns>
PI_DEVICE void add_row_products(float (&sums)[kRows][kColumns], const float* left, const float* right,
                                TilePlace place) {
  constexpr int kStride = kF32Stride<kDim>;
  left += place.down * kStride;
  right += place.across * kStride;
  for (int d = 0; d < kDim; d += 4) {
    Floats<4> x[kRows], y[kColumns];
    PI_UNROLL
    for (int i = 0; i < kRows; ++i) {
      x[i] = load_shared(reinterpret_cast<const Floats<4>*>(left + i * kF32Down * kStride + d));
    }
    PI_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      y[j] = load_shared(reinterpret_cast<const Floats<4>*>(right + j * kF32Across * kStride + d));
    }
    PI_UNROLL
    for (int e = 0; e < 4; ++e) {
      PI_UNROLL
      for (int i = 0; i < kRows; ++i) {
        PI_UNROLL
        for (int j = 0; j < kColumns; ++j) sums[i][j] += x[i].at[e] * y[j].at[e];
      }
    }
  }
}

// Where a number of a matrix [rows][kColumns] of weights lies. A warp writes 16 columns of two neighbouring
// rows: halves of odd rows are exchanged, so these are in different banks.
template <int kColumns>
PI_DEVICE int weight_at(int row, int column) {
  return row * kColumns + (kColumns % 32 == 0 ? column ^ (row & 1) << 4 : column);
}

// The columns of a row of head_dim that a thread has: in pieces of 4, or 2 if there are too few.
template <int kDim>
constexpr int kF32Piece = kDim % 64 == 0 ? 4 : 2;
template <int kDim>
constexpr int kF32Columns = kDim / kF32Across;
template <int kDim>
PI_DEVICE int piece_column(int piece, int across) {
  return (piece * kF32Across + across) * kF32Piece<kDim>;
}

// sums[i] += sum over j of weight (down + 8 i, j) times row j of a tile.
template <int kDim, int kCount, int kRows>
PI_DEVICE void add_weighted_rows(float (&sums)[kRows][kF32Columns<kDim>], const float* weights,
                                 const float* tile, TilePlace place) {
  constexpr int kPiece = kF32Piece<kDim>;
  for (int j = 0; j < kCount; j += 4) {
    Floats<4> w[kRows];
    PI_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const float* at = weights + weight_at<kCount>(place.down, j) + i * kF32Down * kCount;
      w[i] = load_shared(reinterpret_cast<const Floats<4>*>(at));
    }
    PI_UNROLL
    for (int e = 0; e < 4; ++e) {
      PI_UNROLL
      for (int n = 0; n < kF32Columns<kDim> / kPiece; ++n) {
        const float* at = tile + (j + e) * kF32Stride<kDim> + piece_column<kDim>(n, place.across);
        const Floats<kPiece> y = load_shared(reinterpret_cast<const Floats<kPiece>*>(at));
        PI_UNROLL
        for (int i = 0; i < kRows; ++i) {
          PI_UNROLL
          for (int c = 0; c < kPiece; ++c) sums[i][n * kPiece + c] += w[i].at[e] * y.at[c];
        }
      }
    }
  }
}

// Writes factor times a thread's columns of a row; a factor of 0 gives zeros whatever the numbers are.
template <int kDim>
PI_DEVICE void store_row(const float (&numbers)[kF32Columns<kDim>], float factor, float* row, int columns,
                         bool is_aligned, int across) {
  constexpr int kPiece = kF32Piece<kDim>;
  PI_UNROLL
  for (int n = 0; n < kF32Columns<kDim> / kPiece; ++n) {
    const int column = piece_column<kDim>(n, across);
    Floats<kPiece> piece;
    PI_UNROLL
    for (int c = 0; c < kPiece; ++c) {
      piece.at[c] = factor == 0.0f ? 0.0f : numbers[n * kPiece + c] * factor;
    }
    if (is_aligned && column < columns) store_global(reinterpret_cast<Floats<kPiece>*>(row + column), piece);
    if (is_aligned) continue;
    PI_UNROLL
    for (int c = 0; c < kPiece; ++c) {
      if (column + c < columns) store_global(row + column + c, piece.at[c]);
    }
  }
}

}  // namespace
}  // namespace paddle_infra
