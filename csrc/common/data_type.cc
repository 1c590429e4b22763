#include "common/data_type.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace paddle_infra {
namespace {

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

uint16_t bfloat16_of(float value) {
  const uint32_t bits = bits_of(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40);  // a NaN stays one
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// By integers, not by arithmetic on floats: callers have denormals flushed to zero, and float16 is full of
// them.
float float_of_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = half >> 10 & 31;
  uint32_t fraction = half & 1023;
  if (exponent == 31) return float_of(sign | 0x7F800000 | fraction << 13);
  if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
  if (fraction == 0) return float_of(sign);
  const int shift = __builtin_clz(fraction) - 21;  // brings the leading one to bit 10
  return float_of(sign | static_cast<uint32_t>(113 - shift) << 23 | ((fraction << shift) & 1023) << 13);
}

uint16_t half_of_float(float value) {
  const uint32_t bits = bits_of(value), magnitude = bits & 0x7FFFFFFF, sign = bits >> 16 & 0x8000;
  uint32_t result;
  if (magnitude > 0x7F800000) {
    result = 0x7E00;  // NaN
  } else if (magnitude >= 0x477FF000) {
    result = 0x7C00;  // rounds to 65536 or more: infinity
  } else if (magnitude >= 0x38800000) {
    result = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  } else if (magnitude < 0x33000000) {
    result = 0;  // below half of the smallest denormal
  } else {
    const uint32_t shift = 126 - (magnitude >> 23), fraction = (magnitude & 0x7FFFFF) | 0x800000;
    const uint32_t kept = fraction >> shift, rest = fraction & ((1u << shift) - 1), tie = 1u << (shift - 1);
    result = kept + (rest > tie || (rest == tie && (kept & 1)));
  }
  return static_cast<uint16_t>(sign | result);
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) int64_t halves_to_floats(const uint16_t* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
  return i;
}

__attribute__((target("avx,f16c"))) int64_t floats_to_halves(const float* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
  return i;
}

const bool kHasF16c = __builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx");
#endif

}  // namespace

void convert_to_float(DataType type, const void* from, float* to, int64_t count) {
  const auto* halves = static_cast<const uint16_t*>(from);
  int64_t i = 0;
  switch (type) {
    case DataType::kFloat32:
      std::memcpy(to, from, 4 * count);
      return;
    case DataType::kBfloat16:
      for (; i < count; ++i) to[i] = float_of(static_cast<uint32_t>(halves[i]) << 16);
      return;
    case DataType::kFloat16:
#if defined(__x86_64__)
      if (kHasF16c) i = halves_to_floats(halves, to, count);
#endif
      for (; i < count; ++i) to[i] = float_of_half(halves[i]);
  }
}

void convert_from_float(DataType type, const float* from, void* to, int64_t count) {
  auto* halves = static_cast<uint16_t*>(to);
  int64_t i = 0;
  switch (type) {
    case DataType::kFloat32:
      std::memcpy(to, from, 4 * count);
      return;
    case DataType::kBfloat16:
      for (; i < count; ++i) halves[i] = bfloat16_of(from[i]);
      return;
    case DataType::kFloat16:
#if defined(__x86_64__)
      if (kHasF16c) i = floats_to_halves(from, halves, count);
#endif
      for (; i < count; ++i) halves[i] = half_of_float(from[i]);
  }
}

}  // namespace paddle_infra
