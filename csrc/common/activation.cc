#include "common/activation.h"

#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/cpu_target.h"

namespace paddle_infra {
namespace {

struct ActivationTable {
  void (*arrays[7])(const float* x, float* value, float* slope, int64_t count);
};

#define PI_TARGET_BODY "common/activation_table_body.h"
#include "common/foreach_target.h"

const ActivationTable& table() {
#if defined(__x86_64__)
  if (float_target() == CpuTarget::kAvx512) return avx512::kTable;
  if (float_target() == CpuTarget::kAvx2) return avx2::kTable;
#endif
  return portable::kTable;
}

}  // namespace
}  // namespace paddle_infra

void paddle_infra_activation(int activation, const float* x, float* value, float* slope, int64_t count) {
  const auto array = paddle_infra::table().arrays[activation];
  if (array != nullptr) array(x, value, slope, count);
}
