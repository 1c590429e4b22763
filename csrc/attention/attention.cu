// The CUDA entry points of attention: which instance of a kernel runs.
#include "attention/attention_cuda.h"
#include "attention/attention_f32.h"
#include "common/cuda_primitives.h"

namespace paddle_infra {

template <class Format, int kDim>
const char* launch_attention_fwd(const AttentionParams& p, bool is_aligned, void* stream);

namespace {

// Copies of 16 bytes are possible.
bool is_aligned(const AttentionParams& p) {
  uintptr_t bits = 0;
  for (const void* data : {p.q, p.k, p.v, static_cast<const void*>(p.o)})
    bits |= reinterpret_cast<uintptr_t>(data);
  int64_t elements = p.head_dim;
  for (const AttentionStrides& s : {p.q_stride, p.k_stride, p.v_stride})
    elements |= s.batch | s.sequence | s.head;
  return bits % 16 == 0 && elements % 8 == 0;
}

template <class Format>
const char* fwd_of_format(const AttentionParams& p, void* stream) {
  const bool aligned = is_aligned(p);
  if (p.head_dim <= 32) return launch_attention_fwd<Format, 32>(p, aligned, stream);
  if (p.head_dim <= 64) return launch_attention_fwd<Format, 64>(p, aligned, stream);
  if (p.head_dim <= 96) return launch_attention_fwd<Format, 96>(p, aligned, stream);
  return launch_attention_fwd<Format, 128>(p, aligned, stream);
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::AttentionParams;
using paddle_infra::DataType;

const char* paddle_infra_attention_cuda_fwd(const AttentionParams* params, void* stream) {
  const AttentionParams& p = *params;
  if (p.dtype == DataType::kFloat32) return paddle_infra::attention_f32_fwd(p, stream);
  if (p.head_dim > paddle_infra::kMostCudaHeadDim) return "head_dim: expected at most 128 on a GPU";
  if (p.dtype == DataType::kBfloat16) return paddle_infra::fwd_of_format<paddle_infra::Bfloat16>(p, stream);
  if (p.dtype == DataType::kFloat16) return paddle_infra::fwd_of_format<paddle_infra::Float16>(p, stream);
  return "query: expected float16 or bfloat16 on a GPU";
}
