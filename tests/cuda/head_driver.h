// What the programs that run the kernels of heads on random cases have in common.
#pragma once

#include <algorithm>
#include <cmath>

#include "driver_random.h"

extern "C" void paddle_infra_simt_configure(unsigned seed, int threads);

// Hidden or weight, or a gradient: NaN until it is filled, at the end of an allocation. It starts where
// 16-byte copies may, or one number behind that.
class HeadTensor {
 public:
  HeadTensor(paddle_infra::DataType type, int64_t count, bool is_aligned)
      : lead_(is_aligned ? 0 : 1), size_(element_size(type)), numbers_(type, count + lead_) {}

  float* data() { return reinterpret_cast<float*>(static_cast<char*>(numbers_.data()) + lead_ * size_); }

  // are_few: of -1, 0 and 1, so that products are often equal.
  void fill(Random& random, bool are_few = false) {
    for (int64_t i = 0; i < numbers_.count(); ++i) {
      if (are_few) {
        numbers_.set_small(i, static_cast<int>(random.below(3)) - 1);
      } else {
        numbers_.set(i, random);
      }
    }
  }
  bool has_nan() const { return numbers_.has_nan(lead_); }
  bool operator==(const HeadTensor& other) const { return numbers_ == other.numbers_; }

 private:
  int64_t lead_, size_;
  Numbers numbers_;
};

// Scratch memory, aligned as that of a GPU, NaN at first.
struct HeadWorkspace {
  explicit HeadWorkspace(int64_t bytes) : data(std::aligned_alloc(64, static_cast<size_t>(bytes))) {
    std::memset(data, 0xFF, static_cast<size_t>(bytes));
  }
  ~HeadWorkspace() { std::free(data); }
  HeadWorkspace(const HeadWorkspace&) = delete;
  HeadWorkspace& operator=(const HeadWorkspace&) = delete;
  void* const data;
};

// Format, and layout of the weight: fixed by the command line, or drawn for each case.
struct HeadInstance {
  paddle_infra::DataType type;
  bool is_vd;
  static HeadInstance any(Random& random) {
    const auto type = static_cast<paddle_infra::DataType>(random.below(3));
    return {type, random.chance(50)};
  }
};

// None, unless it happens in `percent` of cases.
inline std::vector<float> some_numbers(Random& random, int percent, int64_t count, bool is_positive = false) {
  std::vector<float> numbers;
  if (!random.chance(percent)) return numbers;
  for (int64_t i = 0; i < count; ++i) {
    const float number = random.number();
    numbers.push_back(is_positive ? std::abs(number) : number);
  }
  return numbers;
}

inline const float* or_null(const std::vector<float>& numbers) {
  return numbers.empty() ? nullptr : numbers.data();
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// PROGRAM FIRST COUNT [FORMAT WEIGHT_IS_VD], the last two as instances.json has them.
template <class RunCase>
int run_cases(int count_of_arguments, char** arguments, RunCase run_case) {
  const int64_t first = std::atoll(arguments[1]), count = std::atoll(arguments[2]);
  HeadInstance fixed{};
  const bool is_fixed = count_of_arguments > 4;
  if (is_fixed) {
    const std::string type = arguments[3];
    fixed.type = type == "Float32"   ? paddle_infra::DataType::kFloat32
                 : type == "Float16" ? paddle_infra::DataType::kFloat16
                                     : paddle_infra::DataType::kBfloat16;
    fixed.is_vd = std::string(arguments[4]) == "true";
  }
  for (int64_t number = first; number < first + count; ++number)
    run_case(number, is_fixed ? &fixed : nullptr);
  std::printf("%lld cases\n", static_cast<long long>(count));
  return 0;
}
