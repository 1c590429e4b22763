// Vectors of floats and the functions of one variable that kernels need, for the instruction set in force.
//
// No include guard: a kernel includes this once per instruction set, inside `#pragma GCC target` and inside a
// namespace of its own, after defining PI_LANES (floats in a vector). See common/foreach_target.h.
// Generic vectors (GCC and Clang) compile to AVX-512, AVX2, SSE2 or NEON without intrinsics.

constexpr int kLanes = PI_LANES;
typedef float Vec __attribute__((vector_size(PI_LANES * 4)));
typedef int IntVec __attribute__((vector_size(PI_LANES * 4)));
typedef float UnalignedVec __attribute__((vector_size(PI_LANES * 4), aligned(4), may_alias));

#define PI_INLINE static inline __attribute__((always_inline))

PI_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
PI_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
PI_INLINE Vec splat(float x) { return x - Vec{}; }  // x - 0, not x + 0: keeps the sign of -0
PI_INLINE Vec vmax(Vec a, Vec b) { return a > b ? a : b; }

PI_INLINE Vec load_partial(const float* p, int count) {
  Vec v{};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}

PI_INLINE void store_partial(float* p, Vec v, int count) {
  for (int i = 0; i < count; ++i) p[i] = v[i];
}

PI_INLINE float reduce_max(Vec v) {
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

PI_INLINE double reduce_add(Vec v) {
  double s = 0.0;
  for (int i = 0; i < kLanes; ++i) s += v[i];
  return s;
}

// e^x to about 1 ulp (Cephes' expf): x = n ln 2 + r, a polynomial in r, and n added to the exponent bits.
// Below -87.33 the result is 0 (never denormal), above 88 it stays at e^88; NaN stays NaN.
PI_INLINE Vec vexp(Vec x) {
  const Vec low = splat(-87.33654f), high = splat(88.0f);
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, left in the low bits
  Vec clipped = x < low ? low : x;       // in this order a NaN passes through
  clipped = clipped > high ? high : clipped;
  const Vec shifted = clipped * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = (clipped - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const IntVec power = (reinterpret_cast<IntVec>(shifted) - 0x4B400000 + 127) << 23;
  const Vec result = p * reinterpret_cast<Vec>(power);
  return x < low ? Vec{} : result;
}

// tanh x to about 2 ulp: a polynomial near 0 (Cephes' tanhf), 1 - 2 / (e^{2|x|} + 1) elsewhere.
PI_INLINE Vec vtanh(Vec x) {
  const Vec magnitude = x < 0.0f ? -x : x;
  const Vec e = vexp(magnitude * 2.0f);
  const Vec far = 1.0f - 2.0f / (e + 1.0f);
  const Vec s = x * x;
  Vec p = splat(-5.70498872745e-3f);
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  const Vec near = p * s * x + x;
  return magnitude < 0.625f ? near : (x < 0.0f ? -far : far);
}
