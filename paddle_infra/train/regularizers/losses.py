r"""Mean losses over the valid labels, and regularisers made of them.

A *logits step* is ``logits_step(model, batch)`` and returns logits [..., classes]; a *loss* is
``loss(logits, batch)`` and returns the mean over the valid items, a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX

LogitsStep = Callable[[paddle.nn.Layer, Any], paddle.Tensor]
Loss = Callable[[paddle.Tensor, Any], paddle.Tensor]


class CrossEntropy:
    r"""Mean cross entropy over the labels that are not -100, with label smoothing.

    .. math:: L = -(1 - s) \log p_y - \frac{s}{C} \sum_c \log p_c

    Args:
        label_smoothing: *s*, from 0 to below 1.

    References:
        Szegedy et al., Rethinking the Inception architecture, arXiv:1512.00567, section 7.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise InvalidInputError(
                f"label_smoothing: expected a number from 0 to below 1, got {label_smoothing!r}"
            )
        self.label_smoothing = label_smoothing

    def __call__(self, logits: paddle.Tensor, batch: Any) -> paddle.Tensor:
        """Return the loss of logits [..., C] for ``batch["labels"]`` [...]."""
        logits, labels = valid_rows(logits, batch["labels"])
        log_probabilities = F.log_softmax(logits.astype("float32"), axis=-1)
        loss = -paddle.take_along_axis(log_probabilities, labels.unsqueeze(-1), axis=-1).mean()
        if not self.label_smoothing:
            return loss
        return (1 - self.label_smoothing) * loss - self.label_smoothing * log_probabilities.mean()


class RDrop:
    r"""Two passes with different dropout must agree: a training step.

    .. math:: L = \tfrac12 (L_1 + L_2) + \alpha \cdot \tfrac12 \bigl(\mathrm{KL}(p_1 \| p_2) +
        \mathrm{KL}(p_2 \| p_1)\bigr)

    Args:
        logits_step: returns logits [..., C]; the model must have dropout, else the second pass is wasted.
        loss: the loss of one pass.
        alpha: weight of the divergence, >= 0.

    References:
        Liang et al., R-Drop: regularized dropout for neural networks, arXiv:2106.14448 (the loss is the mean of
        both passes, as in the authors' code).
    """

    def __init__(self, logits_step: LogitsStep, loss: Loss | None = None, *, alpha: float = 1.0) -> None:
        if not alpha >= 0:
            raise InvalidInputError(f"alpha: expected 0 or more, got {alpha!r}")
        self.logits_step, self.loss, self.alpha = logits_step, loss or CrossEntropy(), alpha

    def __call__(self, model: paddle.nn.Layer, batch: Any) -> paddle.Tensor:
        """Return the loss."""
        first, second = self.logits_step(model, batch), self.logits_step(model, batch)
        divergence = symmetric_divergence(first, second, batch["labels"])
        return (self.loss(first, batch) + self.loss(second, batch)) / 2 + self.alpha * divergence


