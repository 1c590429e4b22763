// Runs attention's emulated CUDA kernels on random shapes and options, for sanitizers:
// `attention_driver FIRST COUNT [MOST_HEAD_DIM]` does COUNT cases from number FIRST on, each in three orders
// of threads and blocks, and fails if their results differ, or if one is not a number.
//
// Every array has exactly the size it needs. Results start as NaN, as do keys and values that do not exist: a
// number that is not written, or is made of what must not be read, shows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "attention/attention_cuda.h"

extern "C" void paddle_infra_simt_configure(unsigned seed, int threads);

using namespace paddle_infra;

namespace {

struct Random {
  std::mt19937_64 bits;
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  float number() { return static_cast<float>(below(2001) - 1000) / 500.0f; }
  // A finite number of a 16-bit format: sign, an exponent around that of 1, all bits of the fraction.
  uint16_t narrow(DataType type) {
    const auto bits = static_cast<uint32_t>(below(1 << 16));
    return type == DataType::kBfloat16 ? (bits & 0x80FF) | 0x3F00 : (bits & 0x83FF) | 0x3800;
  }
};

constexpr uint16_t kNan = 0xFFFF;

bool is_nan(DataType type, uint16_t number) {
  const uint16_t infinity = type == DataType::kBfloat16 ? 0x7F80 : 0x7C00;
  return (number & 0x7FFF) > infinity;
}

[[noreturn]] void fail(int64_t number, const std::string& what) {
  std::fprintf(stderr, "case %lld: %s\n", static_cast<long long>(number), what.c_str());
  std::exit(1);
}

struct Inputs {
  std::vector<uint16_t> q, k, v;
  std::vector<int32_t> starts_q, starts_k, q_lengths, kv_lengths;
  std::vector<float> bias, slopes;
  std::vector<uint8_t> mask;
  int64_t seed = 0, rows_q = 0, rows_k = 0;
};

struct Results {
  std::vector<uint16_t> o;
  std::vector<float> lse;
  std::vector<AttentionRowStats> stats;
  template <class T>
  static bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
  }
  bool operator==(const Results& other) const {
    return same(o, other.o) && same(lse, other.lse) && same(stats, other.stats);
  }
};

std::vector<int32_t> random_lengths(Random& random, int64_t batch, int64_t most) {
  std::vector<int32_t> lengths;
  for (int64_t b = 0; b < batch; ++b) lengths.push_back(static_cast<int32_t>(random.below(most + 1)));
  return lengths;
}

// The starts of packed sequences of these lengths, and the longest of them.
std::vector<int32_t> starts_of(const std::vector<int32_t>& lengths, int64_t* longest) {
  std::vector<int32_t> starts = {0};
  *longest = 0;
  for (int32_t length : lengths) {
    starts.push_back(starts.back() + length);
    *longest = std::max<int64_t>(*longest, length);
  }
  return starts;
}

void choose_sequences(Random& random, AttentionParams& p, Inputs& in, int64_t most_head_dim) {
  constexpr int64_t kDims[] = {1, 3, 8, 17, 32, 40, 64, 80, 96, 100, 128};
  p.dtype = random.chance(50) ? DataType::kFloat16 : DataType::kBfloat16;
  p.batch = 1 + random.below(2);
  p.kv_heads = 1 + random.below(2);
  p.heads = p.kv_heads * (1 + random.below(2));
  p.head_dim = std::min(kDims[random.below(11)], most_head_dim);
  const int64_t most = random.chance(30) ? 200 : 70;
  p.seq_q = 1 + random.below(random.chance(20) ? 4 : most);
  p.seq_k = 1 + random.below(most);
  in.rows_q = p.batch * p.seq_q, in.rows_k = p.batch * p.seq_k;
  if (random.chance(25)) {
    in.starts_q = starts_of(random_lengths(random, p.batch, p.seq_q), &p.seq_q);
    in.starts_k = starts_of(random_lengths(random, p.batch, p.seq_k), &p.seq_k);
    p.cu_seqlens_q = in.starts_q.data(), p.cu_seqlens_k = in.starts_k.data();
    in.rows_q = in.starts_q.back(), in.rows_k = in.starts_k.back();
  } else if (random.chance(40)) {
    in.kv_lengths = random_lengths(random, p.batch, p.seq_k);
    p.kv_lengths = in.kv_lengths.data();
    if (random.chance(50)) {
      in.q_lengths = random_lengths(random, p.batch, p.seq_q);
      p.q_lengths = in.q_lengths.data();
    }
  }
}

