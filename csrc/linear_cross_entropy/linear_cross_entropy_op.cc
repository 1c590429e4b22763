// The losses of a linear layer as Paddle sees them.
//
// Two operators, with and without bias: Paddle's static graph cannot differentiate through an optional input.
// Each computes all the losses; for binary cross entropy Label holds the targets and ClassWeight the positive
// weights.
#include "linear_cross_entropy/linear_cross_entropy_op.h"

#include "common/same_memory.h"

namespace {

using paddle::DataType;
using paddle_infra::HeadAttributes;
using paddle_infra::HeadInputs;
using paddle_infra::LinearCrossEntropyParams;
using paddle_infra::make_params;
using paddle_infra::OptionalTensor;
using paddle_infra::pointer_or_null;
using paddle_infra::Reduction;
using paddle_infra::refuse;
using paddle_infra::require_at;
using paddle_infra::RowStats;
using paddle_infra::same_memory;
using paddle_infra::Shape;
using paddle_infra::Tensor;

constexpr int64_t kStats = sizeof(RowStats) / sizeof(float);

enum class Pass { kForward, kBackward };

// Runs the kernel for the device that holds the tensors. Workspace on a GPU is freed when this returns, while
// the kernels may still run: Paddle hands it out again on the same stream only, behind them.
void run(LinearCrossEntropyParams* p, const Tensor& hidden, Pass pass) {
  const bool is_forward = pass == Pass::kForward;
#ifdef PADDLE_WITH_CUDA
  if (hidden.is_gpu()) {
    const int64_t bytes = paddle_infra_linear_cross_entropy_cuda_workspace(p);
    const Tensor workspace = paddle_infra::allocate_workspace(bytes, p, hidden.place());
    const auto kernel =
        is_forward ? paddle_infra_linear_cross_entropy_cuda_fwd : paddle_infra_linear_cross_entropy_cuda_bwd;
    return paddle_infra::require_launched("linear_cross_entropy", kernel(p, hidden.stream()));
  }
#endif
  const int64_t bytes = paddle_infra_linear_cross_entropy_workspace(p);
  const Tensor workspace = paddle_infra::allocate_workspace(bytes, p, hidden.place());
  const auto kernel =
      is_forward ? paddle_infra_linear_cross_entropy_cpu_fwd : paddle_infra_linear_cross_entropy_cpu_bwd;
  kernel(p);
}

Shape loss_shape(const Shape& label, int reduction) {
  return static_cast<Reduction>(reduction) == Reduction::kNone ? label : Shape{};
}

Shape stats_shape(Shape hidden) {
  if (hidden.empty()) return hidden;  // refused when the operator runs
  hidden.back() = kStats;
  return hidden;
}

Shape or_empty(const Shape& shape, bool is_there) { return is_there ? shape : Shape{0}; }

Tensor gradient_of(const Tensor& tensor) {
  return paddle::empty(tensor.shape(), tensor.dtype(), tensor.place());
}

bool wants(const HeadAttributes& a, size_t gradient) {
  return gradient == 0 ? a.wants_grad_hidden : gradient == 1 ? a.wants_grad_weight : true;
}

// Points the kernel to the gradients that are wanted. What is in the others nobody reads.
void set_gradients(const std::vector<Tensor>& gradients, const HeadAttributes& a,
                   LinearCrossEntropyParams* p) {
  float** const to[] = {&p->grad_hidden, &p->grad_weight, &p->grad_bias};
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (wants(a, i) || !gradients[i].is_cpu()) {
      *to[i] = static_cast<float*>(const_cast<void*>(gradients[i].data()));
    }
  }
}

std::vector<Tensor> forward(const HeadInputs& in, const HeadAttributes& a) {
  const char* name = name_of(a);
  const Tensor& hidden = *in.hidden;
  LinearCrossEntropyParams p = make_params(in, a);
  is_binary(a) ? require_valid_targets(p, name) : require_valid_labels(p, *in.label, name);
  if (a.is_eager && (p.reduction == Reduction::kNone || !hidden.is_cpu())) {
    refuse(name, "gradients in the forward pass: only on the CPU and for one loss");
  }
  const auto place = hidden.place();
  Tensor loss = paddle::empty(loss_shape(in.label->shape(), a.reduction), DataType::FLOAT32, place);
  Tensor stats = paddle::empty(stats_shape(hidden.shape()), DataType::FLOAT32, place);
  Tensor state = paddle::full({1}, 0, DataType::INT32, paddle::CPUPlace());
  std::vector<Tensor> gradients;
  for (const Tensor* input : {in.hidden, in.weight, in.bias}) {
    if (input == nullptr) continue;
    const bool is_made = a.is_eager && wants(a, gradients.size());
    gradients.push_back(is_made ? gradient_of(*input) : paddle::empty({0}, DataType::FLOAT32, place));
  }
  p.loss = loss.data<float>();
  p.stats = reinterpret_cast<RowStats*>(stats.data<float>());
  if (a.is_eager) set_gradients(gradients, a, &p);
  run(&p, hidden, Pass::kForward);
  std::vector<Tensor> results = {loss, stats, state};
  results.insert(results.end(), gradients.begin(), gradients.end());
  return results;
}

