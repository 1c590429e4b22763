// Which kernels were launched, in what blocks: for tests of what is known of kernels without running them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace paddle_infra::simt {

struct LaunchRecord {
  const void* kernel;              // its function
  uint64_t threads, shared_bytes;  // of a block

  bool operator==(const LaunchRecord& other) const {
    return kernel == other.kernel && threads == other.threads && shared_bytes == other.shared_bytes;
  }
};

// Launches that differ, each once.
class LaunchLog {
 public:
  void add(const LaunchRecord& record) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::find(records_.begin(), records_.end(), record) == records_.end()) records_.push_back(record);
  }

  // Writes at most `most` records, starts again, and returns how many there were.
  size_t take(LaunchRecord* to, size_t most) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t count = records_.size();
    std::copy_n(records_.begin(), std::min(count, most), to);
    records_.clear();
    return count;
  }

 private:
  std::mutex mutex_;
  std::vector<LaunchRecord> records_;
};

inline LaunchLog& launch_log() {
  static LaunchLog log;
  return log;
}

}  // namespace paddle_infra::simt
