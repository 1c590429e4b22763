"""Attention by this package, by Paddle and by PyTorch, each as a contestant with the same inputs and results.

Each framework gets what a user of it would write: tensors [batch, sequence, head, head_dim] as a model makes them
(PyTorch's operator takes them transposed, as views), a mask where it has no notion of lengths.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from benchmarks._attention_cases import Case
from benchmarks._harness import Contestant

OURS = ("fused", "fused-medium")
PEERS = ("paddle", "paddle-no-stride", "torch", "torch-bf16")
MULTIPLIES_IN_BFLOAT16 = ("fused-medium", "fused-bf16", "torch-bf16")
# Largest difference allowed between contestants, relative to the largest value (to 0.1 if that is less: with one key
# the gradients of queries and keys are nothing but rounding).
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}
LEAST_SCALE = 0.1


def module_of(name: str) -> str:
    """Return the module that a contestant needs."""
    return "torch" if name.startswith("torch") else "paddle"


def compared_with(name: str) -> str | None:
    """Return the contestant of ours that this one's ratios are relative to; None for that one itself."""
    if name == "fused":
        return None
    return "fused-medium" if name in MULTIPLIES_IN_BFLOAT16 and name not in OURS else "fused"


def set_up_paddle(threads: int) -> None:
    """Make Paddle run at its best on this CPU; the stride kernels are left to each contestant."""
    import paddle_infra as pi

    pi.tune_cpu(threads)


def settings_of(name: str) -> str:
    """Return the settings a contestant ran with that are not its framework's defaults, after :func:`set_up_paddle`."""
    if not name.startswith("paddle"):
        return ""
    flags = ["FLAGS_use_stride_kernel=0"] if name == "paddle-no-stride" else []
    # Paddle's matrix library takes a slow path on processors of other makers than its own.
    if "MKL_DEBUG_CPU_TYPE" in os.environ:
        flags.append(f"MKL_DEBUG_CPU_TYPE={os.environ['MKL_DEBUG_CPU_TYPE']}")
    return " ".join(flags)


def contestant(
    name: str, case: Case, data: dict[str, np.ndarray], backward: bool, threads: int
) -> Contestant:
    """Return the contestant of that name: one forward pass, or one forward and backward pass."""
    if name.startswith("torch"):
        return _torch_contestant(name, case, data, backward, threads)
    return _paddle_contestant(name, case, data, backward)


def _without_padding(case: Case, data: dict[str, np.ndarray], arrays: list[np.ndarray]) -> list[np.ndarray]:
    if not case.has_lengths:
        return arrays
    valid = np.arange(case.seq_q) < data["lengths"][:, None]
    return [array[valid] for array in arrays]


def _paddle_contestant(name: str, case: Case, data: dict[str, np.ndarray], backward: bool) -> Contestant:
    import paddle

    import paddle_infra as pi

    tensors = {key: paddle.to_tensor(value) for key, value in data.items()}
    query, key, value, grad = (tensors[key] for key in ("query", "key", "value", "grad"))
    bias, mask = tensors.get("bias"), tensors.get("mask")
    wanted = [query] if name == "paddle-relu" else [query, key, value]
    if case.option == "bias gradient":
        wanted.append(bias)
    for tensor in wanted:
        tensor.stop_gradient = not backward

    if name == "paddle-relu":
        call = lambda: paddle.nn.functional.relu(query)  # noqa: E731
    elif name in OURS:
        options = fused_options(case, tensors)
        call = lambda: pi.ops.attention(query, key, value, impl="fused", **options)  # noqa: E731
    else:
        # Right padding and a causal mask: no valid query sees a padded key, so Paddle needs no second mask.
        added = None if case.causal else bias if mask is None else mask
        call = lambda: paddle.nn.functional.scaled_dot_product_attention(  # noqa: E731
            query, key, value, attn_mask=added, is_causal=case.causal
        )

    def run() -> list[paddle.Tensor]:
        out = call()
        return [out, *paddle.grad(out, wanted, grad_outputs=grad)] if backward else [out]

    def results(found: list[paddle.Tensor]) -> list[np.ndarray]:
        return _without_padding(case, data, [tensor.numpy() for tensor in found])

    return Contestant(run, lambda: set_mode(name), results)


def fused_options(case: Case, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments with which our operator computes a case."""
    options: dict[str, Any] = {"causal": case.causal}
    if "lengths" in tensors:
        options["kv_lengths"] = tensors["lengths"]
        if case.has_lengths:
            options["q_lengths"] = tensors["lengths"]
    elif "bias" in tensors or "mask" in tensors:
        options["bias"] = tensors["bias"] if "bias" in tensors else tensors["mask"]
    return options


def set_mode(name: str) -> None:
    """Set the flags and the precision that a Paddle contestant runs with."""
    import paddle

    paddle.set_flags({"FLAGS_use_stride_kernel": name != "paddle-no-stride"})
    if name.startswith("fused"):
        import paddle_infra as pi

        pi.ops.set_matmul_precision("medium" if name == "fused-medium" else "highest")


def _torch_contestant(
    name: str, case: Case, data: dict[str, np.ndarray], backward: bool, threads: int
) -> Contestant:
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if name == "torch-bf16" else torch.float32

    def tensor(key: str) -> torch.Tensor:
        converted = torch.from_numpy(data[key]).to(dtype)
        return converted if key == "bias" else converted.transpose(1, 2)

    wanted = [tensor("query"), tensor("key"), tensor("value")]
    added = tensor("bias") if "bias" in data else None
    if "mask" in data and not case.causal:
        added = torch.from_numpy(data["mask"])
    if case.option == "bias gradient":
        wanted.append(added)
    for leaf in wanted:
        leaf.requires_grad_(backward)
    query, key, value = wanted[:3]
    grad = tensor("grad")
    grouped = case.heads != case.kv_heads

    def run() -> list[torch.Tensor]:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=added, is_causal=case.causal, enable_gqa=grouped
        )
        return [out, *torch.autograd.grad(out, wanted, grad)] if backward else [out]

    def results(found: list[torch.Tensor]) -> list[np.ndarray]:
        back = [*(tensor.transpose(1, 2) for tensor in found[:4]), *found[4:]]  # the fifth is the bias's
        return _without_padding(case, data, [tensor.detach().float().numpy() for tensor in back])

    return Contestant(run, results=results)


def disagreements(found: dict[str, list[np.ndarray]]) -> list[str]:
    """Compare what contestants computed with what the first of them in float32 did; say what differs too much."""
    exact = [name for name in found if name not in MULTIPLIES_IN_BFLOAT16]
    first = next((name for name in ("torch", "paddle-no-stride") if name in found), (exact or list(found))[0])
    problems = []
    for name, arrays in found.items():
        tolerance = TOLERANCE["bfloat16" if name in MULTIPLIES_IN_BFLOAT16 else "float32"]
        for index, (array, expected) in enumerate(zip(arrays, found[first], strict=True)):
            error = float(np.abs(array - expected).max() / max(np.abs(expected).max(), LEAST_SCALE))
            if not error <= tolerance:  # also if it is NaN
                problems.append(
                    f"result {index} of {name} is {error:.1e} from {first}'s, at most {tolerance:.0e}"
                )
    return problems
