// Copies rows of tensors into the layouts that the products read, and results back. No include guard: see
// common/foreach_target.h.
//
// kFloat: floats. kRounded: floats that hold bfloat16 values, where the processor has no bfloat16 products.
// kPairs: two bfloat16 numbers, neighbours along the axis that the product sums over, in 32 bits.

#include "common/tile_product_body.h"
// Needs vectors.
#include "attention/attention_rows_body.h"

enum class Form { kFloat, kRounded, kPairs };

template <Form kForm>
struct PackedElement {
  using Type = float;
  static constexpr int kCount = 1;  // numbers in an element
};
template <>
struct PackedElement<Form::kPairs> {
  using Type = uint32_t;
  static constexpr int kCount = 2;
};
template <Form kForm>
using Packed = typename PackedElement<kForm>::Type;

// The widths of panels are multiples of this: whole vectors, tiles of the matrix unit (16 columns).
constexpr int64_t kWidthStep = PI_BF16 >= 2 ? 16 : kLanes;
// In the backward pass products also sum over queries: over pairs in whole vectors, over whole tiles (32).
template <Form kForm>
constexpr int64_t kSumWidthStep = kForm != Form::kPairs ? kLanes
                                  : PI_BF16 >= 2        ? 32
                                                        : 2 * kLanes;

// [i]: bfloat16(even[i]) in the low half, bfloat16(odd[i]) in the high one.
PI_INLINE Vec interleave_bf16(Vec even, Vec odd) {
#if PI_BF16 == 1 || PI_BF16 == 2
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
#else
  typedef unsigned Bits __attribute__((vector_size(PI_LANES * 4)));
  const Bits low = reinterpret_cast<Bits>(round_to_bf16(even)) >> 16;
  return reinterpret_cast<Vec>(low | reinterpret_cast<Bits>(round_to_bf16(odd)));
#endif
}

// The numbers of a, then of b, as bfloat16 in this order.
PI_INLINE Vec concatenate_bf16(Vec a, Vec b) {
#if PI_BF16 == 1 || PI_BF16 == 2
  return (Vec)_mm512_cvtne2ps_pbh(b, a);
#else
  Vec even, odd;
  for (int i = 0; i < kLanes / 2; ++i) {
    even[i] = a[2 * i], odd[i] = a[2 * i + 1];
    even[i + kLanes / 2] = b[2 * i], odd[i + kLanes / 2] = b[2 * i + 1];
  }
  return interleave_bf16(even, odd);
#endif
}

// kLanes elements of a row, from element `at` on.
template <Form kForm>
PI_INLINE Vec packed_elements(const float* row, int64_t at, Vec factor) {
  if constexpr (kForm == Form::kPairs) {
    return concatenate_bf16(load(row + 2 * at) * factor, load(row + 2 * at + kLanes) * factor);
  }
  const Vec v = load(row + at) * factor;
  return kForm == Form::kRounded ? round_to_bf16(v) : v;
}

PI_INLINE Vec row_factor(const Rows& rows, int64_t i) { return splat(rows.factor ? rows.factor[i] : 1.0f); }

// [row][dim elements], `to_rows` of them, zeros after the last row. Rows end with zeros up to `to_dim`
// numbers.
template <Form kForm>
static void pack_rows(const Rows& rows, int64_t to_rows, int64_t to_dim, Packed<kForm>* to) {
  alignas(64) float buffer[kRowBuffer];
  const int64_t elements = to_dim / PackedElement<kForm>::kCount;
  constexpr int64_t kUnit = PackedElement<kForm>::kCount * kLanes;
  const int64_t filled = round_up(rows.dim, kUnit) / PackedElement<kForm>::kCount;
  for (int64_t i = 0; i < to_rows; ++i) {
    auto* out = reinterpret_cast<float*>(to + i * elements);
    int64_t e = 0;
    if (i < rows.count) {
      const float* row = float_row(rows, i, kUnit, buffer);
      const Vec factor = row_factor(rows, i);
      for (; e < filled; e += kLanes) store(out + e, packed_elements<kForm>(row, e, factor));
    }
    for (; e < elements; e += kLanes) store(out + e, Vec{});
  }
}

// For products that sum over rows: as pack_rows, but pairs are of two rows, [row / 2][dim].
template <Form kForm>
static void pack_rows_for_sum(const Rows& rows, int64_t to_rows, int64_t to_dim, Packed<kForm>* to) {
  if constexpr (kForm != Form::kPairs) {
    pack_rows<kForm>(rows, to_rows, to_dim, to);
  } else {
    alignas(64) float buffers[2][kRowBuffer];
    for (int64_t i = 0; i < to_rows; i += 2) {
      const float* row[2] = {nullptr, nullptr};
      Vec factor[2] = {};
      for (int s = 0; s < 2 && i + s < rows.count; ++s) {
        row[s] = float_row(rows, i + s, kLanes, buffers[s]);
        factor[s] = row_factor(rows, i + s);
      }
      auto* out = reinterpret_cast<float*>(to + i / 2 * to_dim);
      const int64_t filled = round_up(rows.dim, kLanes);
      for (int64_t d = 0; d < to_dim; d += kLanes) {
        const bool inside = d < filled;
        const Vec even = inside && row[0] ? load(row[0] + d) * factor[0] : Vec{};
        const Vec odd = inside && row[1] ? load(row[1] + d) * factor[1] : Vec{};
        store(out + d, interleave_bf16(even, odd));
      }
    }
  }
}

