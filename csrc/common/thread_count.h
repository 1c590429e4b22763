// How many threads a kernel may use.
#pragma once

#include "common/abi.h"

// What Paddle was told last (set_num_threads, the inference Config, OMP_NUM_THREADS), in whichever thread the
// caller is. OpenMP's own number is one of each thread: Paddle sets it in the thread that asks, but runs
// static programs in threads of its own, where it would still be 1.
PADDLE_INFRA_EXPORT int paddle_infra_thread_count();

namespace paddle_infra {

// The same for work of so many floating-point operations: waking a second thread takes some microseconds, so
// what takes no more than that is done by the caller's thread. No kernel's result depends on it.
inline int threads_for(double operations) {
  constexpr double kWorthIt = 1e6;
  return operations < kWorthIt ? 1 : paddle_infra_thread_count();
}

}  // namespace paddle_infra
