// Which instruction set the CPU kernels use.
#pragma once

#include "common/abi.h"

namespace paddle_infra {

enum class CpuTarget : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set that both this build and this processor have. The environment variable
// PADDLE_INFRA_CPU_TARGET (baseline, avx2, avx512) lowers it, so that tests can run every compiled variant;
// a name that the processor does not have is ignored. Decided once per process.
CpuTarget cpu_target();

}  // namespace paddle_infra

// "baseline", "avx2" or "avx512": what cpu_target() decided, for reports and tests.
PADDLE_INFRA_EXPORT const char* paddle_infra_cpu_target();
