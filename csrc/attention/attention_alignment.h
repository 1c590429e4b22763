// Whether rows can be copied 16 bytes at a time.
#pragma once

#include <initializer_list>

#include "attention/attention.h"

namespace paddle_infra {

// For these tensors, which have the strides of q, k or v; null ones do not count.
inline bool rows_are_aligned(const AttentionParams& p, std::initializer_list<const void*> tensors) {
  uintptr_t bits = 0;
  for (const void* data : tensors) bits |= reinterpret_cast<uintptr_t>(data);
  int64_t elements = p.head_dim;
  for (const AttentionStrides& s : {p.q_stride, p.k_stride, p.v_stride})
    elements |= s.batch | s.sequence | s.head;
  return bits % 16 == 0 && elements * element_size(p.dtype) % 16 == 0;
}

}  // namespace paddle_infra
