// Launching CUDA kernels, on a GPU or in the emulator of simt/.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/cuda_primitives.h"

namespace paddle_infra {

// The number of the running thread in its whole launch. Blocks are whole: kernels ignore numbers beyond their
// count.
PI_DEVICE int64_t thread_number() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// Launches kernels on one stream, and none after the first failure.
class Launcher {
 public:
  explicit Launcher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  // At least so many threads, in blocks that share nothing.
  template <class... Parameters>
  void operator()(int64_t threads, void (*kernel)(Parameters...), std::common_type_t<Parameters>... values) {
    constexpr int kBlock = 256;
    blocks(dim3(static_cast<unsigned>((threads + kBlock - 1) / kBlock)), kBlock, 0, kernel, values...);
  }

  // Blocks with dynamic shared memory; nothing if the grid is empty.
  template <class... Parameters>
  void blocks(dim3 grid, int threads, int shared_bytes, void (*kernel)(Parameters...),
              std::common_type_t<Parameters>... values) {
    constexpr int kWithoutAsking = 48 << 10;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || error_ != cudaSuccess) return;
    if (shared_bytes > kWithoutAsking) {
      error_ = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
      if (error_ != cudaSuccess) return;
    }
    PI_LAUNCH(kernel, grid, threads, shared_bytes, stream_, values...);
    error_ = cudaGetLastError();
  }

  // What went wrong, or null.
  const char* error() const { return error_ == cudaSuccess ? nullptr : cudaGetErrorString(error_); }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace paddle_infra
