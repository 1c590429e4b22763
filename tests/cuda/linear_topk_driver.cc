// Runs the emulated CUDA kernels of linear_topk on random sizes and options, for sanitizers:
// `linear_topk_driver FIRST COUNT [FORMAT WEIGHT_IS_VD]` does COUNT cases from number FIRST on, each in three
// orders of threads and blocks, and fails if their results differ, or if they are no k classes in order.
//
// Every array has exactly the size it needs. Results and scratch memory start as NaN: a number that is not
// written, or is made of one that is not, shows. Half of the cases have many equal logits.
#include <set>

#include "head_driver.h"
#include "linear_topk/linear_topk.h"

using namespace paddle_infra;

namespace {

struct Inputs {
  HeadTensor hidden, weight;
  std::vector<float> bias;
};

struct Results {
  std::vector<float> prob;
  std::vector<int64_t> index;
  bool operator==(const Results& other) const {
    return same_bits(prob, other.prob) && same_bits(index, other.index);
  }
};

Inputs choose(Random& random, LinearTopkParams& p, const HeadInstance& instance) {
  constexpr int64_t kRows[] = {1, 2, 31, 32, 33, 127, 129}, kFeatures[] = {1, 3, 8, 15, 40, 64, 65, 72},
                    kClasses[] = {1, 2, 7, 16, 100, 127, 128, 129, 200, 264};
  p.dtype = instance.type;
  p.rows = random.chance(40) ? random.one_of(kRows) : 1 + random.below(32);
  p.hidden_size = random.one_of(kFeatures);
  p.classes = random.one_of(kClasses);
  p.k = 1 + random.below(std::min<int64_t>(16, p.classes));
  p.weight_is_dv = !instance.is_vd;
  p.softcap = random.chance(30) ? 5.0f : 0.0f;
  p.is_log = random.chance(50);
  const bool has_ties = random.chance(50);
  Inputs in{HeadTensor(p.dtype, p.rows * p.hidden_size, random.chance(70)),
            HeadTensor(p.dtype, p.classes * p.hidden_size, random.chance(70)),
            has_ties ? std::vector<float>() : some_numbers(random, 50, p.classes)};
  in.hidden.fill(random, has_ties);
  in.weight.fill(random, has_ties);
  p.hidden = in.hidden.data(), p.weight = in.weight.data(), p.bias = or_null(in.bias);
  return in;
}

Results run(LinearTopkParams p, unsigned seed, int64_t number) {
  Results results{std::vector<float>(static_cast<size_t>(p.rows * p.k), NAN),
                  std::vector<int64_t>(static_cast<size_t>(p.rows * p.k), -1)};
  const HeadWorkspace workspace(paddle_infra_linear_topk_cuda_workspace(&p));
  p.workspace = workspace.data, p.prob = results.prob.data(), p.index = results.index.data();
  paddle_infra_simt_configure(seed, 1 + static_cast<int>(seed % 2));
  if (const char* error = paddle_infra_linear_topk_cuda(&p, nullptr)) fail(number, error);
  for (int64_t row = 0; row < p.rows; ++row) {
    const float* const prob = p.prob + row * p.k;
    const int64_t* const index = p.index + row * p.k;
    if (std::set<int64_t>(index, index + p.k).size() != static_cast<size_t>(p.k)) fail(number, "twice");
    for (int64_t place = 0; place < p.k; ++place) {
      if (index[place] < 0 || index[place] >= p.classes) fail(number, "an index is no class");
      if (std::isnan(prob[place])) fail(number, "a probability is not a number");
      if (place > 0 && prob[place] > prob[place - 1]) fail(number, "probabilities are not in order");
    }
  }
  return results;
}

void run_case(int64_t number, const HeadInstance* fixed) {
  Random random(number);
  const HeadInstance drawn = HeadInstance::any(random);
  LinearTopkParams p{};
  const Inputs in = choose(random, p, fixed != nullptr ? *fixed : drawn);
  const Results in_order = run(p, 0, number);
  for (unsigned seed : {1u, 2u}) {
    if (!(run(p, seed, number) == in_order)) fail(number, "the result depends on the order of threads");
  }
}

}  // namespace

int main(int count, char** arguments) { return run_cases(count, arguments, run_case); }
