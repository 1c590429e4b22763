// Compiled once per 16-bit format and layout of the weight: see instances.json.
#include "linear_cross_entropy/linear_cross_entropy_bwd.cuh"
#include "linear_cross_entropy/linear_cross_entropy_fwd.cuh"

namespace paddle_infra {

template const char* launch_linear_cross_entropy_fwd<PI_FORMAT, PI_WEIGHT_IS_VD>(
    const LinearCrossEntropyParams& p, void* stream);
template const char* launch_linear_cross_entropy_bwd<PI_FORMAT, PI_WEIGHT_IS_VD>(
    const LinearCrossEntropyParams& p, void* stream);

}  // namespace paddle_infra
