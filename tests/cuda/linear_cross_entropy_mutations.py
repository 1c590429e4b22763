"""Bugs for the head's kernels for 16-bit numbers: what is easily got wrong in them."""

from __future__ import annotations

from tests.cuda.head_tile_mutations import BWD, FWD, ORDER, SHARED, TILES
from tests.cuda.mutation import Mutation, Target

LOGITS = "common/cuda_logits.cuh"
LOSS = (
    Mutation("one class too many", "+ i % 2 >= tile.count)", "+ i % 2 > tile.count)", LOGITS),
    Mutation(
        "a tile taken for a whole one",
        "tile.count >= Product::kColumns)",
        "tile.count >= Product::kColumns / 2)",
        LOGITS,
    ),
    Mutation("maxima start at -infinity", "kLowestMax = -1e30f", "kLowestMax = -INFINITY", LOGITS),
    Mutation("softcap without its factor", "softcap * tanhf(", "tanhf(", LOGITS),
    Mutation(
        "running sum not rescaled",
        "state.sum * fast_exp2((state.max - max) * kLog2E) + sum;",
        "state.sum + sum;",
        FWD,
    ),
    Mutation(
        "partial sums joined without rescaling", "b.sum * fast_exp2((b.max - max) * kLog2E)", "b.sum", FWD
    ),
    Mutation(
        "smoothing's sums joined relative to other maxima",
        "(b.weighted + (b.max - max) * b.weights)",
        "b.weighted",
        FWD,
    ),
    Mutation(
        "smoothing's running sum relative to the old maximum",
        "    state.weighted += (state.max - max) * state.weights;\n",
        "",
        FWD,
    ),
    Mutation("smoothing over padded classes", "      if (c >= tile.count) continue;\n", "", FWD),
    Mutation(
        "a part of the warps' columns is lost", "w < Product::kWarpColumns; ++w) all", "w < 1; ++w) all", FWD
    ),
    Mutation(
        "the last part of the classes is lost",
        "part < parts; part += 32",
        "part + 1 < parts; part += 32",
        FWD,
    ),
    Mutation("label off by one", "label - first : -1;", "label - first + 1 : -1;", FWD),
    Mutation("ignored rows count in the mean", "      if (label == p.ignore_index) continue;\n", "", SHARED),
    Mutation("ignored rows have a loss", "if (label != p.ignore_index) {", "if (label < p.classes) {", FWD),
    Mutation(
        "class weight of another class",
        "load_global(p.class_weight + label)",
        "load_global(p.class_weight + (p.classes - 1 - label))",
        SHARED,
    ),
    Mutation("token weight forgotten", "double scale = token_weight_at(p, row);", "double scale = 1.0;", FWD),
    Mutation(
        "token weights not in the divisor of the mean",
        "static_cast<double>(token_weight_at(p, row)) * label_weight",
        "1.0 * label_weight",
        SHARED,
    ),
    Mutation(
        "z-loss without the maximum",
        "const double lse = all.max + log_sum;",
        "const double lse = log_sum;",
        FWD,
    ),
    Mutation(
        "half of a block's sum is lost",
        "warp < kThreads / 32; ++warp",
        "warp < kThreads / 64; ++warp",
        SHARED,
    ),
)

GRADIENTS = (
    Mutation(
        "backward: label off by one",
        "static_cast<int>(label - first) : -1",
        "static_cast<int>(label - first) + 1 : -1",
    ),
    Mutation("backward: z-loss without its factor", "2.0f * p.z_loss * lse", "p.z_loss * lse"),
    Mutation("backward: derivative of the softcap missing", "g *= 1.0f - capped * capped;", "g *= 1.0f;"),
    Mutation("backward: ignored rows have gradients", "label == p.ignore_index || own", "own"),
    Mutation("backward: token weight forgotten", "float own = token_weight_at(p, row);", "float own = 1.0f;"),
    Mutation(
        "backward: class weight of the tile's first class",
        "tile.weight_at(c) : 0.0f",
        "tile.weight_at(0) : 0.0f",
    ),
    Mutation(
        "backward: smoothing over padded classes",
        "static_cast<float>(p.classes);",
        "static_cast<float>(ceil_div(p.classes, kTile) * kTile);",
    ),
    Mutation(
        "backward: exponentials without the maximum",
        "fast_exp2((logit - of.max) * kLog2E)",
        "fast_exp2(logit * kLog2E) * fast_exp2(-of.max * kLog2E)",
    ),
    Mutation(
        "backward: gradients of padded classes", "exists && of.counts ? g : 0.0f", "of.counts ? g : 0.0f"
    ),
    Mutation(
        "backward: gradient of the loss forgotten", "own *= load_global(p.grad_loss + row);", "own *= 1.0f;"
    ),
    Mutation(
        "backward: no rows count, and the mean divides by 0",
        "total == 0.0 ? 0.0f : static_cast<float>(grad / total)",
        "static_cast<float>(grad / total)",
    ),
    Mutation(
        "backward: bias gradient of the next class",
        "store_global(sums + first + column, sum);",
        "store_global(sums + (first + column + 1) % classes, sum);",
    ),
    Mutation("backward: bias gradient of a part of the rows", "w < Product::kWarpRows; ++w", "w < 1; ++w"),
    Mutation(
        "backward: sums of rows' tiles at the wrong place",
        "bias_sums + blockIdx.x * p.classes",
        "bias_sums + blockIdx.x",
    ),
    Mutation("backward: a part is added up again and again", "to.parts + part * count + i", "to.parts + i"),
    Mutation("backward: parts overlap", "blockIdx.z) * part;", "blockIdx.z) * (part - kProductDepth);"),
    Mutation(
        "backward: numbers that do not exist are written",
        "if (row < rows && column < columns) use",
        "if (row < rows) use",
    ),
    Mutation(
        "backward: the weight's gradient of the last chunk only",
        "is_first ? nullptr : space.weight_sums",
        "nullptr",
    ),
    Mutation(
        "backward: the bias's gradient of the last chunk only",
        "is_first ? share : load_global(p.grad_bias + c) + share",
        "share",
    ),
    Mutation(
        "backward: labels of the first chunk",
        "row_factors(p, totals, chunk.first + row, first_class)",
        "row_factors(p, totals, row, first_class)",
    ),
)

LINEAR_CROSS_ENTROPY = Target(
    name="linear_cross_entropy",
    operator="linear_cross_entropy",
    sources=("linear_cross_entropy.cu", "linear_cross_entropy_instance.cu"),
    macros={"PI_FORMAT": ("Bfloat16",), "PI_WEIGHT_IS_VD": ("true",)},
    probe="tests.cuda.linear_cross_entropy_probe",
    probe_arguments=("{PI_FORMAT}", "{PI_WEIGHT_IS_VD}"),
    driver="linear_cross_entropy_driver",
    driver_arguments=("{PI_FORMAT}", "{PI_WEIGHT_IS_VD}"),
    file=BWD,
    bugs=(*ORDER, *TILES, *LOSS, *GRADIENTS),
)
