"""Few shapes instead of many: inputs are padded to the next of some sizes, outputs are cut back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paddle_infra._core.checks import check_positive
from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export.manifest import Manifest
from paddle_infra.export.spec import Arrays, TensorSpec

Pad = float | str
"""A number, or ``"edge"``: the last slice of the input again."""


@dataclass(frozen=True)
class Bucket:
    """How one dynamic axis is padded.

    An engine prepares itself for every shape that it meets: that takes time at the first call, and memory. Whether
    padding leaves the results alone is the model's doing, through its attention mask or lengths: the predictor tries.

    Attributes:
        axis: name of a dynamic axis, as in the manifest.
        sizes: the sizes used, ascending; inputs beyond the last are refused.
        pads: for every input that has the axis, what is appended: a number, or ``"edge"`` for its last slice (a row of
            a batch, say).

    Raises:
        InvalidInputError: a size is not positive or not above the one before it, or ``pads`` has a text that is not
            ``"edge"``.
    """

    axis: str
    sizes: Sequence[int]
    pads: Mapping[str, Pad]

    def __post_init__(self) -> None:
        for size in self.sizes:
            check_positive(f"bucket {self.axis!r}: sizes", size)
        if not self.sizes or sorted(set(self.sizes)) != list(self.sizes):
            raise InvalidInputError(
                f"bucket {self.axis!r}: expected at least one size, ascending, got {list(self.sizes)}"
            )
        wrong = {name: pad for name, pad in self.pads.items() if isinstance(pad, str) and pad != "edge"}
        if wrong:
            raise InvalidInputError(f"bucket {self.axis!r}: expected pads of numbers or 'edge', got {wrong}")

    def size_for(self, size: int) -> int:
        """Return the smallest of the sizes that holds ``size``.

        Raises:
            InvalidInputError: none does.
        """
        for candidate in self.sizes:
            if candidate >= size:
                return candidate
        raise InvalidInputError(
            f"axis {self.axis!r}: expected at most {self.sizes[-1]}, the largest bucket, got {size}"
        )


class Padding:
    """The buckets of one model.

    Raises:
        InvalidInputError: a bucket's axis is no dynamic axis of the inputs or has two buckets; ``pads`` names other
            inputs than those that have the axis, or a number that its input's dtype cannot hold; an output has a
            dynamic axis that is none of the inputs', so that nobody knows how to cut it.
    """

    def __init__(self, manifest: Manifest, buckets: Sequence[Bucket]) -> None:
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        self.buckets = {bucket.axis: bucket for bucket in buckets}
        if len(self.buckets) != len(buckets):
            raise InvalidInputError(f"buckets: expected one for each axis, got {[b.axis for b in buckets]}")
        axes = dict.fromkeys(name for spec in self._inputs for name in spec.axes.values())
        for bucket in buckets:
            if bucket.axis not in axes:
                raise InvalidInputError(
                    f"bucket: expected a dynamic axis among {list(axes)}, got {bucket.axis!r}"
                )
            self._check_pads(bucket)
        unknown = [
            f"{spec.name}: {name}"
            for spec in self._outputs
            for name in spec.axes.values()
            if name not in axes
        ]
        if buckets and unknown:
            raise InvalidInputError(
                f"buckets: expected outputs with axes of the inputs {list(axes)}, got {unknown}, which nobody "
                "knows how to cut back"
            )

    def _check_pads(self, bucket: Bucket) -> None:
        padded = [spec for spec in self._inputs if bucket.axis in spec.shape]
        names = [spec.name for spec in padded]
        if set(bucket.pads) != set(names):
            raise InvalidInputError(
                f"bucket {bucket.axis!r}: expected pads for the inputs {names}, which have this axis, "
                f"got {list(bucket.pads)}"
            )
        for spec in padded:
            pad = bucket.pads[spec.name]
            if not isinstance(pad, str) and not _holds(spec, pad):
                raise InvalidInputError(
                    f"bucket {bucket.axis!r}: expected a pad of {spec.name!r} that is {spec.dtype}, got {pad!r}"
                )

    def sizes_for(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the padded size of every dynamic axis.

        Raises:
            InvalidInputError: a size is beyond the largest bucket.
        """
        return {
            axis: self.buckets[axis].size_for(size) if axis in self.buckets else size
            for axis, size in sizes.items()
        }

    def pad(self, arrays: Arrays, target: Mapping[str, int]) -> Arrays:
        """Return ``arrays`` with every axis that has a bucket lengthened to its size in ``target``."""
        padded = {}
        for spec in self._inputs:
            array = arrays[spec.name]
            for index, axis in spec.axes.items():
                missing = target[axis] - array.shape[index]
                if missing:
                    array = _append(array, index, missing, self.buckets[axis].pads[spec.name])
            padded[spec.name] = array
        return padded

    def cut(self, outputs: Arrays, sizes: Mapping[str, int]) -> Arrays:
        """Return ``outputs`` with every axis that has a bucket cut to its size in ``sizes``, as copies where cut."""
        cut = dict(outputs)
        for spec in self._outputs:
            array = outputs[spec.name]
            ranges = [slice(sizes[axis]) if axis in self.buckets else slice(None) for axis in spec.shape]
            part = array[tuple(ranges)] if ranges else array
            cut[spec.name] = array if part.shape == array.shape else part.copy()
        return cut


def _append(array: np.ndarray, axis: int, count: int, pad: Pad) -> np.ndarray:
    shape = list(array.shape)
    shape[axis] = count
    last = array.take([-1], axis)
    tail = np.broadcast_to(last if isinstance(pad, str) else np.full_like(last, pad), shape)
    return np.concatenate([array, tail], axis)


def _holds(spec: TensorSpec, pad: float) -> bool:
    """Whether the dtype of ``spec`` has the number ``pad``; floating-point ones may round it."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return pad in (0, 1)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return float(pad).is_integer() and limits.min <= pad <= limits.max
    return isinstance(pad, (int, float))
