// Compiled once per head dimension: see instances.json.
#include "attention/attention_f32_fwd.cuh"

namespace paddle_infra {

template const char* launch_attention_f32_fwd<PI_HEAD_DIM>(const AttentionParams& p, bool is_aligned,
                                                           void* stream);

}  // namespace paddle_infra
