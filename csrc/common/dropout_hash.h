// Which numbers dropout drops: a number for each by integer hashing of (seed, group, row, column), so that
// every thread, the backward pass and other backends find the same. Attention's groups are heads, rows
// queries and columns keys; matrices have one group.
//
// The hash is "lowbias32" (C. Wellons, Prospecting for Hash Functions, 2018), keyed by row; counters instead
// of a state as in Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define PI_HOST_DEVICE __host__ __device__
#else
#define PI_HOST_DEVICE
#endif

namespace paddle_infra {

constexpr uint32_t kGroupStep = 0x9E3779B9u, kRowStep = 0x85EBCA6Bu, kColumnStep = 0x9E3779B9u;

PI_HOST_DEVICE inline uint32_t dropout_mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  x ^= x >> 16;
  return x;
}

PI_HOST_DEVICE inline uint32_t dropout_group_key(int64_t seed, int64_t group) {
  const auto low = static_cast<uint32_t>(seed);
  const auto high = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  return dropout_mix(dropout_mix(low + kGroupStep * static_cast<uint32_t>(group)) ^ high);
}

PI_HOST_DEVICE inline uint32_t dropout_row_key(uint32_t group_key, int64_t row) {
  return dropout_mix(group_key + kRowStep * static_cast<uint32_t>(row));
}

// The number of column j is dropout_mix(row_key + kColumnStep * j). It is dropped if that is below this.
PI_HOST_DEVICE inline uint32_t dropout_threshold(float probability) {
  return static_cast<uint32_t>(static_cast<double>(probability) * 4294967296.0);
}

}  // namespace paddle_infra
