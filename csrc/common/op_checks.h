// What operators do with Paddle's tensors before they call a kernel: checks, messages, scratch memory.
// Includes Paddle, so only `*_op.cc` and `*_op.h` include it.
//
// Everything is checked in the operators although the Python functions check too: saved programs call them
// without Python, and the kernels would read outside of their arrays.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "paddle/common/enforce.h"
#include "paddle/phi/api/all.h"

namespace paddle_infra {

using paddle::Tensor;
using OptionalTensor = paddle::optional<Tensor>;
using Shape = std::vector<int64_t>;

inline const Tensor* pointer_or_null(const OptionalTensor& tensor) { return tensor ? &*tensor : nullptr; }

// Builds a message of a call that cannot be carried out, and throws it; Python sees a ValueError. Not
// PD_CHECK or PD_THROW: inside a static program their exception ends the process.
template <class... Parts>
[[noreturn]] void refuse(const char* name, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  PADDLE_THROW(common::errors::InvalidArgument("%s: %s", name, text.str()));
}

inline std::string text_of(const Shape& shape) {
  std::ostringstream text;
  for (size_t i = 0; i < shape.size(); ++i) text << (i == 0 ? "[" : ", ") << shape[i];
  text << (shape.empty() ? "[]" : "]");
  return text.str();
}

inline void require_cpu(const char* name, const char* what, const Tensor& tensor, paddle::DataType dtype) {
  if (!tensor.is_cpu()) refuse(name, what, ": expected a tensor in CPU memory, got one in ", tensor.place());
  if (tensor.dtype() != dtype) refuse(name, what, ": expected ", dtype, ", got ", tensor.dtype());
}

inline void require_like(const char* name, const char* what, const Tensor& tensor, paddle::DataType dtype,
                         const Shape& shape) {
  require_cpu(name, what, tensor, dtype);
  if (tensor.shape() == shape) return;
  refuse(name, what, ": expected shape ", text_of(shape), ", got ", text_of(tensor.shape()));
}

// Scratch memory, to be kept as long as a kernel runs; *start is its first byte on a cache line.
inline Tensor allocate_workspace(int64_t bytes, void** start) {
  constexpr int64_t kAlignment = 64;
  Tensor workspace = paddle::empty({bytes + kAlignment}, paddle::DataType::UINT8, paddle::CPUPlace());
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  *start = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  return workspace;
}

}  // namespace paddle_infra
