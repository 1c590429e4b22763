// Runs attention's emulated CUDA kernels on random shapes and options, for
// sanitizers: `attention_driver FIRST COUNT [PASS [MOST_HEAD_DIM [FORMATS]]]`
// does COUNT cases of a pass (forward, backward, decode) from number FIRST on,
// each in three orders of threads and blocks, and fails if their results
// differ, or if one is not a number. FORMATS is a list with commas, without
// spaces.
//
// Results start as NaN: a number that is not written shows.
#include "attention/attention_cuda.h"
#include "attention_driver_cases.h"

extern "C" void paddle_infra_simt_configure(unsigned seed, int threads);

namespace {

// What a pass has written; of passes that it does not have, nothing.
struct Results {
  Numbers o, lse, stats, grad_q, grad_k, grad_v, grad_bias;
  bool operator==(const Results& other) const {
    return o == other.o && lse == other.lse && stats == other.stats && grad_q == other.grad_q &&
           grad_k == other.grad_k && grad_v == other.grad_v && grad_bias == other.grad_bias;
  }
  bool have_nan() const {
    for (const Numbers* each : {&o, &lse, &stats, &grad_q, &grad_k, &grad_v, &grad_bias}) {
      if (each->has_nan()) return true;
    }
    return false;
  }
};

void check(int64_t number, const char* error) {
  if (error != nullptr) fail(number, error);
}

Results run(const AttentionCase& in, const std::string& pass, unsigned seed, int64_t number) {
  AttentionParams p = in.p;
  Results results;
  results.o = Numbers(p.dtype, in.q.count());
  results.lse = Numbers(DataType::kFloat32, in.rows_q * p.heads);
  p.o = results.o.data(), p.lse = static_cast<float*>(results.lse.data());
  paddle_infra_simt_configure(seed, 1 + static_cast<int>(seed % 2));
  if (pass == "decode") {
    Numbers workspace(DataType::kFloat32, paddle_infra_attention_decode_cuda_workspace(&p) / 4);
    p.workspace = workspace.data();
    check(number, paddle_infra_attention_decode_cuda(&p, nullptr));
    return results;
  }
  results.stats = Numbers(DataType::kFloat32, 2 * in.rows_q * p.heads);
  p.stats = static_cast<paddle_infra::AttentionRowStats*>(results.stats.data());
  check(number, paddle_infra_attention_cuda_fwd(&p, nullptr));
  if (pass == "forward") return results;
  results.grad_q = Numbers(p.dtype, in.q.count());
  results.grad_k = results.grad_v = Numbers(p.dtype, in.k.count());
  p.grad_q = results.grad_q.data(), p.grad_k = results.grad_k.data(), p.grad_v = results.grad_v.data();
  if (!in.bias.empty()) {
    results.grad_bias = Numbers(DataType::kFloat32, static_cast<int64_t>(in.bias.size()));
    p.grad_bias = static_cast<float*>(results.grad_bias.data());
  }
  Numbers workspace(DataType::kFloat32, paddle_infra_attention_cuda_bwd_workspace(&p) / 4);
  p.workspace = workspace.data();
  check(number, paddle_infra_attention_cuda_bwd(&p, nullptr));
  return results;
}

void run_case(int64_t number, const Choice& choice) {
  const AttentionCase in(number, choice);
  if (in.is_empty()) return;
  const Results in_order = run(in, choice.pass, 0, number);
  if (in_order.have_nan()) fail(number, "a result is not a number");
  for (unsigned seed : {1u, 2u}) {
    if (!(run(in, choice.pass, seed, number) == in_order)) {
      fail(number, "the result depends on the order of threads");
    }
  }
}

std::vector<DataType> formats_of(const std::string& list) {
  const std::pair<const char*, DataType> kFormats[] = {
      {"bfloat16", DataType::kBfloat16}, {",float16", DataType::kFloat16}, {"float32", DataType::kFloat32}};
  std::vector<DataType> formats;
  for (const auto& [name, format] : kFormats) {
    if (("," + list).find(name) != std::string::npos) formats.push_back(format);
  }
  return formats;
}

}  // namespace

int main(int count_of_arguments, char** arguments) {
  const int64_t first = std::atoll(arguments[1]), count = std::atoll(arguments[2]);
  Choice choice;
  if (count_of_arguments > 3) choice.pass = arguments[3];
  if (count_of_arguments > 4) choice.most_head_dim = std::atoll(arguments[4]);
  if (count_of_arguments > 5) choice.formats = formats_of(arguments[5]);
  for (int64_t number = first; number < first + count; ++number) run_case(number, choice);
  std::printf("%lld cases\n", static_cast<long long>(count));
}
