"""Bugs for the head's kernels for float32 numbers."""

from __future__ import annotations

from tests.cuda.mutation import Mutation, Target

LAUNCH = "linear_cross_entropy/linear_cross_entropy_float.cu"

BUGS = (
    Mutation(
        "the last classes of a slice are skipped",
        "first + kSlice < p.classes ? first + kSlice : p.classes",
        "first + kSlice < p.classes ? first + kSlice - 1 : p.classes",
    ),
    Mutation(
        "the last slice is lost",
        "return (classes + kSlice - 1) / kSlice;",
        "return classes / kSlice + (classes < kSlice);",
    ),
    Mutation("running sum not rescaled", "state.sum *= exp(static_cast<double>(state.max) - z);", ""),
    Mutation(
        "slices joined without rescaling",
        "all.sum += slice.sum * exp(static_cast<double>(slice.max) - all.max);",
        "all.sum += slice.sum;",
    ),
    Mutation(
        "smoothing's sum not relative to the maximum",
        "state.weighted - max * class_weights",
        "state.weighted",
    ),
    Mutation(
        "ignored rows count in the mean", "if (load_global(p.label + row) == p.ignore_index) return 0.0;", ""
    ),
    Mutation("label off by one", "if (c == label) gradient", "if (c == label + 1) gradient"),
    Mutation("z-loss without its factor", "2.0 * p.z_loss * lse", "p.z_loss * lse"),
    Mutation("derivative of the softcap missing", "(1.0 - capped * capped)", "1.0"),
    Mutation("gradient of the loss of the first row", "p.reduction == Reduction::kNone ? row : 0", "0"),
    Mutation(
        "token weight forgotten",
        "double scale = p.token_weight ? load_global(p.token_weight + row) : 1.0;",
        "double scale = 1.0;",
    ),
    Mutation(
        "later chunks replace the first one's share",
        "chunk.first > 0 ? load_global(gradient) + share : share",
        "share",
    ),
    Mutation(
        "gradients of hidden at the first chunk's place",
        "p.grad_hidden + chunk.first * p.hidden_size + i",
        "p.grad_hidden + i",
    ),
    Mutation("scratch memory is too small", "(slices > logits ? slices : logits)", "slices", LAUNCH),
    Mutation("threads beyond the last write", "  if (i >= chunk.rows * p.hidden_size) return;\n", ""),
)

LINEAR_CROSS_ENTROPY_F32 = Target(
    name="linear_cross_entropy_f32",
    operator="linear_cross_entropy",
    sources=("linear_cross_entropy.cu", "linear_cross_entropy_float.cu"),
    probe="tests.cuda.linear_cross_entropy_f32_probe",
    driver="linear_cross_entropy_driver",
    driver_arguments=("Float32", "true"),
    file="linear_cross_entropy/linear_cross_entropy_float.cuh",
    bugs=BUGS,
)
