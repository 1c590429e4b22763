"""A linear layer with an activation, multiplied in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra.ops import _linear_operator, _select
from paddle_infra.ops._autocast import narrow
from paddle_infra.ops._linear_arguments import Arguments, check
from paddle_infra.ops._linear_reference import linear as _reference
from paddle_infra.ops._linear_reference import refusals as _reference_refusals

ActivationName = Literal["none", "gelu", "gelu_tanh", "relu", "silu", "swiglu"]


def linear(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None = None,
    *,
    activation: ActivationName = "none",
    packed_weight: paddle.Tensor | None = None,
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Linear layer and activation, :math:`f(x W + b)`, with the activation computed while results are in the cache.

    The activations :math:`f` are ``"none"``; ``"gelu"``, :math:`z\,\Phi(z)` with the normal distribution's
    :math:`\Phi` (exact: by erf); ``"gelu_tanh"``, its approximation
    :math:`\tfrac{z}{2} (1 + \tanh(\sqrt{2/\pi}\,(z + 0.044715 z^3)))`; ``"relu"``; ``"silu"``,
    :math:`z / (1 + e^{-z})`; and ``"swiglu"``, :math:`\mathrm{silu}(z_1) \cdot z_2` of the two halves
    :math:`z_1, z_2` of the columns, which gives half as many.

    ``K`` features in, ``N`` columns of the weight.

    Args:
        x: ``[..., K]``, float. The fused form takes float32; others run in plain Paddle.
        weight: ``[K, N]``, as ``paddle.nn.Linear`` keeps it; dtype of ``x``.
        bias: ``[N]``, dtype of ``x``.
        activation: :math:`f`. ``"swiglu"`` needs an even ``N``.
        packed_weight: What :func:`pack_weight` made of this ``weight``, to save rounding it in every call with
            "medium" precision (otherwise it is not used). Nobody checks that it still belongs to ``weight``:
            :class:`paddle_infra.nn.Linear` does.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        ``[..., N]`` (``[..., N / 2]`` for ``"swiglu"``), dtype of ``x``. Sums are float32; factors are rounded to
        bfloat16 first if :class:`set_matmul_precision` says ``"medium"``, in the backward pass too. The fused
        results are bit-identical for any number of threads.

    Raises:
        InvalidDtypeError: an argument is no tensor or has an unsuitable dtype.
        InvalidInputError: shapes do not fit, or the activation is unknown.
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        GELU, arXiv:1606.08415; SiLU, arXiv:1702.03118; SwiGLU, arXiv:2002.05202 (gates first, as in
        ``paddle.incubate.nn.functional.swiglu``).
    """
    x, weight, bias = narrow(x, weight, bias)
    result = _linear_operator.run_unchecked(x, weight, bias, activation, packed_weight, impl)
    if result is not None:
        return result
    arguments = check(x, weight, bias, activation=activation, packed_weight=packed_weight)
    return _select.run("linear", IMPLEMENTATIONS, arguments, impl)


def pack_weight(weight: paddle.Tensor) -> paddle.Tensor:
    """Round a weight to bfloat16 once, for many calls of :func:`linear` with "medium" precision.

    Args:
        weight: ``[K, N]``, float32, in CPU memory.

    Returns:
        ``[K, N]``, bfloat16, without gradient. It does not follow later changes of ``weight``.

    Raises:
        InvalidDtypeError: ``weight`` is no tensor, or not float32.
    """
    return _linear_operator.pack(weight)


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(linear)


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _linear_operator.refusals, _linear_operator.run),
    _select.Implementation("reference", _reference_refusals, _reference),
)

__all__ = ["ActivationName", "Arguments", "check", "linear", "pack_weight"]