// [dim element][width]: each row becomes a lane. Rows up to `width` are filled with zeros.
template <Form kForm>
static void pack_lanes(const Rows& rows, int64_t width, int64_t to_dim, Packed<kForm>* to) {
  constexpr int kCount = PackedElement<kForm>::kCount;
  alignas(64) float buffers[kLanes][kRowBuffer];
  const int64_t elements = to_dim / kCount;
  const int64_t filled = round_up(rows.dim, kCount * kLanes) / kCount;
  auto* out = reinterpret_cast<float*>(to);
  for (int64_t r = 0; r < width; r += kLanes) {
    const float* row[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      row[i] = r + i < rows.count ? float_row(rows, r + i, kCount * kLanes, buffers[i]) : nullptr;
    }
    for (int64_t e = 0; e < elements; e += kLanes) {
      Vec tile[kLanes] = {};
      if (e < filled) {
        for (int i = 0; i < kLanes; ++i) {
          if (row[i] != nullptr) tile[i] = packed_elements<kForm>(row[i], e, row_factor(rows, r + i));
        }
        transpose(tile);
      }
      for (int i = 0; i < kLanes; ++i) store(out + (e + i) * width + r, tile[i]);
    }
  }
}

#if PI_BF16 >= 2
// [row / 2][columns] pairs to [column][rows / 2]: what the matrix unit takes as its left side.
static void transpose_pairs(const uint32_t* from, int64_t pairs, int64_t columns, uint32_t* to) {
  for (int64_t p = 0; p < pairs; p += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      Vec tile[kLanes];
      for (int i = 0; i < kLanes; ++i)
        tile[i] = load(reinterpret_cast<const float*>(from + (p + i) * columns + c));
      transpose(tile);
      for (int i = 0; i < kLanes; ++i) store(reinterpret_cast<float*>(to + (c + i) * pairs + p), tile[i]);
    }
  }
}
#endif

// The left side of products whose rows are the columns of packed rows, which are summed over: of V in
// O^T = V^T P^T and of K in dQ^T = K^T dS^T. `rows` is a multiple of 2 for pairs, of 32 for the matrix unit.
template <Form kForm>
static void pack_left_for_sum(const Rows& rows, int64_t to_rows, int64_t to_dim, Packed<kForm>* to,
                              Packed<kForm>* scratch) {
#if PI_BF16 >= 2
  if constexpr (kForm == Form::kPairs) {
    pack_rows_for_sum<kForm>(rows, to_rows, to_dim, scratch);
    transpose_pairs(scratch, to_rows / 2, to_dim, to);
    return;
  }
#endif
  (void)scratch;
  pack_rows_for_sum<kForm>(rows, to_rows, to_dim, to);
}

// That matrix from its row `row` on, of `rows` in all.
template <Form kForm>
PI_INLINE LeftMatrix<Packed<kForm>> left_for_sum(const Packed<kForm>* packed, int64_t row, int64_t rows,
                                                 int64_t dim) {
  constexpr int kCount = PackedElement<kForm>::kCount;
  if (PI_BF16 >= 2 && kForm == Form::kPairs) return {packed + row / kCount, rows / kCount, 1};
  return {packed + row / kCount * dim, 1, dim};
}

// Writes lanes [0, count) of [dim][width] as rows of a tensor, each times its factor; kAdd: adds to them.
template <bool kAdd>
static void unpack_lanes(const float* from, int64_t width, int64_t count, int64_t dim, const float* factor,
                         DataType type, char* to, int64_t stride) {
  alignas(64) float buffer[kLanes][kRowBuffer];
  for (int64_t r = 0; r < count; r += kLanes) {
    const Vec scale = load(factor + r);
    const int64_t rows = std::min<int64_t>(kLanes, count - r);
    const bool direct = type == DataType::kFloat32;
    for (int64_t d = 0; d < dim; d += kLanes) {
      Vec tile[kLanes];
      for (int i = 0; i < kLanes; ++i) tile[i] = load(from + (d + i) * width + r) * scale;
      transpose(tile);
      for (int i = 0; i < rows; ++i) {
        if (!direct) {
          store(buffer[i] + d, tile[i]);
          continue;
        }
        float* out = reinterpret_cast<float*>(to + (r + i) * stride) + d;
        if (d + kLanes <= dim) {
          store(out, kAdd ? load(out) + tile[i] : tile[i]);
        } else {
          const int rest = static_cast<int>(dim - d);
          store_partial(out, kAdd ? load_partial(out, rest) + tile[i] : tile[i], rest);
        }
      }
    }
    for (int i = 0; !direct && i < rows; ++i) {
      convert_from_float(type, buffer[i], to + (r + i) * stride, dim);
    }
  }
}
