"""Layer norm or RMS norm of residual + dropout(hidden), in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra._core import extension
from paddle_infra._core.checks import check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops import _norm_arguments, _select
from paddle_infra.ops._autocast import widen
from paddle_infra.ops._dropout import draw_seed
from paddle_infra.ops._gradient import recorded_if_wanted
from paddle_infra.ops._norm_reference import drop, normalize


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of add_norm; ``dropout_p`` is 0 unless training."""

    hidden: paddle.Tensor
    residual: paddle.Tensor | None
    weight: paddle.Tensor | None
    bias: paddle.Tensor | None
    is_rms: bool
    epsilon: float
    dropout_p: float
    with_sum: bool = False


def add_norm(
    hidden: paddle.Tensor,
    residual: paddle.Tensor | None = None,
    weight: paddle.Tensor | None = None,
    bias: paddle.Tensor | None = None,
    *,
    norm: Literal["layer", "rms"] = "layer",
    epsilon: float = 1e-5,
    dropout_p: float = 0.0,
    training: bool = True,
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Normalize ``residual + dropout(hidden)`` over the last axis: what ends a sub-layer of a post-norm Transformer.

    With :math:`x = \mathrm{residual} + \mathrm{dropout}(\mathrm{hidden})`, and mean :math:`\mu` and variance
    :math:`\sigma^2` (the mean of :math:`(x - \mu)^2`) of each row,

    .. math::
        \mathrm{out} = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}\, w + b \quad\text{("layer")}, \qquad
        \mathrm{out} = \frac{x}{\sqrt{\tfrac{1}{D} \sum_i x_i^2 + \epsilon}}\, w + b \quad\text{("rms")}

    where dropout makes a number 0 with probability ``dropout_p`` and divides it by ``1 - dropout_p`` otherwise.

    ``D`` features; any leading shape, also none and empty ones.

    Args:
        hidden: ``[..., D]``, float. The fused form takes float32; float64 runs in plain Paddle.
        residual: Shape and dtype of ``hidden``; None: nothing is added.
        weight: ``[D]``, dtype of ``hidden``; None: 1.
        bias: ``[D]``, dtype of ``hidden``; None: 0.
        norm: ``"layer"`` or ``"rms"``.
        epsilon: Added to the variance or mean square; 0 or more. A constant row has variance 0.
        dropout_p: Probability of dropping a number of ``hidden``, at least 0 and below 1.
        training: False switches dropout off.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        Shape and dtype of ``hidden``. Statistics and sums over rows are float32 with corrections in float64: a mean of
        1e4 costs no accuracy. The fused result and its gradients are bit-identical for any number of threads. Dropout
        draws one seed from Paddle's generator per call, also of a program, and derives every decision from it, so
        both implementations and the backward pass drop the same numbers, and no mask is stored.

    Raises:
        InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype or type.
        InvalidInputError: shapes do not fit, tensors are on different devices, or an option is out of range.
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        Layer norm, arXiv:1607.06450; RMS norm, arXiv:1910.07467; dropout, arXiv:1207.0580.
    """
    hidden, residual, weight, bias = widen(hidden, residual, weight, bias)
    results = _run_unchecked(
        hidden, residual, weight, bias, norm, epsilon, dropout_p, training, impl, with_sum=False
    )
    if results is not None:
        return results[0]
    arguments = check(hidden, residual, weight, bias, norm, epsilon, dropout_p, training)
    return _select.run("add_norm", IMPLEMENTATIONS, arguments, impl)[0]


def add_norm_with_sum(
    hidden: paddle.Tensor,
    residual: paddle.Tensor | None = None,
    weight: paddle.Tensor | None = None,
    bias: paddle.Tensor | None = None,
    *,
    norm: Literal["layer", "rms"] = "layer",
    epsilon: float = 1e-5,
    dropout_p: float = 0.0,
    training: bool = True,
    impl: _select.ImplementationName = "auto",
) -> tuple[paddle.Tensor, paddle.Tensor]:
    r"""Normalize ``residual + dropout(hidden)``, and return that sum too: the stream of a pre-norm Transformer.

    Takes the arguments of :func:`add_norm`. In a pre-norm layer the sum goes on to the next addition, and the
    normalized form of it into the next sub-layer.

    Returns:
        The result of :func:`add_norm`, and ``residual + dropout(hidden)``. Both get gradients. The backward pass needs
        the sum, not ``hidden`` or ``residual``.

    Raises:
        InvalidDtypeError: as :func:`add_norm`.
        InvalidInputError: as :func:`add_norm`.
        UnsupportedError: as :func:`add_norm`.

    References:
        As :func:`add_norm`; pre-norm, arXiv:2002.04745.
    """
    hidden, residual, weight, bias = widen(hidden, residual, weight, bias)
    results = _run_unchecked(
        hidden, residual, weight, bias, norm, epsilon, dropout_p, training, impl, with_sum=True
    )
    if results is None:
        arguments = check(hidden, residual, weight, bias, norm, epsilon, dropout_p, training)
        results = _select.run("add_norm_with_sum", IMPLEMENTATIONS, replace(arguments, with_sum=True), impl)
    return results[0], results[1]


# Paddle's graph capture shall call them as they are, with the program's values, not rewrite their source or
# bytecode.
unified(add_norm)
unified(add_norm_with_sum)


def check(
    hidden: paddle.Tensor,
    residual: paddle.Tensor | None,
    weight: paddle.Tensor | None,
    bias: paddle.Tensor | None,
    norm: str,
    epsilon: float,
    dropout_p: float,
    training: bool,
) -> Arguments:
    """Check arguments as add_norm and add_norm_with_sum do."""
    check_tensor("hidden", hidden, _norm_arguments.FLOATS)
    if len(hidden.shape) < 1 or hidden.shape[-1] == 0:
        raise InvalidInputError(
            f"hidden: expected shape [..., D] with D at least 1, got {list(hidden.shape)}"
        )
    if residual is not None:
        _norm_arguments.check_like("residual", residual, "hidden", hidden)
        check_shape("residual", residual, hidden.shape, "shape of hidden")
    _norm_arguments.check_weights(weight, bias, "hidden", hidden, hidden.shape[-1])
    numbers = _norm_arguments.check_numbers(norm, epsilon, dropout_p, training)
    return Arguments(hidden, residual, weight, bias, *numbers)


def _run_unchecked(
    hidden: paddle.Tensor,
    residual: paddle.Tensor | None,
    weight: paddle.Tensor | None,
    bias: paddle.Tensor | None,
    norm: str,
    epsilon: float,
    dropout_p: float,
    training: bool,
    impl: str,
    with_sum: bool,
) -> Sequence[paddle.Tensor] | None:
    """Call the compiled operator at once in the usual cases; return None for the long way.

    It checks what it gets itself; for small tensors, checking here too would take longer than the computation. What
    it refuses goes the long way, which finds the error again and names it better.
    """
    is_usual = (
        _norm_arguments.is_usual_tensor(hidden)
        and isinstance(weight, paddle.Tensor)
        and (bias is None or isinstance(bias, paddle.Tensor))
        and (isinstance(residual, paddle.Tensor) or (residual is None and not with_sum))
        and paddle.in_dynamic_mode()
        and _select.may_run("fused", impl)
        and _norm_arguments.are_usual(norm, epsilon, dropout_p, training)
        and extension.load().is_loaded
    )
    if not is_usual:
        return None
    dropout_p = dropout_p if training else 0.0
    try:
        return _call(hidden, residual, weight, bias, norm == "rms", epsilon, dropout_p, with_sum)
    except (ValueError, TypeError):
        return None


def _call(
    hidden: paddle.Tensor,
    residual: paddle.Tensor | None,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None,
    is_rms: bool,
    epsilon: float,
    dropout_p: float,
    with_sum: bool,
) -> Sequence[paddle.Tensor]:
    # Residual and bias are inputs of operators of their own: see csrc/add_norm/add_norm_op.cc.
    name = "paddle_infra_norm" if residual is None else "paddle_infra_add_norm"
    name += "_sum" if with_sum else ""
    name += "" if bias is None else "_bias"
    tensors = [tensor for tensor in (hidden, residual, weight, bias) if tensor is not None]
    seed = draw_seed() if dropout_p > 0.0 else None
    return recorded_if_wanted(paddle._C_ops._run_custom_op(name, *tensors, seed, is_rms, epsilon, dropout_p))


def _fused(a: Arguments) -> Sequence[paddle.Tensor]:
    weight = _norm_arguments.or_constant(a.weight, 1.0, a.hidden.shape[-1])
    residual = a.residual
    if a.with_sum and residual is None:
        if a.dropout_p == 0.0:
            return [_fused(replace(a, with_sum=False))[0], a.hidden]
        residual = paddle.zeros_like(a.hidden)
    return _call(a.hidden, residual, weight, a.bias, a.is_rms, a.epsilon, a.dropout_p, a.with_sum)


def _reference(a: Arguments) -> Sequence[paddle.Tensor]:
    x = drop(a.hidden, a.dropout_p)
    if a.residual is not None:
        x = a.residual + x
    return normalize(x, a.weight, a.bias, a.is_rms, a.epsilon), x


def _fused_refusals(a: Arguments) -> list[str]:
    reasons = _norm_arguments.fused_refusals("hidden", a.hidden)
    if a.weight is None and a.hidden.shape[-1] < 0:
        reasons.append("the compiled kernel needs weight in a program that does not know D")
    return reasons


def _reference_refusals(a: Arguments) -> list[str]:
    return _norm_arguments.reference_refusals(a.hidden)


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation("reference", _reference_refusals, _reference),
)
