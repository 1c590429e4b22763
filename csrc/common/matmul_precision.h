// How products are multiplied.
#pragma once

namespace paddle_infra {

// In float32, or rounded to bfloat16; sums are always float32.
enum class MatmulPrecision : int { kHighest = 0, kMedium = 1 };

}  // namespace paddle_infra
