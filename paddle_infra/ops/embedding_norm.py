"""Embeddings of words, positions and token types, their norm and dropout, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle.jit.marker import unified

from paddle_infra._core import extension
from paddle_infra._core.checks import UNKNOWN
from paddle_infra.ops import _norm_arguments, _select
from paddle_infra.ops._dropout import draw_seed
from paddle_infra.ops._embedding_norm_arguments import Arguments, check
from paddle_infra.ops._gradient import recorded_if_wanted
from paddle_infra.ops._norm_reference import drop, normalize


def embedding_norm(
    ids: paddle.Tensor,
    word: paddle.Tensor,
    position: paddle.Tensor | None = None,
    token_type: paddle.Tensor | None = None,
    weight: paddle.Tensor | None = None,
    bias: paddle.Tensor | None = None,
    *,
    position_ids: paddle.Tensor | None = None,
    token_type_ids: paddle.Tensor | None = None,
    padding_idx: int | None = None,
    norm: Literal["layer", "rms"] = "layer",
    epsilon: float = 1e-12,
    dropout_p: float = 0.0,
    training: bool = True,
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Embed tokens as the input block of BERT does: look up, add, normalize, drop.

    .. math::
        x_{bs} = \mathrm{word}[\mathrm{ids}_{bs}] + \mathrm{token\_type}[\mathrm{token\_type\_ids}_{bs}]
            + \mathrm{position}[\mathrm{position\_ids}_{bs}], \qquad
        \mathrm{out} = \mathrm{dropout}(\mathrm{norm}(x)\, w + b)

    with the norms of :func:`paddle_infra.ops.add_norm`. Tables that are None are left out.

    ``B`` batch size, ``S`` length, ``D`` features; ``V``, ``P``, ``T`` rows of the tables.

    Args:
        ids: ``[B, S]``, int64 (int32 is converted).
        word: ``[V, D]``, float. The fused form takes float32; float64 runs in plain Paddle.
        position: ``[P, D]``, dtype of ``word``.
        token_type: ``[T, D]``, dtype of ``word``.
        weight: ``[D]``, dtype of ``word``; None: 1.
        bias: ``[D]``, dtype of ``word``; None: 0.
        position_ids: ``[B, S]``, or ``[S]`` or ``[1, S]`` for all sequences; int64 or int32. None: 0 to ``S - 1``.
            RoBERTa counts from ``padding_idx + 1``: give its positions here.
        token_type_ids: Shapes and dtypes of ``position_ids``. None: 0 everywhere.
        padding_idx: A row of ``word`` that gets no gradient. It is read like any other (as in PyTorch;
            ``paddle.nn.Embedding`` gives zeros for it).
        norm: ``"layer"`` or ``"rms"``.
        epsilon: Added to the variance or mean square; 0 or more.
        dropout_p: Probability of dropping a number of the result, at least 0 and below 1.
        training: False switches dropout off.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        ``[B, S, D]``, dtype of ``word``. Gradients of the tables are dense. The fused result and its gradients are
        bit-identical for any number of threads: a row that many tokens share sums in the order of the tokens. Accuracy
        and dropout are those of :func:`paddle_infra.ops.add_norm`.

    Raises:
        InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype or type.
        InvalidInputError: shapes do not fit, tensors are on different devices, an option is out of range, or an index
            is outside its table (the message names the place; a static program raises Paddle's ValueError with the
            same text).
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        BERT, arXiv:1810.04805, figure 2; RoBERTa, arXiv:1907.11692.
    """
    tables = (ids, word, position, token_type, weight, bias, position_ids, token_type_ids, padding_idx)
    out = _run_unchecked(*tables, norm, epsilon, dropout_p, training, impl)
    if out is not None:
        return out
    arguments = check(*tables, norm, epsilon, dropout_p, training)
    return _select.run("embedding_norm", IMPLEMENTATIONS, arguments, impl)


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(embedding_norm)


