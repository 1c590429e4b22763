// The operator as Paddle sees it. It has no gradient.
#include <cmath>
#include <limits>

#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/thread_count.h"
#include "linear_topk/linear_topk_cuda.h"

namespace {

using paddle::DataType;
using paddle_infra::LinearTopkParams;
using paddle_infra::OptionalTensor;
using paddle_infra::refuse;
using paddle_infra::Shape;
using paddle_infra::Tensor;
using paddle_infra::text_of;

constexpr const char* kName = "linear_topk";
constexpr int64_t kMostK = 1024;  // on the CPU

void set_tensors(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, bool is_dv,
                 LinearTopkParams* p) {
  p->dtype = paddle_infra::head_dtype(kName, hidden);
  paddle_infra::require_at(kName, "weight", weight, hidden.dtype(), hidden.place());
  const Shape h = hidden.shape(), w = weight.shape();
  if (h.empty() || h.back() < 1) {
    refuse(kName, "hidden: expected shape [..., D] with D at least 1, got ", text_of(h));
  }
  p->hidden_size = h.back();
  p->rows = hidden.numel() / h.back();
  if (w.size() != 2 || w[is_dv ? 0 : 1] != p->hidden_size || w[is_dv ? 1 : 0] < 1) {
    refuse(kName, "weight: expected shape ", is_dv ? "[D, V]" : "[V, D]", " with D = ", p->hidden_size,
           " and V at least 1, got ", text_of(w));
  }
  p->classes = w[is_dv ? 1 : 0];
  if (p->classes > std::numeric_limits<int32_t>::max()) {
    refuse(kName, "weight: expected less than 2^31 classes, got ", p->classes);
  }
  p->weight_is_dv = is_dv;
  p->hidden = static_cast<const float*>(hidden.data());
  p->weight = static_cast<const float*>(weight.data());
  if (!bias) return;
  paddle_infra::require_like(kName, "bias", *bias, DataType::FLOAT32, {p->classes}, hidden.place());
  p->bias = bias->data<float>();
}

void set_attributes(int64_t k, int64_t most_k, float softcap, bool is_log, int precision,
                    LinearTopkParams* p) {
  const int64_t most = std::min(most_k, p->classes);
  if (k < 1 || k > most) {
    refuse(kName, "k: expected 1 to ", most, most_k == kMostK ? "" : " on a GPU", ", got ", k);
  }
  if (!(softcap >= 0.0f) || !std::isfinite(softcap)) {
    refuse(kName, "softcap: expected 0 or a finite positive number, got ", softcap);
  }
  if (precision != 0 && precision != 1) {
    refuse(kName, "precision: expected 0 (highest) or 1 (medium), got ", precision);
  }
  p->k = k;
  p->softcap = softcap;
  p->is_log = is_log;
  p->precision = static_cast<paddle_infra::MatmulPrecision>(precision);
}

// Runs the kernel for the device that holds the tensors. Workspace on a GPU is freed when this returns, while
// the kernels may still run: Paddle hands it out again on the same stream only, behind them.
void run(const Tensor& hidden, LinearTopkParams* p) {
#ifdef PADDLE_WITH_CUDA
  if (hidden.is_gpu()) {
    const int64_t bytes = paddle_infra_linear_topk_cuda_workspace(p);
    const Tensor workspace = paddle_infra::allocate_workspace(bytes, p, hidden.place());
    return paddle_infra::require_launched(kName, paddle_infra_linear_topk_cuda(p, hidden.stream()));
  }
#endif
  const int64_t bytes = paddle_infra_linear_topk_cpu_workspace(p);
  const Tensor workspace = paddle_infra::allocate_workspace(bytes, p, hidden.place());
  paddle_infra_linear_topk_cpu(p);
}

Shape result_shape(Shape hidden, int64_t k) {
  if (!hidden.empty()) hidden.back() = k;  // else the kernel refuses it later
  return hidden;
}

std::vector<Tensor> Forward(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, int64_t k,
                            float softcap, bool is_log, bool weight_is_dv, int precision) {
  if (const char* error = paddle_infra_isa_error()) refuse(kName, error);
  LinearTopkParams p{};
  set_tensors(hidden, weight, bias, weight_is_dv, &p);
  const int64_t most_k = hidden.is_cpu() ? kMostK : paddle_infra::kMostCudaTopk;
  set_attributes(k, most_k, softcap, is_log, precision, &p);
  const Shape shape = result_shape(hidden.shape(), k);
  Tensor prob = paddle::empty(shape, DataType::FLOAT32, hidden.place());
  Tensor index = paddle::empty(shape, DataType::INT64, hidden.place());
  if (p.rows == 0) return {prob, index};
  p.threads = paddle_infra_thread_count();
  p.prob = prob.data<float>();
  p.index = index.data<int64_t>();
  run(hidden, &p);
  return {prob, index};
}

std::vector<Shape> InferShape(const Shape& hidden, const Shape& /*weight*/,
                              const paddle::optional<Shape>& /*bias*/, int64_t k, float /*softcap*/,
                              bool /*is_log*/, bool /*weight_is_dv*/, int /*precision*/) {
  const Shape shape = result_shape(hidden, k);
  return {shape, shape};
}

std::vector<DataType> InferDtype(const DataType& /*hidden*/) { return {DataType::FLOAT32, DataType::INT64}; }

}  // namespace

PD_BUILD_OP(paddle_infra_linear_topk)
    .Inputs({"Hidden", "Weight", paddle::Optional("Bias")})
    .Outputs({"Prob", "Index"})
    .Attrs({"k: int64_t", "softcap: float", "is_log: bool", "weight_is_dv: bool", "precision: int"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));
