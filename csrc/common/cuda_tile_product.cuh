// Products of matrices of 16-bit numbers on tensor cores, a tile of the result per block, float32 sums in
// registers. What becomes of a tile is up to the kernel: stored, or folded into something smaller.
//
// A block of eight warps goes along the summed axis in steps of 64. Steps are copied to shared memory
// kStages - 1 ahead; where a block makes several tiles, the copies of the next one start during the last
// steps of the one before.
#pragma once

#include "common/cuda_primitives.h"

namespace paddle_infra {
namespace {

constexpr int kProductThreads = 256, kProductWarps = 8, kProductDepth = 64;

// 16-bit numbers in global memory, columns contiguous.
struct HalfMatrix {
  const uint16_t* data;
  int64_t stride, rows, columns;  // stride of rows
  bool is_aligned;                // data is at a multiple of 16 bytes, stride and columns are multiples of 8
};

inline HalfMatrix half_matrix(const void* data, int64_t stride, int64_t rows, int64_t columns) {
  const bool is_aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0 && columns % 8 == 0;
  return {static_cast<const uint16_t*>(data), stride, rows, columns, is_aligned};
}

// Where eight columns of a tile [rows][kColumns] lie in shared memory: columns are exchanged so that eight
// rows of one column, and eight columns of one row, are in different banks.
template <int kColumns>
PI_DEVICE int tile_offset(int row, int chunk) {
  return row * kColumns + ((chunk ^ (kColumns % 64 == 0 ? row & 7 : row >> 1 & 3)) << 3);
}

// Starts to copy a tile; what does not exist becomes zeros. Unaligned matrices are copied at once.
template <int kRows, int kColumns>
PI_DEVICE void copy_tile(const HalfMatrix& from, int64_t first_row, int64_t first_column, uint16_t* tile) {
  constexpr int kChunks = kColumns / 8, kCopies = kRows * kChunks / kProductThreads;
  static_assert(kRows * kChunks % kProductThreads == 0);
  if (from.is_aligned) {
    PI_UNROLL
    for (int j = 0; j < kCopies; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * kProductThreads, row = i / kChunks,
                chunk = i % kChunks;
      const int64_t r = first_row + row, c = first_column + chunk * 8;
      const bool is_valid = r < from.rows && c < from.columns;
      copy_async_16(tile + tile_offset<kColumns>(row, chunk),
                    is_valid ? from.data + r * from.stride + c : from.data, is_valid);
    }
    return;
  }
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kProductThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int64_t r = first_row + row, c = first_column + chunk * 8;
    const auto number = [&](int e) -> uint32_t {
      return r < from.rows && c + e < from.columns ? load_global(from.data + r * from.stride + c + e)
                                                   : uint16_t{0};
    };
    const uint4 numbers{number(0) | number(1) << 16, number(2) | number(3) << 16, number(4) | number(5) << 16,
                        number(6) | number(7) << 16};
    store_shared(reinterpret_cast<uint4*>(tile + tile_offset<kColumns>(row, chunk)), numbers);
  }
}

// Blocks at a time on a multiprocessor. Tiles of 128 x 128 need more than the 128 registers that two blocks
// would leave them.
template <int kRows>
constexpr int kProductBlocks = kRows >= 128 ? 1 : 2;

// A block's part of  sum_k left[row, k] right[column, k].  kLeftInside, kRightInside: the summed axis is the
// contiguous one of that matrix, which is [rows][k] or [columns][k]; otherwise it is [k][rows] or
// [k][columns].
template <class Format_, int kRows_, int kColumns_, bool kLeftInside, bool kRightInside, int kStages = 3>
class TileProduct {
 public:
  using Format = Format_;
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kWarpRows = kRows / 32, kWarpColumns = kProductWarps / kWarpRows;  // of warps
  static constexpr int kWarpWidth = kColumns / kWarpColumns, kBlocks = kWarpWidth / 8;
  static constexpr int kLeftNumbers = kRows * kProductDepth, kRightNumbers = kColumns * kProductDepth;
  static constexpr int kSharedBytes = kStages * (kLeftNumbers + kRightNumbers) * 2;
  static_assert(kRows % 32 == 0 && kWarpWidth % 16 == 0);

