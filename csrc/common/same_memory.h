// A tensor beside another one in the same memory. Includes Paddle: for *_op.cc only.
#pragma once

#include "paddle/phi/api/all.h"

namespace paddle_infra {

// Has its own count of changes in place: those of a gradient must not look like changes of what the forward
// pass kept, or Paddle would refuse another backward pass.
paddle::Tensor same_memory(const paddle::Tensor& tensor);

}  // namespace paddle_infra
