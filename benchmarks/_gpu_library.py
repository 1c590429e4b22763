"""This package's CUDA kernels on PyTorch's tensors: memory is taken once, a run only queues kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from benchmarks._gpu_cases import Attention, Case, Decode, Head, Topk
from benchmarks._gpu_machine import Machine
from tests.cuda import attention_emulated, linear_cross_entropy_emulated, linear_topk_emulated
from tests.cuda.attention_emulated import DTYPES, I64, Strides

OURS = "paddle_infra"
Run = Callable[[], dict[str, Any]]


def ours(machine: Machine, case: Case, inputs: dict[str, Any]) -> Run:
    """Return a call that queues the kernels on the current stream, and returns the results by name."""
    if isinstance(case, Attention):
        return _attention(machine, case, inputs)
    if isinstance(case, Decode):
        return _decode(machine, case, inputs)
    return _head(machine, case, inputs) if isinstance(case, Head) else _topk(machine, case, inputs)


def _run(
    machine: Machine, p: ctypes.Structure, entries: list[str], tensors: dict[str, Any], **results: str
) -> Run:
    """Call the entry points one after the other; ``results`` names fields. Keeps the tensors that ``p`` points to."""
    for entry in entries:
        function = getattr(machine.library, entry)
        function.argtypes, function.restype = [ctypes.POINTER(type(p)), ctypes.c_void_p], ctypes.c_char_p

    def run() -> dict[str, Any]:
        for entry in entries:
            machine.call(entry, p)
        return {name: tensors[field] for name, field in results.items()}

    return run


def _point(p: ctypes.Structure, tensors: dict[str, Any]) -> None:
    known = {name for name, *_ in p._fields_}
    for field, tensor in tensors.items():
        if field not in known:
            raise AttributeError(f"{type(p).__name__} has no field {field}")
        setattr(p, field, tensor.data_ptr())


def _workspace(machine: Machine, function: str, p: ctypes.Structure) -> Any:
    size_of = getattr(machine.library, function)
    size_of.argtypes, size_of.restype = [ctypes.POINTER(type(p))], I64
    workspace = machine.torch.empty(
        size_of(ctypes.byref(p)), dtype=machine.torch.uint8, device=machine.device
    )
    p.workspace = workspace.data_ptr()
    return workspace


def _attention_params(case: Attention | Decode, queries: int, kv_heads: int) -> attention_emulated.Params:
    d, h, s = case.head_dim, case.heads, case.length
    p = attention_emulated.Params(dtype=DTYPES["bfloat16"], batch=case.batch, seq_q=queries, seq_k=s, heads=h,
                                  kv_heads=kv_heads, head_dim=d, window_left=-1, window_right=-1,
                                  scale=d**-0.5)  # fmt: skip
    p.q_stride = Strides(queries * h * d, h * d, d)
    p.k_stride = p.v_stride = Strides(s * kv_heads * d, kv_heads * d, d)
    p.lse_stride = (I64 * 2)(h * queries, queries)
    return p


def _attention(machine: Machine, case: Attention, inputs: dict[str, Any]) -> Run:
    torch, entry = machine.torch, "paddle_infra_attention_cuda"
    p = _attention_params(case, case.length, case.heads)
    p.window_right = 0 if case.is_causal else -1
    rows = (case.batch, case.heads, case.length)
    tensors = {"q": inputs["query"], "k": inputs["key"], "v": inputs["value"]}
    tensors["o"] = torch.empty_like(tensors["q"])
    tensors["lse"] = torch.empty(rows, device=machine.device)
    tensors["stats"] = torch.empty((*rows, 2), device=machine.device)
    if case.is_backward:
        tensors["grad_o"] = inputs["grad"]
        tensors |= {f"grad_{name}": torch.empty_like(tensors[name]) for name in "qkv"}
    _point(p, tensors)
    forward = _run(machine, p, [f"{entry}_fwd"], tensors, out="o")
    if not case.is_backward:
        return forward
    tensors["workspace"] = _workspace(machine, f"{entry}_bwd_workspace", p)
    forward()
    return _run(machine, p, [f"{entry}_bwd"], tensors, query="grad_q", key="grad_k", value="grad_v")


def _decode(machine: Machine, case: Decode, inputs: dict[str, Any]) -> Run:
    torch, entry = machine.torch, "paddle_infra_attention_decode_cuda"
    p = _attention_params(case, 1, case.kv_heads)
    p.align_to_lengths, p.window_right = True, 0
    tensors = {
        "q": inputs["query"],
        "k": inputs["key"],
        "v": inputs["value"],
        "kv_lengths": inputs["lengths"],
    }
    tensors["o"] = torch.empty_like(tensors["q"])
    tensors["lse"] = torch.empty((case.batch, case.heads, 1), device=machine.device)
    _point(p, tensors)
    tensors["workspace"] = _workspace(machine, f"{entry}_workspace", p)
    return _run(machine, p, [entry], tensors, out="o")


def _head(machine: Machine, case: Head, inputs: dict[str, Any]) -> Run:
    torch, entry = machine.torch, "paddle_infra_linear_cross_entropy_cuda"
    reduction = linear_cross_entropy_emulated.REDUCTIONS.index("mean")
    p = linear_cross_entropy_emulated.Params(
        rows=case.rows, hidden_size=case.features, classes=case.classes, weight_class_stride=case.features,
        weight_feature_stride=1, ignore_index=-100, reduction=reduction, threads=1, dtype=DTYPES["bfloat16"],
    )  # fmt: skip
    tensors = {name: inputs[name].detach() for name in ("hidden", "weight", "label")}
    tensors["loss"] = torch.empty(1, device=machine.device)
    tensors["stats"] = torch.empty((case.rows, 5), device=machine.device)
    entries, results = [f"{entry}_fwd"], {"loss": "loss"}
    if case.has_backward:
        entries.append(f"{entry}_bwd")
        tensors["grad_loss"] = torch.ones(1, device=machine.device)
        for name in ("hidden", "weight"):
            tensors[f"grad_{name}"] = torch.empty_like(tensors[name])
            results[name] = f"grad_{name}"
    _point(p, tensors)
    tensors["workspace"] = _workspace(machine, f"{entry}_workspace", p)
    return _run(machine, p, entries, tensors, **results)


def _topk(machine: Machine, case: Topk, inputs: dict[str, Any]) -> Run:
    torch, entry = machine.torch, "paddle_infra_linear_topk_cuda"
    p = linear_topk_emulated.Params(rows=case.rows, hidden_size=case.features, classes=case.classes, k=case.k,
                                    threads=1, dtype=DTYPES["bfloat16"])  # fmt: skip
    tensors = {name: inputs[name].detach() for name in ("hidden", "weight")}
    tensors["prob"] = torch.empty((case.rows, case.k), device=machine.device)
    tensors["index"] = torch.empty((case.rows, case.k), dtype=torch.int64, device=machine.device)
    _point(p, tensors)
    tensors["workspace"] = _workspace(machine, f"{entry}_workspace", p)
    return _run(machine, p, [entry], tensors, prob="prob", index="index")
