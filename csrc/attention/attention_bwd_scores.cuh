// What the backward kernels of attention share: products of tiles, and from products to gradients of scores.
//
//   P = 2^(S - max) / sum    dP = dO V^T    dS = P (dP - delta)    delta = rowsum(dO * O) - d(lse)
//
// Max and sum, not the log-sum-exp: at scores of 10^4 its rounding would be an error of 10^-3 in every
// weight. FlashAttention-2, arXiv:2307.08691, section 3.1.2.
#pragma once

#include "attention/attention_cuda.cuh"

namespace paddle_infra {
namespace {

// A block of four warps owns 64 rows, 16 to a warp, and goes through others in steps.
constexpr int kBwdRows = 64, kBwdThreads = 128, kBwdStages = 2;
// More would not leave registers enough for the sums of long rows.
template <int kDim>
constexpr int kBwdStep = kDim <= 64 ? 64 : 32;

// What is known of a row of scores before it is computed again; the workspace has one for each, in the order
// of stats. All zeros, as copies make it of a query that does not exist, give zeros.
struct alignas(16) BwdRow {
  float shift;        // max in powers of 2; infinity if no key is visible
  float inverse_sum;  // 0 if no key is visible
  float delta;
  float unused;
};

PI_DEVICE BwdRow* bwd_rows(const AttentionParams& p) { return static_cast<BwdRow*>(p.workspace); }

PI_DEVICE BwdRow load_bwd_row(const AttentionParams& p, const CudaSequence& s, int b, int query, int head) {
  if (query >= s.q_valid) return {0.0f, 0.0f, 0.0f, 0.0f};
  return load_global(bwd_rows(p) + stats_offset(p, s, b, query, head));
}

PI_DEVICE TileSource rows_of_head(const AttentionParams& p, const void* data, const AttentionStrides& stride,
                                  int b, int64_t row, int rows, int head, bool is_aligned) {
  return {static_cast<const uint16_t*>(data) + offset_of(p, stride, b, row, head), stride.sequence, rows,
          static_cast<int>(p.head_dim), is_aligned};
}

// products += left * right^T: sixteen rows of a tile, from `row` on, times all kColumns rows of another.
template <class Format, int kDim, int kColumns>
PI_DEVICE void add_products(Accumulators<kColumns / 8>& products, const uint16_t* left, int row,
                            const uint16_t* right, int lane) {
  PI_UNROLL_BY(4)  // more, and addresses would take the registers that sums need
  for (int d = 0; d < kDim / 16; ++d) {
    uint32_t rows[4];
    load_matrices(rows, left + swizzled<kDim>(row + lane % 16, d * 2 + lane / 16));
    PI_UNROLL
    for (int n = 0; n < kColumns / 16; ++n) {
      uint32_t fragment[4];
      load_matrices(fragment,
                    right + swizzled<kDim>(n * 16 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
      Format::mma(products[2 * n], rows, fragment[0], fragment[1]);
      Format::mma(products[2 * n + 1], rows, fragment[2], fragment[3]);
    }
  }
}

// sums += factors * tile; the factors, rounded, are in registers as an mma left them.
template <class Format, int kDim, int kDepth>
PI_DEVICE void add_weighted_rows(Accumulators<kDim / 8>& sums, const Accumulators<kDepth / 8>& factors,
                                 const uint16_t* tile, int lane) {
  PI_UNROLL
  for (int n = 0; n < kDepth / 16; ++n) {
    const auto &even = factors[2 * n], &odd = factors[2 * n + 1];
    const uint32_t rounded[4] = {Format::pack(even[0], even[1]), Format::pack(even[2], even[3]),
                                 Format::pack(odd[0], odd[1]), Format::pack(odd[2], odd[3])};
    PI_UNROLL
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t fragment[4];
      load_matrices<true>(fragment, tile + swizzled<kDim>(n * 16 + lane % 16, d * 2 + lane / 16));
      Format::mma(sums[2 * d], rounded, fragment[0], fragment[1]);
      Format::mma(sums[2 * d + 1], rounded, fragment[2], fragment[3]);
    }
  }
}

// Writes sums, times a factor, to 16 rows of a tile that no other warp uses, and from there to the result.
template <class Format, int kDim>
PI_DEVICE void store_sums(const Accumulators<kDim / 8>& sums, float factor, uint16_t* tile, int tile_row,
                          int lane, const TileTarget& to, int first) {
  __syncwarp();  // all lanes have read what was there
  PI_UNROLL
  for (int half = 0; half < 2; ++half) {
    PI_UNROLL
    for (int d = 0; d < kDim / 8; ++d) {
      auto* at = reinterpret_cast<uint32_t*>(tile + swizzled<kDim>(tile_row + lane / 4 + half * 8, d) +
                                             lane % 4 * 2);
      store_shared(at, Format::pack(sums[d][2 * half] * factor, sums[d][2 * half + 1] * factor));
    }
  }
  __syncwarp();
  store_warp_rows<kDim>(tile, tile_row, lane, to, first);
}

// From products to weights and gradients, for the scores of one head. kGeneral: every option, else no more
// than a mask.
template <bool kGeneral>
class ScoreGradients {
 public:
  PI_DEVICE ScoreGradients(const AttentionParams& p, const CudaSequence& s, int b, int head)
      : p_(p),
        sequence_(s),
        score_of_(p, s, b, head),
        kept_(p, b, head),
        factor_(score_factor(p) * kLog2E),
        inverse_keep_(1.0f / (1.0f - p.dropout_p)) {}

  // `product` becomes the weight, 0 if dropped and not yet divided by the probability of keeping it; `grad`,
  // of the weight, becomes that of the score. Returns the derivative of the score with respect to scale *
  // product. Without `hides` everything is visible.
  PI_DEVICE float operator()(float& product, float& grad, const BwdRow& row, int query, int key,
                             bool hides) const {
    float derivative = 1.0f;
    if (kGeneral || hides) {
      if (query >= sequence_.q_valid || !is_visible(p_, sequence_, query, key)) {
        product = minus_infinity();
      } else if (kGeneral) {
        product = score_of_(product, query, key, &derivative);
      }
    }
    const float weight = fast_exp2(product * factor_ - row.shift) * row.inverse_sum;
    product = weight;
    if (kGeneral) {
      const bool is_kept = kept_.has(query, key);
      product = is_kept ? weight : 0.0f;
      grad = is_kept ? grad * inverse_keep_ : 0.0f;
    }
    grad = weight * (grad - row.delta);
    return derivative;
  }

 private:
  const AttentionParams& p_;
  const CudaSequence& sequence_;
  const Scores score_of_;
  const KeptWeights kept_;
  const float factor_, inverse_keep_;
};

}  // namespace
}  // namespace paddle_infra
