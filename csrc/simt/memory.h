// Global memory as kernels may use it: the arrays that a test has announced.
#pragma once

#include <cstdint>
#include <map>

#include "simt/block.h"

namespace paddle_infra::simt {

class GlobalMemory {
 public:
  void announce(const void* begin, size_t bytes) { ends_[address(begin)] = address(begin) + bytes; }
  void forget() { ends_.clear(); }

  // Fails unless the bytes are within one announced array. While none is announced, everything is allowed.
  void check(const void* p, size_t bytes, const char* what) const {
    if (address(p) % bytes != 0)
      fail(std::string(what) + ": the address is not a multiple of " + std::to_string(bytes));
    if (ends_.empty()) return;
    auto at = ends_.upper_bound(address(p));
    if (at == ends_.begin() || address(p) + bytes > (--at)->second) {
      fail(std::string(what) + ": outside of every array");
    }
  }

 private:
  static uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }
  std::map<uintptr_t, uintptr_t> ends_;
};

inline GlobalMemory& global_memory() {
  static GlobalMemory memory;
  return memory;
}

// A thread's access of a power of two of bytes.
inline void global_read(const void* p, uint32_t bytes, const char* what = "read") {
  const Quiet quiet;
  global_memory().check(p, bytes, what);
  Fiber& me = this_fiber();
  counters().add(Count::kGlobalReadBytes, bytes);
  me.warp->accesses.global_reads.add(me.lane, reinterpret_cast<uintptr_t>(p), bytes);
}

inline void global_write(const void* p, uint32_t bytes) {
  const Quiet quiet;
  global_memory().check(p, bytes, "write");
  Fiber& me = this_fiber();
  counters().add(Count::kGlobalWriteBytes, bytes);
  me.warp->accesses.global_writes.add(me.lane, reinterpret_cast<uintptr_t>(p), bytes);
}

inline void shared_access(const void* p, uint32_t bytes, const char* what) {
  const Quiet quiet;
  const Block& b = this_block();
  const auto at = reinterpret_cast<uintptr_t>(p), begin = reinterpret_cast<uintptr_t>(b.shared);
  if (at % bytes != 0)
    fail(std::string(what) + ": the address is not a multiple of " + std::to_string(bytes));
  if (at < begin || at + bytes > begin + b.shared_bytes)
    fail(std::string(what) + ": outside of shared memory");
  Fiber& me = this_fiber();
  me.warp->accesses.shared.add(me.lane, at - begin, bytes);
}

}  // namespace paddle_infra::simt
