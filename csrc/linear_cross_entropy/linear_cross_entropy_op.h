// From Paddle's tensors to the kernels' parameters, for the losses of a linear layer. Includes Paddle: for
// linear_cross_entropy_op.cc only.
#pragma once

#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/thread_count.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

namespace paddle_infra {

struct HeadAttributes {
  int kind;
  int64_t ignore_index;
  float label_smoothing, z_loss, softcap, focal_gamma;
  int reduction, precision;
  bool weight_is_transposed;
  bool is_eager;                              // the forward pass makes the gradients too
  bool wants_grad_hidden, wants_grad_weight;  // on a GPU both are made
};

// The tensors of one call. Null: not given. For binary cross entropy `label` are the targets and
// `class_weight` the positive weights.
struct HeadInputs {
  const Tensor *hidden, *weight, *bias, *label, *class_weight, *token_weight;
};

inline bool is_binary(const HeadAttributes& a) { return static_cast<HeadLoss>(a.kind) == HeadLoss::kBinary; }

inline const char* name_of(const HeadAttributes& a) {
  constexpr const char* kNames[] = {"linear_cross_entropy", "linear_focal", "linear_binary_cross_entropy"};
  return a.kind >= 0 && a.kind < 3 ? kNames[a.kind] : kNames[0];
}

inline void set_attributes(const char* name, const HeadAttributes& a, LinearCrossEntropyParams* p) {
  if (a.kind < 0 || a.kind > 2) refuse(name, "kind: expected 0, 1 or 2, got ", a.kind);
  if (a.reduction < 0 || a.reduction > 2) refuse(name, "reduction: expected 0, 1 or 2, got ", a.reduction);
  if (a.precision != 0 && a.precision != 1) {
    refuse(name, "precision: expected 0 (highest) or 1 (medium), got ", a.precision);
  }
  p->ignore_index = a.ignore_index;
  p->label_smoothing = a.label_smoothing;
  p->z_loss = a.z_loss;
  p->softcap = a.softcap;
  p->focal_gamma = a.focal_gamma;
  p->reduction = static_cast<Reduction>(a.reduction);
  p->kind = static_cast<HeadLoss>(a.kind);
  p->precision = static_cast<MatmulPrecision>(a.precision);
}

// Only hidden and weight may be of 16 bits.
inline void require_dtypes(const char* name, const HeadInputs& in, const HeadAttributes& a,
                           LinearCrossEntropyParams* p) {
  const Tensor& hidden = *in.hidden;
  const auto place = hidden.place();
  p->dtype = head_dtype(name, hidden);
  if (p->kind != HeadLoss::kCrossEntropy && !hidden.is_cpu()) {
    refuse(name, "hidden: expected a tensor in CPU memory, there is no kernel for a GPU, got one in ", place);
  }
  require_at(name, "weight", *in.weight, hidden.dtype(), place);
  require_at(name, is_binary(a) ? "target" : "label", *in.label,
             is_binary(a) ? paddle::DataType::FLOAT32 : paddle::DataType::INT64, place);
  const auto require_float = [&](const char* what, const Tensor* tensor) {
    if (tensor != nullptr) require_at(name, what, *tensor, paddle::DataType::FLOAT32, place);
  };
  require_float("bias", in.bias);
  require_float("class_weight", in.class_weight);
  require_float("token_weight", in.token_weight);
}

inline void set_sizes(const char* name, const HeadInputs& in, const HeadAttributes& a,
                      LinearCrossEntropyParams* p) {
  const Shape h = in.hidden->shape(), w = in.weight->shape();
  const bool transposed = a.weight_is_transposed;
  if (h.empty() || h.back() == 0 || w.size() != 2 || w[0] == 0 || w[1] == 0) {
    refuse(name, "hidden and weight: expected [..., D] and two dimensions, none of them 0, got ", text_of(h),
           " and ", text_of(w));
  }
  p->hidden_size = h.back();
  p->rows = in.hidden->numel() / p->hidden_size;
  p->classes = w[transposed ? 1 : 0];
  p->weight_class_stride = transposed ? 1 : p->hidden_size;
  p->weight_feature_stride = transposed ? p->classes : 1;
  const Shape rows(h.begin(), h.end() - 1), per_class{p->classes};
  Shape label_shape = rows;
  if (is_binary(a)) label_shape.push_back(p->classes);
  const bool fits = w[transposed ? 0 : 1] == p->hidden_size && in.label->shape() == label_shape &&
                    (in.bias == nullptr || in.bias->shape() == per_class) &&
                    (in.class_weight == nullptr || in.class_weight->shape() == per_class) &&
                    (in.token_weight == nullptr || in.token_weight->shape() == rows);
  if (!fits) refuse(name, "the shapes of hidden, weight, label and the options do not fit each other");
}

inline const float* floats_or_null(const Tensor* tensor) {
  return tensor != nullptr ? tensor->data<float>() : nullptr;
}

// Everything but results and workspace.
inline LinearCrossEntropyParams make_params(const HeadInputs& in, const HeadAttributes& a) {
  const char* name = name_of(a);
  if (const char* error = paddle_infra_isa_error()) refuse(name, error);
  LinearCrossEntropyParams p{};
  set_attributes(name, a, &p);
  require_dtypes(name, in, a, &p);
  set_sizes(name, in, a, &p);
  p.hidden = static_cast<const float*>(in.hidden->data());
  p.weight = static_cast<const float*>(in.weight->data());
  p.bias = floats_or_null(in.bias);
  p.class_weight = floats_or_null(in.class_weight);
  p.token_weight = floats_or_null(in.token_weight);
  if (is_binary(a)) {
    p.target = in.label->data<float>();
  } else {
    p.label = in.label->data<int64_t>();
  }
  p.threads = paddle_infra_thread_count();
  return p;
}

// Kernels rely on it: a label that is no class would be read outside the arrays.
inline void require_valid_labels(LinearCrossEntropyParams p, const Tensor& label, const char* name) {
  const Tensor on_cpu = label.is_cpu() ? label : label.copy_to(paddle::CPUPlace(), true);
  p.label = on_cpu.data<int64_t>();
  const int64_t bad = paddle_infra_linear_cross_entropy_bad_row(&p);
  if (bad < 0) return;
  refuse(name, "label[", bad, "] is ", p.label[bad], "; expected ignore_index (", p.ignore_index,
         ") or a class in [0, ", p.classes, ")");
}

// The same for targets, whose meaning ends outside of [0, 1].
inline void require_valid_targets(const LinearCrossEntropyParams& p, const char* name) {
  const int64_t bad = paddle_infra_linear_cross_entropy_bad_target(&p);
  if (bad < 0) return;
  refuse(name, "target of row ", bad / p.classes, ", class ", bad % p.classes, " is ", p.target[bad],
         "; expected a number in [0, 1]");
}

}  // namespace paddle_infra
