"""Bugs for the kernels of linear_topk; those of products and logits, which the head shares, are with the head's."""

from __future__ import annotations

from tests.cuda.mutation import Mutation, Target

FLOAT_PRODUCT = "common/cuda_float_product.cuh"
PLAN = "linear_topk/linear_topk_cuda.h"
FLOAT = {"PI_FORMAT": ("Float32",)}
FLOAT_DV = {"PI_FORMAT": ("Float32",), "PI_WEIGHT_IS_VD": ("false",)}

BUGS = (
    # Order of classes.
    Mutation("equal logits in the opposite order", "a.index < b.index", "a.index > b.index"),
    Mutation("equal logits in any order", " || (a.logit == b.logit && a.index < b.index)", ""),
    Mutation(
        "the k-th class is dropped",
        "lists[kRow].last(k, quarter)",
        "lists[kRow].last(k > 1 ? k - 1 : k, quarter)",
    ),
    Mutation(
        "the bound is that of another lane",
        "quarter ^ (k - 1) / kTopkSlots",
        "quarter ^ k / (kTopkSlots + 1)",
    ),
    Mutation(
        "the bound is the list's first in its lane",
        "(k - 1) % kTopkSlots == slot",
        "(k - 1) % kTopkSlots > slot",
    ),
    Mutation(
        "a class is taken twice",
        "static_cast<int>(best.index - first), kRow",
        "static_cast<int>(best.index - first) ^ 1, kRow",
    ),
    Mutation(
        "an inserted class overwrites the one after it",
        "      before = here;\n",
        "      before = slots_[slot];\n",
    ),
    Mutation(
        "lanes hand on to the wrong lane",
        "chosen(quarter == 2, three, one)",
        "chosen(quarter == 1, three, one)",
    ),
    Mutation("the best of two lanes of four", "bits < 4; bits *= 2)", "bits < 2; bits *= 2)"),
    Mutation("classes are numbered from the tile's first", "static_cast<int>(first) + c}", "c}"),
    Mutation("padded classes are taken", "c < tile.count && comes_before", "comes_before"),
    Mutation("a tile of impossible classes is not looked at", " || bounds[i].index == INT_MAX;", ";"),
    Mutation("only one row of four is looked at", "has_news = has_news || top", "has_news = top"),
    # Softmax.
    Mutation(
        "running sum not rescaled",
        "sums[i].sum * fast_exp2((sums[i].max - max) * kLog2E) + sum",
        "sums[i].sum + sum",
    ),
    Mutation("sums joined without rescaling", "b.sum * fast_exp2((b.max - max) * kLog2E)", "b.sum"),
    Mutation(
        "sum over two lanes of four",
        "    for (int bit = 1; bit < 4; bit *= 2) {\n      sum = joined",
        "    for (int bit = 1; bit < 2; bit *= 2) {\n      sum = joined",
    ),
    Mutation(
        "probability without the maximum",
        "static_cast<double>(top.logit) - sum.max - log_sum",
        "static_cast<double>(top.logit) - log_sum",
    ),
    Mutation(
        "logarithms where probabilities are asked for", "p.is_log ? log_prob : exp(log_prob)", "log_prob"
    ),
    Mutation("a row that is not defined has its classes", "is_defined ? top.index : place", "top.index"),
    # Lists of warps and parts, put together.
    Mutation("only 32 lists are merged", "list < lists; list += 32", "list < lists && list < 32; list += 32"),
    Mutation("one list too few", "list < lists; list += 32", "list + 1 < lists; list += 32"),
    Mutation(
        "a list is left at its first candidate",
        "if (!comes_before(moved, best[kMost - 1])) break;",
        "if (place > 0 || !comes_before(moved, best[kMost - 1])) break;",
    ),
    Mutation(
        "no list is left early",
        "      if (!comes_before(moved, best[kMost - 1])) break;\n",
        "      if (k < 0) break;\n",
    ),
    Mutation(
        "merged classes are not removed",
        "is_mine = best[0].index == top.index;",
        "is_mine = best[0].index == top.index && k < 0;",
    ),
    Mutation(
        "warps write the same list",
        "Product::kWarpColumns + product.warp_column();",
        "Product::kWarpColumns;",
    ),
    Mutation("rows that do not exist are written", "    if (row >= p.rows) continue;\n", ""),
    Mutation("a candidate too many is written", "if (place >= k) continue;", "if (place > k) continue;"),
    Mutation(
        "parts leave tiles out",
        "static_cast<int>(blockIdx.y) * part_tiles, k",
        "static_cast<int>(blockIdx.y) * (part_tiles + 1), k",
    ),
    Mutation(
        "the last tile of classes is skipped",
        "(p.classes + kTopkTile - 1) / kTopkTile",
        "p.classes < kTopkTile ? 1 : p.classes / kTopkTile",
    ),
    Mutation("tiles of 32 rows for any number of rows", "  if (plan.is_few) {", "  if (p.rows > 0) {"),
    Mutation(
        "scratch memory is too small",
        "take<TopkCandidate>(lists * p.rows * p.k)",
        "take<TopkCandidate>(lists * p.rows)",
        PLAN,
    ),
    # The product of float32 numbers.
    Mutation(
        "float32: no barrier before a step is used",
        "        __syncthreads();\n        multiply(sums);",
        "        multiply(sums);",
        FLOAT_PRODUCT,
        FLOAT,
    ),
    Mutation(
        "float32: no barrier before the next step",
        "        __syncthreads();\n        copy<kRows",
        "        copy<kRows",
        FLOAT_PRODUCT,
        FLOAT,
    ),
    Mutation(
        "float32: columns beyond the last are read",
        "row < from.rows && column < from.columns;",
        "row < from.rows;",
        FLOAT_PRODUCT,
        FLOAT,
    ),
    Mutation(
        "float32: axes of a tile exchanged",
        "kInside ? i % kFloatProductDepth : i / kOuter;",
        "kInside ? i % kFloatProductDepth : i % kFloatProductDepth;",
        FLOAT_PRODUCT,
        FLOAT_DV,
    ),
    Mutation(
        "float32: tiles without free columns",
        "kLeftPitch = kRows + 2",
        "kLeftPitch = kRows",
        FLOAT_PRODUCT,
        FLOAT,
    ),
)

LINEAR_TOPK = Target(
    name="linear_topk",
    operator="linear_topk",
    sources=("linear_topk.cu", "linear_topk_instance.cu"),
    macros={"PI_FORMAT": ("Bfloat16",), "PI_WEIGHT_IS_VD": ("true",)},
    probe="tests.cuda.linear_topk_probe",
    probe_arguments=("{PI_FORMAT}", "{PI_WEIGHT_IS_VD}"),
    driver="linear_topk_driver",
    driver_arguments=("{PI_FORMAT}", "{PI_WEIGHT_IS_VD}"),
    file="linear_topk/linear_topk_cuda.cuh",
    bugs=BUGS,
)
