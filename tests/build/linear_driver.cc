// Runs the kernels of linear and of the losses of a linear layer without Paddle on random shapes and options,
// and prints numbers to compare between instruction sets: `linear_driver FIRST COUNT` does COUNT cases from
// number FIRST on.
//
// Every array has exactly the size it needs, for sanitizers. Results and scratch memory start as NaN: a
// number that is not written, or is made of what was not, shows.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "linear/linear.h"
#include "linear_cross_entropy/linear_cross_entropy.h"

using namespace paddle_infra;

namespace {

struct Random {
  std::mt19937_64 bits;
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  float number() { return static_cast<float>(below(2001) - 1000) / 1000.0f; }
  // Mostly small; sometimes beyond the blocks of rows, columns and products.
  int64_t size() { return 1 + below(chance(70) ? 40 : chance(80) ? 130 : 420); }
};

template <class T>
struct Array {
  std::unique_ptr<T[]> data;
  int64_t size;
  explicit Array(int64_t n) : data(new T[n]), size(n) { std::memset(data.get(), 0xFF, n * sizeof(T)); }
  T* get() { return size > 0 ? data.get() : nullptr; }
};

Array<float> random_array(Random& random, int64_t count, float scale) {
  Array<float> array(count);
  for (int64_t i = 0; i < count; ++i) array.data[i] = scale * random.number();
  return array;
}

// One number of a whole result. Its sign hangs on the position, so that exchanged elements show.
double project(const float* data, int64_t count) {
  if (data == nullptr || count == 0) return 0.0;
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += (i * 2654435761u >> 7 & 1) ? data[i] : -data[i];
  return sum / std::sqrt(static_cast<double>(count));
}

template <class Params>
void run_with_workspace(Params* p, int64_t bytes, void (*kernel)(const Params*)) {
  // Exactly what was asked for, from an aligned address on: what lies beyond belongs to nobody.
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0));
  std::memset(memory, 0xFF, bytes);
  p->workspace = memory;
  kernel(p);
  std::free(memory);
}

void print(int64_t number, MatmulPrecision precision, std::initializer_list<double> values) {
  std::printf("%lld %s", static_cast<long long>(number),
              precision == MatmulPrecision::kMedium ? "rough" : "exact");
  for (const double value : values) std::printf(" %.9e", value);
  std::printf("\n");
}

void run_linear(int64_t number, Random& random) {
  LinearParams p{};
  p.rows = random.size(), p.in = random.size(), p.out = random.size();
  p.activation = static_cast<Activation>(random.below(6));
  const bool is_gated = p.activation == Activation::kSwiglu;
  if (is_gated) p.out *= 2;
  p.precision = random.chance(50) ? MatmulPrecision::kMedium : MatmulPrecision::kHighest;
  p.threads = 1 + static_cast<int>(random.below(3));
  const int64_t width = is_gated ? p.out / 2 : p.out;
  const float scale = 1.0f / std::sqrt(static_cast<float>(p.in));
  Array<float> x = random_array(random, p.rows * p.in, 1.0f),
               weight = random_array(random, p.in * p.out, scale), bias = random_array(random, p.out, 1.0f),
               grad_y = random_array(random, p.rows * width, 1.0f);
  Array<float> y(p.rows * width), pre(p.rows * p.out), grad_x(x.size), grad_weight(weight.size),
      grad_bias(p.out);
  Array<uint16_t> packed(weight.size);
  p.x = x.get(), p.weight = weight.get(), p.y = y.get(), p.grad_y = grad_y.get();
  if (random.chance(70)) p.bias = bias.get();
  if (p.precision == MatmulPrecision::kMedium && random.chance(40)) {
    paddle_infra_round_to_bf16(weight.get(), weight.size, packed.get(), p.threads);
    p.weight_bf16 = packed.get();
  }
  const bool has_backward = random.chance(70);
  if (has_backward && p.activation != Activation::kNone) p.pre = pre.get();
  run_with_workspace(&p, paddle_infra_linear_cpu_fwd_workspace(&p), paddle_infra_linear_cpu_fwd);
  if (has_backward) {
    if (random.chance(80)) p.grad_x = grad_x.get();
    if (random.chance(80)) p.grad_weight = grad_weight.get();
    if (p.bias != nullptr) p.grad_bias = grad_bias.get();
    run_with_workspace(&p, paddle_infra_linear_cpu_bwd_workspace(&p), paddle_infra_linear_cpu_bwd);
  }
  print(number, p.precision,
        {project(p.y, y.size), project(p.grad_x, grad_x.size), project(p.grad_weight, grad_weight.size),
         project(p.grad_bias, grad_bias.size)});
}

