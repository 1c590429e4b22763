// The operators as Paddle sees them. The only file of this folder that includes Paddle.
//
// Six of them: in a static program an optional input cannot have a gradient, so residual and bias, where they
// are given, are required inputs of operators of their own. Where the sum is a result, backward reads it
// instead of hidden and residual, which may be freed.
#include <cmath>

#include "add_norm/add_norm.h"
#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/thread_count.h"

namespace {

using paddle::DataType;
using paddle_infra::AddNormParams;
using paddle_infra::NormStats;
using paddle_infra::OptionalTensor;
using paddle_infra::pointer_or_null;
using paddle_infra::refuse;
using paddle_infra::require_like;
using paddle_infra::Shape;
using paddle_infra::Tensor;

constexpr char kName[] = "add_norm";

struct Attributes {
  bool is_rms;
  float epsilon, dropout_p;
};

// The tensors of one call. Null: not given.
struct Inputs {
  const Tensor *hidden, *residual, *weight, *bias, *seed;
};

// [...] of a row, and the numbers of NormStats. Of a scalar it makes something: an exception would end the
// process while a program is made, and the kernel refuses it later.
Shape stats_shape(Shape hidden) {
  if (hidden.empty()) return hidden;
  hidden.back() = sizeof(NormStats) / sizeof(float);
  return hidden;
}

// Everything but results and workspace; `like` is hidden, or the sum, which has its shape.
AddNormParams make_params(const Tensor& like, const Inputs& in, const Attributes& a) {
  if (const char* error = paddle_infra_isa_error()) refuse(kName, error);
  const Shape shape = like.shape();
  if (shape.empty() || shape.back() < 1) {
    refuse(kName, "hidden: expected shape [..., D] with D at least 1, got ", paddle_infra::text_of(shape));
  }
  require_like(kName, "hidden", like, DataType::FLOAT32, shape);
  if (in.residual != nullptr) require_like(kName, "residual", *in.residual, DataType::FLOAT32, shape);
  require_like(kName, "weight", *in.weight, DataType::FLOAT32, {shape.back()});
  if (in.bias != nullptr) require_like(kName, "bias", *in.bias, DataType::FLOAT32, {shape.back()});
  if (!(a.epsilon >= 0.0f) || !std::isfinite(a.epsilon)) {
    refuse(kName, "epsilon: expected 0 or a finite positive number, got ", a.epsilon);
  }
  if (!(a.dropout_p >= 0.0f && a.dropout_p < 1.0f)) {
    refuse(kName, "dropout_p: expected a probability in [0, 1), got ", a.dropout_p);
  }
  AddNormParams p{};
  p.size = shape.back();
  p.rows = like.numel() / p.size;
  p.hidden = in.hidden != nullptr ? in.hidden->data<float>() : nullptr;
  p.residual = in.residual != nullptr ? in.residual->data<float>() : nullptr;
  p.weight = in.weight->data<float>();
  p.bias = in.bias != nullptr ? in.bias->data<float>() : nullptr;
  p.is_rms = a.is_rms;
  p.epsilon = a.epsilon;
  p.dropout_p = a.dropout_p;
  p.seed = paddle_infra::checked_seed(kName, in.seed, a.dropout_p);
  p.threads = paddle_infra_thread_count();
  return p;
}

std::vector<Tensor> forward(const Inputs& in, const Attributes& attributes, bool with_sum) {
  AddNormParams p = make_params(*in.hidden, in, attributes);
  const auto place = in.hidden->place();
  const Shape shape = in.hidden->shape();
  std::vector<Tensor> results = {paddle::empty(shape, DataType::FLOAT32, place)};
  if (with_sum) results.push_back(paddle::empty(shape, DataType::FLOAT32, place));
  results.push_back(paddle::empty(stats_shape(shape), DataType::FLOAT32, place));
  p.out = results[0].data<float>();
  if (with_sum) p.sum = results[1].data<float>();
  p.stats = reinterpret_cast<NormStats*>(results.back().data<float>());
  const Tensor workspace = paddle_infra::allocate_workspace(paddle_infra_add_norm_cpu_fwd_workspace(&p), &p);
  paddle_infra_add_norm_cpu_fwd(&p);
  return results;
}

// What backward has besides the inputs. Sum and its gradient are null if the operator does not return it.
struct Results {
  const Tensor *sum, *stats, *grad_out, *grad_sum;
};

// The gradients of hidden, residual (if there is one), weight and bias (if there is one).
std::vector<Tensor> backward(const Inputs& in, const Results& results, bool has_residual,
                             const Attributes& attributes) {
  const Tensor& like = results.sum != nullptr ? *results.sum : *in.hidden;
  const Shape shape = like.shape();
  AddNormParams p = make_params(like, in, attributes);
  require_like(kName, "stats", *results.stats, DataType::FLOAT32, stats_shape(shape));
  p.stats = reinterpret_cast<NormStats*>(const_cast<float*>(results.stats->data<float>()));
  if (results.sum != nullptr) p.sum = const_cast<float*>(results.sum->data<float>());

  // Paddle leaves the gradient of a result undefined or makes zeros if nothing was computed from it.
  Tensor zeros;
  if (results.grad_out->initialized()) {
    require_like(kName, "gradient of out", *results.grad_out, DataType::FLOAT32, shape);
    p.grad_out = results.grad_out->data<float>();
  } else {
    zeros = paddle::empty(shape, DataType::FLOAT32, like.place());
    paddle_infra::fill_zero(&zeros);
    p.grad_out = zeros.data<float>();
  }
  if (results.grad_sum != nullptr && results.grad_sum->initialized()) {
    require_like(kName, "gradient of sum", *results.grad_sum, DataType::FLOAT32, shape);
    p.grad_sum = results.grad_sum->data<float>();
  }

  std::vector<Tensor> gradients;
  const auto add_gradient = [&](const Shape& of) {
    gradients.push_back(paddle::empty(of, DataType::FLOAT32, like.place()));
    return gradients.back().data<float>();
  };
  p.grad_hidden = add_gradient(shape);
  if (has_residual) p.grad_residual = add_gradient(shape);
  p.grad_weight = add_gradient({p.size});
  if (in.bias != nullptr) p.grad_bias = add_gradient({p.size});
  const Tensor workspace = paddle_infra::allocate_workspace(paddle_infra_add_norm_cpu_bwd_workspace(&p), &p);
  paddle_infra_add_norm_cpu_bwd(&p);
  return gradients;
}

#define PI_ATTRIBUTE_PARAMETERS bool is_rms, float epsilon, float dropout_p
#define PI_ATTRIBUTES \
  Attributes { is_rms, epsilon, dropout_p }
using T = const Tensor&;
using Optional = const OptionalTensor&;
using Tensors = std::vector<Tensor>;

Tensors Norm(T hidden, T weight, Optional seed, PI_ATTRIBUTE_PARAMETERS) {
  return forward({&hidden, nullptr, &weight, nullptr, pointer_or_null(seed)}, PI_ATTRIBUTES, false);
}

Tensors NormGrad(T hidden, T weight, Optional seed, T stats, T grad_out, PI_ATTRIBUTE_PARAMETERS) {
  return backward({&hidden, nullptr, &weight, nullptr, pointer_or_null(seed)},
                  {nullptr, &stats, &grad_out, nullptr}, false, PI_ATTRIBUTES);
}

Tensors NormBias(T hidden, T weight, T bias, Optional seed, PI_ATTRIBUTE_PARAMETERS) {
  return forward({&hidden, nullptr, &weight, &bias, pointer_or_null(seed)}, PI_ATTRIBUTES, false);
}

Tensors NormBiasGrad(T hidden, T weight, T bias, Optional seed, T stats, T grad_out,
                     PI_ATTRIBUTE_PARAMETERS) {
  return backward({&hidden, nullptr, &weight, &bias, pointer_or_null(seed)},
                  {nullptr, &stats, &grad_out, nullptr}, false, PI_ATTRIBUTES);
}

template <bool kWithSum>
Tensors AddNorm(T hidden, T residual, T weight, Optional seed, PI_ATTRIBUTE_PARAMETERS) {
  return forward({&hidden, &residual, &weight, nullptr, pointer_or_null(seed)}, PI_ATTRIBUTES, kWithSum);
}

template <bool kWithSum>
Tensors AddNormBias(T hidden, T residual, T weight, T bias, Optional seed, PI_ATTRIBUTE_PARAMETERS) {
  return forward({&hidden, &residual, &weight, &bias, pointer_or_null(seed)}, PI_ATTRIBUTES, kWithSum);
}

Tensors AddNormGrad(T hidden, T residual, T weight, Optional seed, T stats, T grad_out,
                    PI_ATTRIBUTE_PARAMETERS) {
  return backward({&hidden, &residual, &weight, nullptr, pointer_or_null(seed)},
                  {nullptr, &stats, &grad_out, nullptr}, true, PI_ATTRIBUTES);
}

Tensors AddNormBiasGrad(T hidden, T residual, T weight, T bias, Optional seed, T stats, T grad_out,
                        PI_ATTRIBUTE_PARAMETERS) {
  return backward({&hidden, &residual, &weight, &bias, pointer_or_null(seed)},
                  {nullptr, &stats, &grad_out, nullptr}, true, PI_ATTRIBUTES);
}

Tensors AddNormSumGrad(T sum, T weight, Optional seed, T stats, T grad_out, T grad_sum,
                       PI_ATTRIBUTE_PARAMETERS) {
  return backward({nullptr, nullptr, &weight, nullptr, pointer_or_null(seed)},
                  {&sum, &stats, &grad_out, &grad_sum}, true, PI_ATTRIBUTES);
}

Tensors AddNormSumBiasGrad(T sum, T weight, T bias, Optional seed, T stats, T grad_out, T grad_sum,
                           PI_ATTRIBUTE_PARAMETERS) {
  return backward({nullptr, nullptr, &weight, &bias, pointer_or_null(seed)},
                  {&sum, &stats, &grad_out, &grad_sum}, true, PI_ATTRIBUTES);
}

std::vector<Shape> InferShape(const Shape& hidden) { return {hidden, stats_shape(hidden)}; }
std::vector<Shape> InferShapeSum(const Shape& hidden) { return {hidden, hidden, stats_shape(hidden)}; }
std::vector<DataType> InferDtype(const DataType&) { return {DataType::FLOAT32, DataType::FLOAT32}; }
std::vector<DataType> InferDtypeSum(const DataType&) {
  return {DataType::FLOAT32, DataType::FLOAT32, DataType::FLOAT32};
}

// Elsewhere Paddle takes the shapes of gradients from the inputs, which these gradient operators lack.
std::vector<Shape> InferShapeSumGrad(const Shape& sum, const Shape& weight) { return {sum, sum, weight}; }
std::vector<Shape> InferShapeSumBiasGrad(const Shape& sum, const Shape& weight, const Shape& bias) {
  return {sum, sum, weight, bias};
}

#define PI_SEED paddle::Optional("Seed")
#define PI_ATTRIBUTE_NAMES {"is_rms: bool", "epsilon: float", "dropout_p: float"}
#define PI_FORWARD(kernel)                         \
  Outputs({"Out", "Stats"})                        \
      .Attrs(PI_ATTRIBUTE_NAMES)                   \
      .SetKernelFn(PD_KERNEL(kernel))              \
      .SetInferShapeFn(PD_INFER_SHAPE(InferShape)) \
      .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype))
