#include "common/cpu_target.h"

#include <cstdlib>
#include <cstring>

namespace paddle_infra {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

CpuTarget detect() {
  CpuTarget best = CpuTarget::kBaseline;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = CpuTarget::kAvx2;
  if (best == CpuTarget::kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    best = CpuTarget::kAvx512;
  }
#endif
  const char* wanted = std::getenv("PADDLE_INFRA_CPU_TARGET");
  for (int i = 0; wanted != nullptr && i < static_cast<int>(best); ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return static_cast<CpuTarget>(i);
  }
  return best;
}

}  // namespace

CpuTarget cpu_target() {
  static const CpuTarget target = detect();
  return target;
}

}  // namespace paddle_infra

const char* paddle_infra_cpu_target() {
  return paddle_infra::kNames[static_cast<int>(paddle_infra::cpu_target())];
}
