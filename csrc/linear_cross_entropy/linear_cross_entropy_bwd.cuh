// The backward pass for 16-bit numbers, a chunk of rows at a time: logits again, their gradients G to scratch
// memory as 16-bit numbers, then
//
//   dHidden = G W      dWeight += G^T hidden      dBias += column sums of G, before it is rounded
//
// Every number of a result is made by one thread in a fixed order: no atomics, the same bits in every run.
//
// What all rows have in common, the gradient of the loss and the divisor of the mean, is left out of G and
// applied at the end: G is then of the size of probabilities, which float16 has, however many rows there are.
#pragma once

#include "common/cuda_launch.h"
#include "linear_cross_entropy/linear_cross_entropy_cuda.cuh"

namespace paddle_infra {
namespace {

struct NoFinish {
  template <class Sums>
  PI_DEVICE void operator()(int64_t, Sums&) const {}
};

struct HeadChunk {
  int64_t first, rows;
};

PI_DEVICE float common_gradient(const LinearCrossEntropyParams& p, const HeadTotals* totals) {
  if (p.reduction == Reduction::kNone) return 1.0f;
  const float grad = load_global(p.grad_loss);
  if (p.reduction == Reduction::kSum) return grad;
  const double total = load_global(&totals->row_weights);
  return total == 0.0 ? 0.0f : static_cast<float>(grad / total);
}

// How the gradients of a row's logits are made of their exponentials.
struct RowFactors {
  float max, of_exponential, of_target, of_weight;
  int label;    // its place in the tile
  bool counts;  // otherwise the gradients are 0
};

// first: the first class of the tile.
PI_DEVICE RowFactors row_factors(const LinearCrossEntropyParams& p, const HeadTotals* totals, int64_t row,
                                 int64_t first) {
  const int64_t label = load_global(p.label + row);
  float own = token_weight_at(p, row);
  if (p.reduction == Reduction::kNone) own *= load_global(p.grad_loss + row);
  RowFactors of{0.0f, 0.0f, 0.0f, 0.0f, -1, false};
  if (label == p.ignore_index || own == 0.0f || common_gradient(p, totals) == 0.0f) return of;
  const RowStats* const stats = p.stats + row;
  const float on_target = (1.0f - p.label_smoothing) * label_weight(p, label);
  const float spread = p.label_smoothing / static_cast<float>(p.classes);
  of.max = load_global(&stats->max);
  const float lse = of.max + load_global(&stats->log_sum);
  float of_probability = on_target + 2.0f * p.z_loss * lse;
  if (spread > 0.0f) of_probability += spread * static_cast<float>(load_global(&totals->class_weights));
  of.of_exponential = own * of_probability * load_global(&stats->inverse_sum);
  of.of_target = own * on_target;
  of.of_weight = own * spread;
  of.label = is_class(p, label) ? static_cast<int>(label - first) : -1;  // if not, the factors are NaN
  of.counts = true;
  return of;
}

// Logits to their gradients.
template <class Product>
PI_DEVICE void make_gradients(const LinearCrossEntropyParams& p, const Product& product,
                              const ClassTile& tile, const RowFactors (&rows)[4], typename Product::Sums& z) {
  const float inverse_cap = p.softcap > 0.0f ? 1.0f / p.softcap : 0.0f;
  PI_UNROLL
  for (int n = 0; n < Product::kBlocks; ++n) {
    PI_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int c = product.column(n) + e;
      const bool exists = c < tile.count;
      const float weight = exists && p.label_smoothing > 0.0f ? tile.weight_at(c) : 0.0f;
      PI_UNROLL
      for (int i = 0; i < 4; ++i) {
        const RowFactors& of = rows[i];
        float& logit = z[i / 2][n][i % 2 * 2 + e];
        float g = of.of_exponential * fast_exp2((logit - of.max) * kLog2E) - of.of_weight * weight;
        if (c == of.label) g -= of.of_target;
        const float capped = logit * inverse_cap;
        if (p.softcap > 0.0f) g *= 1.0f - capped * capped;
        logit = exists && of.counts ? g : 0.0f;
      }
    }
  }
}

// Sums of the tile's columns, to sums[class].
template <class Product>
PI_DEVICE void sum_columns(const Product& product, const typename Product::Sums& g, unsigned char* shared,
                           int64_t first, int64_t classes, float* sums) {
  float* const of_warps = reinterpret_cast<float*>(shared);  // [rows of warps][columns]
  __syncthreads();
  PI_UNROLL
  for (int n = 0; n < Product::kBlocks; ++n) {
    PI_UNROLL
    for (int e = 0; e < 2; ++e) {
      float sum = (g[0][n][e] + g[0][n][e + 2]) + (g[1][n][e] + g[1][n][e + 2]);
      PI_UNROLL
      for (int bit = 4; bit < 32; bit *= 2) sum += __shfl_xor_sync(kAllLanes, sum, bit);
      if (product.lane() < 4) {
        store_shared(of_warps + product.warp_row() * Product::kColumns + product.column(n) + e, sum);
      }
    }
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column >= Product::kColumns || first + column >= classes) return;
  float sum = 0.0f;
  for (int w = 0; w < Product::kWarpRows; ++w) sum += load_shared(of_warps + w * Product::kColumns + column);
  store_global(sums + first + column, sum);
}

// Grid: tiles of the chunk's rows, tiles of classes. gradients: [chunk.rows][stride], zeros beyond the last
// class.
template <class Format, int kRows, bool kWeightIsVd>
__global__ void __launch_bounds__(kProductThreads, kProductBlocks<kRows>)
    logit_gradients(LinearCrossEntropyParams p, HalfMatrix hidden, HalfMatrix weight, HeadChunk chunk,
                    const HeadTotals* totals, uint16_t* gradients, int64_t stride, float* bias_sums) {
  using Product = LogitProduct<Format, kRows, kWeightIsVd>;
  PI_SHARED_MEMORY(shared);
  const Product product(shared);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows,
                first_class = static_cast<int64_t>(blockIdx.y) * kTile;
  typename Product::Sums z;
  product.run(hidden, weight, first_row, first_class, 1, 0, p.hidden_size, z, NoFinish());
  RowFactors rows[4];
  PI_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t row = first_row + product.row(i / 2, i % 2);
    rows[i] = {0.0f, 0.0f, 0.0f, 0.0f, -1, false};
    if (row < chunk.rows) rows[i] = row_factors(p, totals, chunk.first + row, first_class);
  }
  const ClassTile tile(p.bias, p.class_weight, p.classes, first_class);
  make_logits(product, tile, p.softcap, z);
  make_gradients(p, product, tile, rows, z);
  store_tile(product, z, shared, first_row, first_class, gradients, stride, chunk.rows, stride);
  if (p.grad_bias == nullptr) return;
  sum_columns(product, z, shared, first_class, p.classes, bias_sums + blockIdx.x * p.classes);
}

