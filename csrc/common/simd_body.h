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
// a > b ? a : b, so b if one of them is a NaN: one instruction, which compilers do not find by themselves.
PI_INLINE Vec vmax(Vec a, Vec b) {
#if PI_LANES == 16
  return _mm512_maskz_max_ps(0xFFFF, a, b);  // the plain one draws warnings from GCC 12
#elif PI_LANES == 8
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

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

// 2^x for x <= 0, to about 1 ulp or, if kIsRough, 1e-4 (less than bfloat16 resolves). Exactly 0 below -127,
// to be taken for 0 between -127 and -126 (denormals are flushed); exactly 1 at 0; NaN stays NaN.
template <bool kIsRough>
PI_INLINE Vec vexp2(Vec x) {
  const Vec magic = splat(12582912.0f);  // see vexp
  const Vec clipped = vmax(splat(-127.0f), x);
  const Vec shifted = clipped + magic;
  const Vec r = clipped - (shifted - magic);  // in [-0.5, 0.5]
  Vec p;
  // Minimax in relative error with the constant term fixed at 1: 1.0e-4 and 9.1e-8.
  if constexpr (kIsRough) {
    p = splat(0.0550089314f) * r + 0.242210962f;
    p = p * r + 0.693282927f;
  } else {
    p = splat(0.00132647272f) * r + 0.00967151269f;
    p = p * r + 0.0555073374f;
    p = p * r + 0.240222421f;
    p = p * r + 0.693146978f;
  }
  p = p * r + 1.0f;
  return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(p) + (reinterpret_cast<IntVec>(shifted) << 23));
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

// One step of a transposition: exchanges the blocks of H lanes that lie across the diagonal of two rows.
template <int H, bool kIsSecond, int... I>
PI_INLINE Vec exchange(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(
      a, b, (kIsSecond ? (I & H ? kLanes + I : I + H) : (I & H ? kLanes + I - H : I))...);
}

template <int H>
PI_INLINE void transpose_step(Vec rows[kLanes]) {
  constexpr auto kIndices = std::make_integer_sequence<int, kLanes>();
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & H) continue;
    const Vec a = rows[i], b = rows[i + H];
    rows[i] = exchange<H, false>(a, b, kIndices);
    rows[i + H] = exchange<H, true>(a, b, kIndices);
  }
}

// Transposes a square of kLanes * kLanes numbers.
PI_INLINE void transpose(Vec rows[kLanes]) {
  if constexpr (kLanes > 8) transpose_step<8>(rows);
  if constexpr (kLanes > 4) transpose_step<4>(rows);
  transpose_step<2>(rows);
  transpose_step<1>(rows);
}

// Rounds to the nearest bfloat16, ties to even; the result is a float. A NaN stays one: the sum makes it a
// quiet one, whose mark is among the bits that are kept.
PI_INLINE Vec round_to_bf16(Vec v) {
  const IntVec bits = reinterpret_cast<IntVec>(v);
  const IntVec rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & static_cast<int>(0xFFFF0000u);
  return v == v ? reinterpret_cast<Vec>(rounded) : v + v;
}
