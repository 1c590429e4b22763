// Random shapes and options of attention. Every array has exactly the size it
// needs; keys, values and queries that do not exist are NaN: a number that is
// made of what must not be read shows.
#pragma once

#include <algorithm>
#include <cmath>

#include "attention/attention.h"
#include "driver_random.h"

using paddle_infra::AttentionParams;
using paddle_infra::DataType;

// Of what cases are drawn.
struct Choice {
  std::string pass = "forward";  // or backward, decode
  int64_t most_head_dim = 256;
  std::vector<DataType> formats = {DataType::kFloat32, DataType::kFloat16, DataType::kBfloat16};
};

// A case: parameters, and the arrays that they point to.
struct AttentionCase {
  AttentionParams p{};
  Numbers q, k, v, grad_o;
  std::vector<int32_t> starts_q, starts_k, q_lengths, kv_lengths;
  std::vector<float> bias, slopes, grad_lse;
  std::vector<uint8_t> mask;
  int64_t seed = 0, rows_q = 0, rows_k = 0;

  AttentionCase(int64_t number, const Choice& choice) : random_(number), is_decode_(choice.pass == "decode") {
    choose_shape(choice);
    choose_sequences();
    if (is_empty()) return;
    choose_mask();
    choose_scores();
    if (p.cu_seqlens_q == nullptr && random_.chance(30)) choose_bias();
    fill();
  }
  AttentionCase(const AttentionCase&) = delete;
  AttentionCase& operator=(const AttentionCase&) = delete;

  // Nothing to compute, or nothing to point to.
  bool is_empty() const { return rows_q == 0 || rows_k == 0; }

 private:
  void choose_shape(const Choice& choice) {
    constexpr int64_t kDims[] = {1, 3, 8, 17, 32, 40, 64, 80, 96, 100, 128, 200};
    constexpr int64_t kFewQueries[] = {1, 1, 2, 5, 16}, kMostKeys[] = {70, 200, 900};
    p.dtype = choice.formats[static_cast<size_t>(random_.below(static_cast<int64_t>(choice.formats.size())))];
    const int64_t most_dim = p.dtype == DataType::kFloat32 && !is_decode_ ? 256 : 128;
    p.batch = 1 + random_.below(2);
    p.kv_heads = 1 + random_.below(2);
    p.heads = p.kv_heads * (1 + random_.below(is_decode_ ? 4 : 2));
    p.head_dim = std::min({random_.one_of(kDims), choice.most_head_dim, most_dim});
    const int64_t most = random_.chance(30) ? 200 : 70;
    p.seq_q = is_decode_ ? random_.one_of(kFewQueries) : 1 + random_.below(random_.chance(20) ? 4 : most);
    p.seq_k = 1 + random_.below(is_decode_ ? random_.one_of(kMostKeys) : most);
    rows_q = p.batch * p.seq_q, rows_k = p.batch * p.seq_k;
  }

  void choose_sequences() {
    if (!is_decode_ && random_.chance(25)) {
      starts_q = starts_of(lengths_up_to(p.seq_q), &p.seq_q);
      starts_k = starts_of(lengths_up_to(p.seq_k), &p.seq_k);
      p.cu_seqlens_q = starts_q.data(), p.cu_seqlens_k = starts_k.data();
      rows_q = starts_q.back(), rows_k = starts_k.back();
    } else if (random_.chance(is_decode_ ? 80 : 40)) {
      kv_lengths = lengths_up_to(p.seq_k);
      p.kv_lengths = kv_lengths.data();
      if (random_.chance(is_decode_ ? 20 : 50)) {
        q_lengths = lengths_up_to(p.seq_q);
        p.q_lengths = q_lengths.data();
      }
    }
  }

  std::vector<int32_t> lengths_up_to(int64_t most) {
    std::vector<int32_t> lengths;
    for (int64_t b = 0; b < p.batch; ++b) lengths.push_back(static_cast<int32_t>(random_.below(most + 1)));
    return lengths;
  }

