r"""Knowledge distillation: a student learns from a teacher's logits, hidden states and relations between tokens.

It is a training step like any other, so every Trainer, precision and callback works with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F

from paddle_infra._core.checks import check_number, check_positive
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra._core.modes import evaluation_mode
from paddle_infra.train.regularizers.losses import CrossEntropy, LogitsStep, Loss, valid_rows

PROJECTIONS = "distillation_projections"  # the sublayer that add_projections gives to a student


@dataclass(frozen=True)
class HiddenMatch:
    r"""The mean squared difference of two layers' outputs, :math:`\lVert P h_S - h_T \rVert^2`.

    Attributes:
        student: structured name of the student's layer, which returns ``[batch, length, width]``.
        teacher: of the teacher's.
        weight: factor of this term.
        widths: the student's and the teacher's width if they differ: a learned projection :math:`P` without bias then
            goes between them (see :meth:`Distillation.add_projections`).

    References:
        Romero et al., FitNets, arXiv:1412.6550; Jiao et al., TinyBERT, arXiv:1909.10351, eq. 8.
    """

    student: str
    teacher: str
    weight: float = 1.0
    widths: tuple[int, int] | None = None


@dataclass(frozen=True)
class RelationMatch:
    r"""How tokens relate: :math:`\mathrm{KL}` of :math:`\mathrm{softmax}(x x^\top / \sqrt{d})` of two layers' outputs.

    Meant for the projections of attention (``….attention.query``, ``key`` or ``value``). Widths may differ, as outputs
    are split into ``heads`` first. It takes the place of attention maps, which fused attention never stores.

    Attributes:
        student: structured name of the student's layer, which returns ``[batch, length, width]``.
        teacher: of the teacher's.
        heads: into how many parts of width :math:`d` both are split.
        weight: factor of this term.

    References:
        Wang et al., MiniLMv2, arXiv:2012.15828, eqs. 4 to 6.
    """

    student: str
    teacher: str
    heads: int
    weight: float = 1.0


class Distillation:
    r"""Trains with a teacher: a training step.

    .. math:: L = (1 - \alpha) \, L_{\mathrm{labels}} + \alpha \, T^2 \, \mathrm{KL}\bigl(
        \mathrm{softmax}(z_T / T) \,\|\, \mathrm{softmax}(z_S / T)\bigr) + \sum_m w_m L_m

    with the mean over rows whose label is not -100 (all rows of a batch without labels, which needs ``alpha=1``). The
    teacher runs in evaluation mode and without gradients, and stays as it is.

    Args:
        teacher: any Layer that ``teacher_step`` can run.
        logits_step: returns the student's logits [..., C].
        loss: the loss of the labels.
        temperature: *T*, > 0.
        alpha: weight of the teacher's logits, from 0 to 1.
        matches: :class:`HiddenMatch` and :class:`RelationMatch` terms.
        teacher_step: returns the teacher's logits; None: ``logits_step`` does.
        mask: key of the batch with 1 for tokens and 0 for padding ``[batch, length]``, which matches leave out; a batch
            without it has no padding.

    Raises:
        InvalidInputError: an argument is out of range.
        InvalidDtypeError: the teacher is no Layer, or a match of another type.

    References:
        Hinton et al., Distilling the knowledge in a neural network, arXiv:1503.02531, section 2.
    """

    def __init__(
        self,
        teacher: paddle.nn.Layer,
        logits_step: LogitsStep,
        loss: Loss | None = None,
        *,
        temperature: float = 2.0,
        alpha: float = 0.5,
        matches: Sequence[HiddenMatch | RelationMatch] = (),
        teacher_step: LogitsStep | None = None,
        mask: str = "attention_mask",
    ) -> None:
        if not isinstance(teacher, paddle.nn.Layer):
            raise InvalidDtypeError(f"teacher: expected a paddle.nn.Layer, got {type(teacher).__name__}")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InvalidInputError(f"temperature: expected a positive number, got {temperature!r}")
        check_number("alpha", alpha, 0.0, 1.0)
        for match in matches:
            if not isinstance(match, (HiddenMatch, RelationMatch)):
                raise InvalidDtypeError(
                    f"matches: expected HiddenMatch or RelationMatch, got {type(match).__name__}"
                )
            check_number("weight", match.weight, 0.0)
            if isinstance(match, RelationMatch):
                check_positive("heads", match.heads)
        self.teacher, self.logits_step, self.loss = teacher, logits_step, loss or CrossEntropy()
        self.temperature, self.alpha, self.matches = temperature, alpha, tuple(matches)
        self.teacher_step, self.mask = teacher_step or logits_step, mask

    def add_projections(self, student: paddle.nn.Layer) -> None:
        """Give the student the linear layers of matches with ``widths``: call it before making the optimizer.

        They are the student's sublayer ``distillation_projections`` and so are trained, saved and resumed with it;
        :meth:`remove_projections` takes them away when training is over.
        """
        widths = [match.widths for match in self._projected()]
        if widths:
            layers = [paddle.nn.Linear(*pair, bias_attr=False) for pair in widths if pair is not None]
            student.add_sublayer(PROJECTIONS, paddle.nn.LayerList(layers))

    def remove_projections(self, student: paddle.nn.Layer) -> None:
        """Take away what :meth:`add_projections` gave."""
        student._sub_layers.pop(PROJECTIONS, None)

    def __call__(self, model: paddle.nn.Layer, batch: Any) -> paddle.Tensor:
        """Return the loss.

        Raises:
            InvalidInputError: a name fits no layer, shapes do not fit, or projections are missing.
        """
        with _watched(model, [m.student for m in self.matches], "student") as students:
            logits = self.logits_step(model, batch)
        with (
            _watched(self.teacher, [m.teacher for m in self.matches], "teacher") as teachers,
            evaluation_mode(self.teacher),
            paddle.no_grad(),
        ):
            teacher_logits = self.teacher_step(self.teacher, batch)
        total = self.alpha * self.temperature**2 * self._divergence(logits, teacher_logits, batch)
        if self.alpha < 1:
            total = total + (1 - self.alpha) * self.loss(logits, batch)
        for match in self.matches:
            term = self._term(match, model, students[match.student], teachers[match.teacher], batch)
            total = total + match.weight * term
        return total

    def _divergence(self, student: paddle.Tensor, teacher: paddle.Tensor, batch: Any) -> paddle.Tensor:
        if student.shape != teacher.shape:
            raise InvalidInputError(
                f"logits: expected the teacher's shape {list(teacher.shape)}, the student's is {list(student.shape)}"
            )
        rows = [
            valid_rows(logits, batch["labels"])[0]
            if "labels" in batch
            else logits.reshape([-1, logits.shape[-1]])
            for logits in (student, teacher)
        ]
        own, theirs = (F.log_softmax(row.astype("float32") / self.temperature, axis=-1) for row in rows)
        return (theirs.exp() * (theirs - own)).sum(axis=-1).mean()

    def _projected(self) -> list[HiddenMatch]:
        return [m for m in self.matches if isinstance(m, HiddenMatch) and m.widths is not None]

    def _term(
        self,
        match: HiddenMatch | RelationMatch,
        model: paddle.nn.Layer,
        student: paddle.Tensor,
        teacher: paddle.Tensor,
        batch: Any,
    ) -> paddle.Tensor:
        if list(student.shape[:2]) != list(teacher.shape[:2]) or student.ndim != 3 or teacher.ndim != 3:
            raise InvalidInputError(
                f"{match}: expected [batch, length, width] of one batch and length, got the student's "
                f"{list(student.shape)} and the teacher's {list(teacher.shape)}"
            )
        student, teacher = student.astype("float32"), teacher.astype("float32")
        mask = batch[self.mask] if self.mask in batch else paddle.ones(student.shape[:2])
        mask = (mask != 0).astype("float32")
        if isinstance(match, RelationMatch):
            return _relation_loss(match, student, teacher, mask)
        if match.widths is not None:
            student = self._projection(model, match)(student)
        if student.shape[-1] != teacher.shape[-1]:
            raise InvalidInputError(
                f"{match}: expected equal widths or widths=(student, teacher), got {student.shape[-1]} and "
                f"{teacher.shape[-1]}"
            )
        return (((student - teacher) ** 2).mean(axis=-1) * mask).sum() / mask.sum()

    def _projection(self, model: paddle.nn.Layer, match: HiddenMatch) -> paddle.nn.Layer:
        found = [layer for name, layer in model.named_sublayers() if name.split(".")[-1] == PROJECTIONS]
        if not found:
            raise InvalidInputError(
                f"{match}: expected a student with projections, got one without: call add_projections(student) before "
                "making the optimizer"
            )
        return found[0][next(i for i, other in enumerate(self._projected()) if other is match)]


def _relation_loss(
    match: RelationMatch, student: paddle.Tensor, teacher: paddle.Tensor, mask: paddle.Tensor
) -> paddle.Tensor:
    for side, tensor in (("student", student), ("teacher", teacher)):
        if tensor.shape[-1] % match.heads:
            raise InvalidInputError(
                f"heads: expected a divisor of the {side}'s width {tensor.shape[-1]}, got {match.heads}"
            )
    own, theirs = (_log_relations(tensor, match.heads, mask) for tensor in (student, teacher))
    rows = (theirs.exp() * (theirs - own)).sum(axis=-1).mean(axis=1)  # over keys, then heads: [batch, length]
    return (rows * mask).sum() / mask.sum()


def _log_relations(tensor: paddle.Tensor, heads: int, mask: paddle.Tensor) -> paddle.Tensor:
    """Return log probabilities ``[batch, heads, length, length]``, of padding about -1e9."""
    batch, length, width = tensor.shape
    split = tensor.reshape([batch, length, heads, width // heads]).transpose([0, 2, 1, 3])
    scores = paddle.matmul(split, split, transpose_y=True) / math.sqrt(width // heads)
    return F.log_softmax(scores + (mask - 1.0).unsqueeze([1, 2]) * 1e9, axis=-1)


@contextmanager
def _watched(model: paddle.nn.Layer, names: Sequence[str], side: str) -> Iterator[dict[str, paddle.Tensor]]:
    """Give a dict in which the outputs of the named layers appear while the model runs in the body."""
    layers = dict(model.named_sublayers())
    if unknown := [name for name in names if name not in layers]:
        raise InvalidInputError(f"{side}: expected names among {sorted(layers)}, got {unknown[0]!r}")
    outputs: dict[str, paddle.Tensor] = {}

    def note(name: str) -> Callable[[Any, Any, Any], None]:
        def keep(layer: Any, inputs: Any, output: Any) -> None:
            if not isinstance(output, paddle.Tensor):
                raise InvalidInputError(
                    f"{side}: expected {name} to return a tensor, got {type(output).__name__}"
                )
            outputs[name] = output

        return keep

    with ExitStack() as stack:
        for name in dict.fromkeys(names):
            stack.callback(layers[name].register_forward_post_hook(note(name)).remove)
        yield outputs
    if missing := [name for name in names if name not in outputs]:
        raise InvalidInputError(f"{side}: expected {missing[0]!r} to be run, it was not")
