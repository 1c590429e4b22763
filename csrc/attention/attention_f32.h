// Attention of float32 numbers on GPUs in full precision (no TF32): what the entry points call.
#pragma once

#include "attention/attention.h"

namespace paddle_infra {

constexpr int64_t kMostF32HeadDim = 256;

// Null or what is wrong; see attention_cuda.h.
const char* attention_f32_fwd(const AttentionParams& p, void* stream);
const char* attention_f32_bwd(const AttentionParams& p, void* stream);
int64_t attention_f32_bwd_workspace(const AttentionParams& p);

}  // namespace paddle_infra
