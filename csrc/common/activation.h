// Activation functions that kernels apply to their results while those are in the cache.
#pragma once

#include <cstdint>

#include "common/abi.h"

namespace paddle_infra {

// Operators have these numbers as an attribute. kGelu is x Phi(x) with the normal distribution Phi, kGeluTanh
// its approximation with tanh, kSilu x / (1 + e^-x). kSwiglu is silu(a) b of two halves a, b of the columns:
// no function of one number, so only some operators have it.
enum class Activation : int { kNone = 0, kGelu, kGeluTanh, kRelu, kSilu, kSwiglu };

constexpr int kActivations = 5;  // of one number

}  // namespace paddle_infra

// f(x) and f'(x) of `count` numbers with the instruction set in force. For tests.
PADDLE_INFRA_EXPORT void paddle_infra_activation(int activation, const float* x, float* value, float* slope,
                                                 int64_t count);
