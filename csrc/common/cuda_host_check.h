// Stands in for CUDA where a .cu file is compiled by a C++ compiler (g++ -x c++), so that a test can run its
// kernels and launchers without a GPU. Threads run one after another: that is the whole computation for
// kernels whose threads share nothing, and only for those. Host pointers take the place of device pointers.
#pragma once

#include "common/abi.h"

#define __global__
#define __host__
#define __device__

struct Index3 {
  unsigned x = 0;
};
inline thread_local Index3 blockIdx, blockDim, threadIdx;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

namespace paddle_infra {

inline bool host_check_is_reversed = false;

template <class Run>
void for_each_thread(unsigned blocks, unsigned threads, Run run) {
  const bool reversed = host_check_is_reversed;
  blockDim.x = threads;
  for (unsigned b = 0; b < blocks; ++b) {
    blockIdx.x = reversed ? blocks - 1 - b : b;
    for (unsigned t = 0; t < threads; ++t) {
      threadIdx.x = reversed ? threads - 1 - t : t;
      run();
    }
  }
}

}  // namespace paddle_infra

// From now on the last thread runs first. A kernel whose result then differs depends on the order of threads.
PADDLE_INFRA_EXPORT __attribute__((used)) inline void paddle_infra_host_check_reverse(bool is_reversed) {
  paddle_infra::host_check_is_reversed = is_reversed;
}

#define PI_LAUNCH(kernel, blocks, threads, stream, ...) \
  for_each_thread(blocks, threads, [&] { kernel(__VA_ARGS__); })
