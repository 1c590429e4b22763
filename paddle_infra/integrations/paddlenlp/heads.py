"""The loss of PaddleNLP's classifiers without their logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal

import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.integrations.paddlenlp.fused import Fused

#: The last layer of each classifier, by the name of its class in PaddleNLP.
HEADS: Mapping[str, str] = MappingProxyType(
    {
        "BertForMaskedLM": "cls.predictions.decoder",
        "BertForSequenceClassification": "classifier",
        "BertForTokenClassification": "classifier",
        "DistilBertForSequenceClassification": "classifier",
        "DistilBertForTokenClassification": "classifier",
        "ElectraForSequenceClassification": "classifier.out_proj",
        "ElectraForTokenClassification": "classifier",
        "ErnieForMaskedLM": "cls.predictions.decoder",
        "ErnieForSequenceClassification": "classifier",
        "ErnieForTokenClassification": "classifier",
        "RobertaForMaskedLM": "lm_head.decoder",
        "RobertaForSequenceClassification": "classifier.out_proj",
        "RobertaForTokenClassification": "classifier",
        "TinyBertForSequenceClassification": "classifier",
    }
)


class _Caught:
    """What the head was given, instead of its logits."""

    def __init__(self) -> None:
        self.head: FusedHead | None = None
        self.hidden: Tensor | None = None


_caught: ContextVar[_Caught | None] = ContextVar("paddle_infra_paddlenlp_head", default=None)


@contextmanager
def _catching() -> Iterator[_Caught]:
    caught = _Caught()
    token = _caught.set(caught)
    try:
        yield caught
    finally:
        _caught.reset(token)


class FusedHead(Fused):
    """The last linear layer of a classifier; within :func:`loss` it hands over its input instead of logits."""

    operators = "ops.linear_cross_entropy or ops.linear_binary_cross_entropy, by loss()"
    unless = "forward() is called, with labels or without: it returns the logits, so nothing would be saved"
    own_attributes = ("sequence_config",)
    sequence_config: Any = None  # of a classifier of whole sequences: what kind of problem it solves

    @property
    def weight_layout(self) -> Literal["vd", "dv"]:
        """``[D, V]`` in ``paddle.nn.Linear``; ``[V, D]``, as in word embeddings, in PaddleNLP's own ``Linear``."""
        return "dv" if type(self).original is nn.Linear else "vd"

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits."""
        caught = _caught.get()
        if caught is None:
            return type(self).original.forward(self, input)
        if caught.head is not None:
            raise UnsupportedError("loss: expected a model that calls its head once, got a second call")
        if self._forward_post_hooks:
            raise UnsupportedError("loss: expected a head without forward hooks, which would see no logits")
        caught.head, caught.hidden = self, input
        return input


def loss(
    model: nn.Layer, *inputs: Any, labels: Tensor, mean_over: Literal["all", "valid"] = "all", **named: Any
) -> Tensor:
    r"""Return the loss that ``model(*inputs, **named, labels=labels)`` computes, without the logits being stored.

    The cross entropy of the classes, or, for ``problem_type="multi_label_classification"`` and for float labels of
    whole sequences, the mean binary cross entropy. With ``N`` rows and ``V`` classes the logits that are never stored
    are ``[N, V]``: of a masked language model of BERT 122 kB per token.

    Labels of -100 have the loss 0. Paddle, and so PaddleNLP, divides the sum by the number of all labels
    (``mean_over="all"``): more padding makes the loss of tokens smaller. ``"valid"`` divides by the number of labels
    that are not -100: what :class:`paddle_infra.train.Trainer` needs for exact accumulation.

    Args:
        model: an accelerated classifier, or a Layer that calls one.
        labels: integers ``[B]`` or ``[B, S]``, or float ``[B, V]`` for several labels.
        mean_over: ``"all"`` or ``"valid"``.
        inputs: those of ``model``, by place.
        named: those of ``model``, by name.

    Returns:
        The loss, 0-D. Without any label that counts it is 0.

    Raises:
        InvalidInputError: ``mean_over`` is unknown, or the problem is a regression: its loss is PaddleNLP's own,
            ``model(..., labels=labels)``.
        UnsupportedError: no head that :func:`accelerate` replaced ran, or more than one, or it has forward hooks.

    References:
        As :func:`paddle_infra.ops.linear_cross_entropy`.
    """
    check_choice("mean_over", mean_over, ("all", "valid"))
    with _catching() as caught:
        model(*inputs, **named)
    head, hidden = caught.head, caught.hidden
    if head is None or hidden is None:
        raise UnsupportedError(
            f"loss: expected an accelerated model whose head is one of {', '.join(HEADS)}; none of them ran in "
            f"{type(model).__name__}"
        )
    classes = head.weight.shape[0 if head.weight_layout == "vd" else 1]
    common = {"bias": head.bias, "weight_layout": head.weight_layout}
    rows = hidden.reshape([-1, hidden.shape[-1]])
    problem = _problem(head.sequence_config, classes, labels)
    if problem == "regression":
        raise InvalidInputError(
            f"loss: expected a classification, got a regression ({classes} outputs): call model(..., labels=labels)"
        )
    if problem == "multi_label_classification":
        target = labels.reshape([-1, classes])
        return ops.linear_binary_cross_entropy(rows, head.weight, target, **common)
    flat = labels.reshape([-1])
    if mean_over == "valid":
        return ops.linear_cross_entropy(rows, head.weight, flat, **common)
    return ops.linear_cross_entropy(rows, head.weight, flat, reduction="none", **common).mean()


def _problem(config: Any, classes: int, labels: Tensor) -> str:
    """Decide as PaddleNLP does, which then writes its decision into the configuration; nothing is written here."""
    single = "single_label_classification"
    if config is None:  # tokens
        return single
    if (declared := getattr(config, "problem_type", None)) is not None:
        return str(declared)
    if classes == 1:
        return "regression"
    return single if labels.dtype in (paddle.int64, paddle.int32) else "multi_label_classification"
