// The k most probable classes on a GPU. A block has a tile of rows and goes through a part of the classes,
// 128 at a time. Logits stay in the registers; four neighbouring lanes share four rows of their warp's
// columns, and have the best 16 classes of each so far, in order, four to a lane. Few logits are among them
// after the first tiles: for the others a comparison of the tile's maximum is all.
#pragma once

#include <climits>
#include <cmath>
#include <type_traits>

#include "common/cuda_float_product.cuh"
#include "common/cuda_launch.h"
#include "common/cuda_logits.cuh"
#include "common/cuda_tile_product.cuh"
#include "linear_topk/linear_topk_cuda.h"

namespace paddle_infra {
namespace {

constexpr int kTopkSlots = 4, kMergeThreads = 128;

PI_DEVICE bool comes_before(TopkCandidate a, TopkCandidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.index < b.index);
}

// Comes after every class.
PI_DEVICE TopkCandidate no_candidate() { return {-INFINITY, INT_MAX}; }

PI_DEVICE TopkCandidate chosen(bool first, TopkCandidate a, TopkCandidate b) {
  return {first ? a.logit : b.logit, first ? a.index : b.index};
}

PI_DEVICE TopkCandidate exchange(TopkCandidate mine, int bits) {
  return {__shfl_xor_sync(kAllLanes, mine.logit, bits), __shfl_xor_sync(kAllLanes, mine.index, bits)};
}

// The best candidates of a row in order; lane q of four has those from 4 q on.
class RowList {
 public:
  PI_DEVICE RowList() {
    PI_UNROLL
    for (int slot = 0; slot < kTopkSlots; ++slot) slots_[slot] = no_candidate();
  }

  PI_DEVICE TopkCandidate operator[](int slot) const { return slots_[slot]; }

  // All lanes of the warp have to call it, with the same candidate in each four.
  PI_DEVICE void insert(TopkCandidate candidate, int quarter) {
    const TopkCandidate end = slots_[kTopkSlots - 1], one = exchange(end, 1), three = exchange(end, 3);
    // Of the lane before: the one that differs in bit 0, or for lane 2 in both.
    TopkCandidate before = chosen(quarter == 0, {INFINITY, -1}, chosen(quarter == 2, three, one));
    PI_UNROLL
    for (int slot = 0; slot < kTopkSlots; ++slot) {
      const TopkCandidate here = slots_[slot];
      slots_[slot] = chosen(comes_before(candidate, before), before,
                            chosen(comes_before(candidate, here), candidate, here));
      before = here;
    }
  }

  // The candidate at place k - 1, for all lanes.
  PI_DEVICE TopkCandidate last(int k, int quarter) const {
    TopkCandidate mine = slots_[0];
    PI_UNROLL
    for (int slot = 1; slot < kTopkSlots; ++slot) {
      mine = chosen((k - 1) % kTopkSlots == slot, slots_[slot], mine);
    }
    const TopkCandidate one = exchange(mine, 1), two = exchange(mine, 2), three = exchange(mine, 3);
    const int distance = quarter ^ (k - 1) / kTopkSlots;
    return chosen(distance < 2, chosen(distance == 0, mine, one), chosen(distance == 2, two, three));
  }

 private:
  TopkCandidate slots_[kTopkSlots];
};

PI_DEVICE TopkSum joined(const TopkSum& a, const TopkSum& b) {
  const float max = fmaxf(a.max, b.max);
  return {max, a.sum * fast_exp2((a.max - max) * kLog2E) + b.sum * fast_exp2((b.max - max) * kLog2E)};
}

// What a thread knows of its four rows.
struct TopkRows {
  TopkSum sums[4];
  RowList lists[4];
  TopkCandidate bounds[4];  // at place k - 1

  PI_DEVICE TopkRows() {
    PI_UNROLL
    for (int i = 0; i < 4; ++i) {
      sums[i] = {kLowestMax, 0.0f};
      bounds[i] = no_candidate();
    }
  }

  // Takes a tile of logits, which it overwrites.
  template <class Product>
  PI_DEVICE void take(const Product& product, const ClassTile& tile, int64_t first, int k,
                      typename Product::Sums& z) {
    bool has_news = false;
    PI_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int m = i / 2, e = i % 2 * 2;
      float top = -INFINITY, sum = 0.0f;
      PI_UNROLL
      for (int n = 0; n < Product::kBlocks; ++n) top = fmaxf(top, fmaxf(z[m][n][e], z[m][n][e + 1]));
      const float max = fmaxf(sums[i].max, top);
      PI_UNROLL
      for (int n = 0; n < Product::kBlocks; ++n) {
        sum += fast_exp2((z[m][n][e] - max) * kLog2E) + fast_exp2((z[m][n][e + 1] - max) * kLog2E);
      }
      sums[i] = {max, sums[i].sum * fast_exp2((sums[i].max - max) * kLog2E) + sum};
      has_news = has_news || top > bounds[i].logit || bounds[i].index == INT_MAX;
    }
    if (!any_lane(has_news)) return;
    take_row<0>(product, tile, first, k, z);
    take_row<1>(product, tile, first, k, z);
    take_row<2>(product, tile, first, k, z);
    take_row<3>(product, tile, first, k, z);
  }

