"""What strategies that keep a training run in parts ask of its model and optimizer."""

from __future__ import annotations

from typing import Any

import paddle

from paddle_infra._core.errors import UnsupportedError
from paddle_infra.train.distributed.processes import Processes
from paddle_infra.train.optimizers.clipping import ClipByGlobalNorm, ClipByValue


def refuse_model_parallel(processes: Processes, who: str) -> None:
    """Raise UnsupportedError if layers are spread over processes."""
    if processes.model_parallel > 1:
        raise UnsupportedError(
            f"{who}: expected whole layers, got fleet.init with a model-parallel degree: use DataParallel"
        )


def refuse_sparse(model: paddle.nn.Layer) -> None:
    """Raise UnsupportedError if an embedding makes sparse gradients, which cannot be reduced."""
    sparse = [name for name, layer in model.named_sublayers() if getattr(layer, "_sparse", False)]
    if sparse:
        raise UnsupportedError(
            f"embeddings {sparse}: expected dense gradients in several processes, got sparse=True"
        )


def plain_parameters(optimizer: paddle.optimizer.Optimizer, who: str) -> list[paddle.Tensor]:
    """Return the parameters of ``optimizer``.

    Raises:
        UnsupportedError: it has groups of parameters, or has already made its state.
    """
    parameters = list(optimizer._parameter_list)
    if isinstance(parameters[0], dict):
        raise UnsupportedError(f"{who}: expected an optimizer over a list of parameters, got groups of them")
    if any(optimizer._accumulators.values()):
        raise UnsupportedError(f"{who}: expected an optimizer that has not stepped yet, got one with a state")
    return parameters


def clip_of_parts(clip: Any, processes: Processes, *, has_whole_tensors: bool = True) -> Any:
    """Return the clipping ``clip`` for an optimizer that sees the gradients of a part of the model.

    Args:
        clip: of an optimizer, or None.
        processes: those that hold the other parts.
        has_whole_tensors: whether a part consists of whole tensors.

    Raises:
        UnsupportedError: the kind of clipping is unknown, or needs whole tensors.
    """
    if type(clip) is paddle.nn.ClipGradByGlobalNorm:
        clip = ClipByGlobalNorm(clip.clip_norm)
    if isinstance(clip, ClipByGlobalNorm | ClipByValue):
        clip.sum_squares = lambda total: processes.sum([total])[0]
        return clip
    by_element = paddle.nn.ClipGradByValue
    known = (by_element, paddle.nn.ClipGradByNorm) if has_whole_tensors else (by_element,)
    if clip is None or type(clip) in known:
        return clip
    raise UnsupportedError(
        "grad_clip: expected ClipByGlobalNorm, ClipByValue or one of Paddle's, which can be computed from parts, got "
        f"{type(clip).__name__}"
    )
