// CUDA's words for a C++ compiler: a .cu file that includes this instead of the toolkit's headers runs its
// kernels in the emulator. Host pointers take the place of device pointers, launches return when they are
// done.
#pragma once

#ifdef __CUDACC__
#error "the emulator is for C++ compilers: nvcc has the real thing"
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "simt/launch.h"
#include "simt/memory.h"

#define __host__
#define __device__
#define __global__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  constexpr int kMost = 227 << 10;  // of sm_90 and sm_100
  return bytes <= kMost ? cudaSuccess : cudaErrorInvalidValue;
}

// Read anew at each use: a fiber may go on in another block's place.
#define threadIdx (::paddle_infra::simt::this_fiber().index)
#define blockIdx (::paddle_infra::simt::this_block().index)
#define blockDim (::paddle_infra::simt::this_block().size)
#define gridDim (::paddle_infra::simt::this_block().grid)

inline void __syncthreads() { paddle_infra::simt::wait_for_block(); }

namespace paddle_infra::simt {

enum Collective : int { kSyncWarp = 1, kShuffle, kMatrixLoad, kMatrixLoadTransposed, kMma };

// Lane i gets the value of lane source(i).
template <class T, class Source>
T shuffle(uint32_t mask, T value, Source source) {
  if (mask != 0xFFFFFFFFu) fail("a shuffle of a part of a warp, which the emulator does not have");
  counters().add(Count::kShuffles);
  return collect<T>(kShuffle, false, value, [&](Warp& warp, unsigned char (*out)[kMostCollected]) {
    for (int lane = 0; lane < kWarpSize; ++lane) std::memcpy(out[lane], warp.in[source(lane)], sizeof(T));
  });
}

}  // namespace paddle_infra::simt

inline void __syncwarp() {
  using namespace paddle_infra::simt;
  collect<int>(kSyncWarp, true, 0, [](Warp&, unsigned char (*)[kMostCollected]) {});
}

// All lanes have to give the same mask, as CUDA demands of butterfly exchanges anyway.
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask) {
  return paddle_infra::simt::shuffle(mask, value, [=](int lane) { return lane ^ lane_mask; });
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int source) {
  return paddle_infra::simt::shuffle(mask, value, [=](int) { return source; });
}

#define PI_LAUNCH(kernel, grid, threads, shared_bytes, stream, ...)                                        \
  do {                                                                                                     \
    const dim3 pi_grid(grid), pi_threads(threads);                                                         \
    ::paddle_infra::simt::launch(reinterpret_cast<const void*>(kernel), {pi_grid.x, pi_grid.y, pi_grid.z}, \
                                 {pi_threads.x, pi_threads.y, pi_threads.z}, shared_bytes,                 \
                                 [&] { kernel(__VA_ARGS__); });                                            \
    static_cast<void>(stream);                                                                             \
  } while (false)

// For tests, in a library of emulated kernels.
#define PI_SIMT_ENTRY extern "C" __attribute__((visibility("default"), used)) inline
PI_SIMT_ENTRY void paddle_infra_simt_configure(unsigned seed, int threads) {
  paddle_infra::simt::settings() = {seed, threads};
}
PI_SIMT_ENTRY void paddle_infra_simt_announce(const void* begin, size_t bytes) {
  paddle_infra::simt::global_memory().announce(begin, bytes);
}
PI_SIMT_ENTRY void paddle_infra_simt_forget() { paddle_infra::simt::global_memory().forget(); }
PI_SIMT_ENTRY void paddle_infra_simt_take_counters(uint64_t* to) { paddle_infra::simt::counters().take(to); }
PI_SIMT_ENTRY size_t paddle_infra_simt_take_launches(paddle_infra::simt::LaunchRecord* to, size_t most) {
  return paddle_infra::simt::launch_log().take(to, most);
}
