// The CUDA entry points of attention: which instance of a kernel runs.
#include <type_traits>

#include "attention/attention_alignment.h"
#include "attention/attention_cuda.h"
#include "attention/attention_f32.h"
#include "common/cuda_primitives.h"

namespace paddle_infra {

template <class Format, int kDim>
const char* launch_attention_fwd(const AttentionParams& p, bool is_aligned, void* stream);
template <class Format, int kDim>
const char* launch_attention_bwd(const AttentionParams& p, bool is_aligned, void* stream);

namespace {

// Forward, the gradients are null.
bool is_aligned(const AttentionParams& p) {
  return rows_are_aligned(p, {p.q, p.k, p.v, p.o, p.grad_o, p.grad_q, p.grad_k, p.grad_v});
}

// Calls run(format, head_dim), both as values of a type of their own, with the head dimension that rows are
// padded to.
template <class Format, class Run>
const char* with_head_dim(const AttentionParams& p, Run run) {
  if (p.head_dim <= 32) return run(Format{}, std::integral_constant<int, 32>{});
  if (p.head_dim <= 64) return run(Format{}, std::integral_constant<int, 64>{});
  if (p.head_dim <= 96) return run(Format{}, std::integral_constant<int, 96>{});
  return run(Format{}, std::integral_constant<int, 128>{});
}

template <class Run>
const char* with_instance(const AttentionParams& p, Run run) {
  if (p.head_dim > kMostCudaHeadDim) return "head_dim: expected at most 128 on a GPU";
  if (p.dtype == DataType::kBfloat16) return with_head_dim<Bfloat16>(p, run);
  if (p.dtype == DataType::kFloat16) return with_head_dim<Float16>(p, run);
  return "query: expected float16 or bfloat16 on a GPU";
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::AttentionParams;
using paddle_infra::DataType;

const char* paddle_infra_attention_cuda_fwd(const AttentionParams* params, void* stream) {
  if (params->dtype == DataType::kFloat32) return paddle_infra::attention_f32_fwd(*params, stream);
  return paddle_infra::with_instance(*params, [&](auto format, auto dim) {
    return paddle_infra::launch_attention_fwd<decltype(format), dim>(
        *params, paddle_infra::is_aligned(*params), stream);
  });
}

int64_t paddle_infra_attention_cuda_bwd_workspace(const AttentionParams* params) {
  const AttentionParams& p = *params;
  if (p.dtype == DataType::kFloat32) return paddle_infra::attention_f32_bwd_workspace(p);
  constexpr int64_t kBytesOfRow = 16;  // BwdRow, in the order of stats
  // Packed, the stride of heads counts all rows.
  const int64_t rows = p.cu_seqlens_q != nullptr ? p.lse_stride[1] : p.seq_q;
  const int64_t batch = p.cu_seqlens_q != nullptr ? 0 : (p.batch - 1) * p.lse_stride[0];
  if (p.batch * p.heads == 0) return 0;
  return kBytesOfRow * (batch + (p.heads - 1) * p.lse_stride[1] + rows);
}

const char* paddle_infra_attention_cuda_bwd(const AttentionParams* params, void* stream) {
  if (params->dtype == DataType::kFloat32) return paddle_infra::attention_f32_bwd(*params, stream);
  return paddle_infra::with_instance(*params, [&](auto format, auto dim) {
    return paddle_infra::launch_attention_bwd<decltype(format), dim>(
        *params, paddle_infra::is_aligned(*params), stream);
  });
}
