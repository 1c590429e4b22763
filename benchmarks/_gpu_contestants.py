"""Who is timed on a GPU beside this package: PyTorch's own ways, and peers where they are installed.

Each makes a run, which queues its work on the current stream and returns the results by name. A contestant that cannot
compute a case raises a RuntimeError or an ImportError, and is left out of it.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from benchmarks._gpu_cases import Attention, Case, Decode, Head, Topk
from benchmarks._gpu_library import OURS, Run, ours
from benchmarks._gpu_machine import Machine

BACKENDS = {
    "torch-flash": "FLASH_ATTENTION",
    "torch-cudnn": "CUDNN_ATTENTION",
    "torch-efficient": "EFFICIENT_ATTENTION",
    "torch-math": "MATH",
}
PEERS = {"flash-attn": "flash_attn", "liger": "liger_kernel", "cut-cross-entropy": "cut_cross_entropy"}


def available(case: Case) -> list[str]:
    """Return the names of contestants for a kind of case."""
    if isinstance(case, Attention | Decode):
        names = [*BACKENDS, "flash-attn"]
    elif isinstance(case, Head):
        names = ["torch", "torch-compile", "liger", "cut-cross-entropy"]
    else:
        names = ["torch", "torch-compile"]
    return [OURS, *(name for name in names if name not in PEERS or is_there(PEERS[name]))]


@functools.cache
def is_there(module: str) -> bool:
    """Whether a peer is installed; says so once if not."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"left out: {module} is not installed", file=sys.stderr)
    return found


def make_inputs(machine: Machine, case: Case) -> dict[str, Any]:
    """Random inputs in bfloat16; those that contestants differentiate by require gradients."""
    torch = machine.torch
    torch.manual_seed(0)
    common: dict[str, Any] = {"dtype": torch.bfloat16, "device": machine.device}

    def normal(*shape: int) -> Any:
        return torch.randn(shape, **common)

    if isinstance(case, Attention):
        shape = (case.batch, case.length, case.heads, case.head_dim)
        found = {name: normal(*shape) for name in ("query", "key", "value")}
        if case.is_backward:
            found = {name: tensor.requires_grad_() for name, tensor in found.items()}
            found["grad"] = normal(*shape)
        return found
    if isinstance(case, Decode):
        cache = (case.batch, case.length, case.kv_heads, case.head_dim)
        lengths = torch.full((case.batch,), case.length, dtype=torch.int32, device=machine.device)
        query = normal(case.batch, 1, case.heads, case.head_dim)
        return {"query": query, "key": normal(*cache), "value": normal(*cache), "lengths": lengths}
    hidden = normal(case.rows, case.features)
    weight = normal(case.classes, case.features) * case.features**-0.5  # logits of about 1
    if isinstance(case, Topk):
        return {"hidden": hidden, "weight": weight}
    label = torch.randint(case.classes, (case.rows,), device=machine.device)
    if case.has_backward:
        hidden, weight = hidden.requires_grad_(), weight.detach().requires_grad_()
    return {"hidden": hidden, "weight": weight, "label": label}


def contestant(machine: Machine, name: str, case: Case, inputs: dict[str, Any]) -> Run:
    """Return what computes the case."""
    if name == OURS:
        return ours(machine, case, inputs)
    if isinstance(case, Attention):
        call = _flash_attn(case, inputs) if name == "flash-attn" else _sdpa(machine, name, case, inputs)
        return _backward(machine, call, inputs) if case.is_backward else lambda: {"out": call()}
    if isinstance(case, Decode):
        call = _flash_decode(inputs) if name == "flash-attn" else _sdpa(machine, name, case, inputs)
        return lambda: {"out": call()}
    if isinstance(case, Topk):
        return _topk(machine, name, case, inputs)
    return _head(machine, _loss(machine, name), case, inputs)


def _sdpa(machine: Machine, name: str, case: Attention | Decode, inputs: dict[str, Any]) -> Callable[[], Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = machine.torch.nn.functional.scaled_dot_product_attention
    query, key, value = (inputs[each].transpose(1, 2) for each in ("query", "key", "value"))
    options: dict[str, Any] = {"is_causal": isinstance(case, Attention) and case.is_causal}
    if isinstance(case, Decode) and case.heads != case.kv_heads:
        options["enable_gqa"] = True
    backend = getattr(SDPBackend, BACKENDS[name])

    def call() -> Any:
        with sdpa_kernel(backend):
            return attend(query, key, value, **options).transpose(1, 2)

    return call


def _flash_attn(case: Attention, inputs: dict[str, Any]) -> Callable[[], Any]:
    from flash_attn import flash_attn_func

    tensors = [inputs[name] for name in ("query", "key", "value")]
    return lambda: flash_attn_func(*tensors, causal=case.is_causal)


def _flash_decode(inputs: dict[str, Any]) -> Callable[[], Any]:
    from flash_attn import flash_attn_with_kvcache

    query, key, value, lengths = (inputs[name] for name in ("query", "key", "value", "lengths"))
    return lambda: flash_attn_with_kvcache(query, key, value, cache_seqlens=lengths, causal=True)


def _backward(machine: Machine, forward: Callable[[], Any], inputs: dict[str, Any]) -> Run:
    """Only the backward pass: the forward pass has been before."""
    names = ("query", "key", "value")
    out, leaves, grad = forward(), [inputs[name] for name in names], inputs["grad"]

    def run() -> dict[str, Any]:
        grads = machine.torch.autograd.grad(out, leaves, grad, retain_graph=True)
        return dict(zip(names, grads, strict=True))

    return run


def _loss(machine: Machine, name: str) -> Callable[[Any, Any, Any], Any]:
    if name == "liger":
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

        def liger(hidden: Any, weight: Any, label: Any) -> Any:
            found = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, label)
            return found[0] if isinstance(found, tuple) else found  # newer versions return more than the loss

        return liger
    if name == "cut-cross-entropy":
        from cut_cross_entropy import linear_cross_entropy

        return linear_cross_entropy
    functional = machine.torch.nn.functional

    def plain(hidden: Any, weight: Any, label: Any) -> Any:
        return functional.cross_entropy(functional.linear(hidden, weight).float(), label)

    return _compiled(machine, plain) if name == "torch-compile" else plain


def _compiled(machine: Machine, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for the sizes of one case: what was compiled for others is forgotten, or it would count as too many."""
    machine.torch.compiler.reset()
    return machine.torch.compile(function, dynamic=False, backend="inductor" if machine.is_gpu else "eager")


def _head(
    machine: Machine, loss_of: Callable[[Any, Any, Any], Any], case: Head, inputs: dict[str, Any]
) -> Run:
    hidden, weight, label = (inputs[name] for name in ("hidden", "weight", "label"))

    def run() -> dict[str, Any]:
        loss = loss_of(hidden, weight, label)
        if not case.has_backward:
            return {"loss": loss}
        of_hidden, of_weight = machine.torch.autograd.grad(loss, [hidden, weight])
        return {"loss": loss.detach(), "hidden": of_hidden, "weight": of_weight}

    return run


def _topk(machine: Machine, name: str, case: Topk, inputs: dict[str, Any]) -> Run:
    def plain(hidden: Any, weight: Any) -> Any:
        logits = machine.torch.nn.functional.linear(hidden, weight).float()
        return machine.torch.topk(machine.torch.softmax(logits, dim=1), case.k, dim=1)

    call = _compiled(machine, plain) if name == "torch-compile" else plain

    def run() -> dict[str, Any]:
        prob, index = call(inputs["hidden"], inputs["weight"])
        return {"prob": prob, "index": index}

    return run