// Where a product of the backward pass goes. `parts`: as floats, a part of the summed axis each. Otherwise
// it, or the sum of its parts, is added to `earlier` (if not null) and becomes `later`, or the result.
struct GradientTarget {
  float* parts;
  const float* earlier;
  float* later;
  uint16_t* result;
  int64_t rows, columns;
};

// Calls use(row, column, number) for what a thread has of a tile, as far as it exists.
template <class Product, class Use>
PI_DEVICE void for_each_number(const Product& product, typename Product::Sums& sums, int rows, int columns,
                               Use use) {
  PI_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = product.row(i / 2, i % 2);
    PI_UNROLL
    for (int n = 0; n < Product::kBlocks; ++n) {
      PI_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int column = product.column(n) + e;
        if (row < rows && column < columns) use(row, column, sums[i / 2][n][i % 2 * 2 + e]);
      }
    }
  }
}

// Grid: tiles of rows, tiles of columns, parts of the summed axis.
template <class Product>
__global__ void __launch_bounds__(kProductThreads, kProductBlocks<Product::kRows>)
    gradient_product(LinearCrossEntropyParams p, const HeadTotals* totals, HalfMatrix left, HalfMatrix right,
                     int64_t summed, int64_t part, GradientTarget to) {
  PI_SHARED_MEMORY(shared);
  const Product product(shared);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * Product::kRows,
                first_column = static_cast<int64_t>(blockIdx.y) * Product::kColumns;
  const int64_t first = static_cast<int64_t>(blockIdx.z) * part;
  const int64_t end = first + part < summed ? first + part : summed;
  typename Product::Sums sums;
  product.run(left, right, first_row, first_column, 1, first, end, sums, NoFinish());

  const int rows = static_cast<int>(to.rows - first_row),
            columns = static_cast<int>(to.columns - first_column);
  const int64_t offset = first_row * to.columns + first_column;
  const bool is_part = to.parts != nullptr;
  if (!is_part && to.earlier != nullptr) {
    for_each_number(product, sums, rows, columns, [&](int row, int column, float& number) {
      number += load_global(to.earlier + offset + row * to.columns + column);
    });
  }
  if (is_part || to.later != nullptr) {
    float* const floats = (is_part ? to.parts + blockIdx.z * to.rows * to.columns : to.later) + offset;
    for_each_number(product, sums, rows, columns, [&](int row, int column, float& number) {
      store_global(floats + row * to.columns + column, number);
    });
    return;
  }
  const float factor = common_gradient(p, totals);
  for_each_number(product, sums, rows, columns, [&](int, int, float& number) { number *= factor; });
  store_tile(product, sums, shared, first_row, first_column, to.result, to.columns, to.rows, to.columns);
}

