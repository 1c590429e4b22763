// Compiled once per format and layout of the weight: see instances.json.
#include "linear_topk/linear_topk_cuda.cuh"

namespace paddle_infra {

template const char* launch_linear_topk<PI_FORMAT, PI_WEIGHT_IS_VD>(const LinearTopkParams& p, void* stream);

}  // namespace paddle_infra
