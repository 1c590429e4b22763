// One row of a block of logits: from products to logits, the sum of their exponentials, and the candidates
// for the k largest. No include guard: see common/foreach_target.h.

#include "common/simd_body.h"
// Needs vectors.
#include "common/bfloat16_body.h"

// Bit i: lane i is above the bound. A NaN is not.
PI_INLINE uint32_t lanes_above(Vec v, float bound) {
#if PI_LANES == 16
  return _mm512_cmp_ps_mask(v, splat(bound), _CMP_GT_OQ);
#elif PI_LANES == 8
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, splat(bound), _CMP_GT_OQ)));
#else
  const IntVec above = v > bound;
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= (static_cast<uint32_t>(above[i]) & 1u) << i;
  return mask;
#endif
}

template <bool kHasBias, bool kHasCap>
PI_INLINE Vec logit(Vec product, Vec bias, float softcap, float inverse_cap) {
  Vec z = kHasBias ? product + bias : product;
  return kHasCap ? vtanh(z * inverse_cap) * softcap : z;
}

// Logits in place of products; what follows them, up to a whole vector, becomes -infinity. Returns the
// largest logit, NaNs left aside.
template <bool kHasBias, bool kHasCap>
static float make_logits(float* z, int64_t count, const float* bias, float softcap) {
  const float inverse_cap = kHasCap ? 1.0f / softcap : 0.0f;
  Vec most = splat(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec v =
        logit<kHasBias, kHasCap>(load(z + i), kHasBias ? load(bias + i) : Vec{}, softcap, inverse_cap);
    if constexpr (kHasBias || kHasCap) store(z + i, v);
    most = vmax(v, most);
  }
  if (i < count) {
    const int rest = static_cast<int>(count - i);
    Vec v = logit<kHasBias, kHasCap>(load_partial(z + i, rest),
                                     kHasBias ? load_partial(bias + i, rest) : Vec{}, softcap, inverse_cap);
    for (int lane = rest; lane < kLanes; ++lane) v[lane] = -__builtin_inff();
    store(z + i, v);
    most = vmax(v, most);
  }
  return reduce_max(most);
}

// Of whole vectors. A NaN or an infinite `max` makes it one.
static double sum_of_exponentials(const float* z, int64_t count, float max) {
  constexpr float kLog2E = 1.4426950408889634f;
  Vec sum{};
  for (int64_t i = 0; i < count; i += kLanes) sum += vexp2<false>((load(z + i) - max) * kLog2E);
  return reduce_add(sum);
}

// Adds the logits above row->bound to the candidates. The first one is that of class `first`.
static void add_candidates(const float* z, int64_t count, int64_t first, const Candidates& all,
                           RowState* row) {
  for (int64_t i = 0; i < count; i += kLanes) {
    uint32_t mask = lanes_above(load(z + i), row->bound);
    for (; mask != 0; mask &= mask - 1) {
      const int64_t at = i + __builtin_ctz(mask);
      // Again, because the bound may have risen within these lanes.
      if (z[at] > row->bound) add_candidate(all, {z[at], static_cast<int32_t>(first + at)}, row);
    }
  }
}

// z: `count` products of the row, in an array whose vectors are whole.
template <bool kHasBias, bool kHasCap>
static void take_row(float* z, int64_t count, int64_t first, const float* bias, float softcap,
                     const Candidates& all, RowState* row) {
  const float most = make_logits<kHasBias, kHasCap>(z, count, bias, softcap);
  const float max = raise_max(most, row);
  row->sum += sum_of_exponentials(z, count, max);
  if (most > row->bound) add_candidates(z, count, first, all, row);
}

constexpr TopkKernel kKernel{
    {{take_row<false, false>, take_row<false, true>}, {take_row<true, false>, take_row<true, true>}},
    round_array_to_bf16};
