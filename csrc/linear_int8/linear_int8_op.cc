// The operator as Paddle sees it. It has no gradient.
#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/thread_count.h"
#include "linear_int8/linear_int8.h"

namespace {

using paddle::DataType;
using paddle_infra::LinearInt8Params;
using paddle_infra::OptionalTensor;
using paddle_infra::refuse;
using paddle_infra::Shape;
using paddle_infra::Tensor;
using paddle_infra::text_of;

constexpr const char* kName = "linear_int8";

LinearInt8Params make_params(const Tensor& x, const Tensor& weight, const Tensor& weight_scale,
                             const OptionalTensor& bias, int activation) {
  if (const char* error = paddle_infra_isa_error()) refuse(kName, error);
  paddle_infra::require_cpu(kName, "x", x, DataType::FLOAT32);
  paddle_infra::require_cpu(kName, "weight", weight, DataType::INT8);
  const Shape shape = x.shape(), w = weight.shape();
  if (shape.empty() || shape.back() < 1) {
    refuse(kName, "x: expected shape [..., K] with K at least 1, got ", text_of(shape));
  }
  LinearInt8Params p{};
  p.depth = shape.back();
  p.rows = x.numel() / p.depth;
  if (w.size() != 2 || w[0] != p.depth || w[1] < 1) {
    refuse(kName, "weight: expected shape [K, N] with K = ", p.depth, " and N at least 1, got ", text_of(w));
  }
  if (p.depth > paddle_infra::kMostInt8Depth) {
    refuse(kName, "x: expected at most ", paddle_infra::kMostInt8Depth, " features, got ", p.depth);
  }
  if (activation < 0 || activation >= paddle_infra::kActivations) {
    refuse(kName, "activation: expected 0 to ", paddle_infra::kActivations - 1, ", got ", activation);
  }
  p.columns = w[1];
  paddle_infra::require_like(kName, "weight_scale", weight_scale, DataType::FLOAT32, {p.columns});
  p.x = x.data<float>();
  p.weight = weight.data<int8_t>();
  p.weight_scale = weight_scale.data<float>();
  if (bias) {
    paddle_infra::require_like(kName, "bias", *bias, DataType::FLOAT32, {p.columns});
    p.bias = bias->data<float>();
  }
  p.activation = static_cast<paddle_infra::Activation>(activation);
  p.threads = paddle_infra_thread_count();
  return p;
}

// Of shapes that do not fit it makes something: an exception would end the process while a program is made,
// and the kernel refuses them later.
Shape result_shape(Shape x, const Shape& weight) {
  if (!x.empty() && weight.size() == 2) x.back() = weight[1];
  return x;
}

std::vector<Tensor> Forward(const Tensor& x, const Tensor& weight, const Tensor& weight_scale,
                            const OptionalTensor& bias, int activation) {
  LinearInt8Params p = make_params(x, weight, weight_scale, bias, activation);
  Tensor y = paddle::empty(result_shape(x.shape(), weight.shape()), DataType::FLOAT32, x.place());
  if (p.rows == 0) return {y};
  p.y = y.data<float>();
  const Tensor workspace = paddle_infra::allocate_workspace(paddle_infra_linear_int8_cpu_workspace(&p), &p);
  paddle_infra_linear_int8_cpu(&p);
  return {y};
}

std::vector<Shape> InferShape(const Shape& x, const Shape& weight, const Shape& /*weight_scale*/,
                              const paddle::optional<Shape>& /*bias*/, int /*activation*/) {
  return {result_shape(x, weight)};
}

std::vector<DataType> InferDtype(const DataType& x) { return {x}; }

}  // namespace

PD_BUILD_OP(paddle_infra_linear_int8)
    .Inputs({"X", "Weight", "WeightScale", paddle::Optional("Bias")})
    .Outputs({"Y"})
    .Attrs({"activation: int"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));
