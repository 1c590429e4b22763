// Accesses of the lanes of a warp, put together to what hardware would do: wavefronts of shared memory,
// sectors of global memory. The k-th access of one lane belongs to the k-th access of the others.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

#include "simt/counters.h"

namespace paddle_infra::simt {

constexpr int kWarpSize = 32;
constexpr uint64_t kSectorBytes = 32, kBankBytes = 4, kBanks = 32;

struct WarpAccess {
  uint64_t address[kWarpSize];
  uint32_t lanes = 0;  // those that took part
  uint32_t size = 0;   // bytes of each
};

// Cycles that one shared-memory instruction takes. Lanes go in groups of 128 bytes; in a group every bank
// serves one of its words per cycle, to any number of lanes.
inline uint64_t shared_wavefronts(const WarpAccess& access, uint64_t* ideal) {
  const int group = static_cast<int>(128 / access.size);
  uint64_t total = 0;
  for (int first = 0; first < kWarpSize; first += group) {
    std::vector<uint64_t> words;
    for (int lane = first; lane < first + group && lane < kWarpSize; ++lane) {
      if (!(access.lanes >> lane & 1)) continue;
      for (uint32_t byte = 0; byte < access.size; byte += kBankBytes) {
        words.push_back((access.address[lane] + byte) / kBankBytes);
      }
    }
    if (words.empty()) continue;
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    uint64_t of_bank[kBanks] = {}, worst = 0;
    for (uint64_t word : words) worst = std::max(worst, ++of_bank[word % kBanks]);
    total += worst;
    *ideal += 1;
  }
  return total;
}

inline uint64_t global_sectors(const WarpAccess& access, uint64_t* ideal) {
  std::vector<uint64_t> sectors;
  uint64_t bytes = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(access.lanes >> lane & 1)) continue;
    bytes += access.size;
    for (uint64_t at = access.address[lane] / kSectorBytes;
         at <= (access.address[lane] + access.size - 1) / kSectorBytes; ++at) {
      sectors.push_back(at);
    }
  }
  std::sort(sectors.begin(), sectors.end());
  *ideal += (bytes + kSectorBytes - 1) / kSectorBytes;
  return std::unique(sectors.begin(), sectors.end()) - sectors.begin();
}

class AccessLog {
 public:
  void add(unsigned lane, uint64_t address, uint32_t size) {
    const uint64_t index = next_[lane]++ - first_;
    if (index >= waiting_.size()) waiting_.resize(index + 1);
    WarpAccess& access = waiting_[index];
    access.address[lane] = address;
    access.lanes |= 1u << lane;
    access.size = size;
  }

  // Calls use(access) for those that no lane can join any more: all lanes are beyond them, or `all`.
  template <class Use>
  void flush(bool all, Use use) {
    const uint64_t slowest = *std::min_element(next_, next_ + kWarpSize);
    while (!waiting_.empty() && (all || first_ < slowest)) {
      if (waiting_.front().lanes != 0) use(waiting_.front());
      waiting_.pop_front();
      ++first_;
    }
    if (!all) return;
    first_ = 0;
    std::fill_n(next_, kWarpSize, 0);
  }

 private:
  std::deque<WarpAccess> waiting_;
  uint64_t first_ = 0, next_[kWarpSize] = {};
};

// What a warp did with memory.
struct WarpAccesses {
  AccessLog shared, global_reads, global_writes;

  void flush(bool all) {
    Counters& count = counters();
    uint64_t wavefronts = 0, ideal = 0, reads = 0, reads_ideal = 0, writes = 0, writes_ideal = 0;
    shared.flush(all, [&](const WarpAccess& a) { wavefronts += shared_wavefronts(a, &ideal); });
    global_reads.flush(all, [&](const WarpAccess& a) { reads += global_sectors(a, &reads_ideal); });
    global_writes.flush(all, [&](const WarpAccess& a) { writes += global_sectors(a, &writes_ideal); });
    count.add(Count::kSharedWavefronts, wavefronts);
    count.add(Count::kSharedIdeal, ideal);
    count.add(Count::kGlobalReadSectors, reads);
    count.add(Count::kGlobalReadIdeal, reads_ideal);
    count.add(Count::kGlobalWriteSectors, writes);
    count.add(Count::kGlobalWriteIdeal, writes_ideal);
  }
};

}  // namespace paddle_infra::simt
