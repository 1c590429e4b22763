// How exactly matrices are multiplied.
#pragma once

namespace paddle_infra {

// How products are multiplied; sums are always float32.
enum class MatmulPrecision : int { kHighest = 0, kMedium = 1 };  // float32, bfloat16

}  // namespace paddle_infra
