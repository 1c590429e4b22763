// Before and after the products: rows to int8 numbers, sums to results. No include guard: see
// common/foreach_target.h.

#include "common/simd_body.h"
// Needs vectors.
#include "common/activation_body.h"

// To the nearest integer, ties to even. Not by adding 1.5 * 2^23: that addition would be contracted with the
// multiplication before it, and ties would be others than in plain Paddle.
PI_INLINE IntVec round_to_int(Vec v) {
#if PI_LANES == 16
  return (IntVec)_mm512_maskz_cvtps_epi32(0xFFFF, v);  // the plain one draws warnings from GCC 12
#elif PI_LANES == 8
  return (IntVec)_mm256_cvtps_epi32(v);
#elif defined(__x86_64__)
  return (IntVec)_mm_cvtps_epi32(v);
#else
  IntVec rounded;
  for (int i = 0; i < kLanes; ++i) rounded[i] = static_cast<int>(__builtin_lrintf(v[i]));
  return rounded;
#endif
}

static void quantize_row(const float* x, int64_t depth, int8_t* codes, float* scale) {
  typedef int8_t Bytes __attribute__((vector_size(PI_LANES)));
  Vec most{}, nothing{};
  int64_t d = 0;
  const auto look_at = [&](Vec v) {
    most = vmax(v < 0.0f ? -v : v, most);
    nothing += v - v;  // a NaN if v is one or infinite, else 0
  };
  for (; d + kLanes <= depth; d += kLanes) look_at(load(x + d));
  const int rest = static_cast<int>(depth - d);
  const Vec last = load_partial(x + d, rest);
  look_at(last);
  const bool is_finite = reduce_add(nothing) == 0.0;
  const float top = reduce_max(most);
  const bool is_zero = !is_finite || top < kZeroRow;
  const float factor = is_zero ? 0.0f : 127.0f / top;
  *scale = !is_finite ? __builtin_nanf("") : is_zero ? 1.0f : top / 127.0f;
  if (is_zero) {
    std::memset(codes, 0, depth);
    return;
  }
  for (d = 0; d + kLanes <= depth; d += kLanes) {
    const Bytes bytes = __builtin_convertvector(round_to_int(load(x + d) * factor), Bytes);
    std::memcpy(codes + d, &bytes, sizeof bytes);
  }
  const Bytes bytes = __builtin_convertvector(round_to_int(last * factor), Bytes);
  for (int lane = 0; lane < rest; ++lane) codes[d + lane] = bytes[lane];
}

template <Activation kActivation, bool kHasBias>
PI_INLINE Vec result(Vec sum, float row_scale, Vec scale, Vec bias) {
  // In this order: large rows times moderate weights do not overflow on the way.
  const Vec product = sum * scale * row_scale;
  return activation_value<kActivation>(kHasBias ? product + bias : product);
}

// One row of a block: sums to results.
template <Activation kActivation, bool kHasBias>
static void finish_row(const int32_t* sums, int64_t columns, float row_scale, const float* scale,
                       const float* bias, float* y) {
  int64_t n = 0;
  for (; n + kLanes <= columns; n += kLanes) {
    IntVec sum;
    std::memcpy(&sum, sums + n, sizeof sum);
    const Vec b = kHasBias ? load(bias + n) : Vec{};
    store(y + n,
          result<kActivation, kHasBias>(__builtin_convertvector(sum, Vec), row_scale, load(scale + n), b));
  }
  if (n == columns) return;
  const int rest = static_cast<int>(columns - n);
  Vec sum{};
  for (int lane = 0; lane < rest; ++lane) sum[lane] = static_cast<float>(sums[n + lane]);
  const Vec b = kHasBias ? load_partial(bias + n, rest) : Vec{};
  store_partial(y + n, result<kActivation, kHasBias>(sum, row_scale, load_partial(scale + n, rest), b), rest);
}

#define PI_FINISH(activation) \
  {finish_row<Activation::activation, false>, finish_row<Activation::activation, true>}
constexpr Int8Kernel kKernel{
    quantize_row,
    {PI_FINISH(kNone), PI_FINISH(kGelu), PI_FINISH(kGeluTanh), PI_FINISH(kRelu), PI_FINISH(kSilu)}};
#undef PI_FINISH
