// What a launch did, counted: for comparison with theory.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace paddle_infra::simt {

// In this order tests read them; tests/cuda/emulator.py has the same names.
enum class Count : int {
  kMma,                // m16n8k16 products: 4096 operations each
  kMatrixLoads,        // ldmatrix instructions
  kShuffles,           // per thread
  kBarriers,           // __syncthreads, per thread
  kSharedWavefronts,   // of 16-byte accesses to shared memory, conflicts included
  kSharedIdeal,        // what they would take without conflicts
  kGlobalReadBytes,    // asked for
  kGlobalReadSectors,  // of 32 bytes, of a warp's access together
  kGlobalReadIdeal,    // sectors that the bytes would fill
  kGlobalWriteBytes,
  kGlobalWriteSectors,
  kGlobalWriteIdeal,
  kAtomics,
  kLaunches,
  kCounts
};

class Counters {
 public:
  void add(Count what, uint64_t count = 1) {
    counts_[static_cast<int>(what)].fetch_add(count, std::memory_order_relaxed);
  }
  // Writes all counts, and starts from 0 again.
  void take(uint64_t* to) {
    for (int i = 0; i < static_cast<int>(Count::kCounts); ++i) to[i] = counts_[i].exchange(0);
  }

 private:
  std::array<std::atomic<uint64_t>, static_cast<int>(Count::kCounts)> counts_{};
};

inline Counters& counters() {
  static Counters counters;
  return counters;
}

}  // namespace paddle_infra::simt