 private:
  // One by one, from the best one down, the logits that come before the bound. The row is a constant, so that
  // lists are registers.
  template <int kRow, class Product>
  PI_DEVICE void take_row(const Product& product, const ClassTile& tile, int64_t first, int k,
                          typename Product::Sums& z) {
    const int quarter = product.lane() % 4;
    while (true) {
      TopkCandidate best = best_of(product, tile, first, kRow, z);
      PI_UNROLL
      for (int bits = 1; bits < 4; bits *= 2) {
        const TopkCandidate other = exchange(best, bits);
        best = chosen(comes_before(other, best), other, best);
      }
      const bool is_new = comes_before(best, bounds[kRow]);
      if (!any_lane(is_new)) break;
      best = chosen(is_new, best, no_candidate());
      lists[kRow].insert(best, quarter);
      bounds[kRow] = lists[kRow].last(k, quarter);
      forget(product, static_cast<int>(best.index - first), kRow, z);
    }
  }

  template <class Product>
  PI_DEVICE static TopkCandidate best_of(const Product& product, const ClassTile& tile, int64_t first, int i,
                                         const typename Product::Sums& z) {
    TopkCandidate best = no_candidate();
    PI_UNROLL
    for (int n = 0; n < Product::kBlocks; ++n) {
      PI_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int c = product.column(n) + e;
        const TopkCandidate candidate{z[i / 2][n][i % 2 * 2 + e], static_cast<int>(first) + c};
        best = chosen(c < tile.count && comes_before(candidate, best), candidate, best);
      }
    }
    return best;
  }

  // A NaN comes before nothing.
  template <class Product>
  PI_DEVICE static void forget(const Product& product, int column, int i, typename Product::Sums& z) {
    PI_UNROLL
    for (int n = 0; n < Product::kBlocks; ++n) {
      PI_UNROLL
      for (int e = 0; e < 2; ++e) {
        if (product.column(n) + e == column) z[i / 2][n][i % 2 * 2 + e] = NAN;
      }
    }
  }
};

// Grid: tiles of rows, parts of the classes.
template <class Product, class Matrix>
__global__ void __launch_bounds__(256, 1)
    fold_topk(LinearTopkParams p, Matrix hidden, Matrix weight, int part_tiles, TopkSum* sums,
              TopkCandidate* candidates) {
  PI_SHARED_MEMORY(shared);
  const Product product(shared);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Product::kRows;
  const int first_tile = static_cast<int>(blockIdx.y) * part_tiles, k = static_cast<int>(p.k);
  const int all_tiles = static_cast<int>((p.classes + kTopkTile - 1) / kTopkTile);
  const int tiles = first_tile + part_tiles < all_tiles ? part_tiles : all_tiles - first_tile;
  TopkRows rows;
  typename Product::Sums z;
  product.run(hidden, weight, first_row, static_cast<int64_t>(first_tile) * kTopkTile, tiles, 0,
              p.hidden_size, z, [&](int64_t first, typename Product::Sums& logits) {
                const ClassTile tile(p.bias, nullptr, p.classes, first);
                make_logits(product, tile, p.softcap, logits);
                rows.take(product, tile, first, k, logits);
              });

  const int64_t list = static_cast<int64_t>(blockIdx.y) * Product::kWarpColumns + product.warp_column();
  const int quarter = product.lane() % 4;
  PI_UNROLL
  for (int i = 0; i < 4; ++i) {
    TopkSum sum = rows.sums[i];
    PI_UNROLL
    for (int bit = 1; bit < 4; bit *= 2) {
      sum = joined(sum, {__shfl_xor_sync(kAllLanes, sum.max, bit), __shfl_xor_sync(kAllLanes, sum.sum, bit)});
    }
    const int64_t row = first_row + product.row(i / 2, i % 2);
    if (row >= p.rows) continue;
    const int64_t at = list * p.rows + row;
    if (quarter == 0) store_global(sums + at, sum);
    PI_UNROLL
    for (int slot = 0; slot < kTopkSlots; ++slot) {
      const int place = quarter * kTopkSlots + slot;
      if (place >= k) continue;
      store_global(&candidates[at * k + place].logit, rows.lists[i][slot].logit);
      store_global(&candidates[at * k + place].index, rows.lists[i][slot].index);
    }
  }
}

