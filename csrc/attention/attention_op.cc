// The operators that training uses, as Paddle sees them.
//
// Two of them: in a static program an optional input cannot have a gradient, so a bias with one is a required
// input of its own operator.
#include "attention/attention_op.h"

#include <cmath>

namespace {

using paddle::DataType;
using paddle_infra::AttentionAttributes;
using paddle_infra::AttentionInputs;
using paddle_infra::AttentionParams;
using paddle_infra::AttentionRowStats;
using paddle_infra::OptionalTensor;
using paddle_infra::pointer_or_null;
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

std::vector<Tensor> forward(const AttentionInputs& in, const AttentionAttributes& attributes) {
  const char* name = name_of(in);
  AttentionParams p = paddle_infra::make_params(name, in, attributes);
  const Shape q = in.q->shape();
  const auto place = in.q->place();
  Tensor out = paddle::empty(q, in.q->dtype(), place);
  Tensor lse = paddle::empty(paddle_infra::lse_shape(q), DataType::FLOAT32, place);
  Tensor stats = paddle::empty(stats_shape(q), DataType::FLOAT32, place);
  if (paddle_infra::is_empty(in)) {
    paddle_infra::fill_zero(&out);
    paddle_infra::fill_zero(&stats);
    std::fill_n(lse.data<float>(), lse.numel(), -INFINITY);
    return {out, lse, stats};
  }
  p.o = out.data();
  p.stats = reinterpret_cast<AttentionRowStats*>(stats.data<float>());
  p.lse = lse.data<float>();
  paddle_infra::set_lse_strides(lse.shape(), &p);
  const Tensor workspace = paddle_infra::allocate_workspace(paddle_infra_attention_cpu_fwd_workspace(&p), &p);
  paddle_infra_attention_cpu_fwd(&p);
  return {out, lse, stats};
}

// Paddle leaves the gradient of a result undefined or makes zeros if nothing was computed from that result.
void set_upstream(const char* name, const AttentionInputs& in, const Tensor& grad_out, const Tensor& grad_lse,
                  Tensor* zeros, AttentionParams* p) {
  const Shape lse = paddle_infra::lse_shape(in.q->shape());
  if (grad_out.initialized()) {
    paddle_infra::require_like(name, "gradient of out", grad_out, in.q->dtype(), in.q->shape());
    p->grad_o = grad_out.data();
  } else {
    *zeros = paddle::empty(in.q->shape(), in.q->dtype(), in.q->place());
    paddle_infra::fill_zero(zeros);
    p->grad_o = zeros->data();
  }
  if (grad_lse.initialized()) {
    paddle_infra::require_like(name, "gradient of lse", grad_lse, DataType::FLOAT32, lse);
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
  for (const Tensor* input : {in.q, in.k, in.v, with_grad_bias ? in.bias : nullptr}) {
    if (input != nullptr) {
      gradients.push_back(paddle::empty(input->shape(), input->dtype(), input->place()));
    }
  }
  if (paddle_infra::is_empty(in)) {
    for (Tensor& gradient : gradients) paddle_infra::fill_zero(&gradient);
    return gradients;
  }
  paddle_infra::require_like(name, "out", out, in.q->dtype(), in.q->shape());
  paddle_infra::require_like(name, "stats", stats, DataType::FLOAT32, stats_shape(in.q->shape()));
  Tensor zeros;
  set_upstream(name, in, grad_out, grad_lse, &zeros, &p);
  p.o = const_cast<void*>(out.data());
  p.stats = reinterpret_cast<AttentionRowStats*>(const_cast<float*>(stats.data<float>()));
  p.grad_q = gradients[0].data();
  p.grad_k = gradients[1].data();
  p.grad_v = gradients[2].data();
  if (with_grad_bias) p.grad_bias = gradients[3].data<float>();
  const Tensor workspace = paddle_infra::allocate_workspace(paddle_infra_attention_cpu_bwd_workspace(&p), &p);
  paddle_infra_attention_cpu_bwd(&p);
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
  paddle_infra::require_cpu("attention", "bias", bias, DataType::FLOAT32);
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
