// Which weights dropout drops: a number for each by integer hashing of (seed, head, query, key), so that
// every thread, the backward pass and other backends find the same.
//
// The hash is "lowbias32" (C. Wellons, Prospecting for Hash Functions, 2018), keyed by row; counters instead
// of a state as in Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
#pragma once

#include <cstdint>

namespace paddle_infra {

constexpr uint32_t kHeadStep = 0x9E3779B9u, kQueryStep = 0x85EBCA6Bu, kKeyStep = 0x9E3779B9u;

inline uint32_t dropout_mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  x ^= x >> 16;
  return x;
}

// `head` counts batch * heads + head.
inline uint32_t dropout_head_key(int64_t seed, int64_t head) {
  const auto low = static_cast<uint32_t>(seed);
  const auto high = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  return dropout_mix(dropout_mix(low + kHeadStep * static_cast<uint32_t>(head)) ^ high);
}

inline uint32_t dropout_row_key(uint32_t head_key, int64_t query) {
  return dropout_mix(head_key + kQueryStep * static_cast<uint32_t>(query));
}

// A weight is dropped if its number is below this.
inline uint32_t dropout_threshold(float probability) {
  return static_cast<uint32_t>(static_cast<double>(probability) * 4294967296.0);
}

}  // namespace paddle_infra
