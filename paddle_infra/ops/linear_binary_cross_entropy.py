"""Binary cross entropy of a linear layer's output, for several labels at once, without storing the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle.jit.marker import unified

from paddle_infra._core.checks import check_choice, check_number, check_shape, check_tensor, dtype_name
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.ops import _head_operator, _select, reference

_FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of linear_binary_cross_entropy; all floats have the dtype of ``hidden``."""

    hidden: paddle.Tensor
    weight: paddle.Tensor
    target: paddle.Tensor
    bias: paddle.Tensor | None
    pos_weight: paddle.Tensor | None
    token_weight: paddle.Tensor | None
    softcap: float
    reduction: str
    weight_layout: str


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
    r"""Binary cross entropy of ``hidden @ weight + bias`` for multi-label classification.

    With logits :math:`z` (capped to ``softcap * tanh(z / softcap)`` if ``softcap > 0``), targets :math:`y`,
    :math:`q` = ``pos_weight`` and :math:`t` = ``token_weight`` (both 1 if absent), row :math:`i` and class :math:`c`
    have the loss

    .. math::
        l_{ic} = q_c\, y_{ic} \log(1 + e^{-z_{ic}}) + (1 - y_{ic}) \log(1 + e^{z_{ic}})

    and the result is :math:`t_i l_{ic}` (``"none"``), the sum (``"sum"``), or
    :math:`\sum_{ic} t_i l_{ic} / (V \sum_i t_i)` (``"mean"``; 0 if that is 0 / 0).

    Args:
        hidden: ``[..., D]``, float; the fused form takes float32.
        weight: ``[V, D]`` or, with ``weight_layout="dv"``, ``[D, V]``; dtype of ``hidden``.
        target: ``[..., V]``, float in [0, 1], or bool. Gets no gradient.
        bias: ``[V]``, dtype of ``hidden``.
        pos_weight: ``[V]``, float: how much more a target of 1 counts. Gets no gradient.
        token_weight: ``[...]`` as ``hidden`` without its last axis, float. Gets no gradient.
        softcap: Bound of the logits; 0 for none.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight_layout: ``"vd"`` or ``"dv"``.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        The loss, 0-D, or of the shape of ``target`` for ``"none"``: float32, or float64 for float64 inputs. The fused
        form holds the logits of a chunk of rows only.

    Raises:
        InvalidDtypeError: an argument is no tensor or has an unsuitable dtype.
        InvalidInputError: shapes do not fit, an option is out of range, or a target is not in [0, 1] (in dynamic
            mode; the message names the place).
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.
    """
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


def check(
    hidden: paddle.Tensor,
    weight: paddle.Tensor,
    target: paddle.Tensor,
    *,
    bias: paddle.Tensor | None = None,
    pos_weight: paddle.Tensor | None = None,
    token_weight: paddle.Tensor | None = None,
    softcap: float = 0.0,
    reduction: str = "mean",
    weight_layout: str = "vd",
) -> Arguments:
    """Check arguments, and bring them into final form."""
    check_choice("reduction", reduction, _head_operator.REDUCTIONS)
    check_choice("weight_layout", weight_layout, ("vd", "dv"))
    check_number("softcap", softcap, 0.0)
    check_tensor("hidden", hidden, _FLOATS)
    dtype = dtype_name(hidden)
    check_tensor("weight", weight, (dtype,))
    check_tensor("target", target, (*_FLOATS, "bool"))
    if hidden.ndim < 1 or hidden.shape[-1] == 0:
        raise InvalidInputError(
            f"hidden: expected shape [..., D] with D at least 1, got {list(hidden.shape)}"
        )
    if weight.ndim != 2 or 0 in weight.shape:
        raise InvalidInputError(f"weight: expected two dimensions, none of them 0, got {list(weight.shape)}")
    is_vd = weight_layout == "vd"
    size, classes = hidden.shape[-1], weight.shape[0 if is_vd else 1]
    shape = [classes, size] if is_vd else [size, classes]
    meaning = "[V, D], weight_layout='vd'" if is_vd else "[D, V], weight_layout='dv'"
    check_shape("weight", weight, shape, meaning)
    check_shape("target", target, [*hidden.shape[:-1], classes], "[..., V]")
    for name, value in (("bias", bias), ("pos_weight", pos_weight)):
        if value is not None:
            check_tensor(name, value, (dtype,) if name == "bias" else _FLOATS)
            check_shape(name, value, [classes], "[V]")
    if token_weight is not None:
        check_tensor("token_weight", token_weight, _FLOATS)
        check_shape("token_weight", token_weight, hidden.shape[:-1], "hidden without its last axis")
    if paddle.in_dynamic_mode() and dtype_name(target) != "bool":
        _check_targets(target)
    final = "float64" if dtype == "float64" else "float32"

    def constant(tensor: paddle.Tensor | None) -> paddle.Tensor | None:
        return None if tensor is None else tensor.detach().astype(final)

    return Arguments(
        hidden,
        weight,
        target.detach().astype(final),
        bias,
        constant(pos_weight),
        constant(token_weight),
        float(softcap),
        reduction,
        weight_layout,
    )


def _check_targets(target: paddle.Tensor) -> None:
    values = target.astype("float32").numpy()
    is_bad = ~((values >= 0.0) & (values <= 1.0))  # also NaN
    if is_bad.any():
        place = [int(axis[0]) for axis in is_bad.nonzero()]
        raise InvalidInputError(f"target{place}: expected a number in [0, 1], got {values[tuple(place)]:g}")


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
    _select.Implementation(
        "fused", lambda a: _head_operator.refusals(a.hidden, has_gpu_kernel=False), _fused
    ),
    _select.Implementation(
        "reference",
        lambda a: _head_operator.reference_refusals(a.hidden),
        reference.linear_binary_cross_entropy,
    ),
)
