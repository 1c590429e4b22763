// Compiled once per 16-bit format and head dimension: see instances.json.
#include "attention/attention_decode_mma.cuh"

namespace paddle_infra {

template const char* launch_attention_decode_mma<PI_FORMAT, PI_HEAD_DIM>(const AttentionParams& p,
                                                                         bool is_aligned, void* stream);

}  // namespace paddle_infra
