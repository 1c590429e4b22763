// The arithmetic of rows of logits, once per instruction set, and the choice of one.
#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/cpu_target.h"
#include "linear_cross_entropy/linear_cross_entropy_head.h"

namespace paddle_infra {
namespace {

#define PI_TARGET_BODY "linear_cross_entropy/linear_cross_entropy_body.h"
#include "common/foreach_target.h"

}  // namespace

const HeadKernel& head_kernel() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kKernel;
  if (float_target() == CpuTarget::kAvx2) return avx2::kKernel;
#endif
  return portable::kKernel;
}

}  // namespace paddle_infra
