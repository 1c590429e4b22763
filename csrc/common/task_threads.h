// Threads that take tasks one after another.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "common/flush_denormals.h"

namespace paddle_infra {

// Calls task(index, thread) for every index below `count`, thread below `threads`; begin() and end() around
// them in every thread. From a counter, because OpenMP's dynamic schedules are not at hand (see
// csrc/README.md) and tasks differ in size. One thread needs no team: the caller's own does the work.
template <class Begin, class Task, class End>
void run_tasks(int threads, int64_t count, Begin begin, Task task, End end) {
  std::atomic<int64_t> next{0};
  const auto work = [&](int thread) {
    const FlushDenormals guard;
    begin();
    for (int64_t index = next++; index < count; index = next++) task(index, thread);
    end();
  };
  const int team = static_cast<int>(std::min<int64_t>(threads, count));
  if (team <= 1) return work(0);
  std::atomic<int> arrived{0};
#pragma omp parallel num_threads(team)
  work(arrived++);
}

}  // namespace paddle_infra
