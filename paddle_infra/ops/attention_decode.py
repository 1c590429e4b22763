"""Attention of a few new queries to a long cache of keys and values, for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle.jit.marker import unified

from paddle_infra.ops import _attention_operator, _attention_reference, _select
from paddle_infra.ops._attention_arguments import Arguments, Options, check_attention
from paddle_infra.ops._autocast import narrow
from paddle_infra.ops._gradient import needs_gradient, refuse_gradient
from paddle_infra.ops.attention import Window


def attention_decode(
    query: paddle.Tensor,
    key_cache: paddle.Tensor,
    value_cache: paddle.Tensor,
    *,
    kv_lengths: paddle.Tensor | None = None,
    causal: bool = True,
    bias: paddle.Tensor | None = None,
    window: Window | None = None,
    alibi_slopes: paddle.Tensor | None = None,
    softcap: float = 0.0,
    scale: float | None = None,
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Attention of the newest tokens to everything in a cache; splits long caches over threads. No gradient.

    As :func:`attention`, but the last query is level with the last key that exists: of ``Sq`` queries, query
    :math:`i` stands at position :math:`n_b - S_q + i` of a cache with :math:`n_b` = ``kv_lengths[b]`` keys, the
    new tokens' own included. Two queries, a cache for six keys of which four exist (1: seen)::

        causal           window=(1, 0)
        1 1 1 0 . .      0 1 1 0 . .
        1 1 1 1 . .      0 0 1 1 . .

    ``B`` batch size, ``Sq`` new tokens, ``Smax`` size of the cache, ``Hq`` and ``Hkv`` heads, ``D`` head_dim.

    Args:
        query: ``[B, Sq, Hq, D]``; dtypes as for :func:`attention`.
        key_cache: ``[B, Smax, Hkv, D]``, dtype of ``query``; ``Hkv`` divides ``Hq``.
        value_cache: Shape and dtype of ``key_cache``.
        kv_lengths: ``[B]``, int32 or int64: how many keys of the cache exist; the rest is never read. None: all.
        causal: Hide the keys after the query.
        bias: Broadcasts to ``[B, Hq, Sq, Smax]``: float, added to the scores, or bool, True keeps.
        window: As for :func:`attention`, from the position given above.
        alibi_slopes: ``[Hq]`` or ``[B, Hq]``, float32.
        softcap: Bound of the scores before bias and slopes; 0 for none.
        scale: Factor of the products; ``D ** -0.5`` if None.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        ``[B, Sq, Hq, D]``, dtype of ``query``. Queries that see no key give zeros. Always multiplies in float32,
        whatever :class:`set_matmul_precision` says: reading the cache takes the time.

    Raises:
        InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype or type.
        InvalidInputError: as :func:`attention`.
        UnsupportedError: an argument needs a gradient (outside of static programs, which get none without a
            word), or no implementation, or not the one asked for, can take these inputs.

    References:
        As :func:`attention`; splitting the keys, Flash-Decoding (T. Dao et al., 2023).
    """
    options = Options(
        causal, window, softcap, scale, bias=bias, kv_lengths=kv_lengths, alibi_slopes=alibi_slopes
    )
    query, key_cache, value_cache = narrow(query, key_cache, value_cache)
    if not needs_gradient(query, key_cache, value_cache, bias):
        results = _attention_operator.run_decode_unchecked(query, key_cache, value_cache, options, impl)
        if results is not None:
            return results[0]
    arguments = _check(query, key_cache, value_cache, options)
    return _select.run("attention_decode", IMPLEMENTATIONS, arguments, impl)[0]


# Paddle's graph capture shall call it as it is, with the program's values, not rewrite its source or
# bytecode.
unified(attention_decode)


def check(
    query: paddle.Tensor, key_cache: paddle.Tensor, value_cache: paddle.Tensor, **options: Any
) -> Arguments:
    """Check arguments as attention_decode does."""
    return _check(query, key_cache, value_cache, Options(**options))


def _check(
    query: paddle.Tensor, key_cache: paddle.Tensor, value_cache: paddle.Tensor, options: Options
) -> Arguments:
    arguments = check_attention(query, key_cache, value_cache, options, align_to_lengths=True)
    refuse_gradient("attention_decode", "attention", query, key_cache, value_cache, options.bias)
    return arguments


IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _select.Implementation("fused", _attention_operator.refusals, _attention_operator.run_decode),
    _select.Implementation("reference", _attention_reference.refusals, _attention_reference.attention),
)
