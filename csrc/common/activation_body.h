// Activation functions and their derivatives, both of the input x, for vectors. No include guard: see
// common/foreach_target.h. Include common/simd_body.h (or what includes it) before.
//
// A NaN stays one. Limits are kept at +-infinity: no product of 0 and infinity.

PI_INLINE Vec polynomial(Vec x, const float* coefficients, int degree) {
  Vec p = splat(coefficients[degree]);
#pragma GCC unroll 8
  for (int i = degree - 1; i >= 0; --i) p = p * x + coefficients[i];
  return p;
}

// erf x for |x| < kErfNear, to 1.5e-8 of its value; 1 - erf x for larger x up to kErfFar, to 1.5e-9, and 0
// beyond, where it is below 1.6e-8. The forms, an odd polynomial and the exponential of a polynomial, are
// those of N. Juffa's erff (no division, no cancellation); the coefficients are our own minimax fits
// (weighted least squares, reweighted after C. L. Lawson, 1961). With the rounding of float32 all of erf is
// right to 1.3e-7.
constexpr float kErfNear = 0.92f, kErfFar = 4.0f;

PI_INLINE Vec erf_near(Vec x) {
  constexpr float kOdd[] = {1.12837911f,    -0.376124978f,  0.112818465f,
                            -0.0267677270f, 0.00499483896f, -0.000599944149f};
  return x * polynomial(x * x, kOdd, 5);
}

PI_INLINE Vec erfc_far(Vec magnitude) {
  constexpr float kLog[] = {-0.000207015241f, -1.12762737f,    -0.637265801f,  -0.103856325f,
                            0.0221897494f,    -0.00303368503f, 0.000194945955f};
  const Vec tail = vexp(polynomial(magnitude, kLog, 6));
  return magnitude > kErfFar ? Vec{} : tail;
}

PI_INLINE Vec verf(Vec x) {
  const Vec magnitude = x < 0.0f ? -x : x;
  const Vec far = 1.0f - erfc_far(magnitude);
  return magnitude < kErfNear ? erf_near(x) : (x < 0.0f ? -far : far);
}

// The distribution function of the normal distribution. On the negative side nothing is subtracted from 1.
PI_INLINE Vec normal_distribution(Vec x) {
  const Vec t = x * 0.707106781f, magnitude = t < 0.0f ? -t : t;
  const Vec tail = 0.5f * erfc_far(magnitude);
  return magnitude < kErfNear ? 0.5f + 0.5f * erf_near(t) : (t < 0.0f ? tail : 1.0f - tail);
}

// The same at -magnitude, below 0 only, to 2.6e-4 of its value down to -5 (and to 1e-9 beyond): log2 as a
// polynomial, our own minimax fit, through the rough exponential.
PI_INLINE Vec rough_normal_tail(Vec magnitude) {
  constexpr float kLog2[] = {-1.00022833f,   -1.14778896f,   -0.466907352f,
                             -0.0463193966f, 0.00529736163f, -0.000269914814f};
  return vexp2<true>(polynomial(magnitude, kLog2, 5));
}

// 1 / (1 + e^-x)
PI_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + vexp(-x)); }
PI_INLINE Vec sigmoid_slope(Vec x) {
  const Vec e = vexp(x < 0.0f ? x : -x);  // the slope is even
  return e / ((1.0f + e) * (1.0f + e));
}

// Comparisons in this order let a NaN pass.
PI_INLINE Vec at_least(Vec x, float low) { return x < low ? splat(low) : x; }
PI_INLINE Vec clipped(Vec x, float bound) {
  const Vec low = at_least(x, -bound);
  return low > bound ? splat(bound) : low;
}

// Where GELU and its slope are what they are at infinity, in float32, and SiLU nearly.
constexpr float kGeluEnd = 14.0f, kSiluEnd = 100.0f;
constexpr float kTanhFactor = 0.797884561f, kTanhCube = 0.044715f;  // sqrt(2 / pi); Hendrycks, Gimpel 2016

// (1 + tanh u) / 2 = 1 / (1 + e^-2u), and 2u is: (no subtraction, so no cancellation)
PI_INLINE Vec gelu_tanh_exponent(Vec x) { return 2.0f * kTanhFactor * (x + kTanhCube * (x * x * x)); }

template <Activation kActivation>
PI_INLINE Vec activation_value(Vec x) {
  if constexpr (kActivation == Activation::kGelu) {
    x = at_least(x, -kGeluEnd);
    return x * normal_distribution(x);
  } else if constexpr (kActivation == Activation::kGeluRough) {
    const Vec magnitude = clipped(x < 0.0f ? -x : x, kGeluEnd);
    return (x < 0.0f ? Vec{} : x) - magnitude * rough_normal_tail(magnitude);
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    x = at_least(x, -kGeluEnd);
    return x * sigmoid(gelu_tanh_exponent(x));
  } else if constexpr (kActivation == Activation::kRelu) {
    return x < 0.0f ? Vec{} : x;
  } else if constexpr (kActivation == Activation::kSilu) {
    x = at_least(x, -kSiluEnd);
    return x * sigmoid(x);
  } else {
    return x;
  }
}

template <Activation kActivation>
PI_INLINE Vec activation_slope(Vec x) {
  if constexpr (kActivation == Activation::kGelu) {
    x = clipped(x, kGeluEnd);
    const Vec density = 0.398942280f * vexp(-0.5f * x * x);
    return normal_distribution(x) + x * density;
  } else if constexpr (kActivation == Activation::kGeluRough) {
    const Vec magnitude = clipped(x < 0.0f ? -x : x, kGeluEnd);
    const Vec density = 0.398942280f * vexp2<true>(-0.721347520f * magnitude * magnitude);  // log2(e) / 2
    const Vec tail = rough_normal_tail(magnitude) - magnitude * density;
    return x < 0.0f ? tail : 1.0f - tail;
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    x = clipped(x, kGeluEnd);
    const Vec u = gelu_tanh_exponent(x),
              exponent_slope = 2.0f * kTanhFactor * (1.0f + 3.0f * kTanhCube * (x * x));
    return sigmoid(u) + x * exponent_slope * sigmoid_slope(u);
  } else if constexpr (kActivation == Activation::kRelu) {
    const Vec slope = x > 0.0f ? splat(1.0f) : Vec{};  // 0 at 0, as in Paddle
    return x == x ? slope : x;
  } else if constexpr (kActivation == Activation::kSilu) {
    x = clipped(x, kSiluEnd);
    return sigmoid(x) + x * sigmoid_slope(x);
  } else {
    return splat(1.0f);
  }
}

PI_INLINE Vec activate(Activation activation, Vec x) {
  switch (activation) {
    case Activation::kGelu:
      return activation_value<Activation::kGelu>(x);
    case Activation::kGeluTanh:
      return activation_value<Activation::kGeluTanh>(x);
    case Activation::kRelu:
      return activation_value<Activation::kRelu>(x);
    case Activation::kSilu:
      return activation_value<Activation::kSilu>(x);
    case Activation::kGeluRough:
      return activation_value<Activation::kGeluRough>(x);
    case Activation::kNone:
    case Activation::kSwiglu:
      return x;
  }
  return x;
}