// A thread for each number of a product that was made in parts.
template <class Format>
__global__ void finish_product(LinearCrossEntropyParams p, const HeadTotals* totals, int parts,
                               GradientTarget to) {
  const int64_t i = thread_number(), count = to.rows * to.columns;
  if (i >= count) return;
  float sum = to.earlier != nullptr ? load_global(to.earlier + i) : 0.0f;
  for (int part = 0; part < parts; ++part) sum += load_global(to.parts + part * count + i);
  if (to.later != nullptr) {
    store_global(to.later + i, sum);
  } else {
    const uint32_t number = Format::pack(sum * common_gradient(p, totals), 0.0f);
    store_global(to.result + i, static_cast<uint16_t>(number));
  }
}

// A thread for each class.
__global__ void bias_gradients(LinearCrossEntropyParams p, const HeadTotals* totals, int64_t tiles,
                               const float* sums, bool is_first) {
  const int64_t c = thread_number();
  if (c >= p.classes) return;
  double sum = 0.0;
  for (int64_t tile = 0; tile < tiles; ++tile) sum += load_global(sums + tile * p.classes + c);
  const float share = static_cast<float>(sum * common_gradient(p, totals));
  store_global(p.grad_bias + c, is_first ? share : load_global(p.grad_bias + c) + share);
}

__global__ void write_zeros(uint16_t* to, int64_t count) {
  const int64_t i = thread_number();
  if (i < count) store_global(to + i, uint16_t{0});
}

// Launches a product of the backward pass.
template <class Product>
void multiply(Launcher& launch, const LinearCrossEntropyParams& p, const HalfHeadSpace& space,
              const ProductPlan& plan, const HalfMatrix& left, const HalfMatrix& right, int64_t summed,
              GradientTarget to) {
  const bool is_split = plan.parts.parts > 1;
  to.parts = is_split ? space.parts : nullptr;
  const dim3 grid(static_cast<unsigned>(plan.row_tiles), static_cast<unsigned>(plan.column_tiles),
                  static_cast<unsigned>(plan.parts.parts));
  launch.blocks(grid, kProductThreads, Product::kSharedBytes, gradient_product<Product>, p, space.totals,
                left, right, summed, plan.parts.size * kProductDepth, to);
  if (!is_split) return;
  launch(to.rows * to.columns, finish_product<typename Product::Format>, p, space.totals,
         static_cast<int>(plan.parts.parts), to);
}

