// What the emulator computes where a GPU has instructions; see common/cuda_primitives.h.
#pragma once

#ifdef __CUDACC__
#error "for the emulator only"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simt/cuda.h"

namespace paddle_infra {

inline float bits_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float bfloat16_to_float(uint16_t number) { return bits_as_float(static_cast<uint32_t>(number) << 16); }

// To the nearest, ties to even.
inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

inline float float16_to_float(uint16_t number) {
  _Float16 value;
  std::memcpy(&value, &number, sizeof value);
  return static_cast<float>(value);
}

inline uint16_t float_to_float16(float value) {
  const auto rounded = static_cast<_Float16>(value);
  uint16_t number;
  std::memcpy(&number, &rounded, sizeof number);
  return number;
}

template <class ToFloat>
void emulate_mma(ToFloat to_float, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct In {
    float c[4];
    uint32_t a[4], b[2];
  } in;
  struct Out {
    float d[4];
  };
  std::memcpy(in.c, d, sizeof in.c);
  std::memcpy(in.a, a, sizeof in.a);
  in.b[0] = b0;
  in.b[1] = b1;
  const Out result = simt::collect<Out>(
      simt::kMma, false, in, [&](simt::Warp& warp, unsigned char (*out)[simt::kMostCollected]) {
        simt::counters().add(simt::Count::kMma);
        float left[16][16], right[16][8], sum[16][8];
        for (int lane = 0; lane < simt::kWarpSize; ++lane) {
          In x;
          std::memcpy(&x, warp.in[lane], sizeof x);
          const int row = lane / 4, pair = lane % 4 * 2;
          for (int half = 0; half < 2; ++half) {
            const auto number = [&](uint32_t bits) {
              return to_float(static_cast<uint16_t>(bits >> 16 * half));
            };
            for (int i = 0; i < 4; ++i) left[row + i % 2 * 8][pair + i / 2 * 8 + half] = number(x.a[i]);
            for (int i = 0; i < 2; ++i) right[pair + i * 8 + half][row] = number(x.b[i]);
            for (int i = 0; i < 2; ++i) sum[row + i * 8][pair + half] = x.c[i * 2 + half];
          }
        }
        for (int m = 0; m < 16; ++m) {
          for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 8; ++n) sum[m][n] += left[m][k] * right[k][n];
          }
        }
        for (int lane = 0; lane < simt::kWarpSize; ++lane) {
          const int row = lane / 4, pair = lane % 4 * 2;
          const Out mine{{sum[row][pair], sum[row][pair + 1], sum[row + 8][pair], sum[row + 8][pair + 1]}};
          std::memcpy(out[lane], &mine, sizeof mine);
        }
      });
  std::memcpy(d, result.d, sizeof result.d);
}

template <bool kTransposed>
void emulate_load_matrices(uint32_t (&r)[4], const void* shared_row) {
  struct Out {
    uint32_t r[4];
  };
  simt::shared_access(shared_row, 16, "ldmatrix");
  simt::note_read(shared_row, 16);
  const int collective = kTransposed ? simt::kMatrixLoadTransposed : simt::kMatrixLoad;
  const Out loaded = simt::collect<Out>(
      collective, false, shared_row, [](simt::Warp& warp, unsigned char (*out)[simt::kMostCollected]) {
        simt::counters().add(simt::Count::kMatrixLoads);
        const uint16_t* rows[simt::kWarpSize];
        for (int lane = 0; lane < simt::kWarpSize; ++lane)
          std::memcpy(&rows[lane], warp.in[lane], sizeof rows[lane]);
        for (int lane = 0; lane < simt::kWarpSize; ++lane) {
          const int row = lane / 4, pair = lane % 4 * 2;
          Out mine;
          for (int m = 0; m < 4; ++m) {
            const uint16_t* const* matrix = rows + m * 8;
            const uint32_t first = kTransposed ? matrix[pair][row] : matrix[row][pair];
            const uint32_t second = kTransposed ? matrix[pair + 1][row] : matrix[row][pair + 1];
            mine.r[m] = first | second << 16;
          }
          std::memcpy(out[lane], &mine, sizeof mine);
        }
      });
  std::memcpy(r, loaded.r, sizeof loaded.r);
}

inline void emulate_copy_async_16(void* shared, const void* global, bool is_valid) {
  simt::shared_access(shared, 16, "cp.async");
  simt::note_write(shared, 16);  // from now on nobody may use it
  if (is_valid) simt::note_read(global, 16);
  const simt::Quiet quiet;
  simt::PendingCopy copy{shared, {}};
  if (is_valid) {
    simt::global_read(global, 16, "cp.async");
    std::memcpy(copy.bytes, global, 16);
  }
  simt::this_fiber().open.push_back(copy);
}

inline void emulate_close_copy_group() {
  const simt::Quiet quiet;
  simt::Fiber& me = simt::this_fiber();
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}

inline void emulate_wait_for_copies(int open) {
  std::vector<simt::PendingCopy> arrived;
  {
    const simt::Quiet quiet;
    auto& groups = simt::this_fiber().groups;
    for (; static_cast<int>(groups.size()) > open; groups.pop_front()) {
      arrived.insert(arrived.end(), groups.front().begin(), groups.front().end());
    }
  }
  for (const simt::PendingCopy& copy : arrived) {
    simt::note_write(copy.to, 16);
    const simt::Quiet quiet;
    std::memcpy(copy.to, copy.bytes, 16);
  }
}

}  // namespace paddle_infra
