"""Focal loss of a linear layer's output without storing the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra.ops import _head_operator, _head_reference, _select
from paddle_infra.ops._autocast import narrow
from paddle_infra.ops._head_arguments import reference_refusals
from paddle_infra.ops._linear_focal_arguments import Arguments, check


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
    r"""Focal loss of ``softmax(hidden @ weight + bias)``: cross entropy in which easy rows count less.

    With logits :math:`z` (capped to ``softcap * tanh(z / softcap)`` if ``softcap > 0``),
    :math:`p = \mathrm{softmax}(z)`, :math:`\gamma` = ``gamma``, :math:`w` = ``class_weight`` and :math:`t` =
    ``token_weight`` (both 1 if absent), a row with label :math:`y` has the loss

    .. math::
        l = -w_y (1 - p_y)^\gamma \log p_y

    and the result is :math:`t_i l_i` for every row (``"none"``), their sum (``"sum"``), or
    :math:`\sum_i t_i l_i / \sum_i t_i w_{y_i}` (``"mean"``). ``gamma=0`` is :func:`linear_cross_entropy`. Rows
    whose label is ``ignore_index`` count as 0 everywhere; if nothing is left to average, the result is 0 with
    gradients 0.

    ``N`` rows of any leading shape, ``D`` features, ``V`` classes.

    Args:
        hidden: ``[..., D]``, float. The fused form takes float32 on the CPU; others run in plain Paddle.
        weight: ``[V, D]`` with ``weight_layout="vd"``, ``[D, V]`` (as ``paddle.nn.Linear``) with ``"dv"``;
            dtype of ``hidden``.
        label: ``[...]``, int64 (int32 is converted).
        gamma: :math:`\gamma`, at least 0.
        bias: ``[V]``, dtype of ``hidden``.
        ignore_index: The label of rows to leave out.
        class_weight: ``[V]``, float: :math:`\alpha` of the paper. Gets no gradient.
        token_weight: ``[...]`` as ``label``, float. Gets no gradient.
        softcap: Bound of the logits; 0 for none.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight_layout: ``"vd"`` or ``"dv"``.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        As :func:`linear_cross_entropy`, also in precision.

    Raises:
        InvalidDtypeError: an argument is no tensor or number, or has an unsuitable dtype.
        InvalidInputError: shapes do not fit, an option is out of range, or a label is neither
            ``ignore_index`` nor in ``[0, V)`` (the message names the row; a static program raises Paddle's
            ValueError with the same text, rows counted flat).
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        Focal loss, arXiv:1708.02002, section 3; there for independent classes (sigmoid), here for one class of
        many (softmax). The mean is weighted as in cross entropy: the paper divides by the number of anchors
        that have an object.
    """
    options = {
        "ignore_index": ignore_index,
        "softcap": softcap,
        "focal_gamma": gamma,
        "reduction": reduction,
        "weight_layout": weight_layout,
    }
    hidden, weight, bias = narrow(hidden, weight, bias)
    loss = _head_operator.run_unchecked(
        "focal", hidden, weight, bias, label, class_weight, token_weight, impl, **options
    )
    if loss is not None:
        return loss
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


def _fused_refusals(a: Arguments) -> list[str]:
    return _head_operator.refusals(a.hidden, has_gpu_kernel=False)


def _fused(a: Arguments) -> paddle.Tensor:
    return _head_operator.run(
        "focal",
        a.hidden,
        a.weight,
        a.bias,
        a.label,
        a.class_weight,
        a.token_weight,
        ignore_index=a.ignore_index,
        softcap=a.softcap,
        focal_gamma=a.gamma,
        reduction=a.reduction,
        weight_layout=a.weight_layout,
    )


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation("reference", reference_refusals, _head_reference.linear_focal),
)

__all__ = ["Arguments", "check", "linear_focal"]