#define PI_FORWARD_SUM(kernel)                        \
  Outputs({"Out", "Sum", "Stats"})                    \
      .Attrs(PI_ATTRIBUTE_NAMES)                      \
      .SetKernelFn(PD_KERNEL(kernel))                 \
      .SetInferShapeFn(PD_INFER_SHAPE(InferShapeSum)) \
      .SetInferDtypeFn(PD_INFER_DTYPE(InferDtypeSum))
#define PI_BACKWARD(kernel) Attrs(PI_ATTRIBUTE_NAMES).SetKernelFn(PD_KERNEL(kernel))

}  // namespace

PD_BUILD_OP(paddle_infra_norm).Inputs({"Hidden", "Weight", PI_SEED}).PI_FORWARD(Norm);
PD_BUILD_GRAD_OP(paddle_infra_norm)
    .Inputs({"Hidden", "Weight", PI_SEED, "Stats", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Weight")})
    .PI_BACKWARD(NormGrad);

PD_BUILD_OP(paddle_infra_norm_bias).Inputs({"Hidden", "Weight", "Bias", PI_SEED}).PI_FORWARD(NormBias);
PD_BUILD_GRAD_OP(paddle_infra_norm_bias)
    .Inputs({"Hidden", "Weight", "Bias", PI_SEED, "Stats", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .PI_BACKWARD(NormBiasGrad);

PD_BUILD_OP(paddle_infra_add_norm)
    .Inputs({"Hidden", "Residual", "Weight", PI_SEED})
    .PI_FORWARD(AddNorm<false>);
PD_BUILD_GRAD_OP(paddle_infra_add_norm)
    .Inputs({"Hidden", "Residual", "Weight", PI_SEED, "Stats", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Residual"), paddle::Grad("Weight")})
    .PI_BACKWARD(AddNormGrad);

PD_BUILD_OP(paddle_infra_add_norm_bias)
    .Inputs({"Hidden", "Residual", "Weight", "Bias", PI_SEED})
    .PI_FORWARD(AddNormBias<false>);
PD_BUILD_GRAD_OP(paddle_infra_add_norm_bias)
    .Inputs({"Hidden", "Residual", "Weight", "Bias", PI_SEED, "Stats", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Residual"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .PI_BACKWARD(AddNormBiasGrad);

PD_BUILD_OP(paddle_infra_add_norm_sum)
    .Inputs({"Hidden", "Residual", "Weight", PI_SEED})
    .PI_FORWARD_SUM(AddNorm<true>);
PD_BUILD_GRAD_OP(paddle_infra_add_norm_sum)
    .Inputs({"Sum", "Weight", PI_SEED, "Stats", paddle::Grad("Out"), paddle::Grad("Sum")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Residual"), paddle::Grad("Weight")})
    .PI_BACKWARD(AddNormSumGrad)
    .SetInferShapeFn(PD_INFER_SHAPE(InferShapeSumGrad));

PD_BUILD_OP(paddle_infra_add_norm_sum_bias)
    .Inputs({"Hidden", "Residual", "Weight", "Bias", PI_SEED})
    .PI_FORWARD_SUM(AddNormBias<true>);
PD_BUILD_GRAD_OP(paddle_infra_add_norm_sum_bias)
    .Inputs({"Sum", "Weight", "Bias", PI_SEED, "Stats", paddle::Grad("Out"), paddle::Grad("Sum")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Residual"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .PI_BACKWARD(AddNormSumBiasGrad)
    .SetInferShapeFn(PD_INFER_SHAPE(InferShapeSumBiasGrad));
