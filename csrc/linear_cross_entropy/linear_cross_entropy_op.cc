// The operators as Paddle sees them. The only file of this folder that includes Paddle.
//
// Two operators, with and without bias: Paddle's static graph cannot differentiate through an optional input.
#include <string>
#include <vector>

#include "linear_cross_entropy/linear_cross_entropy.h"
#include "paddle/common/enforce.h"
#include "paddle/phi/api/all.h"

namespace {

using paddle::DataType;
using paddle::Tensor;
using paddle_infra::LinearCrossEntropyParams;
using paddle_infra::Reduction;
using paddle_infra::RowStats;
using OptionalTensor = paddle::optional<Tensor>;
using Shape = std::vector<int64_t>;

constexpr int64_t kStats = sizeof(RowStats) / sizeof(float);

const float* pointer_or_null(const OptionalTensor& tensor) {
  return tensor ? tensor->data<float>() : nullptr;
}

// Not PD_CHECK or PD_THROW: inside a static program their exception ends the process, this one becomes a
// ValueError.
void require(bool holds, const std::string& expectation) {
  if (!holds) PADDLE_THROW(common::errors::InvalidArgument("linear_cross_entropy: %s", expectation));
}

bool has_kernel(const Tensor& hidden) {
#ifdef PADDLE_WITH_CUDA
  return hidden.is_cpu() || hidden.is_gpu();
#else
  return hidden.is_cpu();
#endif
}

void require_float32(const std::string& name, const Tensor& tensor, const paddle::Place& place) {
  require(tensor.place() == place, name + " must be in the memory of the same device as hidden");
  require(tensor.dtype() == DataType::FLOAT32, name + " must be float32");
}

struct Attributes {
  int64_t ignore_index;
  float label_smoothing, z_loss, softcap;
  int reduction;
  bool weight_is_transposed;
};

LinearCrossEntropyParams make_params(const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                                     const Tensor& label, const OptionalTensor& class_weight,
                                     const OptionalTensor& token_weight, const Attributes& attributes) {
  require(
      has_kernel(hidden),
      "hidden must be in CPU memory, or in GPU memory if this library was compiled with CUDA; there is no "
      "kernel for other devices: use the reference");
  const paddle::Place place = hidden.place();
  require_float32("hidden", hidden, place);
  require_float32("weight", weight, place);
  if (bias != nullptr) require_float32("bias", *bias, place);
  if (class_weight) require_float32("class_weight", *class_weight, place);
  if (token_weight) require_float32("token_weight", *token_weight, place);
  require(label.place() == place && label.dtype() == DataType::INT64,
          "label must be int64, in the memory of the same device as hidden");
  const bool transposed = attributes.weight_is_transposed;
  LinearCrossEntropyParams p{};
  p.hidden_size = hidden.shape().back();
  p.rows = label.numel();
  p.classes = weight.shape()[transposed ? 1 : 0];
  require(weight.shape()[transposed ? 0 : 1] == p.hidden_size && hidden.numel() == p.rows * p.hidden_size &&
              (bias == nullptr || bias->numel() == p.classes) &&
              (!class_weight || class_weight->numel() == p.classes) &&
              (!token_weight || token_weight->numel() == p.rows),
          "the shapes of hidden, weight, label and the options do not fit each other");
  p.hidden = hidden.data<float>();
  p.weight = weight.data<float>();
  p.bias = bias != nullptr ? bias->data<float>() : nullptr;
  p.label = label.data<int64_t>();
  p.class_weight = pointer_or_null(class_weight);
  p.token_weight = pointer_or_null(token_weight);
  p.weight_class_stride = transposed ? 1 : p.hidden_size;
  p.weight_feature_stride = transposed ? p.classes : 1;
  p.ignore_index = attributes.ignore_index;
  p.label_smoothing = attributes.label_smoothing;
  p.z_loss = attributes.z_loss;
  p.softcap = attributes.softcap;
  p.reduction = static_cast<Reduction>(attributes.reduction);
  return p;
}

Tensor allocate_workspace(LinearCrossEntropyParams* p, int64_t bytes, const paddle::Place& place) {
  constexpr int64_t kAlignment = 64;
  Tensor workspace = paddle::empty({bytes + kAlignment}, DataType::UINT8, place);
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  p->workspace = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  return workspace;
}

enum class Pass { kForward, kBackward };

// Runs the kernel for the device that holds the tensors.
void run(LinearCrossEntropyParams* p, const Tensor& hidden, Pass pass) {
#ifdef PADDLE_WITH_CUDA
  if (hidden.is_gpu()) {
    const int64_t bytes = paddle_infra_linear_cross_entropy_cuda_workspace(p);
    // Freed when this returns, while the kernels may still run: Paddle hands it out again on this stream
    // only.
    const Tensor workspace = allocate_workspace(p, bytes, hidden.place());
    const auto kernel = pass == Pass::kForward ? paddle_infra_linear_cross_entropy_cuda_fwd
                                               : paddle_infra_linear_cross_entropy_cuda_bwd;
    const char* error = kernel(p, hidden.stream());
    if (error != nullptr) {
      PADDLE_THROW(
          common::errors::External("linear_cross_entropy: launching the CUDA kernels failed: %s", error));
    }
    return;
  }
#endif
  const int64_t bytes = paddle_infra_linear_cross_entropy_workspace(p);
  const Tensor workspace = allocate_workspace(p, bytes, hidden.place());
  const auto kernel = pass == Pass::kForward ? paddle_infra_linear_cross_entropy_cpu_fwd
                                             : paddle_infra_linear_cross_entropy_cpu_bwd;
  kernel(p);
}

// Kernels rely on it: a label that is no class would be read outside the arrays.
void require_valid_labels(LinearCrossEntropyParams p, const Tensor& label) {
  const Tensor on_cpu = label.is_cpu() ? label : label.copy_to(paddle::CPUPlace(), true);
  p.label = on_cpu.data<int64_t>();
  const int64_t bad = paddle_infra_linear_cross_entropy_bad_row(&p);
  if (bad < 0) return;
  require(false, "label[" + std::to_string(bad) + "] is " + std::to_string(p.label[bad]) +
                     "; expected ignore_index (" + std::to_string(p.ignore_index) + ") or a class in [0, " +
                     std::to_string(p.classes) + ")");
}

Shape loss_shape(const Shape& label_shape, int reduction) {
  return static_cast<Reduction>(reduction) == Reduction::kNone ? label_shape : Shape{};
}

Shape stats_shape(Shape label_shape) {
  label_shape.push_back(kStats);
  return label_shape;
}

std::vector<Tensor> forward(const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                            const Tensor& label, const OptionalTensor& class_weight,
                            const OptionalTensor& token_weight, const Attributes& attributes) {
  LinearCrossEntropyParams p =
      make_params(hidden, weight, bias, label, class_weight, token_weight, attributes);
  require_valid_labels(p, label);
  const auto place = hidden.place();
  Tensor loss = paddle::empty(loss_shape(label.shape(), attributes.reduction), DataType::FLOAT32, place);
  Tensor stats = paddle::empty(stats_shape(label.shape()), DataType::FLOAT32, place);
  p.loss = loss.data<float>();
  p.stats = reinterpret_cast<RowStats*>(stats.data<float>());
  run(&p, hidden, Pass::kForward);
  return {loss, stats};
}

std::vector<Tensor> backward(const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                             const Tensor& label, const OptionalTensor& class_weight,
                             const OptionalTensor& token_weight, const Tensor& stats, const Tensor& grad_loss,
                             const Attributes& attributes) {
  LinearCrossEntropyParams p =
      make_params(hidden, weight, bias, label, class_weight, token_weight, attributes);
  const auto place = hidden.place();
  require_float32("the gradient of the loss", grad_loss, place);
  std::vector<Tensor> gradients = {paddle::empty(hidden.shape(), DataType::FLOAT32, place),
                                   paddle::empty(weight.shape(), DataType::FLOAT32, place)};
  p.grad_hidden = gradients[0].data<float>();
  p.grad_weight = gradients[1].data<float>();
  if (bias != nullptr) {
    gradients.push_back(paddle::empty(bias->shape(), DataType::FLOAT32, place));
    p.grad_bias = gradients[2].data<float>();
  }
  p.grad_loss = grad_loss.data<float>();
  p.stats = reinterpret_cast<RowStats*>(const_cast<float*>(stats.data<float>()));
  run(&p, hidden, Pass::kBackward);
  return gradients;
}

#define PI_ATTRIBUTE_PARAMETERS                                                            \
  int64_t ignore_index, float label_smoothing, float z_loss, float softcap, int reduction, \
      bool weight_is_transposed
#define PI_ATTRIBUTES \
  Attributes { ignore_index, label_smoothing, z_loss, softcap, reduction, weight_is_transposed }

std::vector<Tensor> Forward(const Tensor& hidden, const Tensor& weight, const Tensor& label,
                            const OptionalTensor& class_weight, const OptionalTensor& token_weight,
                            PI_ATTRIBUTE_PARAMETERS) {
  return forward(hidden, weight, nullptr, label, class_weight, token_weight, PI_ATTRIBUTES);
}

std::vector<Tensor> ForwardBias(const Tensor& hidden, const Tensor& weight, const Tensor& bias,
                                const Tensor& label, const OptionalTensor& class_weight,
                                const OptionalTensor& token_weight, PI_ATTRIBUTE_PARAMETERS) {
  return forward(hidden, weight, &bias, label, class_weight, token_weight, PI_ATTRIBUTES);
}

std::vector<Tensor> Backward(const Tensor& hidden, const Tensor& weight, const Tensor& label,
                             const OptionalTensor& class_weight, const OptionalTensor& token_weight,
                             const Tensor& stats, const Tensor& grad_loss, PI_ATTRIBUTE_PARAMETERS) {
  return backward(hidden, weight, nullptr, label, class_weight, token_weight, stats, grad_loss,
                  PI_ATTRIBUTES);
}

std::vector<Tensor> BackwardBias(const Tensor& hidden, const Tensor& weight, const Tensor& bias,
                                 const Tensor& label, const OptionalTensor& class_weight,
                                 const OptionalTensor& token_weight, const Tensor& stats,
                                 const Tensor& grad_loss, PI_ATTRIBUTE_PARAMETERS) {
  return backward(hidden, weight, &bias, label, class_weight, token_weight, stats, grad_loss, PI_ATTRIBUTES);
}

std::vector<Shape> InferShape(const Shape&, const Shape&, const Shape& label, const paddle::optional<Shape>&,
                              const paddle::optional<Shape>&, int64_t, float, float, float, int reduction,
                              bool) {
  return {loss_shape(label, reduction), stats_shape(label)};
}

std::vector<Shape> InferShapeBias(const Shape&, const Shape&, const Shape&, const Shape& label,
                                  const paddle::optional<Shape>&, const paddle::optional<Shape>&, int64_t,
                                  float, float, float, int reduction, bool) {
  return {loss_shape(label, reduction), stats_shape(label)};
}

std::vector<DataType> InferDtype(const DataType&, const DataType&, const DataType&,
                                 const paddle::optional<DataType>&, const paddle::optional<DataType>&) {
  return {DataType::FLOAT32, DataType::FLOAT32};
}

std::vector<DataType> InferDtypeBias(const DataType&, const DataType&, const DataType&, const DataType&,
                                     const paddle::optional<DataType>&, const paddle::optional<DataType>&) {
  return {DataType::FLOAT32, DataType::FLOAT32};
}

#define PI_ATTRIBUTE_NAMES                                             \
  {"ignore_index: int64_t", "label_smoothing: float", "z_loss: float", \
   "softcap: float",        "reduction: int",         "weight_is_transposed: bool"}

}  // namespace

PD_BUILD_OP(paddle_infra_linear_cross_entropy)
    .Inputs({"Hidden", "Weight", "Label", paddle::Optional("ClassWeight"), paddle::Optional("TokenWeight")})
    .Outputs({"Loss", "Stats"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));

PD_BUILD_GRAD_OP(paddle_infra_linear_cross_entropy)
    .Inputs({"Hidden", "Weight", "Label", paddle::Optional("ClassWeight"), paddle::Optional("TokenWeight"),
             "Stats", paddle::Grad("Loss")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Weight")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Backward));

PD_BUILD_OP(paddle_infra_linear_cross_entropy_bias)
    .Inputs({"Hidden", "Weight", "Bias", "Label", paddle::Optional("ClassWeight"),
             paddle::Optional("TokenWeight")})
    .Outputs({"Loss", "Stats"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(ForwardBias))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShapeBias))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtypeBias));

PD_BUILD_GRAD_OP(paddle_infra_linear_cross_entropy_bias)
    .Inputs({"Hidden", "Weight", "Bias", "Label", paddle::Optional("ClassWeight"),
             paddle::Optional("TokenWeight"), "Stats", paddle::Grad("Loss")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(BackwardBias));
