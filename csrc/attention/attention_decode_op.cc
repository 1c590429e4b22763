// The operator of inference with a cache of keys and values, as Paddle sees it. It has no gradient.
#include <cmath>

#include "attention/attention_cuda.h"
#include "attention/attention_op.h"

namespace {

using paddle::DataType;
using paddle_infra::allocate_workspace;
using paddle_infra::AttentionInputs;
using paddle_infra::AttentionParams;
using paddle_infra::full_of;
using paddle_infra::OptionalTensor;
using paddle_infra::pointer_or_null;
using paddle_infra::Shape;
using paddle_infra::Tensor;

constexpr const char* kName = "attention_decode";

// Where the tensors are.
void decode(const Tensor& q, AttentionParams* p) {
#ifdef PADDLE_WITH_CUDA
  if (q.is_gpu()) {
    const Tensor workspace =
        allocate_workspace(paddle_infra_attention_decode_cuda_workspace(p), p, q.place());
    return paddle_infra::require_launched(kName, paddle_infra_attention_decode_cuda(p, q.stream()));
  }
#endif
  const Tensor workspace = allocate_workspace(paddle_infra_attention_decode_cpu_workspace(p), p, q.place());
  paddle_infra_attention_decode_cpu(p);
}

std::vector<Tensor> Forward(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& mask,
                            const OptionalTensor& kv_lengths, const OptionalTensor& alibi_slopes,
                            int64_t window_left, int64_t window_right, float scale, float softcap) {
  AttentionInputs in{};
  in.q = &q;
  in.k = &k;
  in.v = &v;
  in.bias = pointer_or_null(mask);
  in.kv_lengths = pointer_or_null(kv_lengths);
  in.alibi_slopes = pointer_or_null(alibi_slopes);
  paddle_infra::AttentionAttributes attributes{};
  attributes.window_left = window_left;
  attributes.window_right = window_right;
  attributes.scale = scale;
  attributes.softcap = softcap;
  AttentionParams p = paddle_infra::make_params(kName, in, attributes);
  p.align_to_lengths = true;
  const Shape of_lse = paddle_infra::lse_shape(q.shape());
  if (paddle_infra::is_empty(in)) {
    return {full_of(0.0f, q.shape(), q.dtype(), q.place()),
            full_of(-INFINITY, of_lse, DataType::FLOAT32, q.place())};
  }
  Tensor out = paddle::empty(q.shape(), q.dtype(), q.place());
  Tensor lse = paddle::empty(of_lse, DataType::FLOAT32, q.place());
  p.o = out.data();
  p.lse = lse.data<float>();
  paddle_infra::set_lse_strides(lse.shape(), &p);
  decode(q, &p);
  return {out, lse};
}

std::vector<Shape> InferShape(const Shape& q) { return {q, paddle_infra::lse_shape(q)}; }

std::vector<DataType> InferDtype(const DataType& q) { return {q, DataType::FLOAT32}; }

}  // namespace

PD_BUILD_OP(paddle_infra_attention_decode)
    .Inputs({"Q", "K", "V", paddle::Optional("Mask"), paddle::Optional("KvLengths"),
             paddle::Optional("AlibiSlopes")})
    .Outputs({"Out", "Lse"})
    .Attrs({"window_left: int64_t", "window_right: int64_t", "scale: float", "softcap: float"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));
