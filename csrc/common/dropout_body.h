// The hash of common/dropout_hash.h, a number in each lane. No include guard: see common/foreach_target.h;
// include it after common/simd_body.h.

typedef unsigned BitsVec __attribute__((vector_size(PI_LANES * 4)));

PI_INLINE IntVec lane_numbers() {
  IntVec v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// dropout_mix of every lane.
PI_INLINE BitsVec mix(BitsVec x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ x >> 16;
}
