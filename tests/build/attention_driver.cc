// Runs the attention kernels without Paddle on random shapes and options, and
// prints numbers to compare between instruction sets and processors:
// `attention_driver FIRST COUNT` does COUNT cases from number FIRST on.
//
// Every array has exactly the size it needs, for sanitizers. Results and
// scratch memory start as NaN, as do keys and values that do not exist: a
// number that is not written, or is made of what must not be read, shows.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "common/data_type.h"

using namespace paddle_infra;

namespace {

struct Random {
  std::mt19937_64 bits;
  int64_t below(int64_t n) {
    return static_cast<int64_t>(bits() % static_cast<uint64_t>(n));
  }
  bool chance(int percent) { return below(100) < percent; }
  float number() { return static_cast<float>(below(2001) - 1000) / 500.0f; }
};

template <class T> struct Array {
  std::unique_ptr<T[]> data;
  int64_t size = 0;
  explicit Array(int64_t n) : data(new T[n]), size(n) {
    std::memset(data.get(), 0xFF, n * sizeof(T));
  }
};

Array<char> random_tensor(Random &random, DataType type, int64_t count) {
  Array<char> tensor(count * element_size(type));
  std::vector<float> numbers(count);
  for (float &x : numbers)
    x = random.number();
  convert_from_float(type, numbers.data(), tensor.data.get(), count);
  return tensor;
}

// One number of a whole result. Its sign hangs on the position, so that
// exchanged elements show.
double project(const char *data, DataType type, int64_t count) {
  std::vector<float> numbers(count);
  convert_to_float(type, data, numbers.data(), count);
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double x = std::isinf(numbers[i]) ? -100.0 : numbers[i];
    sum += (i * 2654435761u >> 7 & 1) ? x : -x;
  }
  return sum / std::sqrt(static_cast<double>(count));
}

std::vector<int32_t> random_starts(Random &random, int64_t batch,
                                   int64_t most) {
  std::vector<int32_t> starts = {0};
  for (int64_t b = 0; b < batch; ++b)
    starts.push_back(starts.back() +
                     static_cast<int32_t>(random.below(most + 1)));
  return starts;
}

int64_t longest_of(const std::vector<int32_t> &starts) {
  int64_t longest = 0;
  for (size_t b = 1; b < starts.size(); ++b)
    longest = std::max<int64_t>(longest, starts[b] - starts[b - 1]);
  return longest;
}

std::vector<int32_t> random_lengths(Random &random, int64_t batch,
                                    int64_t most) {
  std::vector<int32_t> lengths;
  for (int64_t b = 0; b < batch; ++b)
    lengths.push_back(static_cast<int32_t>(random.below(most + 1)));
  return lengths;
}

void *aligned(Array<char> &memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory.data.get());
  return reinterpret_cast<void *>((address + 63) / 64 * 64);
}

void hide_missing_keys(const AttentionParams &p, char *tensor) {
  if (p.kv_lengths == nullptr)
    return;
  const int64_t row = p.kv_heads * p.head_dim * element_size(p.dtype);
  for (int64_t b = 0; b < p.batch; ++b) {
    std::memset(tensor + (b * p.seq_k + p.kv_lengths[b]) * row, 0xFF,
                (p.seq_k - p.kv_lengths[b]) * row);
  }
}

