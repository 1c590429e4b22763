"""Focal loss of a linear layer's output without storing the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra._core.checks import check_number
from paddle_infra.ops import _head_operator, _select, reference
from paddle_infra.ops._linear_cross_entropy_arguments import Arguments
from paddle_infra.ops._linear_cross_entropy_arguments import check as check_head


@dataclass(frozen=True)
class FocalArguments:
    """Checked arguments of linear_focal."""

    head: Arguments
    gamma: float


def linear_focal(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    label: paddle.Tensor,
    *,
    gamma: float = 2.0,
    bias: paddle.Tensor | None = None,
    ignore_index: int = -100,
    class_weight: paddle.Tensor | None = None,
    token_weight: paddle.Tensor | None = None,
    softcap: float = 0.0,
    reduction: Literal["none", "sum", "mean"] = "mean",
    weight_layout: Literal["vd", "dv"] = "vd",
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Focal loss of ``hidden @ weight + bias``: cross entropy in which rows that are right already count less.

    A row with label :math:`y`, whose softmax gives it the probability :math:`p_y`, has the loss

    .. math::
        l = w_y\, (1 - p_y)^\gamma\, (-\log p_y)

    with :math:`w` = ``class_weight`` (the paper's :math:`\alpha`). ``gamma=0`` is :func:`linear_cross_entropy`, and
    rows, weights, reductions, shapes and memory are as there: ``"mean"`` divides by :math:`\sum_i t_i w_{y_i}` over
    the rows that are not ignored.

    Args:
        hidden: ``[..., D]``, float; the fused form takes float32.
        weight: ``[V, D]`` or, with ``weight_layout="dv"``, ``[D, V]``; dtype of ``hidden``.
        label: ``[...]``, int64 or int32.
        gamma: :math:`\gamma`, at least 0.
        bias: ``[V]``, dtype of ``hidden``.
        ignore_index: The label of rows to leave out.
        class_weight: ``[V]``, float. Gets no gradient.
        token_weight: ``[...]`` as ``label``, float. Gets no gradient.
        softcap: Bound of the logits; 0 for none.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight_layout: ``"vd"`` or ``"dv"``.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        The loss, 0-D, or of the shape of ``label`` for ``"none"``: float32, or float64 for float64 inputs.

    Raises:
        InvalidDtypeError: as :func:`linear_cross_entropy`.
        InvalidInputError: as :func:`linear_cross_entropy`, or ``gamma`` is negative or not finite.
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, with a softmax instead of a sigmoid.
    """
    arguments = check(
        hidden,
        weight,
        label,
        gamma=gamma,
        bias=bias,
        ignore_index=ignore_index,
        class_weight=class_weight,
        token_weight=token_weight,
        softcap=softcap,
        reduction=reduction,
        weight_layout=weight_layout,
    )
    return _select.run("linear_focal", IMPLEMENTATIONS, arguments, impl)


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(linear_focal)


def check(
    hidden: paddle.Tensor, weight: paddle.Tensor, label: paddle.Tensor, *, gamma: float = 2.0, **options: Any
) -> FocalArguments:
    """Check arguments as linear_focal does."""
    return FocalArguments(check_head(hidden, weight, label, **options), check_number("gamma", gamma, 0.0))


def _fused_refusals(a: FocalArguments) -> list[str]:
    return _head_operator.refusals(a.head.hidden, has_gpu_kernel=False)


def _fused(a: FocalArguments) -> paddle.Tensor:
    h = a.head
    return _head_operator.run(
        "focal",
        h.hidden,
        h.weight,
        h.bias,
        h.label,
        h.class_weight,
        h.token_weight,
        ignore_index=h.ignore_index,
        softcap=h.softcap,
        focal_gamma=a.gamma,
        reduction=h.reduction,
        weight_layout=h.weight_layout,
    )


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation(
        "reference",
        lambda a: _head_operator.reference_refusals(a.head.hidden),
        lambda a: reference.linear_cross_entropy(a.head, a.gamma),
    ),
)
