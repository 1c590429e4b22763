"""Attention on a GPU by this package's CUDA library, PyTorch and flash-attn, all on PyTorch's tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from benchmarks._gpu_roofline import Attention
from benchmarks._harness import is_installed

OURS = "paddle_infra"
SDPA = {
    "torch-flash": "FLASH_ATTENTION",
    "torch-cudnn": "CUDNN_ATTENTION",
    "torch-efficient": "EFFICIENT_ATTENTION",
}
TOLERANCE = 0.03  # of results of about 1, in bfloat16


def available() -> list[str]:
    """Return the names of contestants that can run."""
    return [OURS, *SDPA, *(["flash-attn"] if is_installed("flash_attn") else [])]


def make_inputs(case: Attention) -> list[Any]:
    """Query, key and value in bfloat16, ``[batch, length, heads, head_dim]``."""
    import torch

    torch.manual_seed(0)
    shape = (case.batch, case.length, case.heads, case.head_dim)
    return [torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(3)]


def contestant(name: str, case: Attention, library: ctypes.CDLL) -> Callable[[], Any]:
    """Return a call that queues the forward pass on the current stream, and returns its result."""
    inputs = make_inputs(case)
    if name == OURS:
        return _ours(case, library, inputs)
    if name == "flash-attn":
        from flash_attn import flash_attn_func

        return lambda: flash_attn_func(*inputs, causal=case.is_causal)
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    swapped = [tensor.transpose(1, 2) for tensor in inputs]
    backend = getattr(SDPBackend, SDPA[name])

    def run() -> Any:
        with sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(*swapped, is_causal=case.is_causal)
        return out.transpose(1, 2)

    return run


def _ours(case: Attention, library: ctypes.CDLL, inputs: list[Any]) -> Callable[[], Any]:
    import torch

    from tests.cuda.attention_emulated import DTYPES, EmulatedAttention, Params, Strides

    EmulatedAttention.declare(library)
    query = inputs[0]
    out = torch.empty_like(query)
    lse = torch.empty((case.batch, case.heads, case.length), device="cuda")
    stats = torch.empty((*lse.shape, 2), device="cuda")
    d, h, s = case.head_dim, case.heads, case.length
    p = Params(dtype=DTYPES["bfloat16"], batch=case.batch, seq_q=s, seq_k=s, heads=h, kv_heads=h, head_dim=d,
               window_left=-1, window_right=0 if case.is_causal else -1, scale=d**-0.5)  # fmt: skip
    p.q_stride = p.k_stride = p.v_stride = Strides(s * h * d, h * d, d)
    p.lse_stride = (ctypes.c_int64 * 2)(h * s, s)
    for field, tensor in zip(("q", "k", "v", "o", "lse", "stats"), (*inputs, out, lse, stats), strict=True):
        setattr(p, field, tensor.data_ptr())

    def run() -> Any:
        stream = torch.cuda.current_stream().cuda_stream
        error = library.paddle_infra_attention_cuda_fwd(ctypes.byref(p), stream)
        if error is not None:
            raise RuntimeError(error.decode())
        return out

    return run
