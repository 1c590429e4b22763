"""Classification by angles, with a margin for the right class."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_choice, check_number, check_positive
from paddle_infra.nn._geometry import root, unit
from paddle_infra.nn.heads._linear import check_classes, check_hidden, mean_over

_MARGINS = ("arcface", "cosface")
_NEVER = -1e30  # a logit whose exponential is 0


class MarginHead(nn.Layer):
    r"""Classification by the angle :math:`\theta_c` between a row and each class, with a margin for the right class.

    Logits are :math:`s \cos\theta_c`; while learning, that of the label :math:`y` is

    * ``"arcface"``: :math:`s \cos(\theta_y + m)`, and :math:`s (\cos\theta_y - m \sin m)` where
      :math:`\theta_y + m > \pi`, so that it keeps falling with :math:`\theta_y`;
    * ``"cosface"`` (also known as AM-softmax): :math:`s (\cos\theta_y - m)`.

    The loss is their cross entropy. It is exact, though the operator that never stores the logits knows no margins.
    Two sets of classes are looked at apart. Those that are nobody's label in this batch go through the operator, with
    the moved logit :math:`z'_y` as one class more, whose weight is 0 but for one more feature, which holds
    :math:`z'_y`; the labels of the batch are switched off there by a bias of -1e30. This gives
    :math:`\ell = \log(1 + \sum_{c \notin B} e^{z_c - z'_y})`. The labels :math:`B` of the batch make a matrix of
    ``[rows, rows]``, in which each row leaves its own label out. The loss is
    :math:`\log(e^{\ell} + \sum_{c \in B, c \ne y} e^{z_c - z'_y})`: nothing is subtracted that was added before. Memory
    is thus that of the square of the batch, however many classes there are.

    Args:
        hidden_size: width of the input.
        num_classes: number of classes.
        margin: ``"arcface"`` or ``"cosface"``.
        scale: :math:`s`.
        size: :math:`m`, an angle up to π/2 for ``"arcface"``, a cosine up to 2 for ``"cosface"``; None is the paper's
            0.5 or 0.35.

    Shapes:
        hidden ``[batch_size, hidden_size]`` to logits without margin ``[batch_size, num_classes]``; labels int64
        ``[batch_size]``, -100 = ignored. The weight is ``[num_classes, hidden_size]``.

    References:
        Deng et al., "ArcFace", arXiv:1801.07698, section 3.1 (the form beyond π is that of the authors' code); Wang et
        al., "CosFace", arXiv:1801.09414, section 3.2; Wang et al., "Additive margin softmax", arXiv:1801.05599.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        *,
        margin: str = "arcface",
        scale: float = 64.0,
        size: float | None = None,
    ) -> None:
        super().__init__()
        check_positive("hidden_size", hidden_size)
        check_positive("num_classes", num_classes)
        check_choice("margin", margin, _MARGINS)
        is_arc = margin == "arcface"
        self.margin = margin
        self.scale = check_number("scale", scale, 1e-6)
        most = math.pi / 2 if is_arc else 2.0
        self.size = check_number("size", (0.5 if is_arc else 0.35) if size is None else size, 0.0, most)
        self.weight = self.create_parameter(
            [num_classes, hidden_size], default_initializer=nn.initializer.XavierNormal()
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits without margin: ``[..., hidden_size]`` to ``[..., num_classes]``."""
        return paddle.matmul(self.scale * unit(hidden), unit(self.weight), transpose_y=True)

    def topk(self, hidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the ``k`` most probable classes and their probabilities, as other heads; without gradients."""
        with paddle.no_grad():
            return ops.linear_topk(self.scale * unit(hidden), unit(self.weight), k)

    def loss(self, hidden: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
        """Return the mean loss over the rows that count; see the class.

        With ``ops.set_matmul_precision("medium")`` the moved logit of the label is rounded to bfloat16 as all factors.

        Args:
            hidden: ``[batch_size, hidden_size]``.
            labels: int64 ``[batch_size]``.
            ignore_index: the label of rows that do not count.

        Returns:
            0-D; 0 with gradients 0 if nothing counts.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit, or a label is out of range.
        """
        num_classes, width = self.weight.shape
        check_hidden(hidden, width, "[batch_size, hidden_size]")
        check_classes(labels, list(hidden.shape[:-1]), num_classes, ignore_index)
        counts = labels != ignore_index
        labels = paddle.where(counts, labels, paddle.zeros_like(labels)).astype("int64")
        rows, weight = self.scale * unit(hidden), unit(self.weight)
        own = paddle.gather(weight, labels)
        moved = self._moved((rows * own).sum(axis=-1) / self.scale)
        others = self._other_labels(rows, own, labels, moved)
        rest = self._rest(rows, weight, labels, moved)
        loss = paddle.logsumexp(paddle.concat([rest.unsqueeze(-1), others], axis=-1), axis=-1)
        return mean_over(loss, counts)

    def _moved(self, cosine: Tensor) -> Tensor:
        """Return the label's logit with its margin."""
        if self.margin == "cosface":
            return self.scale * (cosine - self.size)
        cosine_of_margin, sine_of_margin = math.cos(self.size), math.sin(self.size)
        moved = cosine * cosine_of_margin - root(1.0 - cosine * cosine) * sine_of_margin
        is_within = cosine > -cosine_of_margin  # the angle and the margin are at most pi
        return self.scale * paddle.where(is_within, moved, cosine - self.size * sine_of_margin)

    @staticmethod
    def _rest(rows: Tensor, weight: Tensor, labels: Tensor, moved: Tensor) -> Tensor:
        """Return log(1 + the sum of exp(z - moved) over the classes that are nobody's label)."""
        num_classes = weight.shape[0]
        features = paddle.concat([rows, moved.unsqueeze(-1)], axis=-1)
        zero, one = paddle.zeros_like(weight[:, :1]), paddle.ones_like(weight[:1, :1])
        last = paddle.concat([paddle.zeros_like(weight[:1]), one], axis=-1)
        classes = paddle.concat([paddle.concat([weight, zero], axis=-1), last])
        bias = paddle.zeros([num_classes + 1], weight.dtype)
        bias = paddle.scatter(bias, labels, paddle.full_like(moved.detach(), _NEVER))
        return ops.linear_cross_entropy(
            features, classes, paddle.full_like(labels, num_classes), bias=bias, reduction="none"
        )

    @staticmethod
    def _other_labels(rows: Tensor, own: Tensor, labels: Tensor, moved: Tensor) -> Tensor:
        """Return z - moved of the labels of the other rows, each class once: ``[batch_size, batch_size]``."""
        is_same = labels.unsqueeze(1) == labels.unsqueeze(0)
        # A label counts where it stands first: no row before has the same.
        is_repeated = paddle.tril(is_same.astype("int64"), diagonal=-1).sum(axis=1) > 0
        logits = paddle.matmul(rows, own, transpose_y=True) - moved.unsqueeze(1)
        return paddle.where(is_same | is_repeated.unsqueeze(0), paddle.full([], _NEVER, logits.dtype), logits)
