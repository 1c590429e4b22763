"""The most probable classes of a linear layer's output without storing the logits, for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra._core import extension
from paddle_infra._core.checks import device_of, dtype_name
from paddle_infra._core.matmul_precision import PRECISIONS, get_matmul_precision
from paddle_infra.ops import _head_operator, _select, reference
from paddle_infra.ops._autocast import narrow
from paddle_infra.ops._gradient import needs_gradient, refuse_gradient
from paddle_infra.ops._linear_topk_arguments import Arguments, check_topk

_MOST_K = {"cpu": 1024, "gpu": 16}
_Pair = tuple[paddle.Tensor, paddle.Tensor]


def linear_topk(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    k: int,
    *,
    bias: paddle.Tensor | None = None,
    softcap: float = 0.0,
    weight_layout: Literal["vd", "dv"] = "vd",
    impl: _select.ImplementationName = "auto",
) -> tuple[paddle.Tensor, paddle.Tensor]:
    r"""Return the ``k`` most probable classes; the fused form never holds the logits of all rows. No gradient.

    With logits :math:`z` = ``hidden @ weight + bias``, capped to ``softcap * tanh(z / softcap)`` if
    ``softcap > 0``, and :math:`p = \mathrm{softmax}(z)`, each row gives the ``k`` largest :math:`p_c` and
    their classes :math:`c`, from the largest logit down; equal logits by class, the lowest first.

    ``N`` rows of any leading shape, ``D`` features, ``V`` classes.

    Args:
        hidden: ``[..., D]``, float. The fused form takes float32 and, on a GPU, float16 and bfloat16; the rest
            runs in plain Paddle.
        weight: ``[V, D]`` with ``weight_layout="vd"``, ``[D, V]`` (as ``paddle.nn.Linear``) with ``"dv"``;
            dtype of ``hidden``.
        k: From 1 to ``V``; the fused form takes up to 1024, on a GPU up to 16.
        bias: ``[V]``, dtype of ``hidden``.
        softcap: Bound of the logits; 0 for none.
        weight_layout: ``"vd"`` or ``"dv"``.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        The probabilities ``[..., k]``, float32 (float64 for float64 inputs), and the classes ``[..., k]``, int64.
        Multiplies as :class:`set_matmul_precision` says, except that up to 8 rows always multiply in float32:
        reading the weight takes the time, and a GPU multiplies numbers as they are. Sums over classes are kept in
        float64, on a GPU in float32. Bit-identical for any number of threads. A row whose softmax is not defined,
        because of a NaN, a logit of +∞, or nothing but logits of -∞, has probabilities NaN and the classes
        0, 1, …, k - 1.

    Raises:
        InvalidDtypeError: an argument is no tensor or number, or has an unsuitable dtype.
        InvalidInputError: shapes do not fit, or an option is out of range.
        UnsupportedError: an argument needs a gradient (outside of static programs, which get none without a
            word), or no implementation, or not the one asked for, can take these inputs.

    References:
        Online softmax and top-k in one pass: M. Milakov, N. Gimelshein, arXiv:1805.02867, section 4. Here the
        pass also computes the logits, block by block.
    """
    return _topk("linear_topk", hidden, weight, k, bias, softcap, weight_layout, False, impl)


def linear_topk_log_prob(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    k: int,
    *,
    bias: paddle.Tensor | None = None,
    softcap: float = 0.0,
    weight_layout: Literal["vd", "dv"] = "vd",
    impl: _select.ImplementationName = "auto",
) -> tuple[paddle.Tensor, paddle.Tensor]:
    r"""As :func:`linear_topk`, but with :math:`\log p`: for beam search, and where :math:`p` would round to 0.

    Args:
        hidden: See :func:`linear_topk`, also for the rest.
        weight: See there.
        k: See there.
        bias: See there.
        softcap: See there.
        weight_layout: See there.
        impl: See there.

    Returns:
        :math:`\log p`, ``[..., k]``, and the classes, ``[..., k]``. Logits of -∞ give -∞.

    Raises:
        InvalidDtypeError: as :func:`linear_topk`.
        InvalidInputError: as :func:`linear_topk`.
        UnsupportedError: as :func:`linear_topk`.
    """
    return _topk("linear_topk_log_prob", hidden, weight, k, bias, softcap, weight_layout, True, impl)


# Paddle's graph capture shall call them as they are, with the program's values, not rewrite their source or
# bytecode.
unified(linear_topk)
unified(linear_topk_log_prob)


def _topk(
    operator: str,
    hidden: Any,
    weight: Any,
    k: Any,
    bias: Any,
    softcap: Any,
    layout: Any,
    is_log: bool,
    impl: str,
) -> _Pair:
    hidden, weight, bias = narrow(hidden, weight, bias)
    if _is_usual(hidden, weight, k, bias, softcap, layout, impl):
        try:
            return _call(hidden, weight, bias, k, softcap, is_log, layout)
        except (ValueError, TypeError):
            pass  # the long way finds the error again and names it better
    arguments = check_topk(hidden, weight, k, bias, softcap, layout, is_log)
    refuse_gradient(operator, "paddle.topk", hidden, weight, bias)
    found: _Pair = _select.run(operator, IMPLEMENTATIONS, arguments, impl)
    return found


def check(**arguments: Any) -> Arguments:
    """Check arguments as linear_topk does."""
    checked = check_topk(**arguments, is_log=False)
    refuse_gradient("linear_topk", "paddle.topk", checked.hidden, checked.weight, checked.bias)
    return checked


def _is_usual(hidden: Any, weight: Any, k: Any, bias: Any, softcap: Any, layout: Any, impl: str) -> bool:
    """Whether these go to the compiled operator as they are; it checks shapes itself.

    For small tensors the checks in Python would take longer than the operator.
    """
    return (
        isinstance(hidden, paddle.Tensor)
        and isinstance(weight, paddle.Tensor)
        and (bias is None or isinstance(bias, paddle.Tensor))
        and paddle.in_dynamic_mode()
        and _select.may_run("fused", impl)
        and hidden.dtype == paddle.float32
        and hidden.place.is_cpu_place()
        and type(k) is int
        and k <= _MOST_K["cpu"]
        and type(softcap) is float
        and layout in ("vd", "dv")
        and not needs_gradient(hidden, weight, bias)
        and extension.load().is_loaded
    )


def _call(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None,
    k: int,
    softcap: float,
    is_log: bool,
    layout: str,
) -> _Pair:
    precision = PRECISIONS.index(get_matmul_precision())
    prob, index = paddle._C_ops._run_custom_op(
        "paddle_infra_linear_topk", hidden, weight, bias, k, softcap, is_log, layout == "dv", precision
    )
    return prob, index


def _fused_refusals(a: Arguments) -> list[str]:
    reasons = _head_operator.refusals(a.hidden, has_gpu_kernel=True)
    device = device_of(a.hidden)
    most = _MOST_K.get(device)
    if most is not None and a.k > most:
        of_device = " on a GPU" if device == "gpu" else ""
        reasons.append(f"the compiled kernel finds up to {most} classes{of_device}, k is {a.k}")
    return reasons


def _fused(a: Arguments) -> _Pair:
    bias = _head_operator.float32_bias(a.bias)
    return _call(a.hidden, a.weight, bias, a.k, a.softcap, a.is_log, a.weight_layout)


def _reference_refusals(a: Arguments) -> list[str]:
    dtype = dtype_name(a.hidden)
    if dtype in ("float16", "bfloat16") and device_of(a.hidden) == "cpu":
        return [f"Paddle has no {dtype} matrix product on the CPU: use float32"]
    return []


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation("reference", _reference_refusals, reference.linear_topk),
)
