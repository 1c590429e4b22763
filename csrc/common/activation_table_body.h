// Activation functions of arrays, for tests. No include guard: see common/foreach_target.h.

#include "common/simd_body.h"
// Needs vectors.
#include "common/activation_body.h"

template <Activation kActivation>
static void activate_array(const float* x, float* value, float* slope, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int rest = static_cast<int>(count - i < kLanes ? count - i : kLanes);
    const Vec v = load_partial(x + i, rest);
    store_partial(value + i, activation_value<kActivation>(v), rest);
    store_partial(slope + i, activation_slope<kActivation>(v), rest);
  }
}

constexpr ActivationTable kTable{{activate_array<Activation::kNone>, activate_array<Activation::kGelu>,
                                  activate_array<Activation::kGeluTanh>, activate_array<Activation::kRelu>,
                                  activate_array<Activation::kSilu>, nullptr,
                                  activate_array<Activation::kGeluRough>}};
