// The operators that training uses, as Paddle sees them.
//
// Two of them: in a static program an optional input cannot have a gradient, so a bias with one is a required
// input of its own operator.
#include "attention/attention_op.h"

#include <cmath>

#include "attention/attention_cuda.h"

namespace {

using paddle::DataType;
using paddle_infra::allocate_workspace;
using paddle_infra::AttentionAttributes;
using paddle_infra::AttentionInputs;
using paddle_infra::AttentionParams;
using paddle_infra::AttentionRowStats;
using paddle_infra::full_of;
using paddle_infra::OptionalTensor;
using paddle_infra::pointer_or_null;
using paddle_infra::require_launched;
using paddle_infra::Shape;
using paddle_infra::Tensor;

Shape stats_shape(const Shape& q) {
  Shape shape = paddle_infra::lse_shape(q);
  shape.push_back(sizeof(AttentionRowStats) / sizeof(float));
  return shape;
}

const char* name_of(const AttentionInputs& in) {
  return in.cu_seqlens_q != nullptr ? "attention_varlen" : "attention";
}

// Where the tensors are. Workspace on a GPU is freed when this returns, while kernels may still run: Paddle
// hands it out again on the same stream only, behind them.
void run_forward([[maybe_unused]] const char* name, const Tensor& q, AttentionParams* p) {
#ifdef PADDLE_WITH_CUDA
  if (q.is_gpu()) return require_launched(name, paddle_infra_attention_cuda_fwd(p, q.stream()));
#endif
  const Tensor workspace = allocate_workspace(paddle_infra_attention_cpu_fwd_workspace(p), p, q.place());
  paddle_infra_attention_cpu_fwd(p);
}

void run_backward([[maybe_unused]] const char* name, const Tensor& q, AttentionParams* p) {
#ifdef PADDLE_WITH_CUDA
  if (q.is_gpu()) {
    const Tensor workspace = allocate_workspace(paddle_infra_attention_cuda_bwd_workspace(p), p, q.place());
    return require_launched(name, paddle_infra_attention_cuda_bwd(p, q.stream()));
  }
#endif
  const Tensor workspace = allocate_workspace(paddle_infra_attention_cpu_bwd_workspace(p), p, q.place());
  paddle_infra_attention_cpu_bwd(p);
}

std::vector<Tensor> forward(const AttentionInputs& in, const AttentionAttributes& attributes) {
  const char* name = name_of(in);
  AttentionParams p = paddle_infra::make_params(name, in, attributes);
  const Shape q = in.q->shape();
  const auto place = in.q->place();
  const Shape of_lse = paddle_infra::lse_shape(q);
  if (paddle_infra::is_empty(in)) {
    return {full_of(0.0f, q, in.q->dtype(), place), full_of(-INFINITY, of_lse, DataType::FLOAT32, place),
            full_of(0.0f, stats_shape(q), DataType::FLOAT32, place)};
  }
  Tensor out = paddle::empty(q, in.q->dtype(), place);
  Tensor lse = paddle::empty(of_lse, DataType::FLOAT32, place);
  Tensor stats = paddle::empty(stats_shape(q), DataType::FLOAT32, place);
  p.o = out.data();
  p.stats = reinterpret_cast<AttentionRowStats*>(stats.data<float>());
  p.lse = lse.data<float>();
  paddle_infra::set_lse_strides(lse.shape(), &p);
  run_forward(name, *in.q, &p);
  return {out, lse, stats};
}

// Paddle leaves the gradient of a result undefined or makes zeros if nothing was computed from that result.
void set_upstream(const char* name, const AttentionInputs& in, const Tensor& grad_out, const Tensor& grad_lse,
                  Tensor* zeros, AttentionParams* p) {
  const Shape lse = paddle_infra::lse_shape(in.q->shape());
  if (grad_out.initialized()) {
    paddle_infra::require_like(name, "gradient of out", grad_out, in.q->dtype(), in.q->shape(),
                               in.q->place());
    p->grad_o = grad_out.data();
  } else {
    *zeros = full_of(0.0f, in.q->shape(), in.q->dtype(), in.q->place());
    p->grad_o = zeros->data();
  }
  if (grad_lse.initialized()) {
    paddle_infra::require_like(name, "gradient of lse", grad_lse, DataType::FLOAT32, lse, in.q->place());
    p->grad_lse = grad_lse.data<float>();
  }
  paddle_infra::set_lse_strides(lse, p);
}

std::vector<Tensor> backward(const AttentionInputs& in, bool with_grad_bias, const Tensor& out,
                             const Tensor& stats, const Tensor& grad_out, const Tensor& grad_lse,
                             const AttentionAttributes& attributes) {
  const char* name = name_of(in);
  AttentionParams p = paddle_infra::make_params(name, in, attributes);
  std::vector<Tensor> gradients;
  const bool is_empty = paddle_infra::is_empty(in);
  for (const Tensor* input : {in.q, in.k, in.v, with_grad_bias ? in.bias : nullptr}) {
    if (input == nullptr) continue;
    gradients.push_back(is_empty ? full_of(0.0f, input->shape(), input->dtype(), input->place())
                                 : paddle::empty(input->shape(), input->dtype(), input->place()));
  }
  if (is_empty) return gradients;
  paddle_infra::require_like(name, "out", out, in.q->dtype(), in.q->shape(), in.q->place());
  paddle_infra::require_like(name, "stats", stats, DataType::FLOAT32, stats_shape(in.q->shape()),
                             in.q->place());
  Tensor zeros;
  set_upstream(name, in, grad_out, grad_lse, &zeros, &p);
  p.o = const_cast<void*>(out.data());
  p.stats = reinterpret_cast<AttentionRowStats*>(const_cast<float*>(stats.data<float>()));
  p.grad_q = gradients[0].data();
  p.grad_k = gradients[1].data();
  p.grad_v = gradients[2].data();
  if (with_grad_bias) p.grad_bias = gradients[3].data<float>();
  run_backward(name, *in.q, &p);
  return gradients;
}

#define PI_OPTION_PARAMETERS                                                                               \
  const OptionalTensor &cu_seqlens_q, const OptionalTensor &cu_seqlens_k, const OptionalTensor &q_lengths, \
      const OptionalTensor &kv_lengths, const OptionalTensor &alibi_slopes, const OptionalTensor &seed
#define PI_INPUTS(bias)                                                                         \
  AttentionInputs {                                                                             \
    &q, &k, &v, bias, pointer_or_null(cu_seqlens_q), pointer_or_null(cu_seqlens_k),             \
        pointer_or_null(q_lengths), pointer_or_null(kv_lengths), pointer_or_null(alibi_slopes), \
        pointer_or_null(seed)                                                                   \
  }
#define PI_ATTRIBUTE_PARAMETERS                                                                          \
  int64_t window_left, int64_t window_right, float scale, float softcap, float dropout_p, int precision, \
      int64_t max_seqlen_q, int64_t max_seqlen_k
#define PI_ATTRIBUTES                                                                           \
  AttentionAttributes {                                                                         \
    window_left, window_right, scale, softcap, dropout_p, precision, max_seqlen_q, max_seqlen_k \
  }

std::vector<Tensor> Forward(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& mask,
                            PI_OPTION_PARAMETERS, PI_ATTRIBUTE_PARAMETERS) {
  return forward(PI_INPUTS(pointer_or_null(mask)), PI_ATTRIBUTES);
}

std::vector<Tensor> ForwardBias(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias,
                                PI_OPTION_PARAMETERS, PI_ATTRIBUTE_PARAMETERS) {
  paddle_infra::require_at("attention", "bias", bias, DataType::FLOAT32, q.place());
  return forward(PI_INPUTS(&bias), PI_ATTRIBUTES);
}

std::vector<Tensor> Backward(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& mask,
                             PI_OPTION_PARAMETERS, const Tensor& out, const Tensor& stats,
                             const Tensor& grad_out, const Tensor& grad_lse, PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(pointer_or_null(mask)), false, out, stats, grad_out, grad_lse, PI_ATTRIBUTES);
}

