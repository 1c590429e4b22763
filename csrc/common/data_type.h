// Element types of tensors, and rows of them as floats.
#pragma once

#include <cstdint>

namespace paddle_infra {

enum class DataType : int { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

inline int64_t element_size(DataType type) { return type == DataType::kFloat32 ? 4 : 2; }

// Copies `count` elements, converting them; to a narrower type they are rounded to nearest, ties to even.
void convert_to_float(DataType type, const void* from, float* to, int64_t count);
void convert_from_float(DataType type, const float* from, void* to, int64_t count);

}  // namespace paddle_infra
