"""What the results of a case should be, and how far a contestant may be off.

Attention in float64, of one head of the first sequence: heads do not depend on each other. Heads of models in float32,
a part of the rows at a time: in float64 that would take minutes on GPUs that have little of it.
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks._gpu_cases import Attention, Case, Decode, Topk
from benchmarks._gpu_machine import Machine

#: Of the largest value of each result. Contestants round scores, weights or logits to bfloat16 (2^-8) on their way.
TOLERANCE = 0.03
ROWS = 1024  # of a head at a time


def gold(machine: Machine, case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return results by name, of the part that ``part`` takes."""
    if isinstance(case, Attention | Decode):
        return _attention(machine, case, inputs)
    return _topk(machine, case, inputs) if isinstance(case, Topk) else _head(machine, case, inputs)


def part(case: Case, name: str, result: Any) -> Any:
    """Return the part of a result that is compared."""
    if isinstance(case, Attention):
        return result[:1, :, :1]
    if isinstance(case, Decode):
        return result[:1, :, : case.heads // case.kv_heads]
    return result[:ROWS] if isinstance(case, Topk) else result


def error_of(machine: Machine, case: Case, results: dict[str, Any], true: dict[str, Any]) -> float:
    """Return the largest error of all results, each as a share of its largest value; not a number if one is not."""
    found = {name: part(case, name, result).detach() for name, result in results.items()}
    if isinstance(case, Topk):  # near ties may change places: classes are judged by their probabilities
        found["index"] = true["all"].gather(1, found["index"])
        true = {"prob": true["prob"], "index": true["prob"]}
    if found.keys() != true.keys():
        raise ValueError(f"expected the results {sorted(true)}, got {sorted(found)}")
    errors = []
    for name, truth in true.items():
        difference = (found[name].reshape(truth.shape).to(truth.dtype) - truth).abs().max()
        errors.append(float(difference / truth.abs().max()))
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _attention(machine: Machine, case: Attention | Decode, inputs: dict[str, Any]) -> dict[str, Any]:
    torch, group = machine.torch, 1
    if isinstance(case, Decode):
        group = case.heads // case.kv_heads
    one = {
        "query": inputs["query"][:1, :, :group],
        "key": inputs["key"][:1, :, :1],
        "value": inputs["value"][:1, :, :1],
    }
    q, k, v = (tensor.detach().double().transpose(1, 2) for tensor in one.values())
    is_backward = isinstance(case, Attention) and case.is_backward
    leaves = [tensor.requires_grad_(is_backward) for tensor in (q, k, v)]
    scores = q @ k.transpose(2, 3) * case.head_dim**-0.5
    if isinstance(case, Attention) and case.is_causal:
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool, device=machine.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    out = torch.softmax(scores, dim=3) @ v
    if not is_backward:
        return {"out": out.transpose(1, 2)}
    grads = torch.autograd.grad(out, leaves, inputs["grad"][:1, :, :1].double().transpose(1, 2))
    return {name: grad.transpose(1, 2) for name, grad in zip(one, grads, strict=True)}


def _head(machine: Machine, case: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    torch = machine.torch
    weight = inputs["weight"].detach().float()
    loss, of_hidden, of_weight = 0.0, [], torch.zeros_like(weight)
    for first in range(0, case.rows, ROWS):
        hidden = inputs["hidden"].detach()[first : first + ROWS].float()
        label = inputs["label"][first : first + ROWS]
        log_prob = torch.log_softmax(hidden @ weight.T, dim=1)
        loss = loss - log_prob.gather(1, label[:, None]).double().sum() / case.rows
        if case.has_backward:
            gradient = log_prob.exp_()
            gradient[torch.arange(len(label), device=machine.device), label] -= 1.0
            gradient /= case.rows
            of_hidden.append(gradient @ weight)
            of_weight += gradient.T @ hidden
    found = {"loss": loss}
    return found | {"hidden": torch.cat(of_hidden), "weight": of_weight} if case.has_backward else found


def _topk(machine: Machine, case: Topk, inputs: dict[str, Any]) -> dict[str, Any]:
    torch = machine.torch
    logits = inputs["hidden"][:ROWS].float() @ inputs["weight"].float().T
    prob = torch.softmax(logits, dim=1)
    return {"prob": prob.topk(case.k, dim=1).values, "all": prob}
