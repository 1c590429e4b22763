// The CUDA entry points: which kernels of linear_cross_entropy.cuh run, over which rows, in which memory.
//
// Rows are taken in chunks, so memory does not grow with rows * classes. Every number is summed in an order
// that depends on the sizes only.
#include "linear_cross_entropy/linear_cross_entropy.cuh"

namespace paddle_infra {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// As many rows as fit in 4 MB of logits, but enough to keep a GPU busy.
int64_t chunk_rows(const LinearCrossEntropyParams& p) {
  constexpr int64_t kLogits = 1 << 20, kFewest = 128;
  const int64_t rows = kLogits / p.classes > kFewest ? kLogits / p.classes : kFewest;
  return rows < p.rows ? rows : p.rows;
}

// The scratch memory, cut into its arrays.
struct Workspace {
  explicit Workspace(const LinearCrossEntropyParams& p) {
    char* at = static_cast<char*>(p.workspace);
    auto take = [&](int64_t count, int64_t size) {
      char* start = at;
      at += round_up(count * size, 64);
      return start;
    };
    totals = reinterpret_cast<Totals*>(take(1, sizeof(Totals)));
    partials = reinterpret_cast<double*>(take(kPartials, sizeof(double)));
    losses = reinterpret_cast<double*>(take(p.rows, sizeof(double)));
    // Forward keeps slices, backward gradients: never both.
    const int64_t slices = static_cast<int64_t>(sizeof(SliceState)) * slice_count(p.classes);
    const int64_t logits = static_cast<int64_t>(sizeof(float)) * p.classes;
    char* per_class = take(chunk_rows(p), slices > logits ? slices : logits);
    states = reinterpret_cast<SliceState*>(per_class);
    gradients = reinterpret_cast<float*>(per_class);
    bytes = at - static_cast<char*>(p.workspace);
  }

  Totals* totals;
  double *partials, *losses;
  SliceState* states;
  float* gradients;
  int64_t bytes;
};

template <class Term, class Result>
void sum(Launcher& launch, const Workspace& space, int64_t count, Term term, Result* result) {
  launch(kPartials, sum_partially<Term>, count, term, space.partials);
  launch(1, finish_sum<Result>, space.partials, result);
}

}  // namespace
}  // namespace paddle_infra

using paddle_infra::LinearCrossEntropyParams;

int64_t paddle_infra_linear_cross_entropy_cuda_workspace(const LinearCrossEntropyParams* params) {
  return paddle_infra::Workspace(*params).bytes;
}

const char* paddle_infra_linear_cross_entropy_cuda_fwd(const LinearCrossEntropyParams* params, void* stream) {
  using namespace paddle_infra;
  const LinearCrossEntropyParams& p = *params;
  const Workspace space(p);
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

const char* paddle_infra_linear_cross_entropy_cuda_bwd(const LinearCrossEntropyParams* params, void* stream) {
  using namespace paddle_infra;
  const LinearCrossEntropyParams& p = *params;
  const Workspace space(p);
  Launcher launch(stream);
  sum(launch, space, p.classes, ClassWeights{p}, &space.totals->class_weights);
  int64_t first = 0;
  do {  // once even without rows: that writes zeros
    const int64_t left = p.rows - first;
    const Chunk chunk{first, left < chunk_rows(p) ? left : chunk_rows(p)};
    launch(chunk.rows * p.classes, logit_gradients, p, chunk, space.totals, space.gradients);
    launch(chunk.rows * p.hidden_size, hidden_gradients, p, chunk, space.gradients);
    launch(p.classes * p.hidden_size, weight_gradients, p, chunk, space.gradients);
    if (p.grad_bias != nullptr) launch(p.classes, bias_gradients, p, chunk, space.gradients);
    first += chunk.rows;
  } while (first < p.rows);
  return launch.error();
}
