"""Linear-chain conditional random field."""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_infra._core.checks import check_choice, check_positive, check_shape, check_tensor
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.nn.padding import last_token, length_mask, reverse, reverse_tokens, take_token, zero_padding
from paddle_infra.nn.sizes import size_of
from paddle_infra.nn.tag_constraints import TagConstraints

_FORBIDDEN = -1e30  # its exponential is 0, but sums and differences of it stay finite
_FORBIDDEN_SUM = -1e29  # a score below this has a forbidden step in it
_FLOATS = ("float32", "float64")


class CRF(nn.Layer):
    r"""Linear-chain conditional random field: the probability of whole sequences of tags.

    A sequence of tags :math:`y` of a row of length :math:`L` has the score and the probability

    .. math::
        s(y) &= b_{y_1} + \sum_{t=1}^{L} e_{t, y_t} + \sum_{t=2}^{L} A_{y_{t-1}, y_t} + f_{y_L} \\
        \log p(y) &= s(y) - \log Z, \qquad Z = \sum_{y'} \exp s(y')

    with emissions :math:`e` from another layer, learned ``transitions`` :math:`A`, ``start`` :math:`b` and ``end``
    :math:`f`. All sums are float64. :math:`\log Z` comes from one pass over time in which both directions advance
    together, and its gradients are the marginal probabilities of that pass, so nothing is recorded for each step.

    Args:
        num_tags: number of tags ``N``.
        constraints: what may follow what, for instance from :func:`tag_constraints`; None: everything. Sequences
            that break it have probability 0 and are never decoded.

    Shapes:
        emissions ``[batch_size, seq_len, N]``, float32 or float64; labels int64 ``[batch_size, seq_len]``, whatever at
        padding; lengths int ``[batch_size]``, the real tokens of each right-padded row, or None (no padding). A row of
        length 0 has one empty sequence, of score 0. Methods take memory for ``batch_size × seq_len × N²`` numbers if
        they give gradients.

    Raises:
        InvalidDtypeError: an argument is no tensor or has another dtype.
        InvalidInputError: a shape differs, a length is out of range, or a label is no tag or breaks the constraints
            (numbers are not checked in a static program; there a forbidden label makes a loss of 1e30).

    Export:
        Loss and decoding work under ``to_static`` and in saved programs, for any batch and length.
        ``paddle.text.viterbi_decode`` does not: a program gives its results a wrong dtype (Paddle 3.3.1).
        paddle2onnx makes an invalid graph of the loop over time: export the emissions to ONNX and decode outside.

    References:
        Lafferty et al., "Conditional Random Fields" (2001); Lample et al., arXiv:1603.01360, section 2.2.
    """

    def __init__(self, num_tags: int, constraints: TagConstraints | None = None) -> None:
        super().__init__()
        check_positive("num_tags", num_tags)
        self.num_tags = num_tags
        uniform = nn.initializer.Uniform(-0.1, 0.1)
        self.transitions = self.create_parameter([num_tags, num_tags], default_initializer=uniform)
        self.start = self.create_parameter([num_tags], default_initializer=uniform)
        self.end = self.create_parameter([num_tags], default_initializer=uniform)
        self.has_constraints = constraints is not None
        if constraints is not None:
            for name, array in constraints._asdict().items():
                check_shape(
                    f"constraints.{name}", array, [num_tags] * (2 if name == "transitions" else 1), "N"
                )
                self.register_buffer(f"{name}_allowed", paddle.to_tensor(array), persistable=False)

    def forward(self, emissions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the most probable tags; see :meth:`decode`."""
        return self.decode(emissions, lengths)[0]

    def loss(
        self, emissions: Tensor, labels: Tensor, lengths: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        """Return the negative log-likelihood of ``labels``.

        Args:
            emissions: ``[batch_size, seq_len, N]``.
            labels: int64 ``[batch_size, seq_len]``.
            lengths: int ``[batch_size]`` or None.
            reduction: ``"mean"`` over sequences, ``"token_mean"`` (the sum divided by the number of real tokens),
                ``"sum"`` or ``"none"`` (``[batch_size]``).

        Returns:
            The loss in the dtype of ``emissions``, 0-D but for ``"none"``.
        """
        check_choice("reduction", reduction, ("mean", "none", "sum", "token_mean"))
        chain = self._chain(emissions, lengths)
        loss = chain.log_partition() - self._score(chain, labels)
        if reduction == "token_mean":
            loss = loss.sum() / chain.mask.astype("float64").sum().clip(min=1.0)
        elif reduction != "none":
            loss = loss.mean() if reduction == "mean" else loss.sum()
        return loss.astype(emissions.dtype)

    def score(self, emissions: Tensor, labels: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return :math:`s(y)` of ``labels``: float64 ``[batch_size]``."""
        return self._score(self._chain(emissions, lengths), labels)

    def log_partition(self, emissions: Tensor, lengths: Tensor | None = None) -> Tensor:
        r"""Return :math:`\log Z`: float64 ``[batch_size]``. It can be differentiated once."""
        return self._chain(emissions, lengths).log_partition()

    def marginals(self, emissions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the probability of each tag at each token, zeros at padding.

        Returns:
            ``[batch_size, seq_len, N]``, dtype of ``emissions``, without gradient.
        """
        with paddle.no_grad():
            chain = self._chain(emissions, lengths)
            return chain.tag_probability(*chain.both_ways()).astype(emissions.dtype)

    def decode(self, emissions: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the most probable tags (Viterbi) and their score.

        Returns:
            tags int64 ``[batch_size, seq_len]``, 0 at padding, and the score :math:`s(y)`, float64 ``[batch_size]``.
        """
        with paddle.no_grad():
            chain = self._chain(emissions, lengths)
            return chain.decode()

    def _chain(self, emissions: Tensor, lengths: Tensor | None) -> _Chain:
        check_tensor("emissions", emissions, _FLOATS)
        check_shape("emissions", emissions, [-1, -1, self.num_tags], "[batch_size, seq_len, num_tags]")
        scores = (self.transitions, self.start, self.end)
        if self.has_constraints:
            allowed = (self.transitions_allowed, self.start_allowed, self.end_allowed)
            scores = tuple(
                paddle.where(allowed[i], scores[i], paddle.full_like(scores[i], _FORBIDDEN)) for i in range(3)
            )
        transitions, start, end = (score.astype("float64") for score in scores)
        return _Chain(emissions.astype("float64"), lengths, transitions, start, end)

    def _score(self, chain: _Chain, labels: Tensor) -> Tensor:
        check_tensor("labels", labels, ("int64",))
        check_shape("labels", labels, chain.emissions.shape[:2], "[batch_size, seq_len]")
        if paddle.in_dynamic_mode():
            self._check_labels(chain, labels)
        score = chain.score(paddle.where(chain.mask, labels, paddle.zeros_like(labels)))
        if paddle.in_dynamic_mode() and self.has_constraints and bool((score < _FORBIDDEN_SUM).any()):
            row = int((score < _FORBIDDEN_SUM).astype("int64").argmax())
            raise InvalidInputError(
                f"labels: expected tags that the constraints allow, got a forbidden step in row {row}: "
                f"{labels[row].tolist()}"
            )
        return score

    def _check_labels(self, chain: _Chain, labels: Tensor) -> None:
        wrong = chain.mask & ((labels < 0) | (labels >= self.num_tags))
        if bool(wrong.any()):
            row, position = wrong.nonzero()[0].tolist()
            raise InvalidInputError(
                f"labels: expected tags in [0, {self.num_tags}), got {int(labels[row, position])} in row {row} at "
                f"position {position}"
            )


class _Chain:
    """The scores of one batch, float64: what :class:`CRF` computes with."""

    def __init__(
        self, emissions: Tensor, lengths: Tensor | None, transitions: Tensor, start: Tensor, end: Tensor
    ) -> None:
        self.lengths = lengths
        if lengths is None:
            lengths = paddle.full([size_of(emissions, 0)], size_of(emissions, 1), dtype="int64")
        self.mask = length_mask(lengths, emissions)
        self.last = last_token(lengths, emissions)
        self.is_empty = lengths == 0
        self.emissions = zero_padding(emissions, self.mask)
        self.transitions, self.start, self.end = transitions, start, end

    def score(self, tags: Tensor) -> Tensor:
        """Return the score of ``tags``, which are 0 at padding: ``[batch_size]``."""
        emitted = paddle.take_along_axis(self.emissions, tags.unsqueeze(-1), axis=2)
        steps = tags[:, :-1] * self.transitions.shape[0] + tags[:, 1:]
        moved = zero_padding(_look_up(self.transitions.flatten(), steps), self.mask[:, 1:])
        last = _look_up(self.end, tags)
        total = emitted.sum(axis=[1, 2]) + moved.sum(axis=[1, 2]) + take_token(last, self.last).squeeze(-1)
        return self._unless_empty(total + _look_up(self.start, tags[:, 0]).squeeze(-1))

    def log_partition(self) -> Tensor:
        """Return the log of the sum over all sequences, ``[batch_size]``.

        Its value is the forward pass's; its gradients are those of a sum that is linear in the scores, with the
        marginal probabilities as constants.
        """
        wants_gradient = paddle.is_grad_enabled()
        with paddle.no_grad():
            ahead, back = self.both_ways()
            value = self._unless_empty(
                paddle.logsumexp(ahead[:, 0] + back[:, 0] - self.emissions[:, 0], axis=-1)
            )
            if paddle.in_dynamic_mode() and not wants_gradient:
                return value
            tag = self.tag_probability(ahead, back)
            step = self.step_probability(ahead, back)
            last = take_token(tag, self.last)
        linear = (
            (self.emissions * tag).sum(axis=[1, 2])
            + (self.transitions * step).sum(axis=[1, 2])
            + (self.start * tag[:, 0]).sum(axis=-1)
            + (self.end * last).sum(axis=-1)
        )
        return value + (linear - linear.detach())

    def both_ways(self) -> tuple[Tensor, Tensor]:
        """Return the log-sums of all beginnings and of all endings with a tag at a token, its emission in both.

        Both are ``[batch_size, seq_len, N]`` and mean nothing at padding.
        """
        emissions = self.emissions.detach()
        turned = paddle.stack([emissions, reverse_tokens(emissions, self.lengths)]).transpose([2, 0, 1, 3])
        start = paddle.stack([self.start, self.end]).detach().unsqueeze(1)
        transitions = paddle.stack([self.transitions, self.transitions.t()]).detach().unsqueeze(1)
        sums = _scan(turned, start, transitions).transpose([1, 2, 0, 3])
        return sums[0], reverse_tokens(sums[1], self.lengths)

    def tag_probability(self, ahead: Tensor, back: Tensor) -> Tensor:
        """Return ``[batch_size, seq_len, N]``, zeros at padding."""
        scores = zero_padding(ahead + back - self.emissions, self.mask)
        return zero_padding(F.softmax(scores, axis=-1), self.mask)

    def step_probability(self, ahead: Tensor, back: Tensor) -> Tensor:
        """Return the expected number of steps from each tag to each: ``[batch_size, N, N]``."""
        count = self.transitions.shape[0]
        scores = ahead[:, :-1].unsqueeze(-1) + self.transitions + back[:, 1:].unsqueeze(-2)
        # Shares of each step's own sum: exact even where the sums over long rows are large.
        scores = zero_padding(scores.flatten(2), self.mask[:, 1:])
        shares = zero_padding(F.softmax(scores, axis=-1), self.mask[:, 1:])
        return shares.sum(axis=1).reshape([-1, count, count])

    def decode(self) -> tuple[Tensor, Tensor]:
        """Return the best tags and their score."""
        best = _scan(self.emissions.transpose([1, 0, 2]), self.start, self.transitions, paddle.max)
        ended = best.transpose([1, 0, 2]) + self.end
        score = take_token(ended.max(axis=-1, keepdim=True), self.last).squeeze(-1)
        # Backwards, each tag is the best before the one after it; at the last token, and in padding, the best of all.
        into = self.transitions.t()

        def before(tag: Tensor, best: Tensor, ends: Tensor) -> Tensor:
            return (best + paddle.where(ends.unsqueeze(-1), self.end, F.embedding(tag, into))).argmax(axis=-1)

        best, ends = reverse(best, 0), reverse(self.last.t(), 0)
        tags = _loop(before, (best[0] + self.end).argmax(axis=-1), [best, ends])
        tags = reverse(tags, 0).t()
        return paddle.where(self.mask, tags, paddle.zeros_like(tags)), score

    def _unless_empty(self, value: Tensor) -> Tensor:
        return paddle.where(self.is_empty, paddle.zeros_like(value), value)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Return ``table[index]`` as ``[..., 1]``."""
    return F.embedding(index, table.unsqueeze(-1))


def _scan(
    emissions: Tensor, start: Tensor, transitions: Tensor, reduce: Callable[..., Tensor] = paddle.logsumexp
) -> Tensor:
    """Return the sums (or maxima) over all beginnings at every time: ``[seq_len, ..., N]`` as emissions."""

    def step(sums: Tensor, emission: Tensor) -> Tensor:
        return reduce(sums.unsqueeze(-1) + transitions, axis=-2) + emission

    return _loop(step, start + emissions[0], [emissions])


def _loop(step: Callable[..., Tensor], first: Tensor, inputs: list[Tensor]) -> Tensor:
    """Return ``first`` and, for every later time, ``step`` of the result before and each of ``inputs`` then, stacked.

    In a program it is a loop that cannot be differentiated.
    """
    if paddle.in_dynamic_mode():
        results = [first]
        for time in range(1, inputs[0].shape[0]):
            results.append(step(results[-1], *[x[time] for x in inputs]))
        return paddle.stack(results)
    length = paddle.shape(inputs[0])[0].astype("int64")
    rest = paddle.zeros_like(first).unsqueeze(0).expand([length - 1, *[-1] * len(first.shape)])
    table = paddle.concat([first.unsqueeze(0), rest])

    def go_on(time: Tensor, result: Tensor, table: Tensor) -> Tensor:
        return (time < length).all()

    def advance(time: Tensor, result: Tensor, table: Tensor) -> list[Tensor]:
        result = step(result, *[paddle.gather(x, time, axis=0).squeeze(0) for x in inputs])
        return [time + 1, result, paddle.scatter(table, time, result.unsqueeze(0))]

    return paddle.static.nn.while_loop(go_on, advance, [paddle.ones([1], dtype="int64"), first, table])[2]
