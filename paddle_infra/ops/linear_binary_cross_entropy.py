"""Binary cross entropy of a linear layer's output, for several labels per row, without storing the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra.ops import _head_operator, _head_reference, _select
from paddle_infra.ops._autocast import narrow
from paddle_infra.ops._head_arguments import reference_refusals
from paddle_infra.ops._linear_binary_cross_entropy_arguments import Arguments, check


def linear_binary_cross_entropy(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    target: paddle.Tensor,
    *,
    bias: paddle.Tensor | None = None,
    pos_weight: paddle.Tensor | None = None,
    token_weight: paddle.Tensor | None = None,
    softcap: float = 0.0,
    reduction: Literal["none", "sum", "mean"] = "mean",
    weight_layout: Literal["vd", "dv"] = "vd",
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Binary cross entropy of ``sigmoid(hidden @ weight + bias)``: every class is decided on its own.

    With logits :math:`z` (capped to ``softcap * tanh(z / softcap)`` if ``softcap > 0``), targets :math:`y`,
    :math:`q` = ``pos_weight`` and :math:`t` = ``token_weight`` (both 1 if absent), class :math:`c` of row
    :math:`i` has the loss

    .. math::
        l_{ic} = -q_c\, y_{ic} \log \sigma(z_{ic}) - (1 - y_{ic}) \log (1 - \sigma(z_{ic}))

    and the result is :math:`t_i l_{ic}` for every row and class (``"none"``), their sum (``"sum"``), or
    :math:`\sum_{ic} t_i l_{ic} / (V \sum_i t_i)` (``"mean"``). If nothing is left to average (no rows, all
    weights 0) the result is 0 with gradients 0.

    ``N`` rows of any leading shape, ``D`` features, ``V`` classes.

    Args:
        hidden: ``[..., D]``, float. The fused form takes float32 on the CPU; others run in plain Paddle.
        weight: ``[V, D]`` with ``weight_layout="vd"``, ``[D, V]`` (as ``paddle.nn.Linear``) with ``"dv"``;
            dtype of ``hidden``.
        target: ``[..., V]``, bool or float in ``[0, 1]``. Gets no gradient. A dtype other than that of the loss is
            converted, which takes memory of this size.
        bias: ``[V]``, dtype of ``hidden``.
        pos_weight: ``[V]``, float: weights of what is positive, against an imbalance. Gets no gradient.
        token_weight: ``[...]``, as ``hidden`` without its last axis, float. Gets no gradient. 0 leaves a row out
            (which must still be finite).
        softcap: Bound of the logits; 0 for none.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight_layout: ``"vd"`` or ``"dv"``.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        The loss, 0-D, or of the shape of ``target`` for ``"none"``: float32, or float64 for float64 inputs. In
        precision as :func:`linear_cross_entropy`.

    Raises:
        InvalidDtypeError: an argument is no tensor or has an unsuitable dtype.
        InvalidInputError: shapes do not fit, an option is out of range, or a target is not in ``[0, 1]`` (the
            message names the place; a static program raises Paddle's ValueError, if the fused form runs).
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.
    """
    options = {"softcap": softcap, "reduction": reduction, "weight_layout": weight_layout}
    hidden, weight, bias = narrow(hidden, weight, bias)
    loss = _head_operator.run_unchecked(
        "binary", hidden, weight, bias, target, pos_weight, token_weight, impl, **options
    )
    if loss is not None:
        return loss
    arguments = check(
        hidden,
        weight,
        target,
        bias=bias,
        pos_weight=pos_weight,
        token_weight=token_weight,
        softcap=softcap,
        reduction=reduction,
        weight_layout=weight_layout,
    )
    return _select.run("linear_binary_cross_entropy", IMPLEMENTATIONS, arguments, impl)


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(linear_binary_cross_entropy)


def _fused_refusals(a: Arguments) -> list[str]:
    return _head_operator.refusals(a.hidden, has_gpu_kernel=False)


def _fused(a: Arguments) -> paddle.Tensor:
    return _head_operator.run(
        "binary",
        a.hidden,
        a.weight,
        a.bias,
        a.target,
        a.pos_weight,
        a.token_weight,
        softcap=a.softcap,
        reduction=a.reduction,
        weight_layout=a.weight_layout,
    )


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation("reference", reference_refusals, _head_reference.linear_binary_cross_entropy),
)

__all__ = ["Arguments", "check", "linear_binary_cross_entropy"]
