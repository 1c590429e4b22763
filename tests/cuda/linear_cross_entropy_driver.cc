// Runs the emulated CUDA kernels of linear_cross_entropy on random sizes and
// options, for sanitizers: `linear_cross_entropy_driver FIRST COUNT [DTYPE
// LAYOUT]` does COUNT cases from number FIRST on, each forward and backward in
// three orders of threads and blocks, and fails if their results differ, or if
// one is not a number.
//
// Every array has exactly the size it needs. Results and scratch memory start
// as NaN: a number that is not written, or is made of one that is not, shows.
#include "head_driver.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

using namespace paddle_infra;

namespace {

struct Inputs {
  HeadTensor hidden, weight;
  std::vector<int64_t> label;
  std::vector<float> bias, class_weight, token_weight, above;
  bool is_aligned;
};

struct Results {
  std::vector<float> loss, bias;
  std::vector<RowStats> stats;
  HeadTensor hidden, weight;
  bool operator==(const Results& other) const {
    return same_bits(loss, other.loss) && same_bits(bias, other.bias) && same_bits(stats, other.stats) &&
           hidden == other.hidden && weight == other.weight;
  }
};

void choose_sizes(Random& random, LinearCrossEntropyParams& p, const HeadInstance& instance) {
  constexpr int64_t kRows[] = {1, 2, 31, 32, 33, 127, 129};
  constexpr int64_t kFeatures[] = {1, 3, 8, 15, 40, 64, 65, 72};
  constexpr int64_t kClasses[] = {1, 2, 7, 16, 100, 127, 128, 129, 200, 264};
  p.dtype = instance.type;
  p.rows = random.chance(40) ? random.one_of(kRows) : 1 + random.below(32);
  p.hidden_size = random.one_of(kFeatures);
  p.classes = random.one_of(kClasses);
  p.weight_class_stride = instance.is_vd ? p.hidden_size : 1;
  p.weight_feature_stride = instance.is_vd ? 1 : p.classes;
}

void choose_options(Random& random, LinearCrossEntropyParams& p) {
  p.ignore_index = random.chance(50) ? -100 : random.below(p.classes);
  p.label_smoothing = random.chance(40) ? 0.1f : random.chance(10) ? 1.0f : 0.0f;
  p.z_loss = random.chance(30) ? 1e-3f : 0.0f;
  p.softcap = random.chance(30) ? 5.0f : 0.0f;
  p.reduction = static_cast<Reduction>(random.below(3));
}

Inputs make_inputs(Random& random, LinearCrossEntropyParams& p) {
  const bool is_aligned = random.chance(70);
  Inputs in{HeadTensor(p.dtype, p.rows * p.hidden_size, is_aligned),
            HeadTensor(p.dtype, p.classes * p.hidden_size, is_aligned || random.chance(50)),
            {},
            some_numbers(random, 50, p.classes),
            some_numbers(random, 40, p.classes, true),
            some_numbers(random, 40, p.rows, true),
            some_numbers(random, 100, p.reduction == Reduction::kNone ? p.rows : 1),
            is_aligned};
  in.hidden.fill(random), in.weight.fill(random);
  for (int64_t row = 0; row < p.rows; ++row) {
    in.label.push_back(random.chance(20) ? p.ignore_index : random.below(p.classes));
  }
  p.hidden = in.hidden.data(), p.weight = in.weight.data(), p.label = in.label.data();
  p.bias = or_null(in.bias), p.class_weight = or_null(in.class_weight);
  p.token_weight = or_null(in.token_weight), p.grad_loss = in.above.data();
  return in;
}

void run_pass(LinearCrossEntropyParams& p, bool is_forward, int64_t number) {
  const HeadWorkspace workspace(paddle_infra_linear_cross_entropy_cuda_workspace(&p));
  p.workspace = workspace.data;
  const char* const error = is_forward ? paddle_infra_linear_cross_entropy_cuda_fwd(&p, nullptr)
                                       : paddle_infra_linear_cross_entropy_cuda_bwd(&p, nullptr);
  if (error != nullptr) fail(number, error);
}

bool has_nan(const std::vector<float>& numbers) {
  return std::any_of(numbers.begin(), numbers.end(), [](float x) { return std::isnan(x); });
}

Results run(LinearCrossEntropyParams p, const Inputs& in, unsigned seed, int64_t number) {
  Results results{std::vector<float>(in.above.size(), NAN), std::vector<float>(in.bias.size(), NAN),
                  std::vector<RowStats>(in.label.size(), {NAN, NAN, NAN, NAN, NAN}),
                  HeadTensor(p.dtype, p.rows * p.hidden_size, in.is_aligned),
                  HeadTensor(p.dtype, p.classes * p.hidden_size, in.is_aligned)};
  p.loss = results.loss.data(), p.stats = results.stats.data();
  p.grad_hidden = results.hidden.data(), p.grad_weight = results.weight.data();
  p.grad_bias = p.bias != nullptr ? results.bias.data() : nullptr;
  paddle_infra_simt_configure(seed, 1 + static_cast<int>(seed % 2));
  run_pass(p, true, number);
  run_pass(p, false, number);
  if (has_nan(results.loss)) fail(number, "loss is not a number");
  for (const RowStats& row : results.stats) {
    if (std::isnan(row.max + row.log_sum + row.scale + row.log_prob + row.inverse_sum)) {
      fail(number, "what is kept of a row is not a number");
    }
  }
  if (results.hidden.has_nan()) fail(number, "the gradient of hidden is not a number");
  if (results.weight.has_nan()) fail(number, "the gradient of the weight is not a number");
  if (has_nan(results.bias)) fail(number, "the gradient of the bias is not a number");
  return results;
}

void run_case(int64_t number, const HeadInstance* fixed) {
  Random random(number);
  const HeadInstance drawn = HeadInstance::any(random);
  LinearCrossEntropyParams p{};
  choose_sizes(random, p, fixed != nullptr ? *fixed : drawn);
  choose_options(random, p);
  const Inputs in = make_inputs(random, p);
  const Results in_order = run(p, in, 0, number);
  for (unsigned seed : {1u, 2u}) {
    if (!(run(p, in, seed, number) == in_order)) fail(number, "the result depends on the order of threads");
  }
}

}  // namespace

int main(int count, char** arguments) { return run_cases(count, arguments, run_case); }
