// Our own matrix products. No include guard: see common/foreach_target.h.
//
// B goes through the kernel in panels of kDepth * kColumns numbers, packed as floats (64 KB), A in blocks of
// kRows rows (96 KB).

#include "common/tile_product_body.h"

constexpr int64_t kDepth = 256, kColumns = 64, kRows = 96;

// [rows][columns] of a matrix, which is stored the other way round if `transposed`, as floats; columns up to
// `width` are 0.
template <class Element>
static void pack_block(const Element* from, int64_t stride, bool transposed, int64_t rows, int64_t columns,
                       int64_t width, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = to + r * width;
    const Element* at = transposed ? from + r : from + r * stride;
    const int64_t step = transposed ? stride : 1;
    for (int64_t c = 0; c < columns; ++c) row[c] = float_of(at[c * step]);
    for (int64_t c = columns; c < width; ++c) row[c] = 0.0f;
  }
}

static void multiply_block(int64_t rows, int64_t width, int64_t depth, const float* a, const float* b,
                           float* c, int64_t ldc, bool accumulate) {
  const LeftMatrix<float> left{a, depth, 1};
  if (accumulate) {
    product<Into::kAdd>(rows, width, depth, left, b, width, c, ldc);
  } else {
    product<Into::kOverwrite>(rows, width, depth, left, b, width, c, ldc);
  }
}

// Integers as floats: sums of kDepth products of bytes stay below 2^24, so they are exact.
static_assert(kDepth * 128 * 128 < 1 << 24);
static void multiply_block(int64_t rows, int64_t width, int64_t depth, const float* a, const float* b,
                           int32_t* c, int64_t ldc, bool accumulate) {
  alignas(64) float sums[kRows * kColumns];
  multiply_block(rows, width, depth, a, b, sums, width, false);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < width; n += kLanes) {
      IntVec sum = __builtin_convertvector(load(sums + r * width + n), IntVec), before;
      if (accumulate) {
        std::memcpy(&before, c + r * ldc + n, sizeof before);
        sum += before;
      }
      std::memcpy(c + r * ldc + n, &sum, sizeof sum);
    }
  }
}

// Element: what the matrices hold; Number: what their products are summed in.
template <class Number, class Element>
static void gemm_blocks(const GemmShape& s, const Element* a, const Element* b, Number* c) {
  alignas(64) float panel[kDepth * kColumns], block[kRows * kDepth];
  alignas(64) Number tail[kRows * kColumns];
  for (int64_t n = 0; n < s.n; n += kColumns) {
    const int64_t columns = std::min(kColumns, s.n - n), width = (columns + kLanes - 1) / kLanes * kLanes;
    for (int64_t k = 0; k < s.k || k == 0; k += kDepth) {  // once even without a depth: that writes zeros
      const int64_t depth = std::min(kDepth, s.k - k);
      const bool accumulate = s.accumulate || k > 0;
      pack_block(s.transpose_b ? b + n * s.ldb + k : b + k * s.ldb + n, s.ldb, s.transpose_b, depth, columns,
                 width, panel);
      for (int64_t m = 0; m < s.m; m += kRows) {
        const int64_t rows = std::min(kRows, s.m - m);
        pack_block(s.transpose_a ? a + k * s.lda + m : a + m * s.lda + k, s.lda, s.transpose_a, rows, depth,
                   depth, block);
        Number* out = c + m * s.ldc + n;
        if (width == columns) {
          multiply_block(rows, width, depth, block, panel, out, s.ldc, accumulate);
          continue;
        }
        multiply_block(rows, width, depth, block, panel, tail, width, false);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < columns; ++i) {
            Number* to = out + r * s.ldc + i;
            *to = accumulate ? *to + tail[r * width + i] : tail[r * width + i];
          }
        }
      }
    }
  }
}

constexpr OwnGemm kOwn{gemm_blocks<float, float>, gemm_blocks<float, uint16_t>, gemm_blocks<int32_t, int8_t>};
