// Scratch memory of kernels, cut into arrays.
#pragma once

#include <cstdint>

namespace paddle_infra {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
inline int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Cuts workspace into arrays that start on cache lines.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    char* start = base_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T*>(start);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace paddle_infra
