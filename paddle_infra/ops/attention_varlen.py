"""Attention on sequences of different lengths that are packed without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle.jit.marker import unified

from paddle_infra.ops import _attention_operator, _attention_reference, _select
from paddle_infra.ops._attention_arguments import Arguments, Options, check_varlen
from paddle_infra.ops._autocast import narrow
from paddle_infra.ops.attention import Window


def attention_varlen(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    cu_seqlens_q: paddle.Tensor,
    cu_seqlens_k: paddle.Tensor,
    *,
    causal: bool = False,
    window: Window | None = None,
    alibi_slopes: paddle.Tensor | None = None,
    softcap: float = 0.0,
    scale: float | None = None,
    dropout_p: float = 0.0,
    training: bool = True,
    deterministic: bool = False,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    """Attention of each sequence of a packed batch to itself, or to the sequence of the same number in ``key``.

    Sequence ``b`` has the queries ``cu_seqlens_q[b]`` to ``cu_seqlens_q[b + 1] - 1`` and the keys likewise; its
    result is that of :func:`attention` on these rows alone. Three sequences of 2, 0 and 3 tokens::

        cu_seqlens = [0, 2, 2, 5]
        tokens       a0 a1 c0 c1 c2

    Without padding nothing is computed or stored for it. The plain implementation pads.

    ``Tq`` and ``Tk`` tokens in all, ``B`` sequences, ``Hq`` and ``Hkv`` heads, ``D`` head_dim.

    Args:
        query: ``[Tq, Hq, D]``; dtypes as for :func:`attention`.
        key: ``[Tk, Hkv, D]``, dtype of ``query``; ``Hkv`` divides ``Hq``.
        value: Shape and dtype of ``key``.
        cu_seqlens_q: ``[B + 1]``, int32 or int64: where sequences start, from 0, never falling; the last number is
            ``Tq``. Sequences may be empty.
        cu_seqlens_k: The same for the keys.
        causal: As for :func:`attention`, within each sequence; so are the following.
        window: As there.
        alibi_slopes: ``[Hq]`` or ``[B, Hq]``.
        softcap: As there.
        scale: As there.
        dropout_p: As there.
        training: As there.
        deterministic: As there.
        max_seqlen_q: The longest length, or more, of queries. Only checked, but for the plain implementation in a
            static program, which saves looking it up. None: not known.
        max_seqlen_k: The same for keys.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        ``[Tq, Hq, D]``, dtype of ``query``. Queries that see no key give zeros.

    Raises:
        InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype or type.
        InvalidInputError: shapes do not fit, starts are not as described, ``max_seqlen`` is below the longest
            length, or an option is out of range.
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        As :func:`attention`.
    """
    options = Options(
        causal, window, softcap, scale, dropout_p, training, deterministic, None, None, None, alibi_slopes
    )
    query, key, value = narrow(query, key, value)
    arguments = check_varlen(
        query, key, value, cu_seqlens_q, cu_seqlens_k, options, max_seqlen_q, max_seqlen_k
    )
    return _select.run("attention_varlen", IMPLEMENTATIONS, arguments, impl)[0]


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(attention_varlen)


def check(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    cu_seqlens_q: paddle.Tensor,
    cu_seqlens_k: paddle.Tensor,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    **options: Any,
) -> Arguments:
    """Check arguments as attention_varlen does."""
    return check_varlen(
        query, key, value, cu_seqlens_q, cu_seqlens_k, Options(**options), max_seqlen_q, max_seqlen_k
    )


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _attention_operator.refusals, _attention_operator.run),
    _select.Implementation("reference", _attention_reference.refusals, _attention_reference.attention_varlen),
)
