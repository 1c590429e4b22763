// The forward pass for 16-bit numbers. A block has a tile of rows and goes through a part of the classes, 128
// at a time; of each tile of logits, which never leaves the registers, a maximum and sums stay behind. A
// second kernel joins the parts of each row and makes its loss.
#pragma once

#include "common/cuda_launch.h"
#include "linear_cross_entropy/linear_cross_entropy_cuda.cuh"

namespace paddle_infra {
namespace {

// Both states relative to the larger maximum (arXiv:1805.02867).
PI_DEVICE SplitState joined(const SplitState& a, const SplitState& b) {
  const float max = fmaxf(a.max, b.max);
  return {max, a.sum * fast_exp2((a.max - max) * kLog2E) + b.sum * fast_exp2((b.max - max) * kLog2E),
          (a.weighted + (a.max - max) * a.weights) + (b.weighted + (b.max - max) * b.weights),
          a.weights + b.weights};
}

template <int kLanes>
PI_DEVICE SplitState joined_over_lanes(SplitState mine) {
  PI_UNROLL
  for (int bit = 1; bit <= kLanes; bit *= 2) {
    const SplitState other{
        __shfl_xor_sync(kAllLanes, mine.max, bit), __shfl_xor_sync(kAllLanes, mine.sum, bit),
        __shfl_xor_sync(kAllLanes, mine.weighted, bit), __shfl_xor_sync(kAllLanes, mine.weights, bit)};
    mine = joined(mine, other);
  }
  return mine;
}

// Folds a tile of logits into the running states of a thread's four rows, one after the other.
template <class Product>
PI_DEVICE void fold_logits(const Product& product, const ClassTile& tile, bool smooths,
                           const typename Product::Sums& z, SplitState (&states)[4]) {
  PI_UNROLL
  for (int i = 0; i < 4; ++i) {
    SplitState& state = states[i];
    const int m = i / 2, e = i % 2 * 2;
    float max = state.max, sum = 0.0f;
    PI_UNROLL
    for (int n = 0; n < Product::kBlocks; ++n) max = fmaxf(max, fmaxf(z[m][n][e], z[m][n][e + 1]));
    PI_UNROLL
    for (int n = 0; n < Product::kBlocks; ++n) {
      sum += fast_exp2((z[m][n][e] - max) * kLog2E) + fast_exp2((z[m][n][e + 1] - max) * kLog2E);
    }
    state.sum = state.sum * fast_exp2((state.max - max) * kLog2E) + sum;
    state.weighted += (state.max - max) * state.weights;
    state.max = max;
  }
  if (!smooths) return;
  float weighted[4] = {}, weights = 0.0f;
  PI_UNROLL
  for (int n = 0; n < Product::kBlocks; ++n) {
    PI_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int c = product.column(n) + e;
      if (c >= tile.count) continue;
      const float weight = tile.weight_at(c);
      weights += weight;
      PI_UNROLL
      for (int i = 0; i < 4; ++i) weighted[i] += weight * (z[i / 2][n][i % 2 * 2 + e] - states[i].max);
    }
  }
  PI_UNROLL
  for (int i = 0; i < 4; ++i) {
    states[i].weighted += weighted[i];
    states[i].weights += weights;
  }
}

// Grid: tiles of rows, parts of the classes.
template <class Format, int kRows, bool kWeightIsVd>
__global__ void __launch_bounds__(kProductThreads, kProductBlocks<kRows>)
    linear_cross_entropy_fwd(LinearCrossEntropyParams p, HalfMatrix hidden, HalfMatrix weight, int part_tiles,
                             float* targets, SplitState* splits) {
  using Product = LogitProduct<Format, kRows, kWeightIsVd>;
  PI_SHARED_MEMORY(shared);
  const Product product(shared);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  const int first_tile = static_cast<int>(blockIdx.y) * part_tiles;
  const int all_tiles = static_cast<int>((p.classes + kTile - 1) / kTile);
  const int tiles = first_tile + part_tiles < all_tiles ? part_tiles : all_tiles - first_tile;

  SplitState states[4];
  PI_UNROLL
  for (int i = 0; i < 4; ++i) states[i] = {kLowestMax, 0.0f, 0.0f, 0.0f};
  typename Product::Sums sums;
  const auto finish = [&](int64_t first, typename Product::Sums& z) {
    const ClassTile tile(p.bias, p.class_weight, p.classes, first);
    make_logits(product, tile, p.softcap, z);
    PI_UNROLL
    for (int i = 0; i < 4; ++i) {
      // Read for every tile: to keep it would cost registers that products need.
      const int64_t row = first_row + product.row(i / 2, i % 2);
      const int64_t label = row < p.rows ? load_global(p.label + row) : -1;
      const int64_t target = is_class(p, label) ? label - first : -1;
      if (target < 0 || target >= kTile) continue;
      PI_UNROLL
      for (int n = 0; n < Product::kBlocks; ++n) {
        PI_UNROLL
        for (int e = 0; e < 2; ++e) {
          if (product.column(n) + e != target) continue;
          store_global(targets + row, z[i / 2][n][i % 2 * 2 + e]);
        }
      }
    }
    fold_logits(product, tile, p.label_smoothing > 0.0f, z, states);
  };
  product.run(hidden, weight, first_row, static_cast<int64_t>(first_tile) * kTile, tiles, 0, p.hidden_size,
              sums, finish);

  // Of each row, four lanes and every warp in its columns have a part. Lane i of four writes their row i; two
  // places are left free after eight rows, so that what a warp writes is in different banks.
  constexpr int kPitch = kRows + kRows / 4;
  const auto place = [](int warp, int row) { return warp * kPitch + row + row / 8 * 2; };
  SplitState* const parts = reinterpret_cast<SplitState*>(shared);
  const int quarter = product.lane() % 4;
  SplitState mine{};
  PI_UNROLL
  for (int i = 0; i < 4; ++i) {
    const SplitState all = joined_over_lanes<3>(states[i]);
    mine.max = i == quarter ? all.max : mine.max;
    mine.sum = i == quarter ? all.sum : mine.sum;
    mine.weighted = i == quarter ? all.weighted : mine.weighted;
    mine.weights = i == quarter ? all.weights : mine.weights;
  }
  __syncthreads();
  store_shared(parts + place(product.warp_column(), product.row(quarter / 2, quarter % 2)), mine);
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= kRows || first_row + thread >= p.rows) return;
  SplitState all = load_shared(parts + place(0, thread));
  for (int w = 1; w < Product::kWarpColumns; ++w) all = joined(all, load_shared(parts + place(w, thread)));
  store_global(splits + blockIdx.y * p.rows + first_row + thread, all);
}