std::vector<Tensor> BackwardBias(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias,
                                 PI_OPTION_PARAMETERS, const Tensor& out, const Tensor& stats,
                                 const Tensor& grad_out, const Tensor& grad_lse, PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(&bias), true, out, stats, grad_out, grad_lse, PI_ATTRIBUTES);
}

// Shapes and dtypes of all results follow from q alone.
std::vector<Shape> InferShape(const Shape& q) { return {q, paddle_infra::lse_shape(q), stats_shape(q)}; }

std::vector<DataType> InferDtype(const DataType& q) { return {q, DataType::FLOAT32, DataType::FLOAT32}; }

#define PI_OPTION_NAMES                                                                         \
  paddle::Optional("CuSeqlensQ"), paddle::Optional("CuSeqlensK"), paddle::Optional("QLengths"), \
      paddle::Optional("KvLengths"), paddle::Optional("AlibiSlopes"), paddle::Optional("Seed")
#define PI_ATTRIBUTE_NAMES                                                                     \
  {"window_left: int64_t", "window_right: int64_t", "scale: float",          "softcap: float", \
   "dropout_p: float",     "precision: int",        "max_seqlen_q: int64_t", "max_seqlen_k: int64_t"}

}  // namespace

PD_BUILD_OP(paddle_infra_attention)
    .Inputs({"Q", "K", "V", paddle::Optional("Mask"), PI_OPTION_NAMES})
    .Outputs({"Out", "Lse", "Stats"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));

PD_BUILD_GRAD_OP(paddle_infra_attention)
    .Inputs({"Q", "K", "V", paddle::Optional("Mask"), PI_OPTION_NAMES, "Out", "Stats", paddle::Grad("Out"),
             paddle::Grad("Lse")})
    .Outputs({paddle::Grad("Q"), paddle::Grad("K"), paddle::Grad("V")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(Backward));

PD_BUILD_OP(paddle_infra_attention_bias)
    .Inputs({"Q", "K", "V", "Bias", PI_OPTION_NAMES})
    .Outputs({"Out", "Lse", "Stats"})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(ForwardBias))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));

PD_BUILD_GRAD_OP(paddle_infra_attention_bias)
    .Inputs({"Q", "K", "V", "Bias", PI_OPTION_NAMES, "Out", "Stats", paddle::Grad("Out"),
             paddle::Grad("Lse")})
    .Outputs({paddle::Grad("Q"), paddle::Grad("K"), paddle::Grad("V"), paddle::Grad("Bias")})
    .Attrs(PI_ATTRIBUTE_NAMES)
    .SetKernelFn(PD_KERNEL(BackwardBias));