template <class Format, int kRows, bool kWeightIsVd>
void launch_chunk(Launcher& launch, const LinearCrossEntropyParams& p, const HalfHeadSpace& space,
                  const HeadChunk& chunk) {
  const auto* all_hidden = reinterpret_cast<const uint16_t*>(p.hidden);
  const int64_t features = p.hidden_size, offset = chunk.first * features;
  const HalfMatrix hidden = half_matrix(all_hidden + offset, features, chunk.rows, features);
  const HalfMatrix weight = kWeightIsVd ? half_matrix(p.weight, features, p.classes, features)
                                        : half_matrix(p.weight, p.classes, features, p.classes);
  const HalfMatrix gradients =
      half_matrix(space.gradients, space.gradient_stride, chunk.rows, space.gradient_stride);
  const int64_t row_tiles = ceil_div(chunk.rows, kRows);
  const dim3 grid(static_cast<unsigned>(row_tiles), static_cast<unsigned>(ceil_div(p.classes, kTile)));
  launch.blocks(grid, kProductThreads, LogitProduct<Format, kRows, kWeightIsVd>::kSharedBytes,
                logit_gradients<Format, kRows, kWeightIsVd>, p, hidden, weight, chunk, space.totals,
                space.gradients, space.gradient_stride, space.bias_sums);
  const bool is_first = chunk.first == 0, is_last = chunk.first + chunk.rows == p.rows;
  if (p.grad_bias != nullptr) {
    launch(p.classes, bias_gradients, p, space.totals, row_tiles, space.bias_sums, is_first);
  }
  if (p.grad_hidden != nullptr) {
    auto* const result = reinterpret_cast<uint16_t*>(p.grad_hidden) + offset;
    multiply<TileProduct<Format, kRows, kTile, true, !kWeightIsVd>>(
        launch, p, space, HalfHeadSpace::hidden_plan(p, chunk.rows), gradients, weight, p.classes,
        {nullptr, nullptr, nullptr, result, chunk.rows, features});
  }
  if (p.grad_weight != nullptr) {
    const int64_t rows = kWeightIsVd ? p.classes : features, columns = kWeightIsVd ? features : p.classes;
    multiply<TileProduct<Format, kTile, kTile, false, false>>(
        launch, p, space, HalfHeadSpace::weight_plan(p, chunk.rows), kWeightIsVd ? gradients : hidden,
        kWeightIsVd ? hidden : gradients, chunk.rows,
        {nullptr, is_first ? nullptr : space.weight_sums, is_last ? nullptr : space.weight_sums,
         reinterpret_cast<uint16_t*>(p.grad_weight), rows, columns});
  }
}

}  // namespace

template <class Format, bool kWeightIsVd>
const char* launch_linear_cross_entropy_bwd(const LinearCrossEntropyParams& p, void* stream) {
  const HalfHeadSpace space(p);
  Launcher launch(stream);
  if (p.rows == 0) {
    const int64_t count = p.classes * p.hidden_size;
    if (p.grad_weight != nullptr) {
      launch(count, write_zeros, reinterpret_cast<uint16_t*>(p.grad_weight), count);
    }
    if (p.grad_bias != nullptr) {
      launch(2 * p.classes, write_zeros, reinterpret_cast<uint16_t*>(p.grad_bias), 2 * p.classes);
    }
    return launch.error();
  }
  launch.blocks(dim3(2), kSumThreads, kSumSharedBytes, sum_weights, p, space.totals);
  const int64_t most = half_chunk_rows(p);
  for (int64_t first = 0; first < p.rows; first += most) {
    const HeadChunk chunk{first, std::min(most, p.rows - first)};
    if (has_few_rows(p.rows)) {
      launch_chunk<Format, kFewRows, kWeightIsVd>(launch, p, space, chunk);
    } else {
      launch_chunk<Format, kTile, kWeightIsVd>(launch, p, space, chunk);
    }
  }
  return launch.error();
}

}  // namespace paddle_infra
