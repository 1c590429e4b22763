// How linear_topk is cut into blocks on a GPU, and its scratch memory. Everything depends on sizes only.
#pragma once

#include <algorithm>

#include "common/arena.h"
#include "linear_topk/linear_topk.h"

namespace paddle_infra {

constexpr int64_t kMostCudaTopk = 16;
constexpr int kTopkTile = 128, kTopkFewRows = 32;  // rows of a tile: the fewer where there are not more
constexpr int64_t kTopkBlocks = 256;               // wanted

// Beside Bfloat16 and Float16, for instances of kernels.
struct Float32;

struct TopkCandidate {
  float logit;
  int32_t index;
};

// Of some classes of one row: the largest logit and the sum of e^(logit - max).
struct alignas(8) TopkSum {
  float max, sum;
};

// Blocks split the classes, and the warps of a block its columns; each warp leaves a list per row.
struct CudaTopkPlan {
  explicit CudaTopkPlan(const LinearTopkParams& p) {
    is_few = p.rows <= kTopkFewRows;
    const int64_t tile_rows = is_few ? kTopkFewRows : kTopkTile, tiles = ceil_div(p.classes, kTopkTile);
    row_tiles = ceil_div(p.rows, tile_rows);
    const int64_t wanted =
        std::clamp<int64_t>(ceil_div(kTopkBlocks, std::max<int64_t>(1, row_tiles)), 1, tiles);
    part_tiles = ceil_div(tiles, wanted);
    parts = ceil_div(tiles, part_tiles);
    lists = parts * (8 / (tile_rows / 32));
    Arena arena(p.workspace);
    sums = arena.take<TopkSum>(lists * p.rows);
    candidates = arena.take<TopkCandidate>(lists * p.rows * p.k);
    bytes = arena.used();
  }
  bool is_few;
  int64_t row_tiles, part_tiles, parts, lists, bytes;
  TopkSum* sums;              // [list][row]
  TopkCandidate* candidates;  // [list][row][k]
};

}  // namespace paddle_infra
