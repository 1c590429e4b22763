// Launching CUDA kernels. A .cu file that includes this compiles as plain C++ as well: see cuda_host_check.h.
#pragma once

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define PI_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#else
#include "common/cuda_host_check.h"
#endif

namespace paddle_infra {

// The number of the running thread in its whole launch. Blocks are whole: kernels ignore numbers beyond their
// count.
__device__ inline int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Launches kernels on one stream, and none after the first failure.
class Launcher {
 public:
  explicit Launcher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  template <class... Parameters>
  void operator()(int64_t threads, void (*kernel)(Parameters...), std::common_type_t<Parameters>... values) {
    constexpr int64_t kBlock = 256;
    if (threads == 0 || error_ != cudaSuccess) return;
    PI_LAUNCH(kernel, static_cast<unsigned>((threads + kBlock - 1) / kBlock), kBlock, stream_, values...);
    error_ = cudaGetLastError();
  }

  // What went wrong, or null.
  const char* error() const { return error_ == cudaSuccess ? nullptr : cudaGetErrorString(error_); }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace paddle_infra
