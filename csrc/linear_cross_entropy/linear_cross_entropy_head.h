// What the files of the losses on the CPU share: one head on its way through the rows, and who does what.
#pragma once

#include "common/task_threads.h"
#include "linear_cross_entropy/linear_cross_entropy_plan.h"

namespace paddle_infra {

// What is done to rows of logits, for one instruction set: linear_cross_entropy_body.h.
struct HeadKernel {
  void (*fold)(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
               float* z, int64_t z_stride, RowState* states);
  void (*gradient)(const LinearCrossEntropyParams& p, const ClassBlock& block, int64_t row, int64_t rows,
                   double all_weights, float* z, int64_t z_stride, bool round, double* sums);
  void (*few_logits)(const LinearCrossEntropyParams& p, int64_t row, int64_t rows, const float* weight,
                     int64_t stride, float* z, int64_t z_stride);
  void (*few_gradients)(const LinearCrossEntropyParams& p, int64_t row, int64_t rows, const float* weight,
                        int64_t stride, const float* grads, int64_t grad_stride, float* grad_weight);
  void (*round)(const float* from, int64_t count, uint16_t* to);
};

// Of the instruction set that is used (linear_cross_entropy_kernel_cpu.cc).
const HeadKernel& head_kernel();

struct Head {
  Head(const LinearCrossEntropyParams& params, bool loss_is_wanted)
      : p(params), space(params), wants_loss(loss_is_wanted), stride(space.classes) {
    for (int64_t c = 0; c < space.classes; ++c) {
      const bool is_class = c < p.classes;
      space.bias[c] = is_class && p.bias ? p.bias[c] : 0.0f;
      space.class_weight[c] = !is_class ? 0.0f : p.class_weight ? p.class_weight[c] : 1.0f;
      all_weights += space.class_weight[c];
    }
  }

  bool weight_is_vd() const { return p.weight_feature_stride == 1; }

  ClassBlock block_of(int64_t first, int64_t count) const {
    ClassBlock block{first, count, round_up(count, kWidest), space.bias + first, space.class_weight + first,
                     0.0};
    for (int64_t c = 0; c < count; ++c) block.class_weight_sum += block.class_weight[c];
    return block;
  }

  // Calls task(index, thread) for every index below `count`.
  template <class Task>
  void for_each(int64_t count, Task task) const {
    const auto nothing = [] {};
    run_tasks(p.threads, count, nothing, task, nothing);
  }

  const LinearCrossEntropyParams& p;
  const HeadSpace space;
  const bool wants_loss;
  const int64_t stride;  // of logits
  double all_weights = 0.0;
};

// linear_cross_entropy_loss_cpu.cc: scale_i of every row, before anything else; states before the first
// class; what is known of a row when all of its classes are folded; the loss of all rows.
void fill_scales(const LinearCrossEntropyParams& p);
bool all_ignored(const LinearCrossEntropyParams& p, int64_t row, int64_t rows);
void begin_states(RowState* states, int64_t rows);
void finish_row(const Head& head, int64_t row, const RowState& state);
void sum_losses(const Head& head);

// A file for each HeadMode. All rows, or of a chunk, which starts at row `first`: logits, loss, and gradients
// of logits, of hidden and of the weight; that of the bias is left in `bias_sums` by chunks.
void run_few(const Head& head);
void run_chunk_by_rows(const Head& head, int64_t first, int64_t rows);
void run_chunk_by_columns(const Head& head, int64_t first, int64_t rows);

}  // namespace paddle_infra
