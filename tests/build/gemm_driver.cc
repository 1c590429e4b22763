// Compares common/gemm.h with plain sums on random shapes: prints the largest error of the two floating-point
// products, relative to the root of the depth, and how many int8 results (or bytes outside of the result) are
// wrong.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/gemm.h"

using namespace paddle_infra;

namespace {

int64_t below(int64_t n) { return std::rand() % n; }

struct Matrix {
  std::vector<float> floats;
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;

  explicit Matrix(int64_t size) : floats(size), halves(size), bytes(size) {
    for (int64_t i = 0; i < size; ++i) {
      float x = static_cast<float>(below(2001) - 1000) / 500.0f;
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      bits &= 0xFFFF0000u;  // what bfloat16 can hold
      std::memcpy(&floats[i], &bits, 4);
      halves[i] = static_cast<uint16_t>(bits >> 16);
      bytes[i] = static_cast<int8_t>(below(255) - 127);
    }
  }
};

}  // namespace

int main() {
  std::srand(1);
  double worst = 0.0;
  long wrong = 0;
  for (int turn = 0; turn < 300; ++turn) {
    GemmShape s{};
    s.m = 1 + below(200), s.n = 1 + below(150), s.k = turn % 50 == 0 ? 0 : 1 + below(600);
    s.transpose_a = below(2), s.transpose_b = below(2), s.accumulate = below(2);
    s.lda = (s.transpose_a ? s.m : s.k) + 1 + below(5);
    s.ldb = (s.transpose_b ? s.k : s.n) + 1 + below(5);
    s.ldc = s.n + below(5);
    const Matrix a((s.transpose_a ? s.k : s.m) * s.lda + 1), b((s.transpose_b ? s.n : s.k) * s.ldb + 1);
    std::vector<float> before(s.m * s.ldc);
    for (float& x : before) x = static_cast<float>(below(100)) / 50.0f;
    std::vector<int32_t> ints(before.size());
    for (int32_t& x : ints) x = static_cast<int32_t>(below(100));
    std::vector<float> c = before, d = before;
    std::vector<int32_t> e = ints;
    gemm(s, a.floats.data(), b.floats.data(), c.data());
    gemm(s, a.halves.data(), b.halves.data(), d.data());
    gemm(s, a.bytes.data(), b.bytes.data(), e.data());
    for (int64_t i = 0; i < s.m; ++i) {
      for (int64_t j = 0; j < s.ldc; ++j) {
        const int64_t at = i * s.ldc + j;
        if (j >= s.n) {
          wrong += c[at] != before[at] || d[at] != before[at] || e[at] != ints[at];
          continue;
        }
        double sum = s.accumulate ? before[at] : 0.0;
        int64_t exact = s.accumulate ? ints[at] : 0;
        for (int64_t k = 0; k < s.k; ++k) {
          const int64_t left = s.transpose_a ? k * s.lda + i : i * s.lda + k;
          const int64_t right = s.transpose_b ? j * s.ldb + k : k * s.ldb + j;
          sum += static_cast<double>(a.floats[left]) * b.floats[right];
          exact += static_cast<int64_t>(a.bytes[left]) * b.bytes[right];
        }
        const double error = std::fmax(std::fabs(sum - c[at]), std::fabs(sum - d[at]));
        worst = std::fmax(worst, error / (1.0 + std::sqrt(static_cast<double>(s.k))));
        wrong += exact != e[at];
      }
    }
  }
  std::printf("%g %ld\n", worst, wrong);
}