class Mixup:
    r"""Trains between pairs of samples of a batch: a training step.

    Inputs become :math:`\lambda x_i + (1 - \lambda) x_j`, the loss :math:`\lambda L(y_i) + (1 - \lambda) L(y_j)`, with
    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` per batch and *j* a random permutation, both drawn from
    NumPy's global generator (so that a resumed run draws the same).

    Args:
        logits_step: returns logits [..., C].
        loss: the loss.
        inputs: keys of the batch that are mixed (floating point); leave empty to mix inside the model.
        layer: structured name of the sublayer whose output [batch, ...] is mixed instead, for instance the
            embeddings of a text model. Attention masks stay those of the first sample of each pair.
        alpha: > 0; small values mix little.

    Raises:
        InvalidInputError: neither or both of ``inputs`` and ``layer`` are given, or ``alpha`` is out of range.

    References:
        Zhang et al., mixup: beyond empirical risk minimization, arXiv:1710.09412; inside the model: Verma et
        al., Manifold mixup, arXiv:1806.05236.
    """

    def __init__(
        self,
        logits_step: LogitsStep,
        loss: Loss | None = None,
        *,
        inputs: Sequence[str] = (),
        layer: str | None = None,
        alpha: float = 0.2,
    ) -> None:
        if not alpha > 0:
            raise InvalidInputError(f"alpha: expected a positive number, got {alpha!r}")
        if bool(inputs) == (layer is not None):
            raise InvalidInputError(f"Mixup: expected inputs or a layer, got {inputs!r} and {layer!r}")
        self.logits_step, self.loss = logits_step, loss or CrossEntropy()
        self.inputs, self.layer, self.alpha = tuple(inputs), layer, alpha

    def __call__(self, model: paddle.nn.Layer, batch: Any) -> paddle.Tensor:
        """Return the loss.

        Raises:
            InvalidInputError: the batch lacks an input, or it is not floating point.
        """
        labels = batch["labels"]
        share = float(np.random.beta(self.alpha, self.alpha))
        order = paddle.to_tensor(np.random.permutation(labels.shape[0]), place=labels.place)

        def mixed(tensor: paddle.Tensor) -> paddle.Tensor:
            return share * tensor + (1 - share) * paddle.index_select(tensor, order)

        other = {**batch, "labels": paddle.index_select(labels, order)}
        if self.layer is None:
            logits = self.logits_step(
                model, {**batch, **{key: mixed(self._input(batch, key)) for key in self.inputs}}
            )
        else:
            with output_hook(model, self.layer, mixed):
                logits = self.logits_step(model, batch)
        return share * self.loss(logits, batch) + (1 - share) * self.loss(logits, other)

    def _input(self, batch: Any, key: str) -> paddle.Tensor:
        if key not in batch or not batch[key].is_floating_point():
            got = f"{batch[key].dtype}" if key in batch else f"the keys {sorted(batch)}"
            raise InvalidInputError(f"Mixup: expected a floating-point input {key!r}, got {got}")
        return batch[key]


def valid_rows(logits: paddle.Tensor, labels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return logits [N, C] and labels [N] of the N labels that are not -100.

    Raises:
        InvalidInputError: the shapes do not fit.
    """
    if list(logits.shape[:-1]) != list(labels.shape):
        raise InvalidInputError(
            f"expected logits of shape {[*labels.shape, 'classes']}, got {list(logits.shape)}"
        )
    labels = labels.reshape([-1])
    kept = paddle.nonzero(labels != IGNORE_INDEX).reshape([-1])
    logits = logits.reshape([-1, logits.shape[-1]])
    return paddle.index_select(logits, kept), paddle.index_select(labels, kept)


def symmetric_divergence(first: paddle.Tensor, second: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    r"""Return :math:`\tfrac12 (\mathrm{KL}(p \| q) + \mathrm{KL}(q \| p))`, mean over the valid rows (float32)."""
    p = F.log_softmax(valid_rows(first, labels)[0].astype("float32"), axis=-1)
    q = F.log_softmax(valid_rows(second, labels)[0].astype("float32"), axis=-1)
    # KL(p||q) + KL(q||p) = sum (p - q)(log p - log q)
    return ((p.exp() - q.exp()) * (p - q)).sum(axis=-1).mean() / 2


@contextmanager
def output_hook(
    model: paddle.nn.Layer, name: str, change: Callable[[paddle.Tensor], paddle.Tensor]
) -> Iterator[None]:
    """Change the output of a sublayer within the body.

    Raises:
        InvalidInputError: there is no such sublayer.
    """
    layers = dict(model.named_sublayers())
    if name not in layers:
        raise InvalidInputError(f"layer: expected one of {sorted(layers)}, got {name!r}")
    handle = layers[name].register_forward_post_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        handle.remove()
