"""The largest batch that fits in memory, with as many micro-batches as keep the effective batch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import paddle

from paddle_infra._core.errors import InvalidInputError, TrainingError, UnsupportedError
from paddle_infra.train.batches import EpochBatches
from paddle_infra.train.tuning.trial import trial

if TYPE_CHECKING:
    from paddle_infra.train.trainer import Trainer

# What libraries on a GPU say, wrapped by Paddle in other errors than its own of exhausted memory.
_OUT_OF_MEMORY = (
    "ResourceExhausted",
    "Out of memory error on",
    "CUDA error(2)",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True)
class BatchPlan:
    """A batch that fits, and the loader of it.

    Attributes:
        batch_size: samples per micro-batch.
        accumulate: micro-batches per optimizer step.
        loader: ``make_loader(batch_size)``.
    """

    batch_size: int
    accumulate: int
    loader: Any


def find_batch_size(
    trainer: Trainer,
    make_loader: Callable[[int], Any],
    batch_size: int,
    *,
    smallest: int = 1,
    batches: int = 2,
) -> BatchPlan:
    """Halve the batch until a training step fits in memory, doubling the micro-batches per step.

    A trial trains on the first ``batches`` batches of the loader, in one optimizer step (with what the optimizer
    allocates at its first). Everything is put back bit for bit afterwards, also on error. ``batch_size`` times
    ``accumulate`` stays, so that each optimizer step follows the same gradient, up to rounding, if the loader with half
    the batch gives the same samples in the same order. ``trainer.accumulate`` is set to what was found.

    Whether later batches fit, if they are larger than the first ones (longer texts), no trial can tell: let
    ``make_loader`` begin with the largest.

    Args:
        trainer: what to train, between two calls of ``fit``.
        make_loader: ``make_loader(batch_size)`` returns an iterable of batches of that size.
        batch_size: the wanted size of a micro-batch at the trainer's ``accumulate``.
        smallest: give up below this size.
        batches: how many batches to try; at least 2, so that the gradients of one are there when the next is run.

    Returns:
        What fits.

    Raises:
        InvalidInputError: an argument is no positive integer, ``batches`` is less than 2, or the loader is empty.
        TrainingError: not even the smallest batch fits, or a size that does not fit cannot be halved.
        UnsupportedError: several processes, which could not agree on what to do after an error in one of them.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("smallest", smallest, 1),
        ("batches", batches, 2),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInputError(f"{name}: expected an integer of {least} or more, got {value!r}")
    if trainer.strategy.ranks > 1:
        raise UnsupportedError(
            f"find_batch_size: expected one process, got {trainer.strategy.ranks}: find it in one and pass it on"
        )
    size, accumulate = batch_size, trainer.accumulate
    while True:
        loader = make_loader(size)
        problem = _problem(trainer, loader, batches)
        if problem is None:
            trainer.accumulate = accumulate
            return BatchPlan(size, accumulate, loader)
        if size // 2 < smallest or size % 2:
            reason = f"{size} cannot be halved" if size % 2 else f"the smallest is to be {smallest}"
            raise TrainingError(
                f"find_batch_size: expected a batch that fits in memory, got none from {batch_size} down to {size}, "
                f"and {reason}. The last error: {problem}"
            )
        size, accumulate = size // 2, accumulate * 2
        del loader


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory is exhausted: Python's, Paddle's or that of a library on the GPU."""
    if isinstance(error, MemoryError):  # Paddle's ResourceExhausted too
        return True
    return isinstance(error, (RuntimeError, OSError, SystemError)) and any(
        text in str(error) for text in _OUT_OF_MEMORY
    )


def _problem(trainer: Trainer, loader: Any, batches: int) -> str | None:
    """Try one optimizer step; return the text of an out-of-memory error, or None if it fits."""
    problem = None
    with trial(trainer):
        try:
            window = list(islice(EpochBatches(loader, 0, 0, None, trainer.strategy), batches))
            if not window:
                raise InvalidInputError(
                    "find_batch_size: expected a loader with at least one batch, got none"
                )
            trainer._step.run(window, lambda index: f"trial of a batch size, batch {index + 1}")
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = " ".join(str(error).split()) or type(error).__name__
        if problem is not None:  # the traceback, now gone, held the tensors of the failed step
            trainer.optimizer.clear_grad(set_to_zero=False)
            gc.collect()
            if paddle.device.is_compiled_with_cuda():
                paddle.device.cuda.empty_cache()
    return problem
