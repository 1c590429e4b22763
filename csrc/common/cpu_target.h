// Which instruction set the CPU kernels use.
#pragma once

#include "common/abi.h"

namespace paddle_infra {

// In rising order: each of the first five has all that the ones before it have. kEmulateAmx is for tests: the
// code written for AMX, with its tile instructions computed by plain C++; any processor runs it.
enum class CpuTarget : int { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx, kEmulateAmx };

// The best instruction set that this build, this processor and its operating system have, or the one that the
// environment variable PADDLE_INFRA_ISA names (portable, avx2, avx512, avx512_bf16, amx, emulate_amx).
// Decided once per process.
CpuTarget cpu_target();

// The same for kernels without code of their own for bfloat16: kPortable, kAvx2 or kAvx512.
CpuTarget float_target();

// Whether PADDLE_INFRA_ISA chose it: then other libraries, which would not obey, are not used.
bool isa_is_forced();

}  // namespace paddle_infra

// What cpu_target() decided, for reports and tests: a name as above.
PADDLE_INFRA_EXPORT const char* paddle_infra_cpu_target();

// What is wrong with PADDLE_INFRA_ISA: it names nothing, or something that is not here. Null if all is well.
// Callers must not go on after an error: cpu_target() is then as if the variable were not set.
PADDLE_INFRA_EXPORT const char* paddle_infra_isa_error();