def _run_unchecked(
    ids: paddle.Tensor,
    word: paddle.Tensor,
    position: paddle.Tensor | None,
    token_type: paddle.Tensor | None,
    weight: paddle.Tensor | None,
    bias: paddle.Tensor | None,
    position_ids: paddle.Tensor | None,
    token_type_ids: paddle.Tensor | None,
    padding_idx: int | None,
    norm: str,
    epsilon: float,
    dropout_p: float,
    training: bool,
    impl: str,
) -> paddle.Tensor | None:
    """Call the compiled operator at once in the usual cases; return None for the long way.

    It checks what it gets itself, the indices too. What it refuses goes the long way, which finds the error again and
    names it better.
    """
    optional = (position, token_type, position_ids, token_type_ids)
    is_usual = (
        _norm_arguments.is_usual_tensor(word)
        and all(isinstance(tensor, paddle.Tensor) for tensor in (ids, weight, bias))
        and all(tensor is None or isinstance(tensor, paddle.Tensor) for tensor in optional)
        and (padding_idx is None or (type(padding_idx) is int and padding_idx >= 0))
        and paddle.in_dynamic_mode()
        and _select.may_run("fused", impl)
        and _norm_arguments.are_usual(norm, epsilon, dropout_p, training)
        and extension.load().is_loaded
    )
    if not is_usual:
        return None
    numbers = (norm == "rms", epsilon, dropout_p if training else 0.0)
    arguments = Arguments(
        ids, word, position, token_type, weight, bias, position_ids, token_type_ids, padding_idx, *numbers
    )
    try:
        return _call(arguments)
    except (ValueError, TypeError):
        return None


def _call(a: Arguments) -> paddle.Tensor:
    # Tables are inputs of operators of their own: see csrc/embedding_norm/embedding_norm_op.cc.
    name = "paddle_infra_embedding_norm"
    name += "" if a.position is None else "_position"
    name += "" if a.token_type is None else "_type"
    tables = [table for table in (a.word, a.position, a.token_type) if table is not None]
    seed = draw_seed() if a.dropout_p > 0.0 else None
    tensors = (a.ids, *tables, a.weight, a.bias, a.position_ids, a.token_type_ids, seed)
    padding_idx = -1 if a.padding_idx is None else a.padding_idx
    results = paddle._C_ops._run_custom_op(name, *tensors, padding_idx, a.is_rms, a.epsilon, a.dropout_p)
    return recorded_if_wanted(results)[0]


def _fused(a: Arguments) -> paddle.Tensor:
    size = a.word.shape[1]
    weight = _norm_arguments.or_constant(a.weight, 1.0, size)
    bias = _norm_arguments.or_constant(a.bias, 0.0, size)
    return _call(replace(a, weight=weight, bias=bias))


def _reference(a: Arguments) -> paddle.Tensor:
    x = F.embedding(a.ids, a.word)
    if a.padding_idx is not None:
        is_padding = (a.ids == a.padding_idx).unsqueeze(-1)
        x = paddle.where(is_padding, x.detach(), x)
    if a.token_type is not None:
        # As in the model that is exported: one look-up, whether types are given or not.
        types = paddle.zeros_like(a.ids) if a.token_type_ids is None else a.token_type_ids
        x = x + F.embedding(types, a.token_type)
    if a.position is not None:
        positions = a.position_ids
        if positions is None:
            length = a.ids.shape[1]
            length = paddle.shape(a.ids)[1] if length == UNKNOWN else length
            positions = paddle.arange(length, dtype="int64")
        x = x + F.embedding(positions, a.position)
    return drop(normalize(x, a.weight, a.bias, a.is_rms, a.epsilon), a.dropout_p)


def _fused_refusals(a: Arguments) -> list[str]:
    reasons = _norm_arguments.fused_refusals("word", a.word)
    if (a.weight is None or a.bias is None) and a.word.shape[1] == UNKNOWN:
        reasons.append("the compiled kernel needs weight and bias in a program that does not know D")
    return reasons


def _reference_refusals(a: Arguments) -> list[str]:
    return _norm_arguments.reference_refusals(a.word)


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _fused_refusals, _fused),
    _select.Implementation("reference", _reference_refusals, _reference),
)
