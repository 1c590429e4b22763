"""A linear layer in int8, for inference: weights quantized once, activations as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra._core import extension
from paddle_infra._core.checks import check_choice, check_tensor, device_of
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops import _select, reference
from paddle_infra.ops._gradient import needs_gradient, refuse_gradient
from paddle_infra.ops._linear_int8_arguments import ACTIVATIONS, ZERO, Arguments, check_linear

ActivationName = Literal["none", "gelu", "gelu_tanh", "relu", "silu"]
_MOST_DEPTH = 1 << 17  # sums of as many products of int8 numbers fit in int32
_INSTEAD = "paddle.nn.functional.linear"


def quantize_weight(
    weight: paddle.Tensor, *, weight_layout: Literal["vd", "dv"] = "dv"
) -> tuple[paddle.Tensor, paddle.Tensor]:
    r"""Quantize the weight of a linear layer for :func:`linear_int8`, each output channel by itself.

    :math:`s_n = \max_k |W_{kn}| / 127` and :math:`q_{kn} = \mathrm{round}(W_{kn} / s_n)`, ties to even, so that
    :math:`W_{kn} \approx q_{kn} s_n` with an error of at most :math:`s_n / 2`. A channel of which nothing is as
    large as 1e-30 becomes 0 with scale 1.

    ``K`` input features, ``N`` output features.

    Args:
        weight: ``[K, N]`` (as ``paddle.nn.Linear``) with ``weight_layout="dv"``, ``[N, K]`` with ``"vd"``;
            float32, every number finite.
        weight_layout: ``"dv"`` or ``"vd"``.

    Returns:
        :math:`q`, int8, ``[K, N]`` whatever the layout of ``weight``, and :math:`s`, float32, ``[N]``. Neither gets
        a gradient.

    Raises:
        InvalidDtypeError: ``weight`` is no float32 tensor.
        InvalidInputError: it does not have two dimensions, or holds a NaN or an infinity.
    """
    check_choice("weight_layout", weight_layout, ("vd", "dv"))
    check_tensor("weight", weight, ("float32",))
    if weight.ndim != 2 or 0 in weight.shape:
        raise InvalidInputError(f"weight: expected two dimensions, none of them 0, got {list(weight.shape)}")
    with paddle.no_grad():
        weight = weight.detach() if weight_layout == "dv" else weight.detach().t()
        if paddle.in_dynamic_mode() and not bool(paddle.isfinite(weight).all()):
            raise InvalidInputError("weight: expected finite numbers, got a NaN or an infinity")
        top = weight.abs().max(axis=0)
        is_zero = top < ZERO
        scale = paddle.where(is_zero, paddle.ones_like(top), top / 127.0)
        codes = paddle.where(is_zero, paddle.zeros_like(weight), paddle.round(weight / scale))
        return codes.astype("int8"), scale


def linear_int8(
    x: paddle.Tensor,
    weight_int8: paddle.Tensor,
    weight_scale: paddle.Tensor,
    *,
    bias: paddle.Tensor | None = None,
    activation: ActivationName = "none",
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Return ``activation(x @ weight + bias)``, multiplied in int8: fast, and a little rounded. No gradient.

    Each row of ``x`` is quantized as it comes: with :math:`t = \max_k |x_k|`, the row becomes
    :math:`q_k = \mathrm{round}(x_k \cdot 127 / t)` (ties to even) and

    .. math::
        y_n = f\Big(\tfrac{t}{127}\, s_n \sum_k q_k W_{kn} + b_n\Big)

    where the sum is one of integers, without any rounding. Rows do not depend on each other, so a result does
    not depend on what else is in the batch.

    ``M`` rows of any leading shape, ``K`` input features, ``N`` output features.

    Args:
        x: ``[..., K]``, float32.
        weight_int8: ``[K, N]``, int8, and
        weight_scale: ``[N]``, float32: from :func:`quantize_weight`.
        bias: ``[N]``, float32.
        activation: :math:`f`: ``"none"``, ``"gelu"``, ``"gelu_tanh"`` (GELU's approximation with tanh), ``"relu"`` or
            ``"silu"``.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        ``[..., N]``, float32. Sums are exact; scales, bias and activation are computed in float32. Bit-identical for
        any number of threads. A row of which nothing is as large as 1e-30 counts as 0; one with a NaN or an
        infinity gives NaN.

    Raises:
        InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype.
        InvalidInputError: shapes do not fit, or the activation is unknown.
        UnsupportedError: an argument needs a gradient (outside of static programs, which get none without a
            word), or no implementation, or not the one asked for, can take these inputs: the fused form takes
            up to 131,072 input features.

    References:
        LLM.int8(), arXiv:2208.07339, section 2.1 (vector-wise quantization; no outliers are set apart here).
    """
    if _is_usual(x, weight_int8, weight_scale, bias, activation, impl):
        try:
            return _call(x, weight_int8, weight_scale, bias, activation)
        except (ValueError, TypeError):
            pass  # the long way finds the error again and names it better
    arguments = check(x, weight_int8, weight_scale, bias=bias, activation=activation)
    y: paddle.Tensor = _select.run("linear_int8", IMPLEMENTATIONS, arguments, impl)
    return y


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(linear_int8)


def check(
    x: paddle.Tensor,
    weight_int8: paddle.Tensor,
    weight_scale: paddle.Tensor,
    *,
    bias: paddle.Tensor | None = None,
    activation: str = "none",
) -> Arguments:
    """Check arguments as linear_int8 does."""
    arguments = check_linear(x, weight_int8, weight_scale, bias, activation)
    refuse_gradient("linear_int8", _INSTEAD, x, weight_scale, bias)
    return arguments


def _is_usual(x: Any, weight: Any, weight_scale: Any, bias: Any, activation: Any, impl: str) -> bool:
    """Whether these go to the compiled operator as they are; it checks shapes and dtypes itself."""
    return (
        isinstance(x, paddle.Tensor)
        and isinstance(weight, paddle.Tensor)
        and isinstance(weight_scale, paddle.Tensor)
        and (bias is None or isinstance(bias, paddle.Tensor))
        and paddle.in_dynamic_mode()
        and _select.may_run("fused", impl)
        and activation in ACTIVATIONS
        and not needs_gradient(x, weight_scale, bias)
        and extension.load().is_loaded
    )


def _call(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    weight_scale: paddle.Tensor,
    bias: paddle.Tensor | None,
    activation: str,
) -> paddle.Tensor:
    return paddle._C_ops._run_custom_op(
        "paddle_infra_linear_int8", x, weight, weight_scale, bias, ACTIVATIONS.index(activation)
    )[0]


def _fused_refusals(a: Arguments) -> list[str]:
    status = extension.load()
    reasons = [] if status.is_loaded else [status.explain()]
    device = device_of(a.x)
    if device != "cpu":
        reasons.append(f"there is a compiled kernel for cpu only so far, x is on {device}")
    if a.x.shape[-1] > _MOST_DEPTH:
        reasons.append(f"the compiled kernel takes up to {_MOST_DEPTH} features, x has {a.x.shape[-1]}")
    if not paddle.framework.in_dynamic_or_pir_mode():
        reasons.append(
            "compiled operators need dynamic mode or Paddle's PIR programs, this is a legacy static program"
        )
    return reasons


def _fused(a: Arguments) -> paddle.Tensor:
    return _call(a.x, a.weight, a.weight_scale, a.bias, a.activation)


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation("reference", lambda a: [], reference.linear_int8),
)
