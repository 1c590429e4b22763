// Runs the emulated CUDA kernels of linear_cross_entropy on random sizes and
// options, for sanitizers: `linear_cross_entropy_driver FIRST COUNT [DTYPE
// LAYOUT]` does COUNT cases from number FIRST on, each forward and backward in
// three orders of threads and blocks, and fails if their results differ, or if
// one is not a number.
//
// Every array has exactly the size it needs. Results and scratch memory start
// as NaN: a number that is not written, or is made of one that is not, shows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "linear_cross_entropy/linear_cross_entropy.h"

extern "C" void paddle_infra_simt_configure(unsigned seed, int threads);

using namespace paddle_infra;

namespace {

struct Random {
  std::mt19937_64 bits;
  int64_t below(int64_t n) {
    return static_cast<int64_t>(bits() % static_cast<uint64_t>(n));
  }
  bool chance(int percent) { return below(100) < percent; }
  float number() { return static_cast<float>(below(2001) - 1000) / 500.0f; }
};

[[noreturn]] void fail(int64_t number, const std::string &what) {
  std::fprintf(stderr, "case %lld: %s\n", static_cast<long long>(number),
               what.c_str());
  std::exit(1);
}

bool is_nan(DataType type, const unsigned char *number) {
  if (type == DataType::kFloat32) {
    float value;
    std::memcpy(&value, number, sizeof value);
    return std::isnan(value);
  }
  uint16_t bits;
  std::memcpy(&bits, number, sizeof bits);
  return (bits & 0x7FFF) > (type == DataType::kBfloat16 ? 0x7F80 : 0x7C00);
}

// Numbers of a format, NaN at first. They start where 16-byte copies may, or
// one number behind that.
class Tensor {
public:
  Tensor(DataType type, int64_t count, bool is_aligned)
      : type_(type),
        lead_(is_aligned ? 0 : static_cast<size_t>(element_size(type))),
        bytes_(lead_ + static_cast<size_t>(count * element_size(type)), 0xFF) {}
  float *data() { return reinterpret_cast<float *>(bytes_.data() + lead_); }
  // Sign, an exponent around that of 1, all bits of the fraction.
  void fill(Random &random) {
    const bool is_float = type_ == DataType::kFloat32;
    for (size_t i = lead_; i < bytes_.size();
         i += static_cast<size_t>(element_size(type_))) {
      const float wide = random.number();
      const auto bits = static_cast<uint32_t>(random.below(1 << 16));
      const auto narrow = static_cast<uint16_t>(type_ == DataType::kBfloat16
                                                    ? (bits & 0x80FF) | 0x3F00
                                                    : (bits & 0x83FF) | 0x3800);
      std::memcpy(&bytes_[i],
                  is_float ? static_cast<const void *>(&wide) : &narrow,
                  is_float ? 4 : 2);
    }
  }
  bool has_nan() const {
    for (size_t i = lead_; i < bytes_.size();
         i += static_cast<size_t>(element_size(type_))) {
      if (is_nan(type_, &bytes_[i]))
        return true;
    }
    return false;
  }
  bool operator==(const Tensor &other) const { return bytes_ == other.bytes_; }

private:
  DataType type_;
  size_t lead_;
  std::vector<unsigned char> bytes_;
};

// Scratch memory, aligned as that of a GPU.
struct Workspace {
  explicit Workspace(int64_t bytes)
      : data(std::aligned_alloc(64, static_cast<size_t>(bytes))) {
    std::memset(data, 0xFF, static_cast<size_t>(bytes));
  }
  ~Workspace() { std::free(data); }
  Workspace(const Workspace &) = delete;
  Workspace &operator=(const Workspace &) = delete;
  void *const data;
};

// What is fixed from the command line, or chosen for each case.
struct Instance {
  DataType type;
  bool is_vd;
};

struct Inputs {
  Tensor hidden, weight;
  std::vector<int64_t> label;
  std::vector<float> bias, class_weight, token_weight, above;
  bool is_aligned;
};

struct Results {
  std::vector<float> loss, bias;
  std::vector<RowStats> stats;
  Tensor hidden, weight;
  template <class T>
  static bool same(const std::vector<T> &a, const std::vector<T> &b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
  }
  bool operator==(const Results &other) const {
    return same(loss, other.loss) && same(bias, other.bias) &&
           same(stats, other.stats) && hidden == other.hidden &&
           weight == other.weight;
  }
};

void choose_sizes(Random &random, LinearCrossEntropyParams &p,
                  const Instance &instance) {
  constexpr int64_t kRows[] = {1, 2, 31, 32, 33, 64, 127, 128, 129, 200};
  constexpr int64_t kFeatures[] = {1, 3, 8, 15, 40, 64, 65, 72, 100, 128, 130};
  constexpr int64_t kClasses[] = {1,   2,   7,   16,  100, 127,
                                  128, 129, 200, 264, 385};
  p.dtype = instance.type;
  p.rows = random.chance(50) ? kRows[random.below(10)] : 1 + random.below(48);
  p.hidden_size = kFeatures[random.below(11)];
  p.classes = kClasses[random.below(11)];
  p.weight_class_stride = instance.is_vd ? p.hidden_size : 1;
  p.weight_feature_stride = instance.is_vd ? 1 : p.classes;
}

void choose_options(Random &random, LinearCrossEntropyParams &p) {
  p.ignore_index = random.chance(50) ? -100 : random.below(p.classes);
  p.label_smoothing = random.chance(40)   ? 0.1f
                      : random.chance(10) ? 1.0f
                                          : 0.0f;
  p.z_loss = random.chance(30) ? 1e-3f : 0.0f;
  p.softcap = random.chance(30) ? 5.0f : 0.0f;
  p.reduction = static_cast<Reduction>(random.below(3));
}

std::vector<float> some_numbers(Random &random, int percent, int64_t count,
                                bool is_positive) {
  std::vector<float> numbers;
  if (!random.chance(percent))
    return numbers;
  for (int64_t i = 0; i < count; ++i) {
    const float number = random.number();
    numbers.push_back(is_positive ? std::abs(number) : number);
  }
  return numbers;
}

Inputs make_inputs(Random &random, LinearCrossEntropyParams &p) {
  const bool is_aligned = random.chance(70);
  Inputs in{Tensor(p.dtype, p.rows * p.hidden_size, is_aligned),
            Tensor(p.dtype, p.classes * p.hidden_size,
                   is_aligned || random.chance(50)),
            {},
            some_numbers(random, 50, p.classes, false),
            some_numbers(random, 40, p.classes, true),
            some_numbers(random, 40, p.rows, true),
            some_numbers(random, 100,
                         p.reduction == Reduction::kNone ? p.rows : 1, false),
            is_aligned};
  in.hidden.fill(random), in.weight.fill(random);
  for (int64_t row = 0; row < p.rows; ++row) {
    in.label.push_back(random.chance(20) ? p.ignore_index
                                         : random.below(p.classes));
  }
  const auto or_null = [](const std::vector<float> &numbers) {
    return numbers.empty() ? nullptr : numbers.data();
  };
  p.hidden = in.hidden.data(), p.weight = in.weight.data(),
  p.label = in.label.data();
  p.bias = or_null(in.bias), p.class_weight = or_null(in.class_weight);
  p.token_weight = or_null(in.token_weight), p.grad_loss = in.above.data();
  return in;
}

void run_pass(LinearCrossEntropyParams &p, bool is_forward, int64_t number) {
  const Workspace workspace(
      paddle_infra_linear_cross_entropy_cuda_workspace(&p));
  p.workspace = workspace.data;
  const char *const error =
      is_forward ? paddle_infra_linear_cross_entropy_cuda_fwd(&p, nullptr)
                 : paddle_infra_linear_cross_entropy_cuda_bwd(&p, nullptr);
  if (error != nullptr)
    fail(number, error);
}

bool has_nan(const std::vector<float> &numbers) {
  return std::any_of(numbers.begin(), numbers.end(),
                     [](float x) { return std::isnan(x); });
}

Results run(LinearCrossEntropyParams p, const Inputs &in, unsigned seed,
            int64_t number) {
  Results results{
      std::vector<float>(in.above.size(), NAN),
      std::vector<float>(in.bias.size(), NAN),
      std::vector<RowStats>(in.label.size(), {NAN, NAN, NAN, NAN, NAN}),
      Tensor(p.dtype, p.rows * p.hidden_size, in.is_aligned),
      Tensor(p.dtype, p.classes * p.hidden_size, in.is_aligned)};
  p.loss = results.loss.data(), p.stats = results.stats.data();
  p.grad_hidden = results.hidden.data(), p.grad_weight = results.weight.data();
  p.grad_bias = p.bias != nullptr ? results.bias.data() : nullptr;
  paddle_infra_simt_configure(seed, 1 + static_cast<int>(seed % 2));
  run_pass(p, true, number);
  run_pass(p, false, number);
  if (has_nan(results.loss))
    fail(number, "loss is not a number");
  for (const RowStats &row : results.stats) {
    if (std::isnan(row.max + row.log_sum + row.scale + row.log_prob +
                   row.inverse_sum)) {
      fail(number, "what is kept of a row is not a number");
    }
  }
  if (results.hidden.has_nan())
    fail(number, "the gradient of hidden is not a number");
  if (results.weight.has_nan())
    fail(number, "the gradient of the weight is not a number");
  if (has_nan(results.bias))
    fail(number, "the gradient of the bias is not a number");
  return results;
}

void run_case(int64_t number, const Instance *fixed) {
  Random random{std::mt19937_64(static_cast<uint64_t>(number))};
  const Instance drawn{static_cast<DataType>(random.below(3)),
                       random.chance(50)};
  LinearCrossEntropyParams p{};
  choose_sizes(random, p, fixed != nullptr ? *fixed : drawn);
  choose_options(random, p);
  const Inputs in = make_inputs(random, p);
  const Results in_order = run(p, in, 0, number);
  for (unsigned seed : {1u, 2u}) {
    if (!(run(p, in, seed, number) == in_order))
      fail(number, "the result depends on the order of threads");
  }
}

} // namespace

int main(int count_of_arguments, char **arguments) {
  const int64_t first = std::atoll(arguments[1]),
                count = std::atoll(arguments[2]);
  Instance fixed{};
  const bool is_fixed = count_of_arguments > 4;
  if (is_fixed) {
    const std::string type = arguments[3];
    fixed.type = type == "float32"   ? DataType::kFloat32
                 : type == "float16" ? DataType::kFloat16
                                     : DataType::kBfloat16;
    fixed.is_vd = std::string(arguments[4]) == "vd";
  }
  for (int64_t number = first; number < first + count; ++number)
    run_case(number, is_fixed ? &fixed : nullptr);
  std::printf("%lld cases\n", static_cast<long long>(count));
}