  // The starts of packed sequences of these lengths, and the longest of them.
  static std::vector<int32_t> starts_of(const std::vector<int32_t>& lengths, int64_t* longest) {
    std::vector<int32_t> starts = {0};
    *longest = 0;
    for (int32_t length : lengths) {
      starts.push_back(starts.back() + length);
      *longest = std::max<int64_t>(*longest, length);
    }
    return starts;
  }

  void choose_mask() {
    p.window_left = random_.chance(25) ? random_.below(p.seq_k + 1) : -1;
    p.window_right = random_.chance(50) ? 0 : random_.chance(20) ? random_.below(p.seq_k + 1) : -1;
    p.align_to_lengths = p.kv_lengths != nullptr && random_.chance(30);
  }

  void choose_scores() {
    p.scale = random_.chance(90) ? 1.0f / std::sqrt(static_cast<float>(p.head_dim)) : -0.3f;
    p.softcap = random_.chance(20) ? 2.0f : 0.0f;
    p.dropout_p = !is_decode_ && random_.chance(20) ? 0.3f : 0.0f;
    seed = random_.below(int64_t{1} << 40);
    p.seed = &seed;
    if (random_.chance(20)) {
      for (int64_t h = 0; h < p.heads; ++h) slopes.push_back(std::abs(random_.number()));
      p.alibi_slopes = slopes.data();
      p.alibi_stride[1] = 1;
    }
  }

  void choose_bias() {
    int64_t size = 1;
    const int64_t full[] = {p.batch, p.heads, p.seq_q, p.seq_k};
    for (int axis = 3; axis >= 0; --axis) {
      const bool is_broadcast = random_.chance(40);
      p.bias_stride[axis] = p.grad_bias_stride[axis] = is_broadcast ? 0 : size;
      size *= is_broadcast ? 1 : full[axis];
    }
    p.bias_is_mask = random_.chance(40);
    for (int64_t i = 0; i < size && p.bias_is_mask; ++i) mask.push_back(random_.chance(80));
    for (int64_t i = 0; i < size && !p.bias_is_mask; ++i) {
      bias.push_back(random_.chance(10) ? -INFINITY : random_.number());
    }
    p.bias = p.bias_is_mask ? static_cast<const void*>(mask.data()) : bias.data();
  }

  Numbers rows(int64_t count, int64_t width, const int32_t* lengths, int64_t longest) {
    Numbers numbers(p.dtype, count * width);
    for (int64_t i = 0; i < count * width; ++i) {
      const int64_t row = i / width;
      if (lengths == nullptr || row % longest < lengths[row / longest]) numbers.set(i, random_);
    }
    return numbers;
  }

  void fill() {
    const int64_t q_row = p.heads * p.head_dim, k_row = p.kv_heads * p.head_dim;
    const bool packed = p.cu_seqlens_q != nullptr;
    p.q_stride = {packed ? 0 : p.seq_q * q_row, q_row, p.head_dim};
    p.k_stride = p.v_stride = {packed ? 0 : p.seq_k * k_row, k_row, p.head_dim};
    q = rows(rows_q, q_row, p.q_lengths, p.seq_q);
    k = rows(rows_k, k_row, p.kv_lengths, p.seq_k);
    v = rows(rows_k, k_row, p.kv_lengths, p.seq_k);
    grad_o = rows(rows_q, q_row, p.q_lengths, p.seq_q);
    p.q = q.data(), p.k = k.data(), p.v = v.data(), p.grad_o = grad_o.data();
    if (random_.chance(50)) {
      for (int64_t i = 0; i < rows_q * p.heads; ++i) grad_lse.push_back(random_.number());
      p.grad_lse = grad_lse.data();
    }
    p.lse_stride[0] = packed ? 0 : p.heads * p.seq_q;
    p.lse_stride[1] = packed ? rows_q : p.seq_q;
  }

  Random random_;
  const bool is_decode_;
};