  // The sums of a thread: rows row(m, half), columns column(n) + {0, 1}; number half * 2 + {0, 1} of [m][n].
  using Sums = float[2][kBlocks][4];

  PI_DEVICE explicit TileProduct(unsigned char* shared)
      : tiles_(reinterpret_cast<uint16_t*>(shared)),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_row_(static_cast<int>(threadIdx.x) / 32 / kWarpColumns),
        warp_column_(static_cast<int>(threadIdx.x) / 32 % kWarpColumns) {}

  PI_DEVICE int lane() const { return lane_; }
  PI_DEVICE int warp_row() const { return warp_row_; }
  PI_DEVICE int warp_column() const { return warp_column_; }
  PI_DEVICE int row(int m, int half) const { return warp_row_ * 32 + m * 16 + half * 8 + lane_ / 4; }
  PI_DEVICE int column(int n) const { return warp_column_ * kWarpWidth + n * 8 + lane_ % 4 * 2; }

  // Makes the tiles from `row` and from `column` on, summed over [first, end) where `first` is a multiple of
  // 8, and calls finish(column, sums) for each. Afterwards `sums` are still those of the last one, or 0 if
  // there is nothing to sum, and shared memory is free once all threads are there.
  template <class Finish>
  PI_DEVICE void run(const HalfMatrix& left, const HalfMatrix& right, int64_t row, int64_t column, int tiles,
                     int64_t first, int64_t end, Sums& sums, Finish finish) const {
    const int steps = first < end ? static_cast<int>((end - first + kProductDepth - 1) / kProductDepth) : 0;
    const int all = steps * tiles;
    int next = 0, next_step = 0, next_stage = 0;  // what is to be copied
    int64_t next_column = column;
    const auto copy_next = [&] {
      if (next < all) {
        copy(left, right, row, next_column, first + int64_t{next_step} * kProductDepth, next_stage);
        ++next;
        next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
        if (++next_step == steps) {
          next_step = 0;
          next_column += kColumns;
        }
      }
      close_copy_group();
    };
    clear(sums);
    PI_UNROLL
    for (int stage = 0; stage < kStages - 1; ++stage) copy_next();
    int step = 0, stage = 0;
    for (int i = 0; i < all; ++i) {
      wait_for_copies<kStages - 2>();
      __syncthreads();  // this step is there for all; the one before is not needed by anybody
      copy_next();
      if (step == 0) clear(sums);
      multiply(stage, sums);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      if (++step == steps) {
        finish(column, sums);
        step = 0;
        column += kColumns;
      }
    }
    wait_for_copies<0>();
  }

 private:
  PI_DEVICE static void clear(Sums& sums) {
    PI_UNROLL
    for (int m = 0; m < 2; ++m) {
      PI_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        PI_UNROLL
        for (int e = 0; e < 4; ++e) sums[m][n][e] = 0.0f;
      }
    }
  }

  PI_DEVICE uint16_t* left_tile(int stage) const { return tiles_ + stage * (kLeftNumbers + kRightNumbers); }

  PI_DEVICE void copy(const HalfMatrix& left, const HalfMatrix& right, int64_t row, int64_t column, int64_t k,
                      int stage) const {
    uint16_t* const to = left_tile(stage);
    if constexpr (kLeftInside) {
      copy_tile<kRows, kProductDepth>(left, row, k, to);
    } else {
      copy_tile<kProductDepth, kRows>(left, k, row, to);
    }
    if constexpr (kRightInside) {
      copy_tile<kColumns, kProductDepth>(right, column, k, to + kLeftNumbers);
    } else {
      copy_tile<kProductDepth, kColumns>(right, k, column, to + kLeftNumbers);
    }
  }

