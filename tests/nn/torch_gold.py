"""Hold a loss and its gradients to the same formula in PyTorch, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

torch: Any = pytest.importorskip("torch")


def rows(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def agrees(
    ours: Callable[..., paddle.Tensor],
    gold: Callable[..., Any],
    inputs: dict[str, np.ndarray],
    parameters: dict[str, paddle.Tensor] | None = None,
    *,
    rtol: float = 1e-5,
) -> float:
    """Compare loss, gradients of ``inputs`` and of ``parameters``; ``gold`` takes all by name. Return the loss.

    Errors are relative to the largest entry of each gradient: entries that cancel are no more exact than the others.
    """
    parameters = parameters or {}
    mine = {name: paddle.to_tensor(value, stop_gradient=False) for name, value in inputs.items()}
    loss = ours(**mine)
    assert loss.shape == []
    loss.backward()
    theirs = {
        name: torch.tensor(np.asarray(value, np.float64), requires_grad=True)
        for name, value in (inputs | {name: p.numpy() for name, p in parameters.items()}).items()
    }
    true_loss = gold(**theirs)
    true_loss.backward()
    np.testing.assert_allclose(float(loss), float(true_loss.detach()), rtol=rtol, atol=rtol)
    for name, tensor in (mine | parameters).items():
        true = theirs[name].grad
        true = np.zeros(tensor.shape) if true is None else true.numpy()
        found = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        assert np.isfinite(found).all(), name
        np.testing.assert_allclose(
            found, true, rtol=0, atol=rtol * max(1e-2, np.abs(true).max()), err_msg=name
        )
        tensor.clear_gradient()
    return float(loss)
