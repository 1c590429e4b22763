// Activation functions that kernels apply to their results while those are in the cache.
#pragma once

#include <cstdint>

#include "common/abi.h"

namespace paddle_infra {

// Operators have these numbers as an attribute. kGelu is x Phi(x) with the normal distribution Phi, kGeluTanh
// its approximation with tanh, kSilu x / (1 + e^-x). kSwiglu is silu(a) b of two halves a, b of the columns:
// no function of one number, so only some operators have it. kGeluRough is kGelu to 3e-4 of its value, its
// derivative to 1.1e-4, for numbers that are going to be rounded to bfloat16 (by up to 2e-3 of their values);
// kernels choose it, it is no attribute.
enum class Activation : int { kNone = 0, kGelu, kGeluTanh, kRelu, kSilu, kSwiglu, kGeluRough };

constexpr int kActivations = 5;  // of one number, and attributes

// For products in "medium" precision.
inline Activation rough(Activation activation) {
  return activation == Activation::kGelu ? Activation::kGeluRough : activation;
}

}  // namespace paddle_infra

// f(x) and f'(x) of `count` numbers with the instruction set in force. For tests.
PADDLE_INFRA_EXPORT void paddle_infra_activation(int activation, const float* x, float* value, float* slope,
                                                 int64_t count);
