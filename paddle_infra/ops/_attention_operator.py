"""Calls the compiled attention operators, and says when they cannot be called."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra._core import extension
from paddle_infra._core.checks import device_of, dtype_name
from paddle_infra._core.matmul_precision import PRECISIONS, get_matmul_precision
from paddle_infra.ops import _select
from paddle_infra.ops._attention_arguments import Arguments, Options
from paddle_infra.ops._dropout import draw_seed
from paddle_infra.ops._gradient import recorded_if_wanted

_MOST_HEAD_DIM = {"cpu": 256, "gpu": 128}
_DTYPES = ("float32", "float16", "bfloat16")
_QUERY_DTYPES = frozenset({paddle.float32, paddle.float16, paddle.bfloat16})
_BIAS_DTYPES = frozenset({paddle.float32, paddle.bool})
_NO_MAX_SEQLENS = (0, 0)


def refusals(a: Arguments) -> list[str]:
    """Say why the compiled operators cannot take these arguments."""
    status = extension.load()
    reasons = [] if status.is_loaded else [status.explain()]
    dtype = dtype_name(a.query)
    if dtype not in _DTYPES:
        reasons.append(f"the compiled kernel takes {', '.join(_DTYPES)}, query is {dtype}")
    device = device_of(a.query)
    most = _MOST_HEAD_DIM.get(device)
    if most is None:
        reasons.append(f"there are compiled kernels for cpu and gpu only, query is on {device}")
    elif a.query.shape[-1] > most:
        reasons.append(f"the compiled kernel takes a head_dim up to {most}, got {a.query.shape[-1]}")
    if device == "gpu" and status.is_loaded and not status.build["cuda"]:
        reasons.append(extension.WITHOUT_CUDA.format("query"))
    if not paddle.framework.in_dynamic_or_pir_mode():
        reasons.append(
            "compiled operators need dynamic mode or Paddle's PIR programs, this is a legacy static program"
        )
    return reasons


def run(a: Arguments) -> list[paddle.Tensor]:
    """Compute attention, or packed attention: the output, and the logarithm of the sum of exponentials."""
    tensors = (a.cu_seqlens_q, a.cu_seqlens_k, a.q_lengths, a.kv_lengths, a.alibi_slopes)
    seed = draw_seed() if a.dropout_p > 0.0 else None
    numbers = (*a.window, a.scale, a.softcap, a.dropout_p)
    longest = (a.max_seqlen_q, a.max_seqlen_k)
    return _call(a.query, a.key, a.value, a.bias, (*tensors, seed), numbers, longest)


def run_decode(a: Arguments) -> list[paddle.Tensor]:
    """Compute attention to a cache, without any gradient."""
    return _call_decode(
        a.query, a.key, a.value, a.bias, a.kv_lengths, a.alibi_slopes, *a.window, a.scale, a.softcap
    )


def run_unchecked(
    query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, o: Options, impl: str
) -> list[paddle.Tensor] | None:
    """Call the compiled attention at once if no argument needs converting; return None for the long way.

    The operators check what they get themselves; for small tensors, checking here too would take longer than
    attention. What they refuse goes the long way, which finds the error again and names it better.
    """
    if not _is_usual(query, key, value, o, impl):
        return None
    scale = query.shape[3] ** -0.5 if o.scale is None else o.scale
    tensors = (None, None, o.q_lengths, o.kv_lengths, None, None)
    numbers = (-1, 0 if o.causal else -1, scale, o.softcap, 0.0)
    try:
        return _call(query, key, value, o.bias, tensors, numbers, _NO_MAX_SEQLENS)
    except (ValueError, TypeError):
        return None


def run_decode_unchecked(
    query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, o: Options, impl: str
) -> list[paddle.Tensor] | None:
    """Do as :func:`run_unchecked` for attention to a cache."""
    if not _is_usual(query, key, value, o, impl):
        return None
    scale = query.shape[3] ** -0.5 if o.scale is None else o.scale
    right = 0 if o.causal else -1
    try:
        return _call_decode(query, key, value, o.bias, o.kv_lengths, None, -1, right, scale, o.softcap)
    except (ValueError, TypeError):
        return None


def _is_usual(query: Any, key: Any, value: Any, o: Options, impl: str) -> bool:
    """Whether these go to the compiled operator as they are. None or something else than a tensor would crash it."""
    tensor = paddle.Tensor
    if not (isinstance(query, tensor) and isinstance(key, tensor) and isinstance(value, tensor)):
        return False
    if not (paddle.in_dynamic_mode() and _select.may_run("fused", impl)):
        return False
    shape = query.shape
    return (
        query.dtype in _QUERY_DTYPES
        and len(shape) == 4
        and 0 < shape[3] <= _MOST_HEAD_DIM["cpu"]
        and o.window is None
        and o.alibi_slopes is None
        and type(o.softcap) is float
        and (o.scale is None or type(o.scale) is float)
        and type(o.dropout_p) is float
        and o.dropout_p == 0.0
        and type(o.causal) is type(o.training) is type(o.deterministic) is bool
        and _is_int32(o.kv_lengths)
        and _is_int32(o.q_lengths)
        and (
            o.bias is None
            or (isinstance(o.bias, paddle.Tensor) and o.bias.dtype in _BIAS_DTYPES and o.bias.ndim == 4)
        )
        and extension.load().is_loaded
    )


def _is_int32(tensor: Any) -> bool:
    return tensor is None or (isinstance(tensor, paddle.Tensor) and tensor.dtype is paddle.int32)


def _call(
    query: paddle.Tensor,
    key: paddle.Tensor,
    value: paddle.Tensor,
    bias: paddle.Tensor | None,
    tensors: tuple[paddle.Tensor | None, ...],
    numbers: tuple[float, ...],
    longest: tuple[int, int],
) -> list[paddle.Tensor]:
    # A bias that gets a gradient is an input of its own operator: see csrc/attention/attention_op.cc.
    has_gradient = bias is not None and not bias.stop_gradient and bias.dtype != paddle.bool
    name = "paddle_infra_attention_bias" if has_gradient else "paddle_infra_attention"
    precision = PRECISIONS.index(get_matmul_precision())
    results = paddle._C_ops._run_custom_op(
        name, query, key, value, bias, *tensors, *numbers, precision, *longest
    )
    return recorded_if_wanted(results)


def _call_decode(*arguments: Any) -> list[paddle.Tensor]:
    return paddle._C_ops._run_custom_op("paddle_infra_attention_decode", *arguments)
