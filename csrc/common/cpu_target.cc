#include "common/cpu_target.h"

#include <cstdint>
#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace paddle_infra {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx", "emulate_amx"};
constexpr int kTargets = 6;

#if defined(__x86_64__)
// The processor has AMX tiles and products of bfloat16, and the operating system saves the tiles.
bool has_amx() {
  constexpr unsigned kTiles = 1u << 24, kBf16 = 1u << 22, kOsSavesState = 1u << 27;
  constexpr uint32_t kTileState = 3u << 17;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsSavesState)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTiles) || !(d & kBf16)) return false;
  uint32_t low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileState) == kTileState;
}

// Linux saves tiles only for processes that have asked. It refuses if a signal stack is too small for them.
bool may_use_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

CpuTarget best_of_processor() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuTarget::kPortable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw")) {
    return CpuTarget::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512bf16")) return CpuTarget::kAvx512;
  return has_amx() && may_use_amx() ? CpuTarget::kAmx : CpuTarget::kAvx512Bf16;
#else
  return CpuTarget::kPortable;
#endif
}

struct Decision {
  CpuTarget best = best_of_processor(), chosen = best;
  bool is_forced = false;
  std::string error;

  Decision() {
    const char* value = std::getenv("PADDLE_INFRA_ISA");
    const std::string wanted = value != nullptr ? value : "";
    if (wanted.empty()) return;
    std::string all, here;
    int found = -1;
    for (int i = 0; i < kTargets; ++i) {
      const bool is_here = i <= static_cast<int>(best) || i == static_cast<int>(CpuTarget::kEmulateAmx);
      if (wanted == kNames[i]) found = is_here ? i : kTargets;
      all.append(i == 0 ? "" : ", ").append(kNames[i]);
      if (is_here) here.append(i == 0 ? "" : ", ").append(kNames[i]);
    }
    if (found < 0) {
      error.append("PADDLE_INFRA_ISA: expected one of ")
          .append(all)
          .append(", got '")
          .append(wanted)
          .append("'");
    } else if (found == kTargets) {
      error.append("PADDLE_INFRA_ISA: this processor or its operating system has no ").append(wanted);
      error.append(", expected one of ").append(here);
    } else {
      chosen = static_cast<CpuTarget>(found);
      is_forced = true;
    }
  }
};

const Decision& decision() {
  static const Decision made;
  return made;
}

}  // namespace

CpuTarget cpu_target() { return decision().chosen; }

CpuTarget float_target() {
  const CpuTarget target = cpu_target() == CpuTarget::kEmulateAmx ? decision().best : cpu_target();
  return target > CpuTarget::kAvx512 ? CpuTarget::kAvx512 : target;
}

bool isa_is_forced() { return decision().is_forced; }

}  // namespace paddle_infra

const char* paddle_infra_cpu_target() {
  return paddle_infra::kNames[static_cast<int>(paddle_infra::cpu_target())];
}

const char* paddle_infra_isa_error() {
  const std::string& error = paddle_infra::decision().error;
  return error.empty() ? nullptr : error.c_str();
}