// A warp for each row: lanes share the lists, each has the best of its own, and k times the best of all is
// taken.
__global__ void __launch_bounds__(kMergeThreads)
    merge_topk(LinearTopkParams p, int lists, const TopkSum* sums, const TopkCandidate* candidates) {
  const int64_t row = thread_number() / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, k = static_cast<int>(p.k);
  if (row >= p.rows) return;
  constexpr int kMost = static_cast<int>(kMostCudaTopk);
  TopkSum sum{kLowestMax, 0.0f};
  TopkCandidate best[kMost];
  PI_UNROLL
  for (int i = 0; i < kMost; ++i) best[i] = no_candidate();
  for (int list = lane; list < lists; list += 32) {
    const int64_t at = list * p.rows + row;
    sum = joined(sum, load_global(sums + at));
    for (int place = 0; place < k; ++place) {
      TopkCandidate moved{load_global(&candidates[at * k + place].logit),
                          load_global(&candidates[at * k + place].index)};
      if (!comes_before(moved, best[kMost - 1])) break;
      PI_UNROLL
      for (int i = 0; i < kMost; ++i) {
        const TopkCandidate here = best[i];
        const bool is_here = comes_before(moved, here);
        best[i] = is_here ? moved : here;
        if (is_here) moved = here;
      }
    }
  }
  PI_UNROLL
  for (int bit = 1; bit < 32; bit *= 2) {
    sum = joined(sum, {__shfl_xor_sync(kAllLanes, sum.max, bit), __shfl_xor_sync(kAllLanes, sum.sum, bit)});
  }
  const bool is_defined = sum.sum > 0.0f;
  const double log_sum = log(static_cast<double>(sum.sum));
  for (int place = 0; place < k; ++place) {
    TopkCandidate top = best[0];
    PI_UNROLL
    for (int bit = 1; bit < 32; bit *= 2) {
      const TopkCandidate other = exchange(top, bit);
      if (comes_before(other, top)) top = other;
    }
    const bool is_mine = best[0].index == top.index;
    PI_UNROLL
    for (int i = 0; i < kMost; ++i) {
      if (is_mine) best[i] = i + 1 < kMost ? best[i + 1] : no_candidate();
    }
    if (lane != 0) continue;
    const double log_prob = static_cast<double>(top.logit) - sum.max - log_sum;
    const double prob = p.is_log ? log_prob : exp(log_prob);
    store_global(p.prob + row * k + place, is_defined ? static_cast<float>(prob) : NAN);
    store_global(p.index + row * k + place, int64_t{is_defined ? top.index : place});
  }
}

inline FloatMatrix float_matrix(const void* data, int64_t stride, int64_t rows, int64_t columns) {
  return {static_cast<const float*>(data), stride, rows, columns};
}

// How products are made, by format.
template <class Format, int kRows, bool kWeightIsVd>
struct TopkProduct {
  using Type = TileProduct<Format, kRows, kTopkTile, true, kWeightIsVd>;
  static constexpr auto kMatrix = half_matrix;
};
template <int kRows, bool kWeightIsVd>
struct TopkProduct<Float32, kRows, kWeightIsVd> {
  using Type = FloatProduct<kRows, kTopkTile, kWeightIsVd>;
  static constexpr auto kMatrix = float_matrix;
};

template <class Format, int kRows, bool kWeightIsVd>
void launch_fold(Launcher& launch, const LinearTopkParams& p, const CudaTopkPlan& plan) {
  using Product = typename TopkProduct<Format, kRows, kWeightIsVd>::Type;
  const auto matrix = TopkProduct<Format, kRows, kWeightIsVd>::kMatrix;
  const auto hidden = matrix(p.hidden, p.hidden_size, p.rows, p.hidden_size);
  const auto weight = kWeightIsVd ? matrix(p.weight, p.hidden_size, p.classes, p.hidden_size)
                                  : matrix(p.weight, p.classes, p.hidden_size, p.classes);
  using Matrix = std::remove_const_t<decltype(hidden)>;
  const dim3 grid(static_cast<unsigned>(plan.row_tiles), static_cast<unsigned>(plan.parts));
  launch.blocks(grid, 256, Product::kSharedBytes, fold_topk<Product, Matrix>, p, hidden, weight,
                static_cast<int>(plan.part_tiles), plan.sums, plan.candidates);
}

}  // namespace

template <class Format, bool kWeightIsVd>
const char* launch_linear_topk(const LinearTopkParams& p, void* stream) {
  const CudaTopkPlan plan(p);
  Launcher launch(stream);
  if (plan.is_few) {
    launch_fold<Format, kTopkFewRows, kWeightIsVd>(launch, p, plan);
  } else {
    launch_fold<Format, kTopkTile, kWeightIsVd>(launch, p, plan);
  }
  launch.blocks(dim3(static_cast<unsigned>(ceil_div(p.rows * 32, kMergeThreads))), kMergeThreads, 0,
                merge_topk, p, static_cast<int>(plan.lists), plan.sums, plan.candidates);
  return launch.error();
}

}  // namespace paddle_infra
