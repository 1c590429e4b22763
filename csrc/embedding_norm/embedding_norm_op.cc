// The operators as Paddle sees them. The only file of this folder that includes Paddle.
//
// Four of them: in a static program an optional input cannot have a gradient, so a table of positions and one
// of token types, where they are given, are required inputs of operators of their own.
#include <cmath>

#include "common/cpu_target.h"
#include "common/operator_checks.h"
#include "common/thread_count.h"
#include "embedding_norm/embedding_norm.h"

namespace {

using paddle::DataType;
using paddle_infra::EmbeddingNormParams;
using paddle_infra::EmbeddingTable;
using paddle_infra::NormStats;
using paddle_infra::OptionalTensor;
using paddle_infra::pointer_or_null;
using paddle_infra::refuse;
using paddle_infra::require_like;
using paddle_infra::Shape;
using paddle_infra::Tensor;
using paddle_infra::text_of;

constexpr char kName[] = "embedding_norm";

struct Attributes {
  int64_t padding_idx;
  bool is_rms;
  float epsilon, dropout_p;
};

// The tensors of one call. Null: not given.
struct Inputs {
  const Tensor *ids, *word, *position, *token_type, *weight, *bias;
  const Tensor *position_ids, *token_type_ids, *seed;
};

// Indices of [batch, sequence] tokens; [sequence] and [1, sequence] serve every sequence.
void set_index(const char* what, const Tensor* index, const EmbeddingNormParams& p, EmbeddingTable* table) {
  if (index == nullptr) return;
  paddle_infra::require_cpu(kName, what, *index, DataType::INT64);
  const Shape shape = index->shape(), one = {1, p.sequence}, flat = {p.sequence};
  const Shape all = {p.batch, p.sequence};
  if (shape != all && shape != one && shape != flat) {
    refuse(kName, what, ": expected shape ", text_of(all), " or ", text_of(flat), ", got ", text_of(shape));
  }
  table->index = index->data<int64_t>();
  table->batch_stride = shape == all ? p.sequence : 0;
  for (int64_t i = 0; i < index->numel(); ++i) {
    if (table->index[i] >= 0 && table->index[i] < table->count) continue;
    std::ostringstream place;
    if (shape.size() == 2) place << i / p.sequence << ", ";
    place << i % p.sequence;
    refuse(kName, what, "[", place.str(), "]: expected a number in [0, ", table->count, "), got ",
           table->index[i]);
  }
}

void set_table(const char* what, const Tensor* rows, int64_t size, EmbeddingTable* table) {
  if (rows == nullptr) return;
  paddle_infra::require_cpu(kName, what, *rows, DataType::FLOAT32);
  const Shape shape = rows->shape();
  if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1 || (size > 0 && shape[1] != size)) {
    refuse(kName, what, ": expected shape [rows, ", size > 0 ? std::to_string(size) : "D", "], got ",
           text_of(shape));
  }
  table->rows = rows->data<float>();
  table->count = shape[0];
}

void set_attributes(const Attributes& a, EmbeddingNormParams* p) {
  if (a.padding_idx < -1 || a.padding_idx >= p->word.count) {
    refuse(kName, "padding_idx: expected a number in [0, ", p->word.count, "), or -1 for none, got ",
           a.padding_idx);
  }
  if (!(a.epsilon >= 0.0f) || !std::isfinite(a.epsilon)) {
    refuse(kName, "epsilon: expected 0 or a finite positive number, got ", a.epsilon);
  }
  if (!(a.dropout_p >= 0.0f && a.dropout_p < 1.0f)) {
    refuse(kName, "dropout_p: expected a probability in [0, 1), got ", a.dropout_p);
  }
  p->padding_idx = a.padding_idx;
  p->is_rms = a.is_rms;
  p->epsilon = a.epsilon;
  p->dropout_p = a.dropout_p;
}

