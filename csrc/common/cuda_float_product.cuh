// Products of matrices of floats, a tile of the result per block: the exact counterpart of
// cuda_tile_product.cuh, whose threads have the same numbers of a tile.
#pragma once

#include "common/cuda_primitives.h"

namespace paddle_infra {
namespace {

constexpr int kFloatProductDepth = 16;

struct FloatMatrix {
  const float* data;
  int64_t stride, rows, columns;  // stride of rows; columns are contiguous
};

// A block's part of  sum_k left[row, k] right[column, k]. left is [rows][k]; right is [columns][k] if
// kRightInside, else [k][columns].
template <int kRows_, int kColumns_, bool kRightInside>
class FloatProduct {
 public:
  static constexpr int kRows = kRows_, kColumns = kColumns_, kThreads = 256;
  static constexpr int kWarpRows = kRows / 32, kWarpColumns = 8 / kWarpRows;
  static constexpr int kWarpWidth = kColumns / kWarpColumns, kBlocks = kWarpWidth / 8;
  // Tiles lie as [k][row] and [k][column]; the two columns more put what a warp writes in different banks.
  static constexpr int kLeftPitch = kRows + 2, kRightPitch = kColumns + 2;
  static constexpr int kSharedBytes = kFloatProductDepth * (kLeftPitch + kRightPitch) * 4;

  using Sums = float[2][kBlocks][4];  // as TileProduct has them

  PI_DEVICE explicit FloatProduct(unsigned char* shared)
      : left_(reinterpret_cast<float*>(shared)),
        right_(left_ + kFloatProductDepth * kLeftPitch),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_row_(static_cast<int>(threadIdx.x) / 32 / kWarpColumns),
        warp_column_(static_cast<int>(threadIdx.x) / 32 % kWarpColumns) {}

  PI_DEVICE int lane() const { return lane_; }
  PI_DEVICE int warp_column() const { return warp_column_; }
  PI_DEVICE int row(int m, int half) const { return warp_row_ * 32 + m * 16 + half * 8 + lane_ / 4; }
  PI_DEVICE int column(int n) const { return warp_column_ * kWarpWidth + n * 8 + lane_ % 4 * 2; }

  // Makes the tiles from `row` and from `column` on, summed over [first, end), and calls finish(column, sums)
  // for each.
  template <class Finish>
  PI_DEVICE void run(const FloatMatrix& left, const FloatMatrix& right, int64_t row, int64_t column,
                     int tiles, int64_t first, int64_t end, Sums& sums, Finish finish) const {
    for (int tile = 0; tile < tiles; ++tile, column += kColumns) {
      PI_UNROLL
      for (int i = 0; i < 2 * kBlocks * 4; ++i) sums[i / 4 / kBlocks][i / 4 % kBlocks][i % 4] = 0.0f;
      for (int64_t k = first; k < end; k += kFloatProductDepth) {
        __syncthreads();
        copy<kRows, kLeftPitch, true>(left, row, k, left_);
        copy<kColumns, kRightPitch, kRightInside>(right, column, k, right_);
        __syncthreads();
        multiply(sums);
      }
      finish(column, sums);
    }
  }

 private:
  struct alignas(8) Pair {
    float numbers[2];
  };

  template <int kOuter, int kPitch, bool kInside>
  PI_DEVICE static void copy(const FloatMatrix& from, int64_t outer, int64_t k, float* to) {
    for (int i = static_cast<int>(threadIdx.x); i < kOuter * kFloatProductDepth; i += kThreads) {
      const int at_k = kInside ? i % kFloatProductDepth : i / kOuter;
      const int at_outer = kInside ? i / kFloatProductDepth : i % kOuter;
      const int64_t row = kInside ? outer + at_outer : k + at_k,
                    column = kInside ? k + at_k : outer + at_outer;
      const bool exists = row < from.rows && column < from.columns;
      store_shared(to + at_k * kPitch + at_outer,
                   exists ? load_global(from.data + row * from.stride + column) : 0.0f);
    }
  }

  PI_DEVICE void multiply(Sums& sums) const {
    PI_UNROLL
    for (int k = 0; k < kFloatProductDepth; ++k) {
      float a[4];
      PI_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = load_shared(left_ + k * kLeftPitch + row(i / 2, i % 2));
      PI_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        const Pair b = load_shared(reinterpret_cast<const Pair*>(right_ + k * kRightPitch + column(n)));
        PI_UNROLL
        for (int i = 0; i < 8; ++i) {
          float& sum = sums[i / 4][n][i % 4];
          sum = fmaf(a[i / 2], b.numbers[i % 2], sum);
        }
      }
    }
  }

  float *const left_, *const right_;
  const int lane_, warp_row_, warp_column_;
};

}  // namespace
}  // namespace paddle_infra
