"""Where the real tokens of right-padded sequences are, and how to reach them."""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.jit.marker import unified

from paddle_infra._core.checks import check_lengths, check_shape, check_tensor
from paddle_infra.nn.sizes import size_of

_INTEGERS = ("int32", "int64")


def _check_lengths(lengths: Tensor, hidden: Tensor) -> None:
    check_tensor("lengths", lengths, _INTEGERS)
    check_shape("lengths", lengths, hidden.shape[:1], "[batch_size]")
    check_lengths("lengths", lengths, hidden.shape[1])


def check_mask(attention_mask: Tensor, hidden: Tensor) -> None:
    """Raise unless ``attention_mask`` is ``[batch_size, seq_len]`` for ``hidden``, of integers, bools or floats.

    Raises:
        InvalidDtypeError: it is no such tensor.
        InvalidInputError: it has another shape.
    """
    check_tensor("attention_mask", attention_mask, (*_INTEGERS, "bool", "float32", "float64"))
    check_shape("attention_mask", attention_mask, hidden.shape[:2], "[batch_size, seq_len]")


# Graph capture shall call them as they are: rewritten, `shape` holds tensors.
for _check in (_check_lengths, check_mask):
    unified(_check)


def length_mask(lengths: Tensor, hidden: Tensor) -> Tensor:
    """Return which positions are real tokens.

    Args:
        lengths: int ``[batch_size]``, the number of real tokens of each row; the rest is padding on the right.
        hidden: ``[batch_size, seq_len, ...]``; only its shape counts.

    Returns:
        bool ``[batch_size, seq_len]``.

    Raises:
        InvalidDtypeError: ``lengths`` is no integer tensor.
        InvalidInputError: ``lengths`` has another shape, or a length is out of range (not checked in a static
            program).
    """
    _check_lengths(lengths, hidden)
    return _positions(hidden) < lengths.astype("int64").unsqueeze(-1)


def zero_padding(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``hidden`` with zeros where ``mask`` ``[batch_size, seq_len]`` is 0; whatever stood there is gone.

    A product with the mask would keep NaN and infinity.
    """
    if mask is None:
        return hidden
    return paddle.where(mask.astype("bool").unsqueeze(-1), hidden, paddle.zeros_like(hidden))


def last_token(lengths: Tensor, hidden: Tensor) -> Tensor:
    """Return which position is the last real token: bool ``[batch_size, seq_len]``, none in a row of length 0."""
    return _positions(hidden) == lengths.astype("int64").unsqueeze(-1) - 1


def take_token(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Return ``[batch_size, width]`` where ``chosen`` is True, at most once in a row; zeros if nowhere."""
    return zero_padding(hidden, chosen).sum(axis=1)


def reverse(x: Tensor, axis: int) -> Tensor:
    """Return ``x`` in reverse order along ``axis``. Unlike ``flip``, it exports to ONNX for any size."""
    return paddle.gather(x, size_of(x, axis) - 1 - paddle.arange(size_of(x, axis), dtype="int64"), axis=axis)


def reverse_tokens(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the real tokens of each row in reverse order, the padding where it was. Applied twice, it does nothing."""
    if lengths is None:
        return reverse(hidden, 1)
    length, width = size_of(hidden, 1), hidden.shape[2]
    position = _positions(hidden)
    last = lengths.astype("int64").unsqueeze(-1) - 1
    index = paddle.where(position <= last, last - position, position)
    row = paddle.arange(size_of(hidden, 0), dtype="int64").unsqueeze(-1) * length
    rows = paddle.gather(hidden.reshape([-1, width]), (index + row).flatten())
    return rows.reshape([-1, length, width])


def _positions(hidden: Tensor) -> Tensor:
    return paddle.arange(size_of(hidden, 1), dtype="int64").unsqueeze(0)