// The gradients that the forward pass made are given away, so only once: their memory becomes that of the
// results, and whoever gets them may change them. A second backward pass computes anew.
std::vector<Tensor> take(const std::vector<Tensor>& made, const Tensor& state, float factor, int threads) {
  *const_cast<int32_t*>(state.data<int32_t>()) = 1;
  std::vector<Tensor> taken;
  for (const Tensor& gradient : made) {
    taken.push_back(same_memory(gradient));
    if (factor == 1.0f) continue;
    paddle_infra_linear_cross_entropy_scale_cpu(taken.back().data<float>(), gradient.numel(), factor,
                                                threads);
  }
  return taken;
}

std::vector<Tensor> backward(const HeadInputs& in, const Tensor& stats, const Tensor& state,
                             const std::vector<Tensor>& made, const Tensor& grad_loss,
                             const HeadAttributes& a) {
  const char* name = name_of(a);
  if (state.dtype() != DataType::INT32) {  // Paddle has freed what it kept, and hands in placeholders
    refuse(
        name,
        "a second backward pass through this loss: the first one must be told by retain_graph=True to keep "
        "what it needs");
  }
  LinearCrossEntropyParams p = make_params(in, a);
  require_at(name, "gradient of the loss", grad_loss, DataType::FLOAT32, in.hidden->place());
  std::vector<Tensor> gradients;
  if (a.is_eager && *state.data<int32_t>() == 0) {
    gradients = take(made, state, *grad_loss.data<float>(), p.threads);
    // Paddle insists on memory for gradients that nobody wants.
    if (!wants(a, 0)) gradients[0] = gradient_of(*in.hidden);
    if (!wants(a, 1)) gradients[1] = gradient_of(*in.weight);
    return gradients;
  }
  gradients = {gradient_of(*in.hidden), gradient_of(*in.weight)};
  if (in.bias != nullptr) gradients.push_back(gradient_of(*in.bias));
  set_gradients(gradients, a, &p);
  p.grad_loss = grad_loss.data<float>();
  p.stats = reinterpret_cast<RowStats*>(const_cast<float*>(stats.data<float>()));
  run(&p, *in.hidden, Pass::kBackward);
  return gradients;
}

#define PI_INPUTS(bias) \
  HeadInputs { &hidden, &weight, bias, &label, pointer_or_null(class_weight), pointer_or_null(token_weight) }
#define PI_ATTRIBUTE_PARAMETERS                                                                          \
  int kind, int64_t ignore_index, float label_smoothing, float z_loss, float softcap, float focal_gamma, \
      int reduction, int precision, bool weight_is_transposed, bool is_eager, bool wants_grad_hidden,    \
      bool wants_grad_weight
#define PI_ATTRIBUTES                                                                        \
  HeadAttributes {                                                                           \
    kind, ignore_index, label_smoothing, z_loss, softcap, focal_gamma, reduction, precision, \
        weight_is_transposed, is_eager, wants_grad_hidden, wants_grad_weight                 \
  }

std::vector<Tensor> Forward(const Tensor& hidden, const Tensor& weight, const Tensor& label,
                            const OptionalTensor& class_weight, const OptionalTensor& token_weight,
                            PI_ATTRIBUTE_PARAMETERS) {
  return forward(PI_INPUTS(nullptr), PI_ATTRIBUTES);
}

std::vector<Tensor> ForwardBias(const Tensor& hidden, const Tensor& weight, const Tensor& bias,
                                const Tensor& label, const OptionalTensor& class_weight,
                                const OptionalTensor& token_weight, PI_ATTRIBUTE_PARAMETERS) {
  return forward(PI_INPUTS(&bias), PI_ATTRIBUTES);
}

