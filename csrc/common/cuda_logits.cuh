// From products with the weight of a head to logits, in the registers of the threads that have a tile.
#pragma once

#include <cmath>

#include "common/cuda_primitives.h"

namespace paddle_infra {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
// Running maxima start here, and hidden classes are -infinity: their difference is never a NaN.
constexpr float kLowestMax = -1e30f;

// The classes of a tile. Positions in it are ints: 64-bit ones of all columns would take the registers.
struct ClassTile {
  const float *bias, *weight;  // from the tile's first class on, or null
  int count;                   // of classes that exist, may be more than a tile has

  PI_DEVICE ClassTile(const float* all_bias, const float* all_weight, int64_t classes, int64_t first)
      : bias(all_bias != nullptr ? all_bias + first : nullptr),
        weight(all_weight != nullptr ? all_weight + first : nullptr),
        count(static_cast<int>(classes - first)) {}
  PI_DEVICE float weight_at(int c) const { return weight != nullptr ? load_global(weight + c) : 1.0f; }
};

// Products to logits; -infinity beyond the last class.
template <class Product>
PI_DEVICE void make_logits(const Product& product, const ClassTile& tile, float softcap,
                           typename Product::Sums& z) {
  if (tile.bias != nullptr) {
    PI_UNROLL
    for (int n = 0; n < Product::kBlocks; ++n) {
      PI_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int c = product.column(n) + e;
        const float bias = c < tile.count ? load_global(tile.bias + c) : 0.0f;
        PI_UNROLL
        for (int i = 0; i < 4; ++i) z[i / 2][n][i % 2 * 2 + e] += bias;
      }
    }
  }
  if (softcap > 0.0f) {
    PI_UNROLL
    for (int n = 0; n < Product::kBlocks; ++n) {
      PI_UNROLL
      for (int i = 0; i < 8; ++i) z[i / 4][n][i % 4] = softcap * tanhf(z[i / 4][n][i % 4] / softcap);
    }
  }
  if (tile.count >= Product::kColumns) return;
  PI_UNROLL
  for (int n = 0; n < Product::kBlocks; ++n) {
    PI_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (product.column(n) + i % 2 >= tile.count) z[i / 4][n][i % 4] = -INFINITY;
    }
  }
}

}  // namespace
}  // namespace paddle_infra
