// From Paddle's tensors to the kernels' parameters: what the attention operators share. Includes Paddle.
#pragma once

#include <algorithm>
#include <cmath>

#include "attention/attention.h"
#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/thread_count.h"

namespace paddle_infra {

constexpr int64_t kMaxHeadDim = 256;

struct AttentionAttributes {
  int64_t window_left, window_right;
  float scale, softcap, dropout_p;
  int precision;
  int64_t max_seqlen_q, max_seqlen_k;  // 0: not known
};

// The tensors of one call. Null: not given.
struct AttentionInputs {
  const Tensor *q, *k, *v, *bias;
  const Tensor *cu_seqlens_q, *cu_seqlens_k, *q_lengths, *kv_lengths, *alibi_slopes, *seed;
};

// q, k and v: [batch, sequence, heads, head_dim], or packed [all tokens, heads, head_dim].
inline void set_tensors(const char* name, const AttentionInputs& in, AttentionParams* p) {
  const bool packed = in.cu_seqlens_q != nullptr;
  const Shape q = in.q->shape(), k = in.k->shape();
  p->dtype = dtype_of(name, "query", *in.q);
  require_backend(name, "query", *in.q);
  require_at(name, "key", *in.k, in.q->dtype(), in.q->place());
  if (q.size() != (packed ? 3 : 4)) {
    refuse(name, "query: expected shape ",
           packed ? "[tokens, heads, head_dim]" : "[batch_size, seq_len, heads, head_dim]", ", got ",
           text_of(q));
  }
  const size_t token = packed ? 0 : 1, head = token + 1;
  const bool fits = k.size() == q.size() && (packed || k[0] == q[0]) && k.back() == q.back() && k[head] > 0 &&
                    q[head] > 0 && q[head] % k[head] == 0;
  if (!fits) {
    refuse(name, "key: expected the batch size and head_dim of query ", text_of(q),
           " and a divisor of its number of heads, got ", text_of(k));
  }
  require_like(name, "value", *in.v, in.q->dtype(), k, in.q->place());
  if (q.back() < 1 || q.back() > kMaxHeadDim) {
    refuse(name, "head_dim: expected 1 to ", kMaxHeadDim, ", got ", q.back());
  }
  p->batch = packed ? in.cu_seqlens_q->numel() - 1 : q[0];
  p->seq_q = q[token];
  p->seq_k = k[token];
  p->heads = q[head];
  p->kv_heads = k[head];
  p->head_dim = q.back();
  p->q = in.q->data();
  p->k = in.k->data();
  p->v = in.v->data();
  const int64_t q_row = p->heads * p->head_dim, k_row = p->kv_heads * p->head_dim;
  p->q_stride = {packed ? 0 : p->seq_q * q_row, q_row, p->head_dim};
  p->k_stride = p->v_stride = {packed ? 0 : p->seq_k * k_row, k_row, p->head_dim};
}

// Returns the longest length. What is on a GPU is not looked at, which would wait for all that was queued
// there: `bound`, the length that the caller has named, has to do.
inline int64_t check_cu_seqlens(const char* name, const char* what, const Tensor& tensor, int64_t tokens,
                                const paddle::Place& place, int64_t bound) {
  require_at(name, what, tensor, paddle::DataType::INT32, place);
  const int64_t count = tensor.numel();
  if (tensor.shape().size() != 1 || count < 1) {
    refuse(name, what, ": expected shape [batch_size + 1], got ", text_of(tensor.shape()));
  }
  if (!tensor.is_cpu()) {
    if (bound <= 0)
      refuse(name, "max_seqlen of ", what, ": expected the longest length, needed on a GPU, got none");
    return bound;
  }
  const int32_t* starts = tensor.data<int32_t>();
  if (starts[0] != 0 || starts[count - 1] != tokens) {
    refuse(name, what, ": expected to start with 0 and end with ", tokens, ", the number of tokens, got ",
           starts[0], " and ", starts[count - 1]);
  }
  int64_t longest = 0;
  for (int64_t b = 1; b < count; ++b) {
    if (starts[b] < starts[b - 1]) {
      refuse(name, what, ": expected no number below the one before it, got ", starts[b], " after ",
             starts[b - 1], " at ", b);
    }
    longest = std::max<int64_t>(longest, starts[b] - starts[b - 1]);
  }
  return longest;
}

inline void set_packing(const char* name, const AttentionInputs& in, const AttentionAttributes& attributes,
                        AttentionParams* p) {
  if (in.cu_seqlens_q == nullptr && in.cu_seqlens_k == nullptr) return;
  const Tensor &q = *in.cu_seqlens_q, &k = *in.cu_seqlens_k;
  const paddle::Place place = in.q->place();
  p->seq_q = check_cu_seqlens(name, "cu_seqlens_q", q, p->seq_q, place, attributes.max_seqlen_q);
  p->seq_k = check_cu_seqlens(name, "cu_seqlens_k", k, p->seq_k, place, attributes.max_seqlen_k);
  if (q.numel() != k.numel()) {
    refuse(name, "cu_seqlens_k: expected as many numbers as cu_seqlens_q has, ", q.numel(), ", got ",
           k.numel());
  }
  const auto require_bound = [&](const char* what, int64_t bound, int64_t longest) {
    if (bound != 0 && bound < longest) {
      refuse(name, what, ": expected at least ", longest, ", the longest sequence, got ", bound);
    }
  };
  require_bound("max_seqlen_q", attributes.max_seqlen_q, p->seq_q);
  require_bound("max_seqlen_k", attributes.max_seqlen_k, p->seq_k);
  if (in.bias != nullptr) refuse(name, "bias: not possible with packed sequences");
  p->cu_seqlens_q = q.data<int32_t>();
  p->cu_seqlens_k = k.data<int32_t>();
}

// `starts` and `longest` say how long each sequence is. On a GPU kernels take what is too long for the
// longest.
inline const int32_t* checked_lengths(const char* name, const char* what, const Tensor* tensor,
                                      const AttentionParams& p, const int32_t* starts, int64_t longest,
                                      const paddle::Place& place) {
  if (tensor == nullptr) return nullptr;
  require_at(name, what, *tensor, paddle::DataType::INT32, place);
  if (tensor->shape() != Shape{p.batch}) {
    refuse(name, what, ": expected shape [", p.batch, "], got ", text_of(tensor->shape()));
  }
  const int32_t* lengths = tensor->data<int32_t>();
  for (int64_t b = 0; tensor->is_cpu() && b < p.batch; ++b) {
    const int64_t most = starts != nullptr ? starts[b + 1] - starts[b] : longest;
    if (lengths[b] < 0 || lengths[b] > most) {
      refuse(name, what, "[", b, "]: expected a length in [0, ", most, "], got ", lengths[b]);
    }
  }
  return lengths;
}

inline void set_bias(const char* name, const Tensor* bias, const paddle::Place& place, AttentionParams* p) {
  if (bias == nullptr) return;
  p->bias_is_mask = bias->dtype() == paddle::DataType::BOOL;
  if (!p->bias_is_mask && bias->dtype() != paddle::DataType::FLOAT32) {
    refuse(name, "bias: expected float32 or bool, got ", bias->dtype());
  }
  require_at(name, "bias", *bias, bias->dtype(), place);
  const Shape found = bias->shape(), full = {p->batch, p->heads, p->seq_q, p->seq_k};
  bool fits = found.size() == 4;
  int64_t stride = 1;
  for (int axis = 3; axis >= 0 && fits; --axis) {
    fits = found[axis] == 1 || found[axis] == full[axis];
    p->bias_stride[axis] = p->grad_bias_stride[axis] = found[axis] == 1 ? 0 : stride;
    stride *= found[axis];
  }
  if (!fits) refuse(name, "bias: expected each axis 1 or as in ", text_of(full), ", got ", text_of(found));
  p->bias = bias->data();
}

inline void set_alibi(const char* name, const Tensor* slopes, const paddle::Place& place,
                      AttentionParams* p) {
  if (slopes == nullptr) return;
  require_at(name, "alibi_slopes", *slopes, paddle::DataType::FLOAT32, place);
  const Shape shape = slopes->shape();
  if (shape != Shape{p->heads} && shape != Shape{p->batch, p->heads}) {
    refuse(name, "alibi_slopes: expected shape [", p->heads, "] or [", p->batch, ", ", p->heads, "], got ",
           text_of(shape));
  }
  p->alibi_slopes = slopes->data<float>();
  p->alibi_stride[0] = shape.size() == 2 ? p->heads : 0;
  p->alibi_stride[1] = 1;
}

inline void set_attributes(const char* name, const AttentionAttributes& a, AttentionParams* p) {
  if (a.window_left < -1 || a.window_right < -1) {
    refuse(name, "window: expected sizes of 0 or more, or -1 for no limit, got (", a.window_left, ", ",
           a.window_right, ")");
  }
  if (!std::isfinite(a.scale)) refuse(name, "scale: expected a finite number, got ", a.scale);
  if (!(a.softcap >= 0.0f) || !std::isfinite(a.softcap)) {
    refuse(name, "softcap: expected 0 or a finite positive number, got ", a.softcap);
  }
  if (!(a.dropout_p >= 0.0f && a.dropout_p < 1.0f)) {
    refuse(name, "dropout_p: expected a probability in [0, 1), got ", a.dropout_p);
  }
  if (a.precision != 0 && a.precision != 1) {
    refuse(name, "precision: expected 0 (highest) or 1 (medium), got ", a.precision);
  }
  p->window_left = a.window_left;
  p->window_right = a.window_right;
  p->scale = a.scale;
  p->softcap = a.softcap;
  p->dropout_p = a.dropout_p;
  p->precision = static_cast<MatmulPrecision>(a.precision);
}

// Everything but results and workspace.
inline AttentionParams make_params(const char* name, const AttentionInputs& in,
                                   const AttentionAttributes& attributes) {
  if (const char* error = paddle_infra_isa_error()) refuse(name, error);
  if ((in.cu_seqlens_q == nullptr) != (in.cu_seqlens_k == nullptr)) {
    refuse(name, "cu_seqlens_q and cu_seqlens_k: expected both or neither, got one");
  }
  AttentionParams p{};
  set_tensors(name, in, &p);
  set_packing(name, in, attributes, &p);
  const paddle::Place place = in.q->place();
  p.q_lengths = checked_lengths(name, "q_lengths", in.q_lengths, p, p.cu_seqlens_q, p.seq_q, place);
  p.kv_lengths = checked_lengths(name, "kv_lengths", in.kv_lengths, p, p.cu_seqlens_k, p.seq_k, place);
  set_bias(name, in.bias, place, &p);
  set_alibi(name, in.alibi_slopes, place, &p);
  set_attributes(name, attributes, &p);
  p.seed = checked_seed(name, in.seed, p.dropout_p, place);
  const int64_t rows = in.q->numel() / p.head_dim;  // of all heads
  p.threads = threads_for(4.0 * rows * p.seq_k * p.head_dim);
  return p;
}

// Shape of lse for a shape of q, of which sizes may be unknown (-1). Of a shape that is none of q it makes
// something: an exception would end the process while a program is made, and the kernel refuses it later.
inline Shape lse_shape(const Shape& q) {
  if (q.size() == 4) return {q[0], q[2], q[1]};
  if (q.size() == 3) return {q[1], q[0]};
  return q;
}

// No query or no key: every result is zero or -infinity, and kernels are not called.
inline bool is_empty(const AttentionInputs& in) { return in.q->numel() == 0 || in.k->numel() == 0; }

inline Tensor full_of(float value, const Shape& shape, paddle::DataType dtype, const paddle::Place& place) {
  return paddle::full(shape, value, dtype, place);
}

inline void set_lse_strides(const Shape& lse, AttentionParams* p) {
  p->lse_stride[0] = lse.size() == 3 ? lse[1] * lse[2] : 0;
  p->lse_stride[1] = lse.back();
}

}  // namespace paddle_infra
