// In a file of its own: with CUDA, Paddle's header of dense tensors wants those of cuBLAS, cuDNN and more, of
// which nothing here depends.
#undef PADDLE_WITH_CUDA
#include <memory>

#include "common/same_memory.h"
#include "paddle/phi/core/dense_tensor.h"

paddle::Tensor paddle_infra::same_memory(const paddle::Tensor& tensor) {
  auto shared = std::make_shared<phi::DenseTensor>();
  shared->ShareDataWith(*static_cast<const phi::DenseTensor*>(tensor.impl().get()));
  return paddle::Tensor(shared);
}