void run_loss(int64_t number, Random& random) {
  LinearCrossEntropyParams p{};
  p.rows = random.size(), p.hidden_size = random.size();
  p.classes = random.chance(30)   ? 1 + random.below(16)
              : random.chance(15) ? 2049 + random.below(300)
                                  : random.size();
  p.kind = static_cast<HeadLoss>(random.below(3));
  if (p.kind != HeadLoss::kBinary && p.classes == 1) p.classes = 2;
  p.precision = random.chance(50) ? MatmulPrecision::kMedium : MatmulPrecision::kHighest;
  p.reduction = static_cast<Reduction>(random.below(3));
  p.threads = 1 + static_cast<int>(random.below(3));
  p.ignore_index = -100;
  if (p.kind == HeadLoss::kFocal) {
    p.focal_gamma = static_cast<float>(random.below(3));
  } else if (p.kind == HeadLoss::kCrossEntropy) {
    p.label_smoothing = random.chance(50) ? 0.1f : 0.0f;
    p.z_loss = random.chance(30) ? 1e-3f : 0.0f;
  }
  p.softcap = random.chance(30) ? 3.0f : 0.0f;
  const bool is_transposed = random.chance(50);
  p.weight_class_stride = is_transposed ? 1 : p.hidden_size;
  p.weight_feature_stride = is_transposed ? p.classes : 1;

  const float scale = 2.0f / std::sqrt(static_cast<float>(p.hidden_size));
  Array<float> hidden = random_array(random, p.rows * p.hidden_size, 1.0f),
               weight = random_array(random, p.classes * p.hidden_size, scale),
               bias = random_array(random, p.classes, 1.0f),
               class_weight = random_array(random, p.classes, 0.5f),
               token_weight = random_array(random, p.rows, 0.5f);
  for (int64_t i = 0; i < p.classes; ++i) class_weight.data[i] += 1.0f;
  for (int64_t i = 0; i < p.rows; ++i) token_weight.data[i] += 1.0f;
  Array<int64_t> label(p.rows);
  for (int64_t i = 0; i < p.rows; ++i) label.data[i] = random.chance(10) ? -100 : random.below(p.classes);
  const bool is_binary = p.kind == HeadLoss::kBinary;
  Array<float> target(is_binary ? p.rows * p.classes : 0);
  for (int64_t i = 0; i < target.size; ++i) target.data[i] = static_cast<float>(random.below(5)) / 4.0f;
  p.hidden = hidden.get(), p.weight = weight.get();
  p.label = is_binary ? nullptr : label.get(), p.target = target.get();
  if (random.chance(60)) p.bias = bias.get();
  if (random.chance(40)) p.class_weight = class_weight.get();
  if (random.chance(40)) p.token_weight = token_weight.get();

  const bool has_many = p.reduction == Reduction::kNone;
  const int64_t losses = !has_many ? 1 : is_binary ? p.rows * p.classes : p.rows;
  Array<RowStats> stats(p.rows);
  Array<float> loss(losses), grad_loss = random_array(random, losses, 1.0f);
  Array<float> grad_hidden(hidden.size), grad_weight(weight.size), grad_bias(p.classes);
  p.stats = stats.get(), p.loss = loss.get();
  const auto want_gradients = [&] {
    if (random.chance(80)) p.grad_hidden = grad_hidden.get();
    if (random.chance(80)) p.grad_weight = grad_weight.get();
    if (p.bias != nullptr) p.grad_bias = grad_bias.get();
  };
  // For one loss forward may make the gradients too; otherwise backward makes them.
  const bool is_eager = !has_many && random.chance(50);
  if (is_eager) want_gradients();
  run_with_workspace(&p, paddle_infra_linear_cross_entropy_workspace(&p),
                     paddle_infra_linear_cross_entropy_cpu_fwd);
  const double value = project(p.loss, losses);
  if (!is_eager) {
    want_gradients();
    p.grad_loss = grad_loss.get();
    run_with_workspace(&p, paddle_infra_linear_cross_entropy_workspace(&p),
                       paddle_infra_linear_cross_entropy_cpu_bwd);
  }
  print(number, p.precision,
        {value, project(p.grad_hidden, grad_hidden.size), project(p.grad_weight, grad_weight.size),
         project(p.grad_bias, grad_bias.size)});
}

}  // namespace

int main(int, char** arguments) {
  const int64_t first = std::atoll(arguments[1]), count = std::atoll(arguments[2]);
  for (int64_t number = first; number < first + count; ++number) {
    Random random{std::mt19937_64(static_cast<uint64_t>(number))};
    number % 2 == 0 ? run_linear(number, random) : run_loss(number, random);
  }
}
