// Matrix products of blocks that lie in the caches, for kernels that keep their own layouts.
//
//   C[m, n] = C[m, n] * factor[n] + sum_k A[m, k] B[k, n]
//
// No include guard: see common/foreach_target.h. Vectors run along n; A is read one element at a time, so it
// may have any strides. Elements are floats, or pairs of bfloat16 in 32 bits that are neighbours along k
// (then k and strides count pairs). Every number of the product is one chain of multiply-adds in the order of
// k, whatever the block sizes, and is then added to C: a sum over many products is one of partial sums, whose
// rounding error grows with the root of their number, not of all terms. n is a multiple of the vector length.

#include "common/simd_body.h"

enum class Into { kOverwrite, kAdd, kScale };

// What makes the registers full: rows * vectors accumulators, one vector of B each, one element of A.
#if PI_LANES == 16
constexpr int kMostVecs = 4;  // 6 * 4 + 4 + 1 of 32 registers
constexpr int kTileRowsOf[] = {0, 12, 12, 8, 6};
#else
constexpr int kMostVecs = 2;  // 6 * 2 + 2 + 1 of 16 registers
constexpr int kTileRowsOf[] = {0, 12, 6};
#endif

PI_INLINE Vec multiply_add(float a, Vec b, Vec sum) { return sum + splat(a) * b; }
PI_INLINE Vec load_b(const float* b) { return load(b); }

#if PI_BF16 == 1 || PI_BF16 == 2
PI_INLINE Vec multiply_add(uint32_t a, __m512i b, Vec sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), (__m512bh)b);
}
PI_INLINE __m512i load_b(const uint32_t* b) { return _mm512_loadu_si512(b); }
#endif

template <class Element>
struct LeftMatrix {
  const Element* data;
  int64_t row_stride, depth_stride;
};

template <int kRows, int kVecs, Into kInto, class Element>
PI_INLINE void product_tile(LeftMatrix<Element> a, const Element* b, int64_t b_stride, float* c,
                            int64_t c_stride, int64_t depth, const float* factor) {
  Vec sum[kRows][kVecs] = {};
  for (int64_t k = 0; k < depth; ++k) {
    decltype(load_b(b)) row[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) row[v] = load_b(b + v * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const Element element = a.data[r * a.row_stride];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = multiply_add(element, row[v], sum[r][v]);
    }
    b += b_stride;
    a.data += a.depth_stride;
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      float* to = c + r * c_stride + v * kLanes;
      if constexpr (kInto == Into::kAdd) sum[r][v] += load(to);
      if constexpr (kInto == Into::kScale) sum[r][v] += load(to) * load(factor + v * kLanes);
      store(to, sum[r][v]);
    }
  }
}

// All rows with kVecs vectors of columns: tiles of kRows, then of fewer.
template <int kRows, int kVecs, Into kInto, class Element>
PI_INLINE void product_rows(int64_t rows, LeftMatrix<Element> a, const Element* b, int64_t b_stride, float* c,
                            int64_t c_stride, int64_t depth, const float* factor) {
  for (; rows >= kRows; rows -= kRows) {
    product_tile<kRows, kVecs, kInto>(a, b, b_stride, c, c_stride, depth, factor);
    a.data += kRows * a.row_stride;
    c += kRows * c_stride;
  }
  if constexpr (kRows > 1) {
    constexpr int kFewer = kRows > 8 ? 8 : kRows > 4 ? 4 : kRows / 2;
    if (rows > 0) product_rows<kFewer, kVecs, kInto>(rows, a, b, b_stride, c, c_stride, depth, factor);
  }
}

template <int kVecs, Into kInto, class Element>
static __attribute__((noinline)) void product_panel(int64_t rows, LeftMatrix<Element> a, const Element* b,
                                                    int64_t b_stride, float* c, int64_t c_stride,
                                                    int64_t depth, const float* factor) {
  product_rows<kTileRowsOf[kVecs], kVecs, kInto>(rows, a, b, b_stride, c, c_stride, depth, factor);
}

template <Into kInto, class Element>
static void vector_product(int64_t rows, int64_t columns, int64_t depth, LeftMatrix<Element> a,
                           const Element* b, int64_t b_stride, float* c, int64_t c_stride,
                           const float* factor) {
  constexpr int64_t kWidth = kMostVecs * kLanes;
  for (; columns >= kWidth; columns -= kWidth) {
    product_panel<kMostVecs, kInto>(rows, a, b, b_stride, c, c_stride, depth, factor);
    b += kWidth;
    c += kWidth;
    factor += kInto == Into::kScale ? kWidth : 0;
  }
#if PI_LANES == 16
  if (columns == 3 * kLanes) product_panel<3, kInto>(rows, a, b, b_stride, c, c_stride, depth, factor);
  if (columns == 2 * kLanes) product_panel<2, kInto>(rows, a, b, b_stride, c, c_stride, depth, factor);
#endif
  if (columns == kLanes) product_panel<1, kInto>(rows, a, b, b_stride, c, c_stride, depth, factor);
}

#if PI_BF16 >= 2
#include "common/amx_product_body.h"
#else
[[maybe_unused]] static void begin_thread() {}
[[maybe_unused]] static void end_thread() {}
#endif

// Pairs on the matrix unit: rows, columns and depth must be multiples of 16, and a.depth_stride 1.
template <Into kInto, class Element>
static void product(int64_t rows, int64_t columns, int64_t depth, LeftMatrix<Element> a, const Element* b,
                    int64_t b_stride, float* c, int64_t c_stride, const float* factor = nullptr) {
#if PI_BF16 >= 2
  if constexpr (std::is_same_v<Element, uint32_t>) {
    return tile_product<kInto>(rows, columns, depth, a, b, b_stride, c, c_stride, factor);
  } else
#endif
    return vector_product<kInto>(rows, columns, depth, a, b, b_stride, c, c_stride, factor);
}
