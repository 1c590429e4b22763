// The operators as Paddle sees them. The only file of this folder that includes Paddle.
//
// Two operators, with and without bias: Paddle's static graph cannot differentiate through an optional input.
// Each computes all the losses; for binary cross entropy Label holds the targets and ClassWeight the positive
// weights.
#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/same_memory.h"
#include "common/thread_count.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

namespace {

using paddle::DataType;
using paddle_infra::HeadLoss;
using paddle_infra::LinearCrossEntropyParams;
using paddle_infra::OptionalTensor;
using paddle_infra::Reduction;
using paddle_infra::refuse;
using paddle_infra::RowStats;
using paddle_infra::same_memory;
using paddle_infra::Shape;
using paddle_infra::Tensor;
using paddle_infra::text_of;

constexpr int64_t kStats = sizeof(RowStats) / sizeof(float);

struct Attributes {
  int kind;
  int64_t ignore_index;
  float label_smoothing, z_loss, softcap, focal_gamma;
  int reduction, precision;
  bool weight_is_transposed;
  bool is_eager;                              // the forward pass makes the gradients too
  bool wants_grad_hidden, wants_grad_weight;  // on a GPU both are made
};

bool is_binary(const Attributes& a) { return static_cast<HeadLoss>(a.kind) == HeadLoss::kBinary; }

const char* name_of(const Attributes& a) {
  constexpr const char* kNames[] = {"linear_cross_entropy", "linear_focal", "linear_binary_cross_entropy"};
  return a.kind >= 0 && a.kind < 3 ? kNames[a.kind] : kNames[0];
}

bool has_kernel(const Tensor& hidden, const Attributes& a) {
#ifdef PADDLE_WITH_CUDA
  if (hidden.is_gpu()) return a.kind == 0;
#endif
  (void)a;
  return hidden.is_cpu();
}

void require_tensor(const char* name, const char* what, const Tensor& tensor, const paddle::Place& place,
                    DataType dtype) {
  if (tensor.place() != place) refuse(name, what, " must be in the memory of the same device as hidden");
  if (tensor.dtype() != dtype) refuse(name, what, ": expected ", dtype, ", got ", tensor.dtype());
}

void require_attributes(const char* name, const Attributes& a) {
  if (a.kind < 0 || a.kind > 2) refuse(name, "kind: expected 0, 1 or 2, got ", a.kind);
  if (a.reduction < 0 || a.reduction > 2) refuse(name, "reduction: expected 0, 1 or 2, got ", a.reduction);
  if (a.precision != 0 && a.precision != 1) {
    refuse(name, "precision: expected 0 (highest) or 1 (medium), got ", a.precision);
  }
}

LinearCrossEntropyParams make_params(const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                                     const Tensor& label, const OptionalTensor& class_weight,
                                     const OptionalTensor& token_weight, const Attributes& a) {
  const char* name = name_of(a);
  if (const char* error = paddle_infra_isa_error()) refuse(name, error);
  require_attributes(name, a);
  if (!has_kernel(hidden, a)) {
    refuse(name,
           "hidden must be in CPU memory, or for cross entropy in GPU memory if this library was compiled "
           "with CUDA; there is no kernel for other devices: use the reference");
  }
  const paddle::Place place = hidden.place();
  require_tensor(name, "hidden", hidden, place, DataType::FLOAT32);
  require_tensor(name, "weight", weight, place, DataType::FLOAT32);
  require_tensor(name, is_binary(a) ? "target" : "label", label, place,
                 is_binary(a) ? DataType::FLOAT32 : DataType::INT64);
  if (bias != nullptr) require_tensor(name, "bias", *bias, place, DataType::FLOAT32);
  if (class_weight) require_tensor(name, "class_weight", *class_weight, place, DataType::FLOAT32);
  if (token_weight) require_tensor(name, "token_weight", *token_weight, place, DataType::FLOAT32);
  const Shape h = hidden.shape(), w = weight.shape();
  const bool transposed = a.weight_is_transposed;
  if (h.empty() || h.back() == 0 || w.size() != 2 || w[0] == 0 || w[1] == 0) {
    refuse(name, "hidden and weight: expected [..., D] and two dimensions, none of them 0, got ", text_of(h),
           " and ", text_of(w));
  }
  LinearCrossEntropyParams p{};
  p.hidden_size = h.back();
  p.rows = hidden.numel() / p.hidden_size;
  p.classes = w[transposed ? 1 : 0];
  const Shape rows(h.begin(), h.end() - 1), per_class{p.classes};
  Shape label_shape = rows;
  if (is_binary(a)) label_shape.push_back(p.classes);
  const bool fits = w[transposed ? 0 : 1] == p.hidden_size && label.shape() == label_shape &&
                    (bias == nullptr || bias->shape() == per_class) &&
                    (!class_weight || class_weight->shape() == per_class) &&
                    (!token_weight || token_weight->shape() == rows);
  if (!fits) refuse(name, "the shapes of hidden, weight, label and the options do not fit each other");
  p.hidden = hidden.data<float>();
  p.weight = weight.data<float>();
  p.bias = bias != nullptr ? bias->data<float>() : nullptr;
  if (is_binary(a)) {
    p.target = label.data<float>();
  } else {
    p.label = label.data<int64_t>();
  }
  p.class_weight = class_weight ? class_weight->data<float>() : nullptr;
  p.token_weight = token_weight ? token_weight->data<float>() : nullptr;
  p.weight_class_stride = transposed ? 1 : p.hidden_size;
  p.weight_feature_stride = transposed ? p.classes : 1;
  p.ignore_index = a.ignore_index;
  p.label_smoothing = a.label_smoothing;
  p.z_loss = a.z_loss;
  p.softcap = a.softcap;
  p.focal_gamma = a.focal_gamma;
  p.reduction = static_cast<Reduction>(a.reduction);
  p.kind = static_cast<HeadLoss>(a.kind);
  p.precision = static_cast<paddle_infra::MatmulPrecision>(a.precision);
  p.threads = paddle_infra_thread_count();
  return p;
}

enum class Pass { kForward, kBackward };

// Runs the kernel for the device that holds the tensors.
void run(LinearCrossEntropyParams* p, const Tensor& hidden, Pass pass) {
#ifdef PADDLE_WITH_CUDA
  if (hidden.is_gpu()) {
    const int64_t bytes = paddle_infra_linear_cross_entropy_cuda_workspace(p);
    // Freed when this returns, while the kernels may still run: Paddle hands it out again on this stream
    // only.
    const Tensor workspace = paddle_infra::allocate_workspace(bytes, p, hidden.place());
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
  const Tensor workspace = paddle_infra::allocate_workspace(bytes, p, hidden.place());
  const auto kernel = pass == Pass::kForward ? paddle_infra_linear_cross_entropy_cpu_fwd
                                             : paddle_infra_linear_cross_entropy_cpu_bwd;
  kernel(p);
}

// Kernels rely on it: a label that is no class would be read outside the arrays.
void require_valid_labels(LinearCrossEntropyParams p, const Tensor& label, const char* name) {
  const Tensor on_cpu = label.is_cpu() ? label : label.copy_to(paddle::CPUPlace(), true);
  p.label = on_cpu.data<int64_t>();
  const int64_t bad = paddle_infra_linear_cross_entropy_bad_row(&p);
  if (bad < 0) return;
  refuse(name, "label[", bad, "] is ", p.label[bad], "; expected ignore_index (", p.ignore_index,
         ") or a class in [0, ", p.classes, ")");
}

// The same for targets, whose meaning ends outside of [0, 1].
void require_valid_targets(LinearCrossEntropyParams p, const char* name) {
  const int64_t bad = paddle_infra_linear_cross_entropy_bad_target(&p);
  if (bad < 0) return;
  refuse(name, "target of row ", bad / p.classes, ", class ", bad % p.classes, " is ", p.target[bad],
         "; expected a number in [0, 1]");
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
  return paddle::empty(tensor.shape(), DataType::FLOAT32, tensor.place());
}

bool wants(const Attributes& a, size_t gradient) {
  return gradient == 0 ? a.wants_grad_hidden : gradient == 1 ? a.wants_grad_weight : true;
}

// Points the kernel to the gradients that are wanted. What is in the others nobody reads.
void set_gradients(const std::vector<Tensor>& gradients, const Attributes& a, LinearCrossEntropyParams* p) {
  float** const to[] = {&p->grad_hidden, &p->grad_weight, &p->grad_bias};
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (wants(a, i) || !gradients[i].is_cpu()) *to[i] = const_cast<float*>(gradients[i].data<float>());
  }
}

std::vector<Tensor> forward(const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                            const Tensor& label, const OptionalTensor& class_weight,
                            const OptionalTensor& token_weight, const Attributes& a) {
  LinearCrossEntropyParams p = make_params(hidden, weight, bias, label, class_weight, token_weight, a);
  is_binary(a) ? require_valid_targets(p, name_of(a)) : require_valid_labels(p, label, name_of(a));
  if (a.is_eager && (p.reduction == Reduction::kNone || !hidden.is_cpu())) {
    refuse(name_of(a), "gradients in the forward pass: only on the CPU and for one loss");
  }
  const auto place = hidden.place();
  Tensor loss = paddle::empty(loss_shape(label.shape(), a.reduction), DataType::FLOAT32, place);
  Tensor stats = paddle::empty(stats_shape(hidden.shape()), DataType::FLOAT32, place);
  Tensor state = paddle::full({1}, 0, DataType::INT32, paddle::CPUPlace());
  std::vector<Tensor> gradients;
  for (const Tensor* input : {&hidden, &weight, bias}) {
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

std::vector<Tensor> backward(const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                             const Tensor& label, const OptionalTensor& class_weight,
                             const OptionalTensor& token_weight, const Tensor& stats, const Tensor& state,
                             const std::vector<Tensor>& made, const Tensor& grad_loss, const Attributes& a) {
  if (state.dtype() != DataType::INT32) {  // Paddle has freed what it kept, and hands in placeholders
    refuse(
        name_of(a),
        "a second backward pass through this loss: the first one must be told by retain_graph=True to keep "
        "what it needs");
  }
  LinearCrossEntropyParams p = make_params(hidden, weight, bias, label, class_weight, token_weight, a);
  require_tensor(name_of(a), "the gradient of the loss", grad_loss, hidden.place(), DataType::FLOAT32);
  std::vector<Tensor> gradients;
  if (a.is_eager && *state.data<int32_t>() == 0) {
    gradients = take(made, state, *grad_loss.data<float>(), p.threads);
    // Paddle insists on memory for gradients that nobody wants.
    if (!wants(a, 0)) gradients[0] = gradient_of(hidden);
    if (!wants(a, 1)) gradients[1] = gradient_of(weight);
    return gradients;
  }
  gradients = {gradient_of(hidden), gradient_of(weight)};
  if (bias != nullptr) gradients.push_back(gradient_of(*bias));
  set_gradients(gradients, a, &p);
  p.grad_loss = grad_loss.data<float>();
  p.stats = reinterpret_cast<RowStats*>(const_cast<float*>(stats.data<float>()));
  run(&p, hidden, Pass::kBackward);
  return gradients;
}

#define PI_ATTRIBUTE_PARAMETERS                                                                          \
  int kind, int64_t ignore_index, float label_smoothing, float z_loss, float softcap, float focal_gamma, \
      int reduction, int precision, bool weight_is_transposed, bool is_eager, bool wants_grad_hidden,    \
      bool wants_grad_weight
#define PI_ATTRIBUTES                                                                        \
  Attributes {                                                                               \
    kind, ignore_index, label_smoothing, z_loss, softcap, focal_gamma, reduction, precision, \
        weight_is_transposed, is_eager, wants_grad_hidden, wants_grad_weight                 \
  }

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
                             const Tensor& stats, const Tensor& state, const Tensor& made_hidden,
                             const Tensor& made_weight, const Tensor& grad_loss, PI_ATTRIBUTE_PARAMETERS) {
  return backward(hidden, weight, nullptr, label, class_weight, token_weight, stats, state,
                  {made_hidden, made_weight}, grad_loss, PI_ATTRIBUTES);
}

std::vector<Tensor> BackwardBias(const Tensor& hidden, const Tensor& weight, const Tensor& bias,
                                 const Tensor& label, const OptionalTensor& class_weight,
                                 const OptionalTensor& token_weight, const Tensor& stats, const Tensor& state,
                                 const Tensor& made_hidden, const Tensor& made_weight,
                                 const Tensor& made_bias, const Tensor& grad_loss, PI_ATTRIBUTE_PARAMETERS) {
  return backward(hidden, weight, &bias, label, class_weight, token_weight, stats, state,
                  {made_hidden, made_weight, made_bias}, grad_loss, PI_ATTRIBUTES);
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
