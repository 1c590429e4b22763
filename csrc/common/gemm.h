// Matrix products of any size on one thread: oneDNN's, which comes with Paddle, or our own.
//
//   C[m, n] = sum_k A[m, k] B[k, n]   (+ C[m, n] if `accumulate`)
//
// Matrices are row-major with leading dimensions that count elements; a transposed A is stored [k][m], a
// transposed B [n][k]. Own code runs where oneDNN is not there (no Paddle, no x86), where it would have to
// emulate, and if PADDLE_INFRA_ISA chooses an instruction set. docs/architecture.md has the comparison.
#pragma once

#include <cstdint>

namespace paddle_infra {

struct GemmShape {
  int64_t m, n, k;
  int64_t lda, ldb, ldc;
  bool transpose_a = false, transpose_b = false, accumulate = false;
};

void gemm(const GemmShape& shape, const float* a, const float* b, float* c);

// bfloat16 numbers, multiplied exactly, summed in float32.
void gemm(const GemmShape& shape, const uint16_t* a, const uint16_t* b, float* c);

// int8 numbers in [-127, 127], summed in int32.
void gemm(const GemmShape& shape, const int8_t* a, const int8_t* b, int32_t* c);

}  // namespace paddle_infra
