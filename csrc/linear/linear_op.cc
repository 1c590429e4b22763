// The linear layer, as Paddle sees it.
//
// Two operators: in a static program an optional input cannot have a gradient, so the bias is a required
// input of its own operator.
#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/thread_count.h"
#include "linear/linear.h"

namespace {

using paddle::DataType;
using paddle_infra::Activation;
using paddle_infra::LinearParams;
using paddle_infra::MatmulPrecision;
using paddle_infra::OptionalTensor;
using paddle_infra::refuse;
using paddle_infra::require_like;
using paddle_infra::Shape;
using paddle_infra::Tensor;
using paddle_infra::text_of;

constexpr const char* kName = "linear";

struct Attributes {
  int activation, precision;
  bool keeps_pre, wants_grad_x, wants_grad_weight;
};

bool is_gated(int activation) { return static_cast<Activation>(activation) == Activation::kSwiglu; }

Shape with_last(Shape shape, int64_t last) {
  if (shape.empty()) return shape;  // refused when the operator runs
  shape.back() = last;
  return shape;
}

Shape y_shape(const Shape& x, const Shape& weight, int activation) {
  if (weight.size() != 2) return x;
  const int64_t out = weight[1];
  return with_last(x, is_gated(activation) && out > 0 ? out / 2 : out);
}

Shape pre_shape(const Shape& x, const Shape& weight, bool keeps_pre) {
  return keeps_pre && weight.size() == 2 ? with_last(x, weight[1]) : Shape{0};
}

LinearParams make_params(const Tensor& x, const Tensor& weight, const Tensor* bias,
                         const OptionalTensor& weight_bf16, const Attributes& a) {
  if (const char* error = paddle_infra_isa_error()) refuse(kName, error);
  const Shape x_shape = x.shape(), w_shape = weight.shape();
  paddle_infra::require_cpu(kName, "x", x, DataType::FLOAT32);
  paddle_infra::require_cpu(kName, "weight", weight, DataType::FLOAT32);
  if (x_shape.empty() || w_shape.size() != 2 || w_shape[0] != x_shape.back() || w_shape[0] == 0 ||
      w_shape[1] == 0) {
    refuse(kName, "weight: expected shape [K, N] with K the last axis of x ", text_of(x_shape), ", got ",
           text_of(w_shape));
  }
  if (bias != nullptr) require_like(kName, "bias", *bias, DataType::FLOAT32, {w_shape[1]});
  if (weight_bf16) require_like(kName, "packed weight", *weight_bf16, DataType::BFLOAT16, w_shape);
  if (a.activation < 0 || a.activation > static_cast<int>(Activation::kSwiglu)) {
    refuse(kName, "activation: expected 0 to ", static_cast<int>(Activation::kSwiglu), ", got ",
           a.activation);
  }
  if (is_gated(a.activation) && w_shape[1] % 2 != 0) {
    refuse(kName, "weight: expected an even number of columns for swiglu, got ", w_shape[1]);
  }
  if (a.precision != 0 && a.precision != 1) {
    refuse(kName, "precision: expected 0 (highest) or 1 (medium), got ", a.precision);
  }
  LinearParams p{};
  p.x = x.data<float>();
  p.weight = weight.data<float>();
  if (weight_bf16) p.weight_bf16 = reinterpret_cast<const uint16_t*>(weight_bf16->data());
  if (bias != nullptr) p.bias = bias->data<float>();
  p.in = w_shape[0];
  p.out = w_shape[1];
  p.rows = x.numel() / p.in;
  p.activation = static_cast<Activation>(a.activation);
  p.precision = static_cast<MatmulPrecision>(a.precision);
  p.threads = paddle_infra::threads_for(2.0 * p.rows * p.in * p.out);
  return p;
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor* bias,
                            const OptionalTensor& weight_bf16, const Attributes& a) {
  LinearParams p = make_params(x, weight, bias, weight_bf16, a);
  const auto place = x.place();
  Tensor y = paddle::empty(y_shape(x.shape(), weight.shape(), a.activation), DataType::FLOAT32, place);
  Tensor pre = paddle::empty(pre_shape(x.shape(), weight.shape(), a.keeps_pre), DataType::FLOAT32, place);
  if (p.rows == 0) return {y, pre};
  p.y = y.data<float>();
  if (a.keeps_pre) p.pre = pre.data<float>();
  const Tensor space = paddle_infra::allocate_workspace(paddle_infra_linear_cpu_fwd_workspace(&p), &p);
  paddle_infra_linear_cpu_fwd(&p);
  return {y, pre};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor* bias,
                             const OptionalTensor& weight_bf16, const Tensor& pre, const Tensor& grad_y,
                             const Attributes& a) {
  LinearParams p = make_params(x, weight, bias, weight_bf16, a);
  require_like(kName, "gradient of y", grad_y, DataType::FLOAT32,
               y_shape(x.shape(), weight.shape(), a.activation));
  if (p.activation != Activation::kNone) {
    if (!a.keeps_pre) refuse(kName, "no gradient: the forward pass did not keep what it needs");
    require_like(kName, "pre", pre, DataType::FLOAT32, pre_shape(x.shape(), weight.shape(), true));
    p.pre = const_cast<float*>(pre.data<float>());
  }
  // Paddle insists on memory for gradients that nobody wants; nobody reads it.
  std::vector<Tensor> gradients;
  for (const Tensor* input : {&x, &weight, bias}) {
    if (input != nullptr)
      gradients.push_back(paddle::empty(input->shape(), DataType::FLOAT32, input->place()));
  }
  if (p.rows == 0) {
    for (Tensor& gradient : gradients) paddle_infra::fill_zero(&gradient);
    return gradients;
  }
  p.grad_y = grad_y.data<float>();
  if (a.wants_grad_x) p.grad_x = gradients[0].data<float>();
  if (a.wants_grad_weight) p.grad_weight = gradients[1].data<float>();
  if (bias != nullptr) p.grad_bias = gradients[2].data<float>();
  const Tensor space = paddle_infra::allocate_workspace(paddle_infra_linear_cpu_bwd_workspace(&p), &p);
  paddle_infra_linear_cpu_bwd(&p);
  return gradients;
}

#define PI_ATTRIBUTE_PARAMETERS \
  int activation, int precision, bool keeps_pre, bool wants_grad_x, bool wants_grad_weight
#define PI_ATTRIBUTES \
  Attributes { activation, precision, keeps_pre, wants_grad_x, wants_grad_weight }

std::vector<Tensor> Forward(const Tensor& x, const Tensor& weight, const OptionalTensor& weight_bf16,
                            PI_ATTRIBUTE_PARAMETERS) {
  return forward(x, weight, nullptr, weight_bf16, PI_ATTRIBUTES);
}

std::vector<Tensor> ForwardBias(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                const OptionalTensor& weight_bf16, PI_ATTRIBUTE_PARAMETERS) {
  return forward(x, weight, &bias, weight_bf16, PI_ATTRIBUTES);
}

std::vector<Tensor> Backward(const Tensor& x, const Tensor& weight, const OptionalTensor& weight_bf16,
                             const Tensor& pre, const Tensor& grad_y, PI_ATTRIBUTE_PARAMETERS) {
  return backward(x, weight, nullptr, weight_bf16, pre, grad_y, PI_ATTRIBUTES);
}

std::vector<Tensor> BackwardBias(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                 const OptionalTensor& weight_bf16, const Tensor& pre, const Tensor& grad_y,
                                 PI_ATTRIBUTE_PARAMETERS) {
  return backward(x, weight, &bias, weight_bf16, pre, grad_y, PI_ATTRIBUTES);
}

// A weight for many calls: it has no gradient.
std::vector<Tensor> RoundToBf16(const Tensor& x) {
  paddle_infra::require_cpu("pack_weight", "weight", x, DataType::FLOAT32);
  Tensor rounded = paddle::empty(x.shape(), DataType::BFLOAT16, x.place());
  paddle_infra_round_to_bf16(x.data<float>(), x.numel(), reinterpret_cast<uint16_t*>(rounded.data()),
                             paddle_infra_thread_count());
  return {rounded};
}

std::vector<Shape> InferShapeRounded(const Shape& x) { return {x}; }

std::vector<DataType> InferDtypeRounded(const DataType&) { return {DataType::BFLOAT16}; }

std::vector<Shape> InferShape(const Shape& x, const Shape& weight, const paddle::optional<Shape>&,
                              int activation, int, bool keeps_pre, bool, bool) {
  return {y_shape(x, weight, activation), pre_shape(x, weight, keeps_pre)};
}

std::vector<Shape> InferShapeBias(const Shape& x, const Shape& weight, const Shape&,
                                  const paddle::optional<Shape>&, int activation, int, bool keeps_pre, bool,
                                  bool) {
  return {y_shape(x, weight, activation), pre_shape(x, weight, keeps_pre)};
}

std::vector<DataType> InferDtype(const DataType&, const DataType&, const paddle::optional<DataType>&) {
  return {DataType::FLOAT32, DataType::FLOAT32};
}

std::vector<DataType> InferDtypeBias(const DataType&, const DataType&, const DataType&,
                                     const paddle::optional<DataType>&) {
  return {DataType::FLOAT32, DataType::FLOAT32};
}

#define PI_ATTRIBUTE_NAMES \
  {"activation: int", "precision: int", "keeps_pre: bool", "wants_grad_x: bool", "wants_grad_weight: bool"}

}  // namespace

PD_BUILD_OP(paddle_infra_round_to_bf16)
    .Inputs({"X"})
    .Outputs({"Rounded"})
    .SetKernelFn(PD_KERNEL(RoundToBf16))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShapeRounded))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtypeRounded));

PD_BUILD_OP(paddle_infra_linear)
    .Inputs({"X", "Weight", paddle::Optional("WeightBf16")})
    .Outputs({"Y", "Pre"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));

PD_BUILD_GRAD_OP(paddle_infra_linear)
    .Inputs({"X", "Weight", paddle::Optional("WeightBf16"), "Pre", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Backward));

PD_BUILD_OP(paddle_infra_linear_bias)
    .Inputs({"X", "Weight", "Bias", paddle::Optional("WeightBf16")})
    .Outputs({"Y", "Pre"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(ForwardBias))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShapeBias))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtypeBias));

PD_BUILD_GRAD_OP(paddle_infra_linear_bias)
    .Inputs({"X", "Weight", "Bias", paddle::Optional("WeightBf16"), "Pre", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(BackwardBias));
