// What operators check of Paddle's tensors, how they refuse, and memory for their kernels. Includes Paddle:
// for *_op.cc only.
#pragma once

#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "common/data_type.h"
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

inline void require_at(const char* name, const char* what, const Tensor& tensor, paddle::DataType dtype,
                       const paddle::Place& place) {
  if (tensor.place() != place) {
    refuse(name, what, ": expected a tensor in the memory of ", place, ", got one in ", tensor.place());
  }
  if (tensor.dtype() != dtype) refuse(name, what, ": expected ", dtype, ", got ", tensor.dtype());
}

inline void require_like(const char* name, const char* what, const Tensor& tensor, paddle::DataType dtype,
                         const Shape& shape, const paddle::Place& place = paddle::CPUPlace()) {
  require_at(name, what, tensor, dtype, place);
  if (tensor.shape() == shape) return;
  refuse(name, what, ": expected shape ", text_of(shape), ", got ", text_of(tensor.shape()));
}

// Of a tensor on which depends what kernels run: what they call its dtype.
inline DataType dtype_of(const char* name, const char* what, const Tensor& tensor) {
  switch (tensor.dtype()) {
    case paddle::DataType::FLOAT32:
      return DataType::kFloat32;
    case paddle::DataType::FLOAT16:
      return DataType::kFloat16;
    case paddle::DataType::BFLOAT16:
      return DataType::kBfloat16;
    default:
      refuse(name, what, ": expected float32, float16 or bfloat16, got ", tensor.dtype());
  }
}

// Kernels are there for the CPU, and for GPUs in a library compiled with CUDA.
inline void require_backend(const char* name, const char* what, const Tensor& tensor) {
#ifdef PADDLE_WITH_CUDA
  if (tensor.is_gpu()) return;
#endif
  if (tensor.is_cpu()) return;
  refuse(name, what,
         ": expected a tensor in CPU memory, or in GPU memory if this library was compiled with CUDA, got "
         "one in ",
         tensor.place());
}

// Of `hidden` of a head: 16-bit numbers are for GPUs only.
inline DataType head_dtype(const char* name, const Tensor& hidden) {
  require_backend(name, "hidden", hidden);
  if (hidden.is_cpu() && hidden.dtype() != paddle::DataType::FLOAT32) {
    refuse(name, "hidden: expected float32 in CPU memory, got ", hidden.dtype());
  }
  return dtype_of(name, "hidden", hidden);
}

// `error`: what a CUDA entry point has returned.
inline void require_launched(const char* name, const char* error) {
  if (error != nullptr) PADDLE_THROW(common::errors::External("%s: %s", name, error));
}

// Where dropout's seed is; null without dropout, which does not need one.
inline const int64_t* checked_seed(const char* name, const Tensor* seed, float dropout_p,
                                   const paddle::Place& place = paddle::CPUPlace()) {
  if (dropout_p == 0.0f) return nullptr;
  if (seed == nullptr) refuse(name, "seed: expected a tensor because dropout_p is not 0, got none");
  require_at(name, "seed", *seed, paddle::DataType::INT64, place);
  if (seed->numel() != 1) refuse(name, "seed: expected one number, got ", seed->numel());
  return seed->data<int64_t>();
}

inline void fill_zero(Tensor* tensor) {
  const size_t bytes = tensor->numel() * phi::SizeOf(tensor->dtype());
  if (bytes > 0) std::memset(tensor->data(), 0, bytes);
}

// Scratch memory for a kernel, to be kept as long as that runs.
template <class Params>
Tensor allocate_workspace(int64_t bytes, Params* p, const paddle::Place& place = paddle::CPUPlace()) {
  constexpr int64_t kAlignment = 64;
  Tensor workspace = paddle::empty({bytes + kAlignment}, paddle::DataType::UINT8, place);
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  p->workspace = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  return workspace;
}

}  // namespace paddle_infra
