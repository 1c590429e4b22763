// The CUDA entry points of linear_topk: which instance of the kernels runs.
#include "common/cuda_primitives.h"
#include "linear_topk/linear_topk_cuda.h"

namespace paddle_infra {

template <class Format, bool kWeightIsVd>
const char* launch_linear_topk(const LinearTopkParams& p, void* stream);

namespace {

template <class Format>
const char* run_format(const LinearTopkParams& p, void* stream) {
  return p.weight_is_dv ? launch_linear_topk<Format, false>(p, stream)
                        : launch_linear_topk<Format, true>(p, stream);
}

}  // namespace
}  // namespace paddle_infra

int64_t paddle_infra_linear_topk_cuda_workspace(const paddle_infra::LinearTopkParams* params) {
  return paddle_infra::CudaTopkPlan(*params).bytes;
}

const char* paddle_infra_linear_topk_cuda(const paddle_infra::LinearTopkParams* params, void* stream) {
  using namespace paddle_infra;
  const LinearTopkParams& p = *params;
  if (p.k < 1 || p.k > kMostCudaTopk || p.k > p.classes) {
    return "k: expected 1 to 16 on a GPU, and not more than there are classes";
  }
  if (p.dtype == DataType::kFloat32) return run_format<Float32>(p, stream);
  if (p.dtype == DataType::kBfloat16) return run_format<Bfloat16>(p, stream);
  return run_format<Float16>(p, stream);
}
