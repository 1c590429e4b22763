// The entry points of attention to a cache on GPUs: which instance of a kernel runs.
#include "attention/attention_alignment.h"
#include "attention/attention_cuda.h"
#include "attention/attention_decode.cuh"

namespace paddle_infra {

template <class Format, int kDim>
const char* launch_attention_decode_mma(const AttentionParams& p, bool is_aligned, void* stream);
template <int kDim>
const char* launch_attention_decode_f32(const AttentionParams& p, bool is_aligned, void* stream);

namespace {

// Calls launch(number), a constant, for head_dim rounded up to what there are instances for.
template <class Launch>
const char* with_head_dim(const AttentionParams& p, Launch launch) {
  if (p.head_dim <= 32) return launch(std::integral_constant<int, 32>{});
  if (p.head_dim <= 64) return launch(std::integral_constant<int, 64>{});
  if (p.head_dim <= 96) return launch(std::integral_constant<int, 96>{});
  return launch(std::integral_constant<int, 128>{});
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::AttentionParams;

int64_t paddle_infra_attention_decode_cuda_workspace(const AttentionParams* params) {
  return paddle_infra::DecodePartials(*params, paddle_infra::DecodePlan(*params)).bytes;
}

const char* paddle_infra_attention_decode_cuda(const AttentionParams* params, void* stream) {
  using namespace paddle_infra;
  const AttentionParams& p = *params;
  if (p.head_dim > kMostCudaHeadDim) return "head_dim: expected at most 128 on a GPU";
  if (p.cu_seqlens_q != nullptr) return "cu_seqlens: expected none, a cache is not packed";
  if (p.dropout_p > 0.0f) return "dropout_p: expected 0, a cache is not for training";
  const bool aligned = rows_are_aligned(p, {p.q, p.k, p.v, p.o});
  return with_head_dim(p, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    if (p.dtype == DataType::kBfloat16) {
      return launch_attention_decode_mma<Bfloat16, kDim>(p, aligned, stream);
    }
    if (p.dtype == DataType::kFloat16) return launch_attention_decode_mma<Float16, kDim>(p, aligned, stream);
    return launch_attention_decode_f32<kDim>(p, aligned, stream);
  });
}
