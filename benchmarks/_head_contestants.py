"""A classification head with its loss by this package, Paddle and PyTorch: a training step, or evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks._harness import Contestant, is_installed

OURS = ("fused", "fused-medium")
PADDLE = ("paddle", "paddle-no-stride")
TORCH = ("torch",)  # eager: torch.compile takes 7 to 10 s per shape, and was no faster in one noisy trial
TORCH_BF16 = ("torch-bf16", "torch-autocast")  # all tensors in bfloat16; float32 tensors, cast in every call
NAMES = (*OURS, *PADDLE, *TORCH, *TORCH_BF16)
PASSES = ("step", "forward")  # forward and backward; forward alone, without gradients
MULTIPLIES_IN_BFLOAT16 = ("fused-medium", *TORCH_BF16)
# Largest difference of the loss, of about 10: PyTorch's is a bfloat16 number itself, and those are 1/16 apart there.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15}


class Case(NamedTuple):
    """Sizes of a head."""

    rows: int
    features: int
    classes: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.features} x {self.classes}"

    @property
    def tensor_bytes(self) -> int:
        """Bytes of hidden, weight and bias together; their gradients are as large."""
        return 4 * (self.features * (self.rows + self.classes) + self.classes)

    @property
    def logit_bytes(self) -> int:
        """Bytes of all logits in float32."""
        return 4 * self.rows * self.classes

    @property
    def multiply_adds(self) -> int:
        """Of all three products."""
        return 3 * self.rows * self.features * self.classes


def available(names: tuple[str, ...] = NAMES) -> tuple[str, ...]:
    """Leave out contestants that are not installed."""
    return names if is_installed("torch") else tuple(n for n in names if not n.startswith("torch"))


def make_inputs(case: Case) -> dict[str, np.ndarray]:
    """Random inputs; the weight is [D, V], as Paddle's linear layers have it."""
    rng = np.random.default_rng(0)
    return {
        "hidden": rng.standard_normal((case.rows, case.features), "float32"),
        "weight": rng.standard_normal((case.features, case.classes), "float32")
        / np.float32(case.features**0.5),
        "bias": rng.standard_normal(case.classes, "float32"),
        "label": rng.integers(0, case.classes, case.rows),
    }


def contestant(name: str, case: Case, threads: int, which: str = "step") -> Contestant:
    """Return the contestant of that name, whose run returns the loss, and for a step the gradients."""
    is_step = which == "step"
    return _torch(name, case, threads, is_step) if name.startswith("torch") else _paddle(name, case, is_step)


def _paddle(name: str, case: Case, is_step: bool) -> Contestant:
    import paddle
    import paddle.nn.functional as F

    import paddle_infra as pi

    tensors = {key: paddle.to_tensor(value) for key, value in make_inputs(case).items()}
    hidden, weight, bias, label = tensors.values()
    wanted = [hidden, weight, bias]
    for tensor in wanted:
        tensor.stop_gradient = False

    def ours() -> paddle.Tensor:
        return pi.ops.linear_cross_entropy(hidden, weight, label, bias=bias, weight_layout="dv", impl="fused")

    def plain() -> paddle.Tensor:
        return F.cross_entropy(F.linear(hidden, weight, bias), label)

    loss_of = ours if name in OURS else plain

    def prepare() -> None:
        paddle.set_flags({"FLAGS_use_stride_kernel": name == "paddle"})
        pi.ops.set_matmul_precision("medium" if name == "fused-medium" else "highest")

    def step() -> list[Any]:
        loss = loss_of()
        return [loss, *paddle.grad(loss, wanted)]

    def forward() -> list[Any]:
        with paddle.no_grad():
            return [loss_of()]

    return Contestant(step if is_step else forward, prepare, lambda found: float(found[0]))


def _torch(name: str, case: Case, threads: int, is_step: bool) -> Contestant:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    data = make_inputs(case)
    dtype = torch.bfloat16 if name == "torch-bf16" else torch.float32
    arrays = data["hidden"], np.ascontiguousarray(data["weight"].T), data["bias"]
    wanted = [torch.from_numpy(array).to(dtype).requires_grad_() for array in arrays]
    label = torch.from_numpy(data["label"])

    def loss_of() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "torch-autocast"):
            return F.cross_entropy(F.linear(*wanted), label)

    def step() -> list[Any]:
        loss = loss_of()
        return [loss, *torch.autograd.grad(loss, wanted)]

    def forward() -> list[Any]:
        with torch.no_grad():
            return [loss_of()]

    return Contestant(step if is_step else forward, results=lambda found: float(found[0].detach()))


def disagreements(losses: dict[str, float]) -> list[str]:
    """Compare losses with that of the first contestant; say whose differ too much."""
    first = next(iter(losses))
    problems = []
    for name, loss in losses.items():
        tolerance = TOLERANCE["bfloat16" if name in MULTIPLIES_IN_BFLOAT16 else "float32"]
        if not abs(loss - losses[first]) <= tolerance:
            problems.append(f"the loss of {name} is {loss:.5f}, that of {first} {losses[first]:.5f}")
    return problems