// Everything but results and workspace.
EmbeddingNormParams make_params(const Inputs& in, const Attributes& attributes) {
  if (const char* error = paddle_infra_isa_error()) refuse(kName, error);
  EmbeddingNormParams p{};
  set_table("word", in.word, 0, &p.word);
  p.size = in.word->shape()[1];
  set_table("position", in.position, p.size, &p.position);
  set_table("token_type", in.token_type, p.size, &p.token_type);
  require_like(kName, "weight", *in.weight, DataType::FLOAT32, {p.size});
  require_like(kName, "bias", *in.bias, DataType::FLOAT32, {p.size});
  const Shape ids = in.ids->shape();
  if (ids.size() != 2) refuse(kName, "ids: expected shape [batch_size, seq_len], got ", text_of(ids));
  p.batch = ids[0];
  p.sequence = ids[1];
  set_index("ids", in.ids, p, &p.word);
  p.word.batch_stride = p.sequence;
  set_index("position_ids", in.position_ids, p, &p.position);
  set_index("token_type_ids", in.token_type_ids, p, &p.token_type);
  if (in.position != nullptr && in.position_ids == nullptr && p.position.count < p.sequence) {
    refuse(kName, "position: expected at least ", p.sequence, " rows, a position for each token, got ",
           p.position.count);
  }
  p.weight = in.weight->data<float>();
  p.bias = in.bias->data<float>();
  set_attributes(attributes, &p);
  p.seed = paddle_infra::checked_seed(kName, in.seed, p.dropout_p);
  p.threads = paddle_infra_thread_count();
  return p;
}

// Sizes may be unknown (-1). Of a table without two axes it makes something: an exception would end the
// process while a program is made, and the kernel refuses it later.
std::vector<Shape> result_shapes(Shape ids, const Shape& word) {
  Shape stats = ids;
  ids.push_back(word.empty() ? -1 : word.back());
  stats.push_back(sizeof(NormStats) / sizeof(float));
  return {ids, stats};
}

std::vector<Tensor> forward(const Inputs& in, const Attributes& attributes) {
  EmbeddingNormParams p = make_params(in, attributes);
  const std::vector<Shape> shapes = result_shapes(in.ids->shape(), in.word->shape());
  const auto place = in.word->place();
  Tensor out = paddle::empty(shapes[0], DataType::FLOAT32, place);
  Tensor stats = paddle::empty(shapes[1], DataType::FLOAT32, place);
  p.out = out.data<float>();
  p.stats = reinterpret_cast<NormStats*>(stats.data<float>());
  const Tensor workspace =
      paddle_infra::allocate_workspace(paddle_infra_embedding_norm_cpu_fwd_workspace(&p), &p);
  paddle_infra_embedding_norm_cpu_fwd(&p);
  return {out, stats};
}

// The gradients of word, position and token_type (if they are given), weight and bias.
std::vector<Tensor> backward(const Inputs& in, const Tensor& stats, const Tensor& grad_out,
                             const Attributes& attributes) {
  EmbeddingNormParams p = make_params(in, attributes);
  const std::vector<Shape> shapes = result_shapes(in.ids->shape(), in.word->shape());
  require_like(kName, "stats", stats, DataType::FLOAT32, shapes[1]);
  require_like(kName, "gradient of out", grad_out, DataType::FLOAT32, shapes[0]);
  p.stats = reinterpret_cast<NormStats*>(const_cast<float*>(stats.data<float>()));
  p.grad_out = grad_out.data<float>();
  std::vector<Tensor> gradients;
  const auto add_gradient = [&](const Tensor& of) {
    gradients.push_back(paddle::empty(of.shape(), DataType::FLOAT32, of.place()));
    return gradients.back().data<float>();
  };
  p.word.grad = add_gradient(*in.word);
  if (in.position != nullptr) p.position.grad = add_gradient(*in.position);
  if (in.token_type != nullptr) p.token_type.grad = add_gradient(*in.token_type);
  p.grad_weight = add_gradient(*in.weight);
  p.grad_bias = add_gradient(*in.bias);
  const Tensor workspace =
      paddle_infra::allocate_workspace(paddle_infra_embedding_norm_cpu_bwd_workspace(&p), &p);
  paddle_infra_embedding_norm_cpu_bwd(&p);
  return gradients;
}

using T = const Tensor&;
using Optional = const OptionalTensor&;
using Tensors = std::vector<Tensor>;

#define PI_OPTIONS Optional position_ids, Optional token_type_ids, Optional seed
#define PI_ATTRIBUTE_PARAMETERS int64_t padding_idx, bool is_rms, float epsilon, float dropout_p
#define PI_ATTRIBUTES \
  Attributes { padding_idx, is_rms, epsilon, dropout_p }
#define PI_INPUTS(position, token_type)                                               \
  Inputs {                                                                            \
    &ids, &word, position, token_type, &weight, &bias, pointer_or_null(position_ids), \
        pointer_or_null(token_type_ids), pointer_or_null(seed)                        \
  }

Tensors Word(T ids, T word, T weight, T bias, PI_OPTIONS, PI_ATTRIBUTE_PARAMETERS) {
  return forward(PI_INPUTS(nullptr, nullptr), PI_ATTRIBUTES);
}

Tensors WordGrad(T ids, T word, T weight, T bias, PI_OPTIONS, T stats, T grad_out, PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(nullptr, nullptr), stats, grad_out, PI_ATTRIBUTES);
}

