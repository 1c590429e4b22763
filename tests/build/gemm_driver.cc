// Matrix products of common/gemm.h on random shapes, compared with sums in
// double or 64-bit integers: `gemm_driver COUNT [libdnnl]` does COUNT cases of
// each type and prints how many, and what multiplied them.
//
// What lies between the rows of the matrices is a NaN (or the largest integer)
// in A and B, so that one that is read shows, and a mark in C, which must still
// be there.
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "common/cpu_target.h"
#include "common/gemm.h"

using paddle_infra::GemmShape;

namespace {

std::mt19937_64 random_bits(1);
int64_t below(int64_t n) { return static_cast<int64_t>(random_bits() % static_cast<uint64_t>(n)); }

template <class T>
double value_of(T x) {
  if constexpr (std::is_same_v<T, uint16_t>) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  } else {
    return x;
  }
}

// Of one size, so that an exact sum in float32 is rare: rounding shows.
template <class T>
T random_number(bool is_extreme) {
  if constexpr (std::is_same_v<T, int8_t>) {
    return static_cast<int8_t>(is_extreme ? (below(50) == 0 ? -127 : 127) : below(255) - 127);
  } else {
    const float x = static_cast<float>(below(1 << 22) - (1 << 21)) / (1 << 20);
    if constexpr (std::is_same_v<T, float>) return x;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<T>(bits >> 16);  // which bfloat16 does not matter
  }
}

template <class T>
T forbidden() {
  if constexpr (std::is_same_v<T, float>) return std::numeric_limits<float>::quiet_NaN();
  if constexpr (std::is_same_v<T, uint16_t>) return 0x7FC0;
  return std::numeric_limits<int8_t>::max();
}

// A matrix of exactly the size it needs: no padding after the last row.
template <class T>
struct Matrix {
  int64_t rows, columns, stride;
  std::vector<T> data;
  Matrix(int64_t rows, int64_t columns, T filler)
      : rows(rows), columns(columns), stride(columns + 1 + (below(2) ? below(9) : -1)) {
    stride = std::max<int64_t>(stride, 1);
    if (rows > 0 && columns > 0) data.assign((rows - 1) * stride + columns, filler);
  }
  T& at(int64_t r, int64_t c) { return data[r * stride + c]; }
};

template <class T>
Matrix<T> random_matrix(int64_t rows, int64_t columns, bool is_extreme) {
  Matrix<T> matrix(rows, columns, forbidden<T>());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) matrix.at(r, c) = random_number<T>(is_extreme);
  }
  return matrix;
}

template <class T, class Sum>
bool is_right(const GemmShape& s, Matrix<T>& a, Matrix<T>& b, Matrix<Sum>& before, Matrix<Sum>& c) {
  for (int64_t m = 0; m < s.m; ++m) {
    for (int64_t n = 0; n < s.n; ++n) {
      double sum = s.accumulate ? static_cast<double>(before.at(m, n)) : 0.0, size = std::fabs(sum);
      for (int64_t k = 0; k < s.k; ++k) {  // exact in double for integers, too
        const double product = value_of(s.transpose_a ? a.at(k, m) : a.at(m, k)) *
                               value_of(s.transpose_b ? b.at(n, k) : b.at(k, n));
        sum += product;
        size += std::fabs(product);
      }
      // Sums of one sign grow with k, those of both with its root; k roundings
      // of them are off by at most size * 2^-24 * root of k, six standard
      // deviations. A missing product would be thousands of times that.
      const double roundings = 4.0 + std::sqrt(static_cast<double>(s.k));
      const double allowed = std::is_integral_v<Sum> ? 0.0 : roundings * std::ldexp(size, -24);
      if (!(std::fabs(static_cast<double>(c.at(m, n)) - sum) <= allowed)) {
        std::fprintf(stderr, "C[%ld, %ld] is %.9g, expected %.9g +- %.2g\n", static_cast<long>(m),
                     static_cast<long>(n), static_cast<double>(c.at(m, n)), sum, allowed);
        return false;
      }
    }
    for (int64_t n = s.n; s.n > 0 && n < c.stride && m + 1 < s.m; ++n) {
      if (c.at(m, n) == before.at(m, n)) continue;
      std::fprintf(stderr, "C[%ld, %ld] was written\n", static_cast<long>(m), static_cast<long>(n));
      return false;
    }
  }
  return true;
}

template <class T, class Sum>
void run_case(const char* name, int64_t number) {
  constexpr int64_t kSizes[] = {1,  2,  3,  5,  7,  15, 16,  17,  31,  33,  63,
                                64, 65, 79, 95, 96, 97, 130, 193, 255, 256, 257};
  GemmShape s{};
  s.m = kSizes[below(22)], s.n = kSizes[below(22)], s.k = below(12) == 0 ? 0 : kSizes[below(22)];
  if (below(20) == 0) s.k = 500 + below(700);
  if (below(40) == 0) (below(2) ? s.m : s.n) = 0;
  s.transpose_a = below(2), s.transpose_b = below(2), s.accumulate = below(2);
  const bool is_extreme = below(4) == 0;
  Matrix<T> a = random_matrix<T>(s.transpose_a ? s.k : s.m, s.transpose_a ? s.m : s.k, is_extreme);
  Matrix<T> b = random_matrix<T>(s.transpose_b ? s.n : s.k, s.transpose_b ? s.k : s.n, is_extreme);
  Matrix<Sum> c(s.m, s.n, static_cast<Sum>(77));
  // Without `accumulate` what was there before must not matter.
  const bool starts_as_nan = !s.accumulate && !std::is_integral_v<Sum>;
  for (int64_t m = 0; m < s.m; ++m) {
    for (int64_t n = 0; n < s.n; ++n) {
      c.at(m, n) = starts_as_nan ? std::numeric_limits<Sum>::quiet_NaN() : static_cast<Sum>(below(100) - 50);
    }
  }
  Matrix<Sum> before = c;
  s.lda = a.stride, s.ldb = b.stride, s.ldc = c.stride;
  gemm(s, a.data.data(), b.data.data(), c.data.data());
  if (is_right(s, a, b, before, c)) return;
  std::fprintf(stderr,
               "%s case %ld: m %ld n %ld k %ld, transposed %d %d, accumulate "
               "%d, strides %ld %ld %ld\n",
               name, static_cast<long>(number), static_cast<long>(s.m), static_cast<long>(s.n),
               static_cast<long>(s.k), s.transpose_a, s.transpose_b, s.accumulate, static_cast<long>(s.lda),
               static_cast<long>(s.ldb), static_cast<long>(s.ldc));
  std::exit(1);
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 2 && dlopen(arguments[2], RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  if (const char* error = paddle_infra_isa_error()) {
    std::fprintf(stderr, "%s\n", error);
    return 3;
  }
  const int64_t cases = std::atoll(arguments[1]);
  for (int64_t i = 0; i < cases; ++i) {
    run_case<float, float>("float", i);
    run_case<uint16_t, float>("bfloat16", i);
    run_case<int8_t, int32_t>("int8", i);
  }
  std::printf("%ld %s\n", static_cast<long>(cases), paddle_infra_cpu_target());
}
