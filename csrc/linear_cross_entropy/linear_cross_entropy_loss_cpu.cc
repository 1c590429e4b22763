// The loss of a row, from what its logits were folded to, and of all rows.
#include <cmath>

#include "linear_cross_entropy/linear_cross_entropy_head.h"

namespace paddle_infra {
namespace {

double class_weight_of(const LinearCrossEntropyParams& p, int64_t row) {
  return p.class_weight != nullptr && p.kind != HeadLoss::kBinary ? p.class_weight[p.label[row]] : 1.0;
}

bool is_ignored(const LinearCrossEntropyParams& p, int64_t row) {
  return p.kind != HeadLoss::kBinary && p.label[row] == p.ignore_index;
}

double row_loss(const Head& head, int64_t i, const RowState& state, double log_sum, double log_prob) {
  const LinearCrossEntropyParams& p = head.p;
  const double weight = class_weight_of(p, i), max = state.max, lse = max + log_sum;
  if (p.kind == HeadLoss::kFocal) {
    return -weight * std::pow(-std::expm1(log_prob), static_cast<double>(p.focal_gamma)) * log_prob;
  }
  double loss = (1.0 - p.label_smoothing) * weight * -log_prob;
  if (p.label_smoothing > 0.0f) {
    const double spread = p.label_smoothing / static_cast<double>(p.classes);
    loss += spread * (head.all_weights * log_sum - (state.weighted - max * head.all_weights));
  }
  return loss + p.z_loss * lse * lse;
}

}  // namespace

bool all_ignored(const LinearCrossEntropyParams& p, int64_t row, int64_t rows) {
  for (int64_t i = row; i < row + rows; ++i) {
    if (!is_ignored(p, i)) return false;
  }
  return true;
}

// And what mean divides by.
void fill_scales(const LinearCrossEntropyParams& p) {
  double total = 0.0;
  for (int64_t i = 0; i < p.rows; ++i) {
    const float token = p.token_weight ? p.token_weight[i] : 1.0f;
    p.stats[i].scale = is_ignored(p, i) ? 0.0f : token;
    if (!is_ignored(p, i)) total += token * class_weight_of(p, i);
  }
  if (p.kind == HeadLoss::kBinary) total *= static_cast<double>(p.classes);
  if (p.reduction != Reduction::kMean) return;
  for (int64_t i = 0; i < p.rows; ++i) {
    p.stats[i].scale = total == 0.0 ? 0.0f : static_cast<float>(p.stats[i].scale / total);
  }
}

void begin_states(RowState* states, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) states[r] = {0.0, 0.0, kMinusHuge, 0.0f};
}

void finish_row(const Head& head, int64_t i, const RowState& state) {
  const LinearCrossEntropyParams& p = head.p;
  RowStats& stats = p.stats[i];
  if (p.kind == HeadLoss::kBinary) {
    stats.max = stats.log_sum = stats.log_prob = stats.inverse_sum = 0.0f;
    head.space.losses[i] = stats.scale * state.sum;
    return;
  }
  const bool ignored = is_ignored(p, i);
  const double log_sum = std::log(state.sum), max = state.max;
  const double log_prob = state.target - max - log_sum;
  stats.max = ignored ? 0.0f : state.max;
  stats.log_sum = ignored ? 0.0f : static_cast<float>(log_sum);
  stats.log_prob = ignored ? 0.0f : static_cast<float>(log_prob);
  stats.inverse_sum = ignored ? 0.0f : static_cast<float>(1.0 / state.sum);
  const double loss = ignored ? 0.0 : stats.scale * row_loss(head, i, state, log_sum, log_prob);
  head.space.losses[i] = loss;
  if (p.reduction == Reduction::kNone) p.loss[i] = static_cast<float>(loss);
}

void sum_losses(const Head& head) {
  if (head.p.reduction == Reduction::kNone) return;
  double total = 0.0;
  for (int64_t i = 0; i < head.p.rows; ++i) total += head.space.losses[i];
  head.p.loss[0] = static_cast<float>(total);
}

}  // namespace paddle_infra
