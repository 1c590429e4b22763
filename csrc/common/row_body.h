// Rows of numbers in vectors. No include guard: see common/foreach_target.h.
//
// Rows in work are padded: whole vectors, zeros behind the last element. Rows of tensors are not, so the
// last vector of a tensor's row is read and written in part.

#include "common/simd_body.h"

template <int kCount>
struct Vecs {
  Vec of[kCount];
};

template <int kCount>
struct Sums {
  double of[kCount];
};

#include "common/dropout_body.h"

PI_INLINE Vec load_first(const float* p, int64_t count) {
  return count >= kLanes ? load(p) : load_partial(p, static_cast<int>(count));
}

PI_INLINE void store_first(float* p, Vec v, int64_t count) {
  if (count >= kLanes) return store(p, v);
  store_partial(p, v, static_cast<int>(count));
}

// The first `count` lanes, and 0 in the others.
PI_INLINE Vec keep_first(Vec v, int64_t count) {
  if (count >= kLanes) return v;
  return lane_numbers() < static_cast<int>(count) ? v : Vec{};
}

// Calls body(i, count) for the vectors of a row, of which `count` elements exist: a constant but for the
// last.
template <class Body>
PI_INLINE void for_each_vector(int64_t size, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) body(i, int64_t{kLanes});
  if (i < size) body(i, size - i);
}

template <int kWidth, int... I>
PI_INLINE Vec add_other_half(Vec v, std::integer_sequence<int, I...>) {
  return v + __builtin_shufflevector(v, v, (I ^ kWidth)...);
}

// Adds halves: fewer steps one after another than reduce_add, which matters for short rows.
PI_INLINE double reduce_add_by_halves(Vec v) {
  constexpr auto kIndices = std::make_integer_sequence<int, kLanes>();
  if constexpr (kLanes > 8) v = add_other_half<8>(v, kIndices);
  if constexpr (kLanes > 4) v = add_other_half<4>(v, kIndices);
  v = add_other_half<2>(v, kIndices);
  return add_other_half<1>(v, kIndices)[0];
}

// Sums terms(i, count), vectors of the elements from i on, of which `count` or more exist. Four sums of each
// kind at a time hide the latency of additions; blocks of them are added in double.
template <int kCount, class Terms>
PI_INLINE Sums<kCount> sum_of(int64_t size, Terms terms) {
  constexpr int64_t kStep = 4 * kLanes, kBlock = 4096;
  Sums<kCount> total{};
  for (int64_t start = 0; start < size; start += kBlock) {
    const int64_t end = size - start < kBlock ? size : start + kBlock;
    Vecs<kCount> sums[4] = {};
    const auto add = [&](Vecs<kCount>& sum, const Vecs<kCount>& found) {
#pragma GCC unroll 2
      for (int k = 0; k < kCount; ++k) sum.of[k] += found.of[k];
    };
    int64_t i = start;
    for (; i + kStep <= end; i += kStep) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) add(sums[u], terms(i + u * kLanes, int64_t{kLanes}));
    }
    for (; i + kLanes <= end; i += kLanes) add(sums[0], terms(i, int64_t{kLanes}));
    if (i < end) add(sums[0], terms(i, end - i));
#pragma GCC unroll 2
    for (int k = 0; k < kCount; ++k) {
      total.of[k] += reduce_add_by_halves((sums[0].of[k] + sums[1].of[k]) + (sums[2].of[k] + sums[3].of[k]));
    }
  }
  return total;
}

// Writes value(i, count) as a padded row, and returns the sum.
template <class Value>
PI_INLINE double build_row(int64_t size, float* row, Value value) {
  return sum_of<1>(size,
                   [&](int64_t i, int64_t count) {
                     const Vec v = value(i, count);
                     store(row + i, v);
                     return Vecs<1>{{v}};
                   })
      .of[0];
}

PI_INLINE double sum_of_row(const float* row, int64_t size) {
  return sum_of<1>(size, [&](int64_t i, int64_t) { return Vecs<1>{{load(row + i)}}; }).of[0];
}

// The row itself if it consists of whole vectors, else a padded copy of it in `memory`.
static const float* padded_row(const float* row, int64_t size, float* memory) {
  if (size % kLanes == 0) return row;
  for_each_vector(size, [&](int64_t i, int64_t count) { store(memory + i, load_first(row + i, count)); });
  return memory;
}

// Adds a row of sums to another, and starts it again.
static void flush_sums(float* from, float* to, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    store(to + i, load(to + i) + load(from + i));
    store(from + i, Vec{});
  }
}

// Writes the sum of padded rows that are `stride` apart.
static void sum_rows(const float* from, int64_t rows, int64_t stride, int64_t size, float* to) {
  for (int64_t i = 0; i < size; i += kLanes) {
    Vec sum{};
    for (int64_t r = 0; r < rows; ++r) sum += load(from + r * stride + i);
    store_first(to + i, sum, size - i);
  }
}
