"""Cross entropy of a linear layer's output without storing the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra.ops import _head_operator, _select, reference
from paddle_infra.ops._autocast import narrow
from paddle_infra.ops._head_arguments import reference_refusals
from paddle_infra.ops._linear_cross_entropy_arguments import Arguments, check


def linear_cross_entropy(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    label: paddle.Tensor,
    *,
    bias: paddle.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weight: paddle.Tensor | None = None,
    token_weight: paddle.Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    reduction: Literal["none", "sum", "mean"] = "mean",
    weight_layout: Literal["vd", "dv"] = "vd",
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Cross entropy of ``hidden @ weight + bias``; the fused form never holds the logits of all rows.

    With logits :math:`z` (capped to ``softcap * tanh(z / softcap)`` if ``softcap > 0``),
    :math:`\log p = z - \mathrm{logsumexp}(z)`, :math:`\epsilon` = ``label_smoothing``, :math:`w` =
    ``class_weight`` and :math:`t` = ``token_weight`` (both 1 if absent), a row with label :math:`y` has the
    loss

    .. math::
        l = -(1 - \epsilon)\, w_y \log p_y - \frac{\epsilon}{V} \sum_c w_c \log p_c
            + \mathrm{z\_loss} \cdot \mathrm{logsumexp}(z)^2

    and the result is :math:`t_i l_i` for every row (``"none"``), their sum (``"sum"``), or
    :math:`\sum_i t_i l_i / \sum_i t_i w_{y_i}` (``"mean"``). Rows whose label is ``ignore_index`` count as 0
    everywhere. If nothing is left to average (no rows, all ignored, all weights 0) the result is 0 with
    gradients 0.

    ``N`` rows of any leading shape, ``D`` features, ``V`` classes.

    Args:
        hidden: ``[..., D]``, float. The fused form takes float32 and, on a GPU, float16 and bfloat16; the rest
            runs in plain Paddle.
        weight: ``[V, D]`` with ``weight_layout="vd"``, ``[D, V]`` (as ``paddle.nn.Linear``) with ``"dv"``;
            dtype of ``hidden``.
        label: ``[...]``, int64 (int32 is converted).
        bias: ``[V]``, dtype of ``hidden``.
        ignore_index: The label of rows to leave out.
        label_smoothing: :math:`\epsilon`, from 0 to 1: share of the target that is spread over all classes.
        class_weight: ``[V]``, float. Does not scale the z-loss. Gets no gradient.
        token_weight: ``[...]`` as ``label``, float. Gets no gradient.
        z_loss: Factor of the squared log-sum-exp, at least 0.
        softcap: Bound of the logits; 0 for none.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight_layout: ``"vd"`` or ``"dv"``.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        The loss, 0-D, or of the shape of ``label`` for ``"none"``: float32, or float64 for float64 inputs.
        Products accumulate in float32, sums over rows in float64; on the CPU, with more than 16 classes, factors
        are rounded to bfloat16 first if :class:`set_matmul_precision` says ``"medium"``. Gradients have the dtypes
        of the inputs; if those are of 16 bits, the fused form rounds the gradients of the logits to that format
        too. Its result is bit-identical for any number of threads.

    Raises:
        InvalidDtypeError: an argument is no tensor or has an unsuitable dtype.
        InvalidInputError: shapes do not fit, an option is out of range, or a label is neither
            ``ignore_index`` nor in ``[0, V)`` (the message names the row; a static program raises Paddle's
            ValueError with the same text, rows counted flat).
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        Cut Cross-Entropy, arXiv:2411.09009 (blocks of classes, recomputation; gradients are not filtered
        here); label smoothing, arXiv:1512.00567, section 7; z-loss, arXiv:2204.02311, section 5; softcap,
        arXiv:2408.00118, section 2. Smoothing with class weights is defined as in PyTorch.
    """
    hidden, weight, bias = narrow(hidden, weight, bias)
    loss = _head_operator.run_unchecked(
        "cross_entropy",
        hidden,
        weight,
        bias,
        label,
        class_weight,
        token_weight,
        impl,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        reduction=reduction,
        weight_layout=weight_layout,
    )
    if loss is not None:
        return loss
    arguments = check(
        hidden,
        weight,
        label,
        bias=bias,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        class_weight=class_weight,
        token_weight=token_weight,
        z_loss=z_loss,
        softcap=softcap,
        reduction=reduction,
        weight_layout=weight_layout,
    )
    return _select.run("linear_cross_entropy", IMPLEMENTATIONS, arguments, impl)


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(linear_cross_entropy)


def _fused_refusals(a: Arguments) -> list[str]:
    return _head_operator.refusals(a.hidden, has_gpu_kernel=True)


def _fused(a: Arguments) -> paddle.Tensor:
    return _head_operator.run(
        "cross_entropy",
        a.hidden,
        a.weight,
        _head_operator.float32_bias(a.bias),
        a.label,
        a.class_weight,
        a.token_weight,
        ignore_index=a.ignore_index,
        label_smoothing=a.label_smoothing,
        z_loss=a.z_loss,
        softcap=a.softcap,
        reduction=a.reduction,
        weight_layout=a.weight_layout,
    )


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation("reference", reference_refusals, reference.linear_cross_entropy),
)