std::vector<Tensor> Backward(const Tensor& hidden, const Tensor& weight, const Tensor& label,
                             const OptionalTensor& class_weight, const OptionalTensor& token_weight,
                             const Tensor& stats, const Tensor& state, const Tensor& made_hidden,
                             const Tensor& made_weight, const Tensor& grad_loss, PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(nullptr), stats, state, {made_hidden, made_weight}, grad_loss, PI_ATTRIBUTES);
}

std::vector<Tensor> BackwardBias(const Tensor& hidden, const Tensor& weight, const Tensor& bias,
                                 const Tensor& label, const OptionalTensor& class_weight,
                                 const OptionalTensor& token_weight, const Tensor& stats, const Tensor& state,
                                 const Tensor& made_hidden, const Tensor& made_weight,
                                 const Tensor& made_bias, const Tensor& grad_loss, PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(&bias), stats, state, {made_hidden, made_weight, made_bias}, grad_loss,
                  PI_ATTRIBUTES);
}

std::vector<Shape> InferShape(const Shape& hidden, const Shape& weight, const Shape& label,
                              const paddle::optional<Shape>&, const paddle::optional<Shape>&, int, int64_t,
                              float, float, float, float, int reduction, int, bool, bool is_eager,
                              bool wants_hidden, bool wants_weight) {
  return {loss_shape(label, reduction),
          stats_shape(hidden),
          {1},
          or_empty(hidden, is_eager && wants_hidden),
          or_empty(weight, is_eager && wants_weight)};
}

std::vector<Shape> InferShapeBias(const Shape& hidden, const Shape& weight, const Shape& bias,
                                  const Shape& label, const paddle::optional<Shape>&,
                                  const paddle::optional<Shape>&, int, int64_t, float, float, float, float,
                                  int reduction, int, bool, bool is_eager, bool wants_hidden,
                                  bool wants_weight) {
  return {loss_shape(label, reduction),
          stats_shape(hidden),
          {1},
          or_empty(hidden, is_eager && wants_hidden),
          or_empty(weight, is_eager && wants_weight),
          or_empty(bias, is_eager)};
}

std::vector<DataType> InferDtype(const DataType&, const DataType&, const DataType&,
                                 const paddle::optional<DataType>&, const paddle::optional<DataType>&) {
  return {DataType::FLOAT32, DataType::FLOAT32, DataType::INT32, DataType::FLOAT32, DataType::FLOAT32};
}

std::vector<DataType> InferDtypeBias(const DataType&, const DataType&, const DataType&, const DataType&,
                                     const paddle::optional<DataType>&, const paddle::optional<DataType>&) {
  return {DataType::FLOAT32, DataType::FLOAT32, DataType::INT32,
          DataType::FLOAT32, DataType::FLOAT32, DataType::FLOAT32};
}

#define PI_ATTRIBUTE_NAMES                                                    \
  {"kind: int",      "ignore_index: int64_t",   "label_smoothing: float",     \
   "z_loss: float",  "softcap: float",          "focal_gamma: float",         \
   "reduction: int", "precision: int",          "weight_is_transposed: bool", \
   "is_eager: bool", "wants_grad_hidden: bool", "wants_grad_weight: bool"}

}  // namespace

PD_BUILD_OP(paddle_infra_linear_cross_entropy)
    .Inputs({"Hidden", "Weight", "Label", paddle::Optional("ClassWeight"), paddle::Optional("TokenWeight")})
    .Outputs({"Loss", "Stats", "State", "MadeHidden", "MadeWeight"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));

PD_BUILD_GRAD_OP(paddle_infra_linear_cross_entropy)
    .Inputs({"Hidden", "Weight", "Label", paddle::Optional("ClassWeight"), paddle::Optional("TokenWeight"),
             "Stats", "State", "MadeHidden", "MadeWeight", paddle::Grad("Loss")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Weight")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Backward));

PD_BUILD_OP(paddle_infra_linear_cross_entropy_bias)
    .Inputs({"Hidden", "Weight", "Bias", "Label", paddle::Optional("ClassWeight"),
             paddle::Optional("TokenWeight")})
    .Outputs({"Loss", "Stats", "State", "MadeHidden", "MadeWeight", "MadeBias"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(ForwardBias))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShapeBias))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtypeBias));

PD_BUILD_GRAD_OP(paddle_infra_linear_cross_entropy_bias)
    .Inputs({"Hidden", "Weight", "Bias", "Label", paddle::Optional("ClassWeight"),
             paddle::Optional("TokenWeight"), "Stats", "State", "MadeHidden", "MadeWeight", "MadeBias",
             paddle::Grad("Loss")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(BackwardBias));