Tensors Position(T ids, T word, T position, T weight, T bias, PI_OPTIONS, PI_ATTRIBUTE_PARAMETERS) {
  return forward(PI_INPUTS(&position, nullptr), PI_ATTRIBUTES);
}

Tensors PositionGrad(T ids, T word, T position, T weight, T bias, PI_OPTIONS, T stats, T grad_out,
                     PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(&position, nullptr), stats, grad_out, PI_ATTRIBUTES);
}

Tensors Type(T ids, T word, T token_type, T weight, T bias, PI_OPTIONS, PI_ATTRIBUTE_PARAMETERS) {
  return forward(PI_INPUTS(nullptr, &token_type), PI_ATTRIBUTES);
}

Tensors TypeGrad(T ids, T word, T token_type, T weight, T bias, PI_OPTIONS, T stats, T grad_out,
                 PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(nullptr, &token_type), stats, grad_out, PI_ATTRIBUTES);
}

Tensors PositionType(T ids, T word, T position, T token_type, T weight, T bias, PI_OPTIONS,
                     PI_ATTRIBUTE_PARAMETERS) {
  return forward(PI_INPUTS(&position, &token_type), PI_ATTRIBUTES);
}

Tensors PositionTypeGrad(T ids, T word, T position, T token_type, T weight, T bias, PI_OPTIONS, T stats,
                         T grad_out, PI_ATTRIBUTE_PARAMETERS) {
  return backward(PI_INPUTS(&position, &token_type), stats, grad_out, PI_ATTRIBUTES);
}

std::vector<Shape> InferShape(const Shape& ids, const Shape& word) { return result_shapes(ids, word); }

std::vector<DataType> InferDtype(const DataType&, const DataType&) {
  return {DataType::FLOAT32, DataType::FLOAT32};
}

#define PI_OPTION_NAMES \
  paddle::Optional("PositionIds"), paddle::Optional("TokenTypeIds"), paddle::Optional("Seed")
#define PI_ATTRIBUTE_NAMES {"padding_idx: int64_t", "is_rms: bool", "epsilon: float", "dropout_p: float"}
// The operator and its gradient; the tables are the names of the inputs that differ.
#define PI_FORWARD(name, kernel, ...)                                  \
  PD_BUILD_OP(name)                                                    \
      .Inputs({"Ids", __VA_ARGS__, "Weight", "Bias", PI_OPTION_NAMES}) \
      .Outputs({"Out", "Stats"})                                       \
      .Attrs(PI_ATTRIBUTE_NAMES)                                       \
      .SetKernelFn(PD_KERNEL(kernel))                                  \
      .SetInferShapeFn(PD_INFER_SHAPE(InferShape))                     \
      .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype))
#define PI_BACKWARD(name, kernel, ...)                                                               \
  PD_BUILD_GRAD_OP(name)                                                                             \
      .Inputs({"Ids", __VA_ARGS__, "Weight", "Bias", PI_OPTION_NAMES, "Stats", paddle::Grad("Out")}) \
      .Attrs(PI_ATTRIBUTE_NAMES)                                                                     \
      .SetKernelFn(PD_KERNEL(kernel))

}  // namespace

PI_FORWARD(paddle_infra_embedding_norm, Word, "Word");
PI_BACKWARD(paddle_infra_embedding_norm, WordGrad, "Word")
    .Outputs({paddle::Grad("Word"), paddle::Grad("Weight"), paddle::Grad("Bias")});

PI_FORWARD(paddle_infra_embedding_norm_position, Position, "Word", "Position");
PI_BACKWARD(paddle_infra_embedding_norm_position, PositionGrad, "Word", "Position")
    .Outputs({paddle::Grad("Word"), paddle::Grad("Position"), paddle::Grad("Weight"), paddle::Grad("Bias")});

PI_FORWARD(paddle_infra_embedding_norm_type, Type, "Word", "TokenType");
PI_BACKWARD(paddle_infra_embedding_norm_type, TypeGrad, "Word", "TokenType")
    .Outputs({paddle::Grad("Word"), paddle::Grad("TokenType"), paddle::Grad("Weight"), paddle::Grad("Bias")});

PI_FORWARD(paddle_infra_embedding_norm_position_type, PositionType, "Word", "Position", "TokenType");
PI_BACKWARD(paddle_infra_embedding_norm_position_type, PositionTypeGrad, "Word", "Position", "TokenType")
    .Outputs({paddle::Grad("Word"), paddle::Grad("Position"), paddle::Grad("TokenType"),
              paddle::Grad("Weight"), paddle::Grad("Bias")});
