// The head for float32 numbers: which kernels of linear_cross_entropy_float.cuh run, over which rows, in
// which memory.
//
// Rows are taken in chunks, so memory does not grow with rows * classes. Every number is summed in an order
// that depends on the sizes only.
#include "common/arena.h"
#include "linear_cross_entropy/linear_cross_entropy_float.cuh"

namespace paddle_infra {
namespace {

// As many rows as fit in 4 MB of logits, but enough to keep a GPU busy.
int64_t chunk_rows(const LinearCrossEntropyParams& p) {
  constexpr int64_t kLogits = 1 << 20, kFewest = 128;
  const int64_t rows = kLogits / p.classes > kFewest ? kLogits / p.classes : kFewest;
  return rows < p.rows ? rows : p.rows;
}

// The scratch memory, cut into its arrays.
struct FloatHeadSpace {
  explicit FloatHeadSpace(const LinearCrossEntropyParams& p) {
    Arena arena(p.workspace);
    totals = arena.take<Totals>(1);
    partials = arena.take<double>(kPartials);
    losses = arena.take<double>(p.rows);
    // Forward keeps slices, backward gradients: never both.
    const int64_t slices = static_cast<int64_t>(sizeof(SliceState)) * slice_count(p.classes);
    const int64_t logits = static_cast<int64_t>(sizeof(float)) * p.classes;
    char* const per_class = arena.take<char>(chunk_rows(p) * (slices > logits ? slices : logits));
    states = reinterpret_cast<SliceState*>(per_class);
    gradients = reinterpret_cast<float*>(per_class);
    bytes = arena.used();
  }

  Totals* totals;
  double *partials, *losses;
  SliceState* states;
  float* gradients;
  int64_t bytes;
};

template <class Term, class Result>
void sum(Launcher& launch, const FloatHeadSpace& space, int64_t count, Term term, Result* result) {
  launch(kPartials, sum_partially<Term>, count, term, space.partials);
  launch(1, finish_sum<Result>, space.partials, result);
}

}  // namespace

int64_t float_head_workspace(const LinearCrossEntropyParams& p) { return FloatHeadSpace(p).bytes; }

const char* launch_float_head_fwd(const LinearCrossEntropyParams& p, void* stream) {
  const FloatHeadSpace space(p);
  Launcher launch(stream);
  sum(launch, space, p.classes, ClassWeights{p}, &space.totals->class_weights);
  sum(launch, space, p.rows, RowWeights{p}, &space.totals->row_weights);
  for (int64_t first = 0; first < p.rows; first += chunk_rows(p)) {
    const int64_t left = p.rows - first;
    const Chunk chunk{first, left < chunk_rows(p) ? left : chunk_rows(p)};
    launch(chunk.rows * slice_count(p.classes), fold_slices, p, chunk, space.states);
    launch(chunk.rows, finish_rows, p, chunk, space.states, space.totals, space.losses);
  }
  if (p.reduction != Reduction::kNone) sum(launch, space, p.rows, RowLosses{space.losses}, p.loss);
  return launch.error();
}

const char* launch_float_head_bwd(const LinearCrossEntropyParams& p, void* stream) {
  const FloatHeadSpace space(p);
  Launcher launch(stream);
  sum(launch, space, p.classes, ClassWeights{p}, &space.totals->class_weights);
  int64_t first = 0;
  do {  // once even without rows: that writes zeros
    const int64_t left = p.rows - first;
    const Chunk chunk{first, left < chunk_rows(p) ? left : chunk_rows(p)};
    launch(chunk.rows * p.classes, float_logit_gradients, p, chunk, space.totals, space.gradients);
    launch(chunk.rows * p.hidden_size, float_hidden_gradients, p, chunk, space.gradients);
    launch(p.classes * p.hidden_size, float_weight_gradients, p, chunk, space.gradients);
    if (p.grad_bias != nullptr) launch(p.classes, float_bias_gradients, p, chunk, space.gradients);
    first += chunk.rows;
  } while (first < p.rows);
  return launch.error();
}

}  // namespace paddle_infra
