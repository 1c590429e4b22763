// Floats to bfloat16 numbers. No include guard: see common/foreach_target.h. Include common/simd_body.h (or
// what includes it) before.

// To the nearest, ties to even; a NaN stays one.
static void floats_to_bf16(const float* from, uint16_t* to, int64_t count) {
  typedef unsigned Bits __attribute__((vector_size(PI_LANES * 4)));
  typedef uint16_t Halves __attribute__((vector_size(PI_LANES * 2)));
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Bits bits = reinterpret_cast<Bits>(round_to_bf16(load(from + i)));
    const Halves halves = __builtin_convertvector(bits >> 16, Halves);
    std::memcpy(to + i, &halves, sizeof halves);
  }
  if (i == count) return;
  const int rest = static_cast<int>(count - i);
  const Bits bits = reinterpret_cast<Bits>(round_to_bf16(load_partial(from + i, rest)));
  for (int lane = 0; lane < rest; ++lane) to[i + lane] = static_cast<uint16_t>(bits[lane] >> 16);
}
