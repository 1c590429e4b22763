// What one thread does with a block of a linear layer besides the matrix products. No include guard: see
// common/foreach_target.h.

#include "common/simd_body.h"
// Need vectors.
#include "common/activation_body.h"
#include "common/bfloat16_body.h"

// Adds the bias to columns [column, column + columns) of rows of z, and writes f(z) to y; z may be y.
template <Activation kActivation>
static void finish_rows(int64_t rows, int64_t columns, const float* bias, float* z, int64_t z_stride,
                        float* y, int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    float *from = z + r * z_stride, *to = y + r * y_stride;
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      Vec v = load(from + c);
      if (bias != nullptr) v += load(bias + c);
      store(from + c, v);
      if constexpr (kActivation != Activation::kNone) store(to + c, activation_value<kActivation>(v));
    }
    if (c == columns) continue;
    const int rest = static_cast<int>(columns - c);
    Vec v = load_partial(from + c, rest);
    if (bias != nullptr) v += load_partial(bias + c, rest);
    store_partial(from + c, v, rest);
    if constexpr (kActivation != Activation::kNone) {
      store_partial(to + c, activation_value<kActivation>(v), rest);
    }
  }
}

// The same for silu(gate) * up: `z` are the gates, `up` as far after them.
static void finish_gated_rows(int64_t rows, int64_t columns, const float* gate_bias, const float* up_bias,
                              float* gate, float* up, int64_t z_stride, float* y, int64_t y_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    float *g = gate + r * z_stride, *u = up + r * z_stride, *to = y + r * y_stride;
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
      Vec a = load_partial_or_whole(g + c, count), b = load_partial_or_whole(u + c, count);
      if (gate_bias != nullptr) {
        a += load_partial_or_whole(gate_bias + c, count);
        b += load_partial_or_whole(up_bias + c, count);
      }
      store_partial_or_whole(g + c, a, count);
      store_partial_or_whole(u + c, b, count);
      store_partial_or_whole(to + c, activation_value<Activation::kSilu>(a) * b, count);
    }
  }
}

static void finish_block(Activation activation, int64_t rows, int64_t columns, const float* bias, float* z,
                         int64_t z_stride, float* y, int64_t y_stride) {
  const auto finish = [&]() {
    switch (activation) {
      case Activation::kGelu:
        return finish_rows<Activation::kGelu>;
      case Activation::kGeluRough:
        return finish_rows<Activation::kGeluRough>;
      case Activation::kGeluTanh:
        return finish_rows<Activation::kGeluTanh>;
      case Activation::kRelu:
        return finish_rows<Activation::kRelu>;
      case Activation::kSilu:
        return finish_rows<Activation::kSilu>;
      default:
        return finish_rows<Activation::kNone>;
    }
  }();
  finish(rows, columns, bias, z, z_stride, y, y_stride);
}

// One row of the gradient with respect to z = x W + b: `to` gets it in float32 unless null, `to_bf16` rounded
// unless null, and it is added to `sums` unless that is null.
PI_INLINE void put_gradient(Vec gradient, int64_t c, int count, float* to, uint16_t* to_bf16, float* sums) {
  if (to != nullptr) store_partial_or_whole(to + c, gradient, count);
  if (to_bf16 != nullptr) store_bf16(to_bf16 + c, gradient, count);
  if (sums != nullptr)
    store_partial_or_whole(sums + c, load_partial_or_whole(sums + c, count) + gradient, count);
}

template <Activation kActivation>
static void gradient_row(int64_t columns, const float* pre, const float* grad, float* to, uint16_t* to_bf16,
                         float* sums) {
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
    Vec g = load_partial_or_whole(grad + c, count);
    if constexpr (kActivation != Activation::kNone) {
      g *= activation_slope<kActivation>(load_partial_or_whole(pre + c, count));
    }
    put_gradient(g, c, count, to, to_bf16, sums);
  }
}

// The gates in the first half of the columns, what they multiply in the second.
static void gated_gradient_row(int64_t columns, const float* pre, const float* grad, float* to,
                               uint16_t* to_bf16, float* sums) {
  const int64_t half = columns / 2;
  for (int64_t c = 0; c < half; c += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, half - c));
    const Vec g = load_partial_or_whole(grad + c, count), gate = load_partial_or_whole(pre + c, count);
    const Vec up = load_partial_or_whole(pre + half + c, count);
    put_gradient(g * up * activation_slope<Activation::kSilu>(gate), c, count, to, to_bf16, sums);
    put_gradient(g * activation_value<Activation::kSilu>(gate), half + c, count, to, to_bf16, sums);
  }
}

// Rows of that gradient. Outputs have p.out columns.
static void gradient_rows(const LinearParams& p, Activation activation, int64_t first, int64_t rows,
                          float* to, uint16_t* to_bf16, float* sums) {
  const auto row_of = [&]() {
    switch (activation) {
      case Activation::kGelu:
        return gradient_row<Activation::kGelu>;
      case Activation::kGeluRough:
        return gradient_row<Activation::kGeluRough>;
      case Activation::kGeluTanh:
        return gradient_row<Activation::kGeluTanh>;
      case Activation::kRelu:
        return gradient_row<Activation::kRelu>;
      case Activation::kSilu:
        return gradient_row<Activation::kSilu>;
      case Activation::kSwiglu:
        return gated_gradient_row;
      default:
        return gradient_row<Activation::kNone>;
    }
  }();
  const int64_t width = p.activation == Activation::kSwiglu ? p.out / 2 : p.out;
  for (int64_t r = first; r < first + rows; ++r) {
    row_of(p.out, p.pre + r * p.out, p.grad_y + r * width, to ? to + r * p.out : nullptr,
           to_bf16 ? to_bf16 + r * p.out : nullptr, sums);
  }
}

constexpr LinearKernel kKernel{round_array_to_bf16, finish_block, finish_gated_rows, gradient_rows};