void run_case(int64_t number) {
  Random random{std::mt19937_64(static_cast<uint64_t>(number))};
  constexpr int64_t kDims[] = {1,  3,  8,  16,  17,  32, 40,
                               64, 80, 96, 128, 200, 256};
  AttentionParams p{};
  p.dtype = random.chance(60)   ? DataType::kFloat32
            : random.chance(50) ? DataType::kFloat16
                                : DataType::kBfloat16;
  p.precision =
      random.chance(50) ? MatmulPrecision::kHighest : MatmulPrecision::kMedium;
  p.batch = 1 + random.below(3);
  p.kv_heads = 1 + random.below(3);
  p.heads = p.kv_heads * (1 + random.below(3));
  p.head_dim = kDims[random.below(13)];
  p.threads = 1 + static_cast<int>(random.below(3));
  const int64_t most = random.chance(20) ? 400 : 90;
  p.seq_q = 1 + random.below(random.chance(20) ? 4 : most);
  p.seq_k = 1 + random.below(most);
  const bool packed = random.chance(25);
  std::vector<int32_t> starts_q, starts_k, q_lengths, kv_lengths;
  int64_t rows_q = p.batch * p.seq_q, rows_k = p.batch * p.seq_k;
  if (packed) {
    starts_q = random_starts(random, p.batch, p.seq_q);
    starts_k = random_starts(random, p.batch, p.seq_k);
    p.cu_seqlens_q = starts_q.data();
    p.cu_seqlens_k = starts_k.data();
    p.seq_q = longest_of(starts_q);
    p.seq_k = longest_of(starts_k);
    rows_q = starts_q.back();
    rows_k = starts_k.back();
    if (rows_q == 0 || rows_k == 0)
      return;
  } else if (random.chance(40)) {
    kv_lengths = random_lengths(random, p.batch, p.seq_k);
    p.kv_lengths = kv_lengths.data();
    if (random.chance(50)) {
      q_lengths = random_lengths(random, p.batch, p.seq_q);
      p.q_lengths = q_lengths.data();
    }
  }
  p.window_left = random.chance(25) ? random.below(p.seq_k + 1) : -1;
  p.window_right = random.chance(50)   ? 0
                   : random.chance(20) ? random.below(p.seq_k + 1)
                                       : -1;
  p.scale = random.chance(90) ? 1.0f / std::sqrt(static_cast<float>(p.head_dim))
                              : -0.3f;
  p.softcap = random.chance(20) ? 2.0f : 0.0f;
  p.dropout_p = random.chance(20) ? 0.3f : 0.0f;
  const int64_t seed = random.below(1LL << 40);
  p.seed = &seed;

  int64_t bias_size = 1;
  if (!packed && random.chance(50)) {
    const int64_t full[] = {p.batch, p.heads, p.seq_q, p.seq_k};
    for (int axis = 3; axis >= 0; --axis) {
      const bool is_broadcast = random.chance(40);
      p.bias_stride[axis] = p.grad_bias_stride[axis] =
          is_broadcast ? 0 : bias_size;
      bias_size *= is_broadcast ? 1 : full[axis];
    }
    p.bias_is_mask = random.chance(50);
  }
  Array<float> bias(bias_size), grad_bias(bias_size);
  Array<uint8_t> mask(bias_size);
  for (int64_t i = 0; i < bias_size; ++i) {
    bias.data[i] = random.chance(10) ? -INFINITY : random.number();
    mask.data[i] = random.chance(80);
  }
  const bool has_bias = !packed && bias_size > 1;
  if (has_bias)
    p.bias =
        p.bias_is_mask ? static_cast<void *>(mask.data.get()) : bias.data.get();
  if (has_bias && !p.bias_is_mask)
    p.grad_bias = grad_bias.data.get();
  Array<float> slopes(p.heads);
  for (int64_t h = 0; h < p.heads; ++h)
    slopes.data[h] = std::abs(random.number());
  p.alibi_stride[1] = 1;
  if (random.chance(20))
    p.alibi_slopes = slopes.data.get();

  const int64_t count_q = rows_q * p.heads * p.head_dim,
                count_k = rows_k * p.kv_heads * p.head_dim;
  const int64_t q_row = p.heads * p.head_dim, k_row = p.kv_heads * p.head_dim,
                width = element_size(p.dtype);
  p.q_stride = {packed ? 0 : p.seq_q * q_row, q_row, p.head_dim};
  p.k_stride = p.v_stride = {packed ? 0 : p.seq_k * k_row, k_row, p.head_dim};
  Array<char> q = random_tensor(random, p.dtype, count_q),
              k = random_tensor(random, p.dtype, count_k),
              v = random_tensor(random, p.dtype, count_k),
              grad_o = random_tensor(random, p.dtype, count_q);
  Array<char> o(count_q * width), dq(count_q * width), dk(count_k * width),
      dv(count_k * width);
  Array<float> lse(rows_q * p.heads), grad_lse(rows_q * p.heads);
  Array<AttentionRowStats> stats(rows_q * p.heads);
  for (int64_t i = 0; i < grad_lse.size; ++i)
    grad_lse.data[i] = random.number();
  hide_missing_keys(p, k.data.get());
  hide_missing_keys(p, v.data.get());
  p.q = q.data.get(), p.k = k.data.get(), p.v = v.data.get(),
  p.o = o.data.get();
  p.lse = lse.data.get(), p.stats = stats.data.get();
  p.lse_stride[0] = packed ? 0 : p.heads * p.seq_q;
  p.lse_stride[1] = packed ? rows_q : p.seq_q;
  p.grad_o = grad_o.data.get();
  if (random.chance(50))
    p.grad_lse = grad_lse.data.get();
  p.grad_q = dq.data.get(), p.grad_k = dk.data.get(), p.grad_v = dv.data.get();

  Array<char> fwd(paddle_infra_attention_cpu_fwd_workspace(&p) + 64);
  p.workspace = aligned(fwd);
  paddle_infra_attention_cpu_fwd(&p);
  Array<char> bwd(paddle_infra_attention_cpu_bwd_workspace(&p) + 64);
  p.workspace = aligned(bwd);
  paddle_infra_attention_cpu_bwd(&p);
  std::printf(
      "%lld %s %.9e %.9e %.9e %.9e %.9e %.9e\n", static_cast<long long>(number),
      p.precision == MatmulPrecision::kMedium || p.dtype != DataType::kFloat32
          ? "rough"
          : "exact",
      project(o.data.get(), p.dtype, count_q),
      project(reinterpret_cast<char *>(lse.data.get()), DataType::kFloat32,
              lse.size),
      project(dq.data.get(), p.dtype, count_q),
      project(dk.data.get(), p.dtype, count_k),
      project(dv.data.get(), p.dtype, count_k),
      p.grad_bias == nullptr
          ? 0.0
          : project(reinterpret_cast<char *>(grad_bias.data.get()),
                    DataType::kFloat32, bias_size));
}

} // namespace

int main(int, char **arguments) {
  const int64_t first = std::atoll(arguments[1]),
                count = std::atoll(arguments[2]);
  for (int64_t number = first; number < first + count; ++number)
    run_case(number);
}