// Loss of one row before scaling.
PI_DEVICE double row_loss(const LinearCrossEntropyParams& p, int64_t label, const SplitState& all,
                          double log_sum, float target, double class_weights) {
  const double lse = all.max + log_sum;
  double loss = (1.0 - p.label_smoothing) * label_weight(p, label) *
                (log_sum - (static_cast<double>(target) - all.max));
  if (p.label_smoothing > 0.0f) {
    const double spread = static_cast<double>(p.label_smoothing) / static_cast<double>(p.classes);
    loss += spread * (class_weights * log_sum - all.weighted);
  }
  return p.z_loss > 0.0f ? loss + p.z_loss * lse * lse : loss;
}

constexpr int kMergeThreads = 256;

// A warp for each row: joins its parts, writes its statistics and its scaled loss.
__global__ void __launch_bounds__(kMergeThreads)
    merge_rows(LinearCrossEntropyParams p, int parts, const SplitState* splits, const float* targets,
               const HeadTotals* totals, double* losses) {
  const int64_t row = thread_number() / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= p.rows) return;
  const int64_t label = load_global(p.label + row);
  RowStats stats = {};
  double loss = 0.0;
  if (label != p.ignore_index) {
    SplitState all{kLowestMax, 0.0f, 0.0f, 0.0f};
    for (int part = lane; part < parts; part += 32) {
      all = joined(all, load_global(splits + part * p.rows + row));
    }
    all = joined_over_lanes<31>(all);
    const float target = is_class(p, label) ? load_global(targets + row) : NAN;
    double scale = token_weight_at(p, row);
    if (p.reduction == Reduction::kMean) {
      const double total = load_global(&totals->row_weights);
      scale = total == 0.0 ? 0.0 : scale / total;
    }
    const double log_sum = log(static_cast<double>(all.sum));
    stats.max = all.max;
    stats.log_sum = static_cast<float>(log_sum);
    stats.scale = static_cast<float>(scale);
    stats.log_prob = static_cast<float>(static_cast<double>(target) - all.max - log_sum);
    stats.inverse_sum = 1.0f / all.sum;
    loss = stats.scale * row_loss(p, label, all, log_sum, target, load_global(&totals->class_weights));
  }
  if (lane != 0) return;
  RowStats* const to = p.stats + row;
  store_global(&to->max, stats.max);
  store_global(&to->log_sum, stats.log_sum);
  store_global(&to->scale, stats.scale);
  store_global(&to->log_prob, stats.log_prob);
  store_global(&to->inverse_sum, stats.inverse_sum);
  if (p.reduction == Reduction::kNone) {
    store_global(p.loss + row, static_cast<float>(loss));
  } else {
    store_global(losses + row, loss);
  }
}

}  // namespace

template <class Format, bool kWeightIsVd>
const char* launch_linear_cross_entropy_fwd(const LinearCrossEntropyParams& p, void* stream) {
  const HalfHeadSpace space(p);
  const HalfMatrix hidden = half_matrix(p.hidden, p.hidden_size, p.rows, p.hidden_size);
  const HalfMatrix weight = kWeightIsVd ? half_matrix(p.weight, p.hidden_size, p.classes, p.hidden_size)
                                        : half_matrix(p.weight, p.classes, p.hidden_size, p.classes);
  const Parts parts = class_parts(p);
  Launcher launch(stream);
  launch.blocks(dim3(2), kSumThreads, kSumSharedBytes, sum_weights, p, space.totals);
  const auto fold = [&](auto rows, auto kernel) {
    constexpr int kRows = decltype(rows)::value;
    const dim3 grid(static_cast<unsigned>(ceil_div(p.rows, kRows)), static_cast<unsigned>(parts.parts));
    launch.blocks(grid, kProductThreads, LogitProduct<Format, kRows, kWeightIsVd>::kSharedBytes, kernel, p,
                  hidden, weight, static_cast<int>(parts.size), space.targets, space.states);
  };
  if (has_few_rows(p.rows)) {
    fold(std::integral_constant<int, kFewRows>(), linear_cross_entropy_fwd<Format, kFewRows, kWeightIsVd>);
  } else {
    fold(std::integral_constant<int, kTile>(), linear_cross_entropy_fwd<Format, kTile, kWeightIsVd>);
  }
  const auto blocks = static_cast<unsigned>(ceil_div(p.rows * 32, kMergeThreads));
  launch.blocks(dim3(blocks), kMergeThreads, 0, merge_rows, p, static_cast<int>(parts.parts), space.states,
                space.targets, space.totals, space.losses);
  if (p.reduction != Reduction::kNone) {
    launch.blocks(dim3(1), kSumThreads, kSumSharedBytes, sum_losses, space.losses, p.rows, p.loss);
  }
  return launch.error();
}

}  // namespace paddle_infra
