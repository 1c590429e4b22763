// The arithmetic peak of this processor, measured: multiply-adds on registers only, from all threads at once.
//
//     peak_flops THREADS [WINDOW_MS]
//
// Prints one line of JSON: GFLOP/s (a multiply-add counts as two) in float32, and in bfloat16 with float32
// sums if the processor has instructions for it. Compile it for the machine it runs on: -O2 -march=native
// -pthread.
//
// Every accumulator goes through an empty asm statement in every step: without it the compiler sees that all
// chains compute the same, keeps one, and reports a peak that no program can reach.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int kChains = 12;  // independent sums: latency x units is at most 10 so far
constexpr int kSteps = 2000;
constexpr int kWindows = 7;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

#if defined(__x86_64__)
#define PIN(a, b, c, d, e, f) asm volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f))
#else
#define PIN(a, b, c, d, e, f) asm volatile("" : "+w"(a), "+w"(b), "+w"(c), "+w"(d), "+w"(e), "+w"(f))
#endif

// kSteps of `step` on each of the chains. Named variables: an array would live in memory.
template <typename Vector, typename Step>
void chains(Vector zero, Step step) {
  Vector a = zero, b = zero, c = zero, d = zero, e = zero, f = zero;
  Vector g = zero, h = zero, i = zero, j = zero, k = zero, l = zero;
  for (int n = 0; n < kSteps; ++n) {
    a = step(a), b = step(b), c = step(c), d = step(d), e = step(e), f = step(f);
    g = step(g), h = step(h), i = step(i), j = step(j), k = step(k), l = step(l);
    PIN(a, b, c, d, e, f);
    PIN(g, h, i, j, k, l);
  }
}

// Each kernel does a fixed number of multiply-adds and says how many floating-point operations that was.
#if defined(__AVX512F__)
constexpr const char* kFloat32 = "avx512";
double float32_kernel() {
  const __m512 b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(1e-3f);
  chains(_mm512_setzero_ps(), [&](__m512 a) { return _mm512_fmadd_ps(a, b, c); });
  return 2.0 * 16 * kChains * kSteps;
}
#elif defined(__AVX2__) && defined(__FMA__)
constexpr const char* kFloat32 = "avx2";
double float32_kernel() {
  const __m256 b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(1e-3f);
  chains(_mm256_setzero_ps(), [&](__m256 a) { return _mm256_fmadd_ps(a, b, c); });
  return 2.0 * 8 * kChains * kSteps;
}
#elif defined(__x86_64__)
constexpr const char* kFloat32 = "sse2";
double float32_kernel() {
  const __m128 b = _mm_set1_ps(0.999f), c = _mm_set1_ps(1e-3f);
  chains(_mm_setzero_ps(), [&](__m128 a) { return _mm_add_ps(_mm_mul_ps(a, b), c); });
  return 2.0 * 4 * kChains * kSteps;
}
#elif defined(__aarch64__)
constexpr const char* kFloat32 = "neon";
double float32_kernel() {
  const float32x4_t b = vdupq_n_f32(0.999f), c = vdupq_n_f32(1e-3f);
  chains(vdupq_n_f32(0), [&](float32x4_t a) { return vfmaq_f32(c, a, b); });
  return 2.0 * 4 * kChains * kSteps;
}
#else
#error "no float32 kernel for this processor"
#endif

#if defined(__AMX_BF16__) && defined(__linux__)
constexpr const char* kBfloat16 = "amx";
constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;               // XFEATURE_XTILEDATA

bool bfloat16_available() { return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0; }

double bfloat16_kernel() {
  struct alignas(64) {
    unsigned char palette = 1, start_row = 0, reserved[14] = {};
    unsigned short bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  _tile_loadconfig(&config);
  _tile_zero(6);  // the operands
  _tile_zero(7);
  for (int i = 0; i < kSteps; ++i) {  // six sums
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return 2.0 * 16 * 16 * 32 * 6 * kSteps;
}
#elif defined(__AVX512BF16__)
constexpr const char* kBfloat16 = "avx512_bf16";
bool bfloat16_available() { return true; }
double bfloat16_kernel() {
  const __m512bh b = (__m512bh)_mm512_set1_epi32(0x3f003f00), c = (__m512bh)_mm512_set1_epi32(0x3a003a00);
  chains(_mm512_setzero_ps(), [&](__m512 a) { return _mm512_dpbf16_ps(a, b, c); });
  return 2.0 * 32 * kChains * kSteps;
}
#else
constexpr const char* kBfloat16 = "none";
bool bfloat16_available() { return false; }
double bfloat16_kernel() { return 0; }
#endif

// GFLOP/s of all threads together: the median of several windows. The threads start a window together, and
// each counts its own time, so that one that starts late does not count as slow.
double measure(double (*kernel)(), int threads, double window) {
  std::vector<double> totals;
  for (int w = 0; w <= kWindows; ++w) {
    std::vector<double> rates(threads);
    std::atomic<int> waiting{threads};
    auto body = [&](int t) {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      double done = 0;
      const double start = now();
      double end = start;
      for (; end - start < window; end = now()) done += kernel();
      rates[t] = done / (end - start);
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(body, t);
    body(0);
    for (std::thread& thread : others) thread.join();
    double total = 0;
    for (double rate : rates) total += rate * 1e-9;
    if (w > 0) totals.push_back(total);  // the first window warms up
  }
  std::sort(totals.begin(), totals.end());
  return totals[kWindows / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double window = (argc > 2 ? std::atof(argv[2]) : 10.0) * 1e-3;
  if (threads < 1 || window <= 0) {
    std::fprintf(stderr, "usage: peak_flops THREADS [WINDOW_MS]\n");
    return 2;
  }
  std::printf("{\"float32\": {\"isa\": \"%s\", \"gflops\": %.1f}", kFloat32,
              measure(float32_kernel, threads, window));
  if (bfloat16_available()) {
    std::printf(", \"bfloat16\": {\"isa\": \"%s\", \"gflops\": %.1f}", kBfloat16,
                measure(bfloat16_kernel, threads, window));
  }
  std::printf("}\n");
}
