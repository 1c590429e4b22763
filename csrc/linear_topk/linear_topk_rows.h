// What is known of a row of logits while its classes are gone through: the softmax so far and the candidates
// for the k largest. Compiled for the baseline, because it uses the standard library's algorithms; without
// names that other files could share. A part of linear_topk_cpu.cc.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "linear_topk/linear_topk.h"

namespace paddle_infra {
namespace {

struct Candidate {
  float logit;
  int32_t index;
};

// A larger logit, or the same and an earlier class.
bool comes_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.index < b.index);
}

// The candidates of one row: at most `capacity`, at least 2 k, of which the k best stay when it is full.
struct Candidates {
  Candidate* data;
  int64_t k, capacity;
};

struct RowState {
  float max = -INFINITY;    // of the logits so far, NaNs left aside
  float bound = -INFINITY;  // k candidates are at least this: later classes must be above it
  double sum = 0.0;         // of e^(logit - max); NaN if there was a NaN or +infinity
  int64_t count = 0;        // candidates
};

void keep_best(const Candidates& all, RowState* row) {
  if (row->count < all.k) return;
  std::nth_element(all.data, all.data + all.k - 1, all.data + row->count, comes_before);
  row->count = all.k;
  row->bound = all.data[all.k - 1].logit;
}

// Classes come in rising order, so one that equals the bound comes after the candidates that made it.
void add_candidate(const Candidates& all, Candidate candidate, RowState* row) {
  all.data[row->count++] = candidate;
  if (row->count == all.capacity) keep_best(all, row);
}

// The running sum becomes relative to a larger maximum (arXiv:1805.02867). Returns what to subtract from
// logits: the maximum, or 0 as long as there is nothing but -infinity, which minus itself would be a NaN.
float raise_max(float max, RowState* row) {
  if (max > row->max) {
    if (row->max > -INFINITY) row->sum *= std::exp(static_cast<double>(row->max) - max);
    row->max = max;
  }
  return row->max > -INFINITY ? row->max : 0.0f;
}

// The best k, or all if there are fewer, in order.
void sort_candidates(const Candidates& all, RowState* row) {
  keep_best(all, row);
  std::sort(all.data, all.data + row->count, comes_before);
}

// Adds the result of later classes to one of earlier classes; both are sorted.
void merge_rows(const Candidates& all, RowState* row, const Candidate* later, const RowState& of_later) {
  const float base = raise_max(of_later.max, row);
  const bool has_sum = of_later.max > -INFINITY;
  row->sum += has_sum ? of_later.sum * std::exp(static_cast<double>(of_later.max) - base) : of_later.sum;
  Candidate* merged = all.data + all.k;
  int64_t taken = 0, from_first = 0, from_later = 0;
  for (; taken < all.k && (from_first < row->count || from_later < of_later.count); ++taken) {
    const bool is_first = from_later == of_later.count ||
                          (from_first < row->count && comes_before(all.data[from_first], later[from_later]));
    merged[taken] = is_first ? all.data[from_first++] : later[from_later++];
  }
  std::copy(merged, merged + taken, all.data);
  row->count = taken;
}

// Fewer than k candidates: every class but them has the logit -infinity. Adds the first ones of those.
void add_impossible_classes(const Candidates& all, RowState* row) {
  Candidate* known = all.data + all.k;  // sorted by class
  const int64_t count = row->count;
  std::copy(all.data, all.data + count, known);
  std::sort(known, known + count, [](const Candidate& a, const Candidate& b) { return a.index < b.index; });
  int64_t passed = 0;
  for (int32_t index = 0; row->count < all.k; ++index) {
    if (passed < count && known[passed].index == index) {
      ++passed;
    } else {
      all.data[row->count++] = {-INFINITY, index};
    }
  }
}

void write_row(const LinearTopkParams& p, int64_t i, const Candidates& all, RowState* row) {
  float* prob = p.prob + i * p.k;
  int64_t* index = p.index + i * p.k;
  if (!(row->sum > 0.0)) {  // also a NaN
    std::fill_n(prob, p.k, NAN);
    for (int64_t c = 0; c < p.k; ++c) index[c] = c;
    return;
  }
  if (row->count < all.k) add_impossible_classes(all, row);
  const double log_sum = std::log(row->sum);
  for (int64_t c = 0; c < p.k; ++c) {
    const double log_prob = static_cast<double>(all.data[c].logit) - row->max - log_sum;
    prob[c] = static_cast<float>(p.is_log ? log_prob : std::exp(log_prob));
    index[c] = all.data[c].index;
  }
}

}  // namespace
}  // namespace paddle_infra
