// How the CUDA kernels for 16-bit numbers cut a head into tiles and chunks, and their scratch memory.
// Everything depends on sizes only, so results do not depend on the GPU.
#pragma once

#include <algorithm>

#include "common/arena.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

namespace paddle_infra {

constexpr int kTile = 128;              // rows, and columns, of a tile of a product
constexpr int kFewRows = 32;            // up to here tiles have so many rows
constexpr int64_t kWantedBlocks = 512;  // per launch: a few for each multiprocessor
constexpr int64_t kFewestSteps = 8;     // of 64 along the summed axis, before a product is split there
constexpr int64_t kChunkBytes = 16 << 20;

// With few rows the weight is read once whatever the tile, and that should take the time; tiles of 128 rows
// would multiply zeros for longer than that. Blocks then come from splitting the classes: every launch has
// about as many as a batched product would. Whether that is as fast as a dense head, no GPU has shown yet.
inline bool has_few_rows(int64_t rows) { return rows <= kFewRows; }
inline int64_t tile_rows(int64_t rows) { return has_few_rows(rows) ? kFewRows : kTile; }

// A range cut into `parts` of `size` units, the last one maybe shorter, none of them empty.
struct Parts {
  int64_t parts, size;
};
inline Parts cut(int64_t units, int64_t wanted) {
  if (units == 0) return {1, 0};
  const int64_t size = ceil_div(units, std::clamp<int64_t>(wanted, 1, units));
  return {ceil_div(units, size), size};
}

// Tiles of classes that a block of the forward pass goes through.
inline Parts class_parts(const LinearCrossEntropyParams& p) {
  const int64_t row_tiles = std::max<int64_t>(1, ceil_div(p.rows, tile_rows(p.rows)));
  return cut(ceil_div(p.classes, kTile), ceil_div(kWantedBlocks, row_tiles));
}

// Logit gradients of so many rows exist at a time: 16 MB, which stay in the cache of a large GPU, or as
// much as the weight has, but a tile at least.
inline int64_t half_chunk_rows(const LinearCrossEntropyParams& p) {
  const int64_t row_bytes = round_up(p.classes, 8) * 2;
  const int64_t budget = std::max(kChunkBytes, p.classes * p.hidden_size * 2);
  const int64_t rows = std::max<int64_t>(kTile, budget / row_bytes / kTile * kTile);
  return std::min(rows, p.rows);
}

// A product of the backward pass, [rows, columns], split along its summed axis if it has few tiles: the parts
// are stored as floats and added up in their order by another kernel.
struct ProductPlan {
  ProductPlan(int64_t rows, int64_t columns, int64_t summed, int64_t tile_rows)
      : row_tiles(ceil_div(rows, tile_rows)), column_tiles(ceil_div(columns, kTile)) {
    const int64_t steps = ceil_div(summed, 64), tiles = std::max<int64_t>(1, row_tiles * column_tiles);
    parts = cut(steps, std::min(kWantedBlocks / tiles, steps / kFewestSteps));
    floats = parts.parts > 1 ? parts.parts * rows * columns : 0;
  }
  int64_t row_tiles, column_tiles, floats;
  Parts parts;  // of steps of 64
};

// Sums that every row needs.
struct HeadTotals {
  double class_weights;  // of all classes
  double row_weights;    // of token weight * class weight of the label, over the rows that count
};

// A block of classes of one row of logits: its maximum, the sum of exp(logit - max), and for label smoothing
// the sums of class weight * (logit - max) and of class weights.
struct alignas(16) SplitState {
  float max, sum, weighted, weights;
};

// The scratch memory; `p.workspace` null: only its size is wanted. The passes share it.
struct HalfHeadSpace {
  explicit HalfHeadSpace(const LinearCrossEntropyParams& p) {
    Arena forward(p.workspace), backward(p.workspace);
    totals = forward.take<HeadTotals>(1);
    losses = forward.take<double>(p.rows);
    targets = forward.take<float>(p.rows);
    states = forward.take<SplitState>(class_parts(p).parts * p.rows);

    backward.take<HeadTotals>(1);
    const int64_t rows = half_chunk_rows(p);
    gradient_stride = round_up(p.classes, 8);
    gradients = backward.take<uint16_t>(rows * gradient_stride);
    bias_sums = backward.take<float>(ceil_div(rows, tile_rows(p.rows)) * p.classes);
    const bool has_chunks = rows < p.rows;
    weight_sums = backward.take<float>(has_chunks ? p.classes * p.hidden_size : 0);
    // The last chunk is smaller, and has more parts than others perhaps.
    const int64_t last = p.rows > 0 ? (p.rows - 1) % rows + 1 : 0;
    const auto floats = [&](int64_t chunk) {
      return std::max(hidden_plan(p, chunk).floats, weight_plan(p, chunk).floats);
    };
    parts = backward.take<float>(std::max(floats(rows), floats(last)));
    bytes = std::max(forward.used(), backward.used());
  }

  static ProductPlan hidden_plan(const LinearCrossEntropyParams& p, int64_t chunk) {
    return {chunk, p.hidden_size, p.classes, tile_rows(p.rows)};
  }
  // As the weight lies: [classes, features] or [features, classes].
  static ProductPlan weight_plan(const LinearCrossEntropyParams& p, int64_t chunk) {
    const bool is_vd = p.weight_feature_stride == 1;
    return {is_vd ? p.classes : p.hidden_size, is_vd ? p.hidden_size : p.classes, chunk, kTile};
  }

  HeadTotals* totals;
  double* losses;
  float* targets;       // logits of labels
  SplitState* states;   // [split][row]
  uint16_t* gradients;  // [chunk][gradient_stride]
  float* bias_sums;     // [tile of rows][class]
  float* weight_sums;   // of all chunks so far, as the weight lies
  float* parts;
  int64_t gradient_stride, bytes;
};

}  // namespace paddle_infra
