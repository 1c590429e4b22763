// The matrix products of a head, of parts of its classes and features; those of common/gemm.h.
#pragma once

#include <utility>

#include "common/gemm.h"
#include "linear_cross_entropy/linear_cross_entropy_head.h"

namespace paddle_infra {

// Where a block of classes and features of the weight starts, and how far its rows are apart.
struct WeightPart {
  int64_t offset, stride;
};

inline WeightPart weight_part(const Head& head, int64_t first_class, int64_t first_feature) {
  const LinearCrossEntropyParams& p = head.p;
  return {first_class * p.weight_class_stride + first_feature * p.weight_feature_stride,
          head.weight_is_vd() ? p.hidden_size : p.classes};
}

// In "medium" precision the gradients of logits are rounded in place: each row of a task's block of classes
// starts where its floats did.
inline const uint16_t* rounded_gradients(const float* z) { return reinterpret_cast<const uint16_t*>(z); }

// How far rows of gradients are apart.
template <class Element>
int64_t gradient_stride(const Head& head) {
  return head.stride * static_cast<int64_t>(sizeof(float) / sizeof(Element));
}

// logits = hidden W^T, of these classes.
template <class Element>
void multiply_logits(const Head& head, int64_t rows, int64_t classes, const Element* hidden,
                     const Element* weight, int64_t weight_stride, float* z) {
  const int64_t features = head.p.hidden_size;
  GemmShape shape{rows, classes, features, features, weight_stride, head.stride};
  shape.transpose_b = head.weight_is_vd();
  gemm(shape, hidden, weight, z);
}

// `to`, of rows of the hidden size, (+)= G W, of these classes and features.
template <class Element>
void multiply_hidden(const Head& head, int64_t rows, int64_t features, int64_t classes,
                     const Element* gradients, const Element* weight, int64_t weight_stride, bool accumulate,
                     float* to) {
  GemmShape shape{rows,          features,           classes, gradient_stride<Element>(head),
                  weight_stride, head.p.hidden_size, false,   !head.weight_is_vd(),
                  accumulate};
  gemm(shape, gradients, weight, to);
}

// grad_weight (+)= G^T hidden, of these classes and features.
template <class Element>
void multiply_weight(const Head& head, int64_t rows, int64_t first, int64_t count, int64_t feature,
                     int64_t features, const Element* gradients, const Element* hidden, bool accumulate) {
  const WeightPart to = weight_part(head, first, feature);
  float* const grad_weight = head.p.grad_weight + to.offset;
  GemmShape shape{count, features, rows,      gradient_stride<Element>(head), head.p.hidden_size, to.stride,
                  true,  false,    accumulate};
  if (head.weight_is_vd()) return gemm(shape, gradients, hidden + feature, grad_weight);
  std::swap(shape.m, shape.n);
  std::swap(shape.lda, shape.ldb);
  gemm(shape, hidden + feature, gradients, grad_weight);
}

// The same of a chunk, which starts at `first_row` and has the gradients of its logits in memory: as floats
// or, in "medium" precision, those of class `first` at `rounded`.
inline void multiply_chunk_weight(const Head& head, int64_t first_row, int64_t rows, int64_t first,
                                  int64_t count, int64_t feature, int64_t features, const uint16_t* rounded) {
  if (is_medium(head.p)) {
    multiply_weight(head, rows, first, count, feature, features, rounded, head.space.hidden_bf16,
                    first_row > 0);
  } else {
    multiply_weight(head, rows, first, count, feature, features,
                    static_cast<const float*>(head.space.logits + first),
                    head.p.hidden + first_row * head.p.hidden_size, first_row > 0);
  }
}

}  // namespace paddle_infra