  // A fragment of 16 rows x 16 k, or of 16 columns x 16 k: four matrices in the order that mma wants.
  PI_DEVICE void load_left(uint32_t (&fragment)[4], const uint16_t* tile, int m, int k) const {
    const int row = warp_row_ * 32 + m * 16;
    if constexpr (kLeftInside) {
      load_matrices(fragment, tile + tile_offset<kProductDepth>(row + lane_ % 16, k / 8 + lane_ / 16));
    } else {
      load_matrices<true>(fragment,
                          tile + tile_offset<kRows>(k + lane_ / 16 * 8 + lane_ % 8, row / 8 + lane_ / 8 % 2));
    }
  }
  PI_DEVICE void load_right(uint32_t (&fragment)[4], const uint16_t* tile, int n, int k) const {
    const int column = warp_column_ * kWarpWidth + n * 16;
    if constexpr (kRightInside) {
      load_matrices(fragment, tile + tile_offset<kProductDepth>(column + lane_ / 16 * 8 + lane_ % 8,
                                                                k / 8 + lane_ / 8 % 2));
    } else {
      load_matrices<true>(fragment, tile + tile_offset<kColumns>(k + lane_ % 16, column / 8 + lane_ / 16));
    }
  }

  PI_DEVICE void multiply(int stage, Sums& sums) const {
    const uint16_t* const left = left_tile(stage);
    const uint16_t* const right = left + kLeftNumbers;
    PI_UNROLL
    for (int k = 0; k < kProductDepth; k += 16) {
      uint32_t a[2][4];
      load_left(a[0], left, 0, k);
      load_left(a[1], left, 1, k);
      PI_UNROLL
      for (int n = 0; n < kBlocks / 2; ++n) {
        uint32_t b[4];
        load_right(b, right, n, k);
        PI_UNROLL
        for (int m = 0; m < 2; ++m) {
          Format::mma(sums[m][2 * n], a[m], b[0], b[1]);
          Format::mma(sums[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  uint16_t* const tiles_;
  const int lane_, warp_row_, warp_column_;
};

// Writes a tile of 16-bit results, by way of shared memory so that rows are written whole. Every thread of
// the block has to call it, after it has stopped using shared memory for anything else.
template <class Product>
PI_DEVICE void store_tile(const Product& product, const typename Product::Sums& sums, unsigned char* shared,
                          int64_t first_row, int64_t first_column, uint16_t* to, int64_t stride, int64_t rows,
                          int64_t columns) {
  constexpr int kChunks = Product::kColumns / 8;
  uint16_t* const tile = reinterpret_cast<uint16_t*>(shared);
  __syncthreads();
  PI_UNROLL
  for (int m = 0; m < 2; ++m) {
    PI_UNROLL
    for (int half = 0; half < 2; ++half) {
      PI_UNROLL
      for (int n = 0; n < Product::kBlocks; ++n) {
        const int chunk = product.warp_column() * Product::kBlocks + n;
        uint16_t* const at = tile + tile_offset<Product::kColumns>(product.row(m, half), chunk);
        store_shared(reinterpret_cast<uint32_t*>(at + product.lane() % 4 * 2),
                     Product::Format::pack(sums[m][n][2 * half], sums[m][n][2 * half + 1]));
      }
    }
  }
  __syncthreads();
  const bool is_aligned = reinterpret_cast<uintptr_t>(to) % 16 == 0 && stride % 8 == 0 && columns % 8 == 0;
  for (int i = static_cast<int>(threadIdx.x); i < Product::kRows * kChunks; i += kProductThreads) {
    const int64_t r = first_row + i / kChunks, c = first_column + i % kChunks * 8;
    if (r >= rows || c >= columns) continue;
    const uint16_t* const from = tile + tile_offset<Product::kColumns>(i / kChunks, i % kChunks);
    uint16_t* const at = to + r * stride + c;
    if (is_aligned) {
      store_global(reinterpret_cast<uint4*>(at), load_shared(reinterpret_cast<const uint4*>(from)));
      continue;
    }
    for (int e = 0; e < 8 && c + e < columns; ++e) store_global(at + e, load_shared(from + e));
  }
}

}  // namespace
}  // namespace paddle_infra
