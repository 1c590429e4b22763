"""Attention without storing the scores: exact softmax(q kᵀ) v with masks, biases and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle.jit.marker import unified

from paddle_infra.ops import _attention_operator, _attention_reference, _select
from paddle_infra.ops._attention_arguments import Arguments, Options, check_attention
from paddle_infra.ops._autocast import narrow

Window = tuple[int | None, int | None]


def attention(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    *,
    causal: bool = False,
    bias: paddle.Tensor | None = None,
    kv_lengths: paddle.Tensor | None = None,
    q_lengths: paddle.Tensor | None = None,
    window: Window | None = None,
    alibi_slopes: paddle.Tensor | None = None,
    softcap: float = 0.0,
    scale: float | None = None,
    dropout_p: float = 0.0,
    training: bool = True,
    deterministic: bool = False,
    impl: _select.ImplementationName = "auto",
) -> paddle.Tensor:
    r"""Scaled dot-product attention; the fused form's memory grows with the length, not with its square.

    Query :math:`i` of a head and key :math:`j` of the head it shares have the score

    .. math::
        s_{ij} = \mathrm{cap}(\mathrm{scale}\; q_i \cdot k_j) + \mathrm{bias}_{ij}
            - \mathrm{slope}\, |i + o - j|, \qquad o = S_k - S_q

    with :math:`\mathrm{cap}(x)` = ``softcap * tanh(x / softcap)`` (x if ``softcap`` is 0). Over the keys that the
    query sees,

    .. math::
        \mathrm{out}_i = \sum_j p_{ij} v_j, \qquad p_{ij} = \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}}

    where dropout makes :math:`p_{ij}` 0 with probability ``dropout_p`` and divides it by ``1 - dropout_p``
    otherwise. The last query is level with the last key: query :math:`i` stands at key :math:`i + o`. It sees
    key :math:`j` if all of these hold:

    - ``causal``: :math:`j \le i + o`;
    - ``window=(left, right)``: :math:`i + o - \mathrm{left} \le j \le i + o + \mathrm{right}`;
    - a bool ``bias`` is True there; :math:`j` is below ``kv_lengths``, :math:`i` below ``q_lengths``.

    Three queries and five keys (1: seen)::

        causal         window=(1, 0)    window=(1, 1)    kv_lengths=[4], causal
        1 1 1 0 0      0 1 1 0 0        0 1 1 1 0        1 1 1 0 0
        1 1 1 1 0      0 0 1 1 0        0 0 1 1 1        1 1 1 1 0
        1 1 1 1 1      0 0 0 1 1        0 0 0 1 1        1 1 1 1 0

    Five queries and three keys, causal: the first two queries see nothing. A query that sees nothing gives zeros
    and passes no gradient on (so do scores below about -1e29, which count as hidden).

    ``B`` batch size, ``Sq`` and ``Sk`` lengths, ``Hq`` and ``Hkv`` heads, ``D`` head_dim.

    Args:
        query: ``[B, Sq, Hq, D]``, float. The fused form takes float32, float16 and bfloat16 (computing in float32:
            see :class:`set_matmul_precision`) with ``D`` up to 256; float64 and larger ``D`` run in plain Paddle.
        key: ``[B, Sk, Hkv, D]``, dtype of ``query``; ``Hkv`` divides ``Hq``, and each key head serves ``Hq / Hkv``
            neighbouring query heads (grouped-query attention; ``Hkv = 1``: multi-query).
        value: Shape and dtype of ``key``.
        causal: Hide the keys after the query.
        bias: Broadcasts to ``[B, Hq, Sq, Sk]``. Float: added to the scores (in float32), and gets a gradient unless
            its ``stop_gradient`` is set; -inf hides. Bool: True keeps.
        kv_lengths: ``[B]``, int32 or int64: keys from there on do not exist, whatever is in them (even NaN). They do
            not move the queries: ``o`` stays ``Sk - Sq``.
        q_lengths: ``[B]``, int32 or int64: queries from there on are padding; they give zeros.
        window: How many keys to the left and right of its own place a query sees; None for no limit, on one side or
            both. ``causal`` makes the right side 0.
        alibi_slopes: ``[Hq]`` or ``[B, Hq]``, float32: linear penalty of the distance. Gets no gradient.
        softcap: Bound of the scores before bias and slopes; 0 for none.
        scale: Factor of the products; ``D ** -0.5`` if None. May be negative or 0.
        dropout_p: Probability of dropping a weight, at least 0 and below 1.
        training: False switches dropout off.
        deterministic: Ask for results that repeat bit by bit. The CPU kernels always do, for any number of threads;
            this is for other devices.
        impl: ``"auto"``, ``"fused"`` or ``"reference"``; see :func:`paddle_infra.ops.implementation`.

    Returns:
        ``[B, Sq, Hq, D]``, dtype of ``query``. Sums are float32 (float64 for float64). Dropout draws one seed from
        Paddle's generator per call, also of a program, and derives every decision from it, so both implementations
        and the backward pass drop the same weights.

    Raises:
        InvalidDtypeError: an argument is no tensor, or has an unsuitable dtype or type.
        InvalidInputError: shapes do not fit, tensors are on different devices, a length is negative or larger than
            the axis, or an option is out of range. (A static program raises Paddle's ValueError about lengths,
            when the fused form runs.)
        UnsupportedError: no implementation, or not the one asked for, can take these inputs.

    References:
        FlashAttention-2, arXiv:2307.08691 (blocks, recomputation in the backward pass); online softmax,
        arXiv:1805.02867; grouped queries, arXiv:2305.13245; ALiBi, arXiv:2108.12409 (distances to both sides count
        here, as in flash-attention); softcap, arXiv:2408.00118, section 2.
    """
    options = Options(
        causal,
        window,
        softcap,
        scale,
        dropout_p,
        training,
        deterministic,
        bias,
        kv_lengths,
        q_lengths,
        alibi_slopes,
    )
    return _compute("attention", query, key, value, options, impl, IMPLEMENTATIONS)[0]


def attention_with_lse(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    *,
    causal: bool = False,
    bias: paddle.Tensor | None = None,
    kv_lengths: paddle.Tensor | None = None,
    q_lengths: paddle.Tensor | None = None,
    window: Window | None = None,
    alibi_slopes: paddle.Tensor | None = None,
    softcap: float = 0.0,
    scale: float | None = None,
    dropout_p: float = 0.0,
    training: bool = True,
    deterministic: bool = False,
    impl: _select.ImplementationName = "auto",
) -> tuple[paddle.Tensor, paddle.Tensor]:
    r"""Attention and the logarithm of its denominators: what merges attention over parts of the keys.

    Takes the arguments of :func:`attention`. Of parts of the keys with results :math:`o_1, o_2` and logarithms
    :math:`l_1, l_2`, attention over both is :math:`(e^{l_1} o_1 + e^{l_2} o_2) / (e^{l_1} + e^{l_2})`.

    Returns:
        The result of :func:`attention`, and :math:`\log \sum_j e^{s_{ij}}` over the keys that a query sees:
        ``[B, Hq, Sq]``, float32 (float64 for float64), -infinity for a query that sees none. Dropout does not
        change it. Both get gradients.

    Raises:
        InvalidDtypeError: as :func:`attention`.
        InvalidInputError: as :func:`attention`.
        UnsupportedError: as :func:`attention`.

    References:
        As :func:`attention`; merging, arXiv:2112.05682, section 2.
    """
    options = Options(
        causal,
        window,
        softcap,
        scale,
        dropout_p,
        training,
        deterministic,
        bias,
        kv_lengths,
        q_lengths,
        alibi_slopes,
    )
    results = _compute("attention_with_lse", query, key, value, options, impl, _WITH_LSE)
    return results[0], results[1]


# Paddle's graph capture shall call them as they are, with the program's values, not rewrite their source or
# bytecode.
unified(attention)
unified(attention_with_lse)


def _compute(
    operator: str,
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    options: Options,
    impl: str,
    implementations: Sequence[_select.Implementation],
) -> Sequence[paddle.Tensor]:
    query, key, value = narrow(query, key, value)
    results = _attention_operator.run_unchecked(query, key, value, options, impl)
    if results is not None:
        return results
    return _select.run(operator, implementations, check_attention(query, key, value, options), impl)


def check(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, **options: Any) -> Arguments:
    """Check arguments as attention and attention_with_lse do."""
    return check_attention(query, key, value, Options(**options))


_FUSED = _select.Implementation("fused", _attention_operator.refusals, _attention_operator.run)
IMPLEMENTATIONS: Sequence[_select.Implementation] = (
    _FUSED,
    _select.Implementation("reference", _attention_reference.refusals, _attention_reference.attention),
)
_WITH_LSE: Sequence[_select.Implementation] = (
    _FUSED,
    _select.Implementation(
        "reference", _attention_reference.refusals, _attention_reference.attention_with_lse
    ),
)
