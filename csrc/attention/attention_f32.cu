// The entry points of float32 attention on GPUs: which instance of a kernel runs.
#include "attention/attention_alignment.h"
#include "attention/attention_cuda.h"
#include "attention/attention_f32.h"
#include "common/cuda_primitives.h"

namespace paddle_infra {

template <int kDim>
const char* launch_attention_f32_fwd(const AttentionParams& p, bool is_aligned, void* stream);
template <int kDim>
const char* launch_attention_f32_bwd(const AttentionParams& p, bool is_aligned, void* stream);

namespace {

constexpr int64_t kTermsBytes = 16;  // of a row: RowTerms

const char* wrong_f32_params(const AttentionParams& p) {
  if (p.dtype != DataType::kFloat32) return "query: expected float32";
  if (p.head_dim > kMostF32HeadDim) return "head_dim: expected at most 256 on a GPU";
  return nullptr;
}

}  // namespace

const char* attention_f32_fwd(const AttentionParams& p, void* stream) {
  if (const char* wrong = wrong_f32_params(p)) return wrong;
  const bool aligned = rows_are_aligned(p, {p.q, p.k, p.v, p.o});
  if (p.head_dim <= 32) return launch_attention_f32_fwd<32>(p, aligned, stream);
  if (p.head_dim <= 64) return launch_attention_f32_fwd<64>(p, aligned, stream);
  if (p.head_dim <= 96) return launch_attention_f32_fwd<96>(p, aligned, stream);
  if (p.head_dim <= 128) return launch_attention_f32_fwd<128>(p, aligned, stream);
  return launch_attention_f32_fwd<256>(p, aligned, stream);
}

const char* attention_f32_bwd(const AttentionParams& p, void* stream) {
  if (const char* wrong = wrong_f32_params(p)) return wrong;
  const bool aligned = rows_are_aligned(p, {p.q, p.k, p.v, p.grad_o, p.grad_q, p.grad_k, p.grad_v});
  if (p.head_dim <= 32) return launch_attention_f32_bwd<32>(p, aligned, stream);
  if (p.head_dim <= 64) return launch_attention_f32_bwd<64>(p, aligned, stream);
  if (p.head_dim <= 96) return launch_attention_f32_bwd<96>(p, aligned, stream);
  if (p.head_dim <= 128) return launch_attention_f32_bwd<128>(p, aligned, stream);
  return launch_attention_f32_bwd<256>(p, aligned, stream);
}

// Rows of queries lie as in lse. How many there are of packed ones only the device knows, but a head has room
// for all of them.
int64_t attention_f32_bwd_workspace(const AttentionParams& p) {
  if (p.cu_seqlens_q != nullptr) return kTermsBytes * p.heads * p.lse_stride[1];
  return kTermsBytes * ((p.batch - 1) * p.lse_stride[0] + (p.heads - 1) * p.lse_stride[1] + p.seq_q);
}

}  // namespace paddle_infra

using paddle_infra::AttentionParams;

const char* paddle_infra_attention_f32_cuda_fwd(const AttentionParams* params, void* stream) {
  return paddle_infra::attention_f32_fwd(*params, stream);
}
const char* paddle_infra_attention_f32_cuda_bwd(const AttentionParams* params, void* stream) {
  return paddle_infra::attention_f32_bwd(*params, stream);
}
int64_t paddle_infra_attention_f32_cuda_bwd_workspace(const AttentionParams* params) {
  return paddle_infra::attention_f32_bwd_workspace(*params);
}
