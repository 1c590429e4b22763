#include "common/gemm.h"

#include <dlfcn.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/cpu_target.h"

namespace paddle_infra {
namespace {

struct OwnGemm {
  void (*floats)(const GemmShape& s, const float* a, const float* b, float* c);
  void (*bfloat16s)(const GemmShape& s, const uint16_t* a, const uint16_t* b, float* c);
  void (*int8s)(const GemmShape& s, const int8_t* a, const int8_t* b, int32_t* c);
};

inline __attribute__((always_inline)) float float_of(float x) { return x; }
inline __attribute__((always_inline)) float float_of(int8_t x) { return x; }
inline __attribute__((always_inline)) float float_of(uint16_t bfloat16) {
  const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

#define PI_TARGET_BODY "common/gemm_body.h"
#include "common/foreach_target.h"

const OwnGemm& own() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kOwn;
  if (float_target() == CpuTarget::kAvx2) return avx2::kOwn;
#endif
  return portable::kOwn;
}

// oneDNN's C functions, from its documentation ("Matrix Multiplication, BLAS-like functions"). Their names
// and types are the same in all of its versions 3.
struct OneDnn {
  using Size = int64_t;
  struct Version {
    int major, minor, patch;
    const char* hash;
    unsigned cpu_runtime, gpu_runtime;
  };
  static constexpr unsigned kSequential = 1, kOpenMp = 2;
  static constexpr int kVnni = 0x40;  // what dnnl_cpu_isa_avx512_core_vnni and all above it have

  int (*sgemm)(char, char, Size, Size, Size, float, const float*, Size, const float*, Size, float, float*,
               Size) = nullptr;
  int (*gemm_bf16)(char, char, Size, Size, Size, float, const uint16_t*, Size, const uint16_t*, Size, float,
                   float*, Size) = nullptr;
  int (*gemm_s8)(char, char, char, Size, Size, Size, float, const int8_t*, Size, int8_t, const int8_t*, Size,
                 int8_t, float, int32_t*, Size, const int32_t*) = nullptr;

  OneDnn() {
    if (isa_is_forced()) return;
    void* library = dlopen("libdnnl.so.3", RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return;
    const auto version = reinterpret_cast<const Version* (*)()>(dlsym(library, "dnnl_version"));
    if (version == nullptr || version()->major != 3) return;
    const unsigned runtime = version()->cpu_runtime;
    if (runtime != kSequential && runtime != kOpenMp) return;  // its threads could not be held back
    find(library, "dnnl_sgemm", &sgemm);
    // Only where the processor has the instructions: emulation is slower than multiplying as floats.
    if (cpu_target() >= CpuTarget::kAvx512Bf16) find(library, "dnnl_gemm_bf16bf16f32", &gemm_bf16);
    // Without VNNI instructions it sums pairs of products in 16 bits, which do not hold two of the largest.
    const auto isa = reinterpret_cast<int (*)()>(dlsym(library, "dnnl_get_effective_cpu_isa"));
    if (isa != nullptr && (isa() & kVnni)) find(library, "dnnl_gemm_s8s8s32", &gemm_s8);
  }

  template <class Function>
  static void find(void* library, const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(library, name));
  }
};

const OneDnn& onednn() {
  static const OneDnn found;
  return found;
}

// Keeps a library that uses OpenMP from starting threads: the caller has threads of its own, and results
// would depend on how many.
class OneThread {
 public:
  OneThread() : saved_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(saved_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int saved_;
};

char letter(bool transposed) { return transposed ? 'T' : 'N'; }

}  // namespace

void gemm(const GemmShape& s, const float* a, const float* b, float* c) {
  if (s.m == 0 || s.n == 0) return;
  if (onednn().sgemm != nullptr && s.k > 0) {
    const OneThread guard;
    const int failed = onednn().sgemm(letter(s.transpose_a), letter(s.transpose_b), s.m, s.n, s.k, 1.0f, a,
                                      s.lda, b, s.ldb, s.accumulate ? 1.0f : 0.0f, c, s.ldc);
    if (failed == 0) return;  // it refuses before it computes
  }
  own().floats(s, a, b, c);
}

void gemm(const GemmShape& s, const uint16_t* a, const uint16_t* b, float* c) {
  if (s.m == 0 || s.n == 0) return;
  if (onednn().gemm_bf16 != nullptr && s.k > 0) {
    const OneThread guard;
    const int failed = onednn().gemm_bf16(letter(s.transpose_a), letter(s.transpose_b), s.m, s.n, s.k, 1.0f,
                                          a, s.lda, b, s.ldb, s.accumulate ? 1.0f : 0.0f, c, s.ldc);
    if (failed == 0) return;
  }
  own().bfloat16s(s, a, b, c);
}

void gemm(const GemmShape& s, const int8_t* a, const int8_t* b, int32_t* c) {
  if (s.m == 0 || s.n == 0) return;
  if (onednn().gemm_s8 != nullptr && s.k > 0) {
    const OneThread guard;
    const int32_t zero = 0;
    const int failed =
        onednn().gemm_s8(letter(s.transpose_a), letter(s.transpose_b), 'F', s.m, s.n, s.k, 1.0f, a, s.lda, 0,
                         b, s.ldb, 0, s.accumulate ? 1.0f : 0.0f, c, s.ldc, &zero);
    if (failed == 0) return;
  }
  own().int8s(s, a, b, c);
}

}  // namespace paddle_infra
