// The CUDA entry points of the head: which kernels run. Products of 16-bit numbers are on tensor cores, those
// of floats exact.
#include "common/cuda_primitives.h"
#include "linear_cross_entropy/linear_cross_entropy_cuda.h"

namespace paddle_infra {

template <class Format, bool kWeightIsVd>
const char* launch_linear_cross_entropy_fwd(const LinearCrossEntropyParams& p, void* stream);
template <class Format, bool kWeightIsVd>
const char* launch_linear_cross_entropy_bwd(const LinearCrossEntropyParams& p, void* stream);

int64_t float_head_workspace(const LinearCrossEntropyParams& p);
const char* launch_float_head_fwd(const LinearCrossEntropyParams& p, void* stream);
const char* launch_float_head_bwd(const LinearCrossEntropyParams& p, void* stream);

namespace {

template <class Format>
const char* fwd_of_format(const LinearCrossEntropyParams& p, void* stream) {
  return p.weight_feature_stride == 1 ? launch_linear_cross_entropy_fwd<Format, true>(p, stream)
                                      : launch_linear_cross_entropy_fwd<Format, false>(p, stream);
}

template <class Format>
const char* bwd_of_format(const LinearCrossEntropyParams& p, void* stream) {
  return p.weight_feature_stride == 1 ? launch_linear_cross_entropy_bwd<Format, true>(p, stream)
                                      : launch_linear_cross_entropy_bwd<Format, false>(p, stream);
}

const char* error_of(const LinearCrossEntropyParams& p) {
  if (p.kind != HeadLoss::kCrossEntropy) return "kind: expected cross entropy on a GPU";
  // A position in the classes is an int in the kernels, and a tile of them a block of the grid.
  constexpr int64_t kMostClasses = int64_t{65535} * kTile;
  if (p.classes > kMostClasses) return "classes: expected at most 8388480 on a GPU";
  return nullptr;
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::DataType;
using paddle_infra::LinearCrossEntropyParams;

int64_t paddle_infra_linear_cross_entropy_cuda_workspace(const LinearCrossEntropyParams* params) {
  if (params->dtype == DataType::kFloat32) return paddle_infra::float_head_workspace(*params);
  return paddle_infra::HalfHeadSpace(*params).bytes;
}

const char* paddle_infra_linear_cross_entropy_cuda_fwd(const LinearCrossEntropyParams* params, void* stream) {
  using namespace paddle_infra;
  if (params->dtype == DataType::kFloat32) return launch_float_head_fwd(*params, stream);
  if (const char* error = error_of(*params)) return error;
  if (params->dtype == DataType::kBfloat16) return fwd_of_format<Bfloat16>(*params, stream);
  return fwd_of_format<Float16>(*params, stream);
}

const char* paddle_infra_linear_cross_entropy_cuda_bwd(const LinearCrossEntropyParams* params, void* stream) {
  using namespace paddle_infra;
  if (params->dtype == DataType::kFloat32) return launch_float_head_bwd(*params, stream);
  if (const char* error = error_of(*params)) return error;
  if (params->dtype == DataType::kBfloat16) return bwd_of_format<Bfloat16>(*params, stream);
  return bwd_of_format<Float16>(*params, stream);
}
