// Rounding arrays to bfloat16, and partial vectors. No include guard: see common/foreach_target.h; needs
// simd_body.h.

typedef uint16_t HalfVec __attribute__((vector_size(PI_LANES * 2)));
typedef uint16_t UnalignedHalfVec __attribute__((vector_size(PI_LANES * 2), aligned(2), may_alias));

PI_INLINE Vec load_partial_or_whole(const float* p, int count) {
  return count == kLanes ? load(p) : load_partial(p, count);
}

PI_INLINE void store_partial_or_whole(float* p, Vec v, int count) {
  count == kLanes ? store(p, v) : store_partial(p, v, count);
}

PI_INLINE void store_bf16(uint16_t* to, Vec v, int count) {
  typedef unsigned Bits __attribute__((vector_size(PI_LANES * 4)));
  const HalfVec halves = __builtin_convertvector(reinterpret_cast<Bits>(round_to_bf16(v)) >> 16, HalfVec);
  if (count == kLanes) {
    *reinterpret_cast<UnalignedHalfVec*>(to) = halves;
  } else {
    for (int i = 0; i < count; ++i) to[i] = halves[i];
  }
}

static void round_array_to_bf16(const float* from, int64_t count, uint16_t* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_bf16(to + i, load(from + i), kLanes);
  const int rest = static_cast<int>(count - i);
  if (rest > 0) store_bf16(to + i, load_partial(from + i, rest), rest);
}