void choose_options(Random& random, AttentionParams& p, Inputs& in) {
  p.window_left = random.chance(25) ? random.below(p.seq_k + 1) : -1;
  p.window_right = random.chance(50) ? 0 : random.chance(20) ? random.below(p.seq_k + 1) : -1;
  p.align_to_lengths = p.kv_lengths != nullptr && random.chance(30);
  p.scale = random.chance(90) ? 1.0f / std::sqrt(static_cast<float>(p.head_dim)) : -0.3f;
  p.softcap = random.chance(20) ? 2.0f : 0.0f;
  p.dropout_p = random.chance(20) ? 0.3f : 0.0f;
  in.seed = random.below(int64_t{1} << 40);
  p.seed = &in.seed;
  if (p.cu_seqlens_q == nullptr && random.chance(30)) {
    int64_t size = 1;
    const int64_t full[] = {p.batch, p.heads, p.seq_q, p.seq_k};
    for (int axis = 3; axis >= 0; --axis) {
      const bool is_broadcast = random.chance(40);
      p.bias_stride[axis] = is_broadcast ? 0 : size;
      size *= is_broadcast ? 1 : full[axis];
    }
    p.bias_is_mask = random.chance(50);
    for (int64_t i = 0; i < size && p.bias_is_mask; ++i) in.mask.push_back(random.chance(80));
    for (int64_t i = 0; i < size && !p.bias_is_mask; ++i) {
      in.bias.push_back(random.chance(10) ? -INFINITY : random.number());
    }
    p.bias = p.bias_is_mask ? static_cast<const void*>(in.mask.data()) : in.bias.data();
  }
  if (random.chance(20)) {
    for (int64_t h = 0; h < p.heads; ++h) in.slopes.push_back(std::abs(random.number()));
    p.alibi_slopes = in.slopes.data();
    p.alibi_stride[1] = 1;
  }
}

void fill(Random& random, AttentionParams& p, Inputs& in) {
  const int64_t q_row = p.heads * p.head_dim, k_row = p.kv_heads * p.head_dim;
  const bool packed = p.cu_seqlens_q != nullptr;
  p.q_stride = {packed ? 0 : p.seq_q * q_row, q_row, p.head_dim};
  p.k_stride = p.v_stride = {packed ? 0 : p.seq_k * k_row, k_row, p.head_dim};
  for (int64_t i = 0; i < in.rows_q * q_row; ++i) in.q.push_back(random.narrow(p.dtype));
  for (std::vector<uint16_t>* tensor : {&in.k, &in.v}) {
    for (int64_t i = 0; i < in.rows_k * k_row; ++i) {
      const int64_t row = i / k_row;
      const bool exists = p.kv_lengths == nullptr || row % p.seq_k < p.kv_lengths[row / p.seq_k];
      tensor->push_back(exists ? random.narrow(p.dtype) : kNan);
    }
  }
  p.q = in.q.data(), p.k = in.k.data(), p.v = in.v.data();
  p.lse_stride[0] = packed ? 0 : p.heads * p.seq_q;
  p.lse_stride[1] = packed ? in.rows_q : p.seq_q;
}

Results run(AttentionParams p, const Inputs& in, unsigned seed, int64_t number) {
  Results results{std::vector<uint16_t>(in.q.size(), kNan), std::vector<float>(in.rows_q * p.heads, NAN),
                  std::vector<AttentionRowStats>(in.rows_q * p.heads, {NAN, NAN})};
  p.o = results.o.data(), p.lse = results.lse.data(), p.stats = results.stats.data();
  paddle_infra_simt_configure(seed, 1 + static_cast<int>(seed % 2));
  if (const char* error = paddle_infra_attention_cuda_fwd(&p, nullptr)) fail(number, error);
  for (uint16_t x : results.o) {
    if (is_nan(p.dtype, x)) fail(number, "out is not a number");
  }
  for (size_t i = 0; i < results.lse.size(); ++i) {
    const AttentionRowStats& row = results.stats[i];
    if (!(row.sum >= 0.0f) || std::isnan(row.max) || std::isnan(results.lse[i])) {
      fail(number, "lse or its parts are not numbers");
    }
  }
  return results;
}

void run_case(int64_t number, int64_t most_head_dim) {
  Random random{std::mt19937_64(static_cast<uint64_t>(number))};
  AttentionParams p{};
  Inputs in;
  choose_sequences(random, p, in, most_head_dim);
  if (in.rows_q == 0 || in.rows_k == 0) return;  // nothing to compute, or nothing to point to
  choose_options(random, p, in);
  fill(random, p, in);
  const Results in_order = run(p, in, 0, number);
  for (unsigned seed : {1u, 2u}) {
    if (!(run(p, in, seed, number) == in_order)) fail(number, "the result depends on the order of threads");
  }
}

}  // namespace

int main(int count_of_arguments, char** arguments) {
  const int64_t first = std::atoll(arguments[1]), count = std::atoll(arguments[2]);
  const int64_t most_head_dim = count_of_arguments > 3 ? std::atoll(arguments[3]) : kMostCudaHeadDim;
  for (int64_t number = first; number < first + count; ++number) run_case(number, most_head_dim);
  std::printf("%lld cases\n", static_cast<long long>(count));
}
