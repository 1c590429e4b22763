// What programs that run emulated kernels on random cases have in common.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/data_type.h"

struct Random {
  std::mt19937_64 bits;
  explicit Random(int64_t seed) : bits(static_cast<uint64_t>(seed)) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  float number() { return static_cast<float>(below(2001) - 1000) / 500.0f; }
  template <class T, size_t kCount>
  T one_of(const T (&choices)[kCount]) {
    return choices[below(kCount)];
  }
};

[[noreturn]] inline void fail(int64_t number, const std::string& what) {
  std::fprintf(stderr, "case %lld: %s\n", static_cast<long long>(number), what.c_str());
  std::exit(1);
}

// Numbers of one of the formats, no byte more than they need; NaN until they
// are set.
class Numbers {
 public:
  Numbers() = default;
  Numbers(paddle_infra::DataType type, int64_t count)
      : type_(type), bytes_(static_cast<size_t>(count * element_size(type)), 0xFF) {}

  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  int64_t count() const { return static_cast<int64_t>(bytes_.size()) / element_size(type_); }
  bool operator==(const Numbers& other) const { return bytes_ == other.bytes_; }

  // A finite number: sign, an exponent around that of 1, all bits of the
  // fraction.
  void set(int64_t i, Random& random) {
    const auto bits = static_cast<uint32_t>(random.bits());
    if (type_ == paddle_infra::DataType::kFloat32) {
      write(i, (bits & 0x80FFFFFF) | 0x3F000000);
    } else {
      const bool is_wide = type_ == paddle_infra::DataType::kBfloat16;
      write(i, static_cast<uint16_t>(is_wide ? (bits & 0x80FF) | 0x3F00 : (bits & 0x83FF) | 0x3800));
    }
  }

  // -1, 0 or 1.
  void set_small(int64_t i, int number) {
    const bool is_wide = type_ != paddle_infra::DataType::kFloat16;
    const uint32_t one = is_wide ? 0x3F80 : 0x3C00;
    const uint32_t bits = (number < 0 ? 0x8000u : 0u) | (number == 0 ? 0u : one);
    if (type_ == paddle_infra::DataType::kFloat32) {
      write(i, bits << 16);
    } else {
      write(i, static_cast<uint16_t>(bits));
    }
  }

  bool has_nan(int64_t first = 0) const {
    for (int64_t i = first; i < count(); ++i) {
      if (type_ == paddle_infra::DataType::kFloat32) {
        if ((read<uint32_t>(i) & 0x7FFFFFFF) > 0x7F800000) return true;
      } else {
        const uint16_t infinity = type_ == paddle_infra::DataType::kBfloat16 ? 0x7F80 : 0x7C00;
        if ((read<uint16_t>(i) & 0x7FFF) > infinity) return true;
      }
    }
    return false;
  }

 private:
  template <class T>
  void write(int64_t i, T bits) {
    std::memcpy(bytes_.data() + static_cast<size_t>(i) * sizeof(T), &bits, sizeof(T));
  }
  template <class T>
  T read(int64_t i) const {
    T bits;
    std::memcpy(&bits, bytes_.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    return bits;
  }

  paddle_infra::DataType type_ = paddle_infra::DataType::kFloat32;
  std::vector<unsigned char> bytes_;
};
