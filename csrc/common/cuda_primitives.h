// What kernels ask of the hardware beyond C++: the only file with PTX. Beside each instruction is the same in
// C++, which the emulator of simt/ runs on a CPU, with checks of addresses, counts, and copies that arrive
// late.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define PI_LAUNCH(kernel, grid, threads, shared_bytes, stream, ...) \
  kernel<<<grid, threads, shared_bytes, stream>>>(__VA_ARGS__)
#define PI_DEVICE __device__ __forceinline__
#define PI_UNROLL _Pragma("unroll")
#define PI_PRAGMA(text) _Pragma(#text)
#define PI_UNROLL_BY(count) PI_PRAGMA(unroll count)
// The block's dynamic shared memory.
#define PI_SHARED_MEMORY(name) extern __shared__ __align__(1024) unsigned char name[]
#else
#include "common/cuda_numbers.h"
#include "simt/cuda.h"
#define PI_DEVICE inline
#define PI_UNROLL
#define PI_UNROLL_BY(count)
#define PI_SHARED_MEMORY(name) unsigned char* const name = ::paddle_infra::simt::this_block().shared
#endif

namespace paddle_infra {

constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// 2^x and log2 x to about 2 ulp and 2^-22; results below 2^-126 are 0.
PI_DEVICE float fast_exp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;
#endif
}

// The two 16-bit formats. Pairs are packed in 32 bits, the first one in the low half. mma: D += A B of
// m16n8k16, float32 sums; fragments as PTX defines them.
struct Bfloat16 {
  PI_DEVICE static uint32_t pack(float first, float second) {
#ifdef __CUDACC__
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    return float_to_bfloat16(first) | static_cast<uint32_t>(float_to_bfloat16(second)) << 16;
#endif
  }
  PI_DEVICE static float first(uint32_t pair) { return bits_to_float(pair << 16); }
  PI_DEVICE static float second(uint32_t pair) { return bits_to_float(pair & 0xFFFF0000u); }
  PI_DEVICE static float to_float(uint16_t number) {
    return bits_to_float(static_cast<uint32_t>(number) << 16);
  }
  PI_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    emulate_mma(bfloat16_to_float, d, a, b0, b1);
#endif
  }

 private:
  PI_DEVICE static float bits_to_float(uint32_t bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    return bits_as_float(bits);
#endif
  }
};

struct Float16 {
  PI_DEVICE static uint32_t pack(float first, float second) {
#ifdef __CUDACC__
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    return float_to_float16(first) | static_cast<uint32_t>(float_to_float16(second)) << 16;
#endif
  }
  PI_DEVICE static float first(uint32_t pair) { return to_float(static_cast<uint16_t>(pair)); }
  PI_DEVICE static float second(uint32_t pair) { return to_float(static_cast<uint16_t>(pair >> 16)); }
  PI_DEVICE static float to_float(uint16_t number) {
#ifdef __CUDACC__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(number));
    return value;
#else
    return float16_to_float(number);
#endif
  }
  PI_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    emulate_mma(float16_to_float, d, a, b0, b1);
#endif
  }
};

// Loads four 8 x 8 matrices of 16-bit numbers; lane i points to a row of 16 bytes, row i % 8 of matrix i / 8.
template <bool kTransposed = false>
PI_DEVICE void load_matrices(uint32_t (&r)[4], const void* shared_row) {
#ifdef __CUDACC__
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  }
#else
  emulate_load_matrices<kTransposed>(r, shared_row);
#endif
}

// Copies 16 bytes from global to shared memory behind the back of the thread, or writes zeros if not
// `is_valid` (then nothing is read). The thread sees them after it has waited for their group, others after a
// barrier too.
PI_DEVICE void copy_async_16(void* shared, const void* global, bool is_valid) {
#ifdef __CUDACC__
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = is_valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
#else
  emulate_copy_async_16(shared, global, is_valid);
#endif
}

PI_DEVICE void close_copy_group() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;");
#else
  emulate_close_copy_group();
#endif
}

// Waits until at most kOpen of the thread's groups are still on their way.
template <int kOpen>
PI_DEVICE void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
#else
  emulate_wait_for_copies(kOpen);
#endif
}

// Numbers of 2, 4, 8 or 16 bytes from and to global memory, at multiples of their size.
template <class T>
PI_DEVICE T load_global(const T* p) {
#ifndef __CUDACC__
  simt::global_read(p, sizeof(T));
#endif
  return *p;
}

template <class T>
PI_DEVICE void store_global(T* p, T value) {
#ifndef __CUDACC__
  simt::global_write(p, sizeof(T));
#endif
  *p = value;
}

// The same of shared memory.
template <class T>
PI_DEVICE T load_shared(const T* p) {
#ifndef __CUDACC__
  simt::shared_access(p, sizeof(T), "load from shared memory");
#endif
  return *p;
}

template <class T>
PI_DEVICE void store_shared(T* p, T value) {
#ifndef __CUDACC__
  simt::shared_access(p, sizeof(T), "store to shared memory");
#endif
  *p = value;
}

// Sum and maximum over the lanes whose numbers differ in the bits of kLanes: 3 for the four neighbours that
// share a row of an mma's result, 31 for a warp.
template <int kLanes>
PI_DEVICE float sum_over_lanes(float value) {
  PI_UNROLL
  for (int bit = 1; bit <= kLanes; bit *= 2) value += __shfl_xor_sync(kAllLanes, value, bit);
  return value;
}

template <int kLanes>
PI_DEVICE float max_over_lanes(float value) {
  PI_UNROLL
  for (int bit = 1; bit <= kLanes; bit *= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, bit));
  return value;
}

// Whether it is true in any lane of the warp.
PI_DEVICE bool any_lane(bool is_true) {
#ifdef __CUDACC__
  return __any_sync(kAllLanes, is_true) != 0;
#else
  int any = is_true;
  for (int bit = 1; bit < 32; bit *= 2) any |= __shfl_xor_sync(kAllLanes, any, bit);
  return any != 0;
#endif
}

}  // namespace paddle_infra
