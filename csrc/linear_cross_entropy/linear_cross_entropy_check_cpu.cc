// What is wrong with labels and targets.
#include <algorithm>

#include "linear_cross_entropy/linear_cross_entropy.h"

using paddle_infra::LinearCrossEntropyParams;

int64_t paddle_infra_linear_cross_entropy_bad_row(const LinearCrossEntropyParams* params) {
  for (int64_t i = 0; i < params->rows; ++i) {
    const int64_t label = params->label[i];
    if (label != params->ignore_index && (label < 0 || label >= params->classes)) return i;
  }
  return -1;
}

int64_t paddle_infra_linear_cross_entropy_bad_target(const LinearCrossEntropyParams* params) {
  constexpr int64_t kStep = 1024;
  const int64_t count = params->rows * params->classes;
  for (int64_t first = 0; first < count; first += kStep) {
    const int64_t end = std::min(count, first + kStep);
    int bad = 0;  // without a branch, for vectors; a NaN is bad too
    for (int64_t i = first; i < end; ++i) bad |= !(params->target[i] >= 0.0f) | !(params->target[i] <= 1.0f);
    if (!bad) continue;
    for (int64_t i = first; i < end; ++i) {
      if (!(params->target[i] >= 0.0f && params->target[i] <= 1.0f)) return i;
    }
  }
  return -1;
}
