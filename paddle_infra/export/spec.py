"""Names, dtypes and axes of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle_infra._core.errors import (
    AxisMismatch,
    DtypeMismatch,
    InvalidDtypeError,
    InvalidInputError,
    NameMismatch,
)

Arrays = dict[str, np.ndarray]
"""Arrays by input or output name."""

DynamicAxes = Mapping[str, Mapping[int, str]]
"""For each input (or output) name: which axes may vary, and what they are called: ``{"x": {0: "batch"}}``."""


@dataclass(frozen=True)
class TensorInfo:
    """What a model file declares about one tensor; ``None`` in ``shape`` is an axis of any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class TensorSpec:
    """What an export promises about one tensor; ``shape`` mixes fixed sizes and names of dynamic axes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def axes(self) -> dict[int, str]:
        """The dynamic axes: index to name."""
        return {index: size for index, size in enumerate(self.shape) if isinstance(size, str)}

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> TensorSpec:
        """Read what :meth:`as_dict` wrote."""
        return TensorSpec(value["name"], value["dtype"], tuple(value["shape"]))


def as_arrays(example_inputs: Mapping[str, Any]) -> Arrays:
    """Check example inputs and return them as numpy arrays.

    Raises:
        InvalidInputError: there is none, or one is empty.
        InvalidDtypeError: one is not a numeric or boolean array.
    """
    if not isinstance(example_inputs, Mapping) or not example_inputs:
        raise InvalidInputError(
            f"example_inputs: expected a non-empty dict of arrays by name, got {example_inputs!r}"
        )
    arrays = {str(name): np.asarray(value, order="C") for name, value in example_inputs.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise InvalidDtypeError(f"input {name!r}: expected numbers or booleans, got dtype {array.dtype}")
        if array.size == 0:
            raise InvalidInputError(f"input {name!r}: expected at least one element, got shape {array.shape}")
    return arrays


def input_specs(
    arrays: Arrays, dynamic_axes: DynamicAxes | None, output_names: Sequence[str]
) -> list[TensorSpec]:
    """Combine example inputs and the declared dynamic axes.

    Raises:
        InvalidInputError: ``dynamic_axes`` names an unknown tensor or axis, or one name stands for two sizes.
    """
    dynamic_axes = dynamic_axes or {}
    unknown = sorted(set(dynamic_axes) - set(arrays) - set(output_names))
    if unknown:
        raise InvalidInputError(
            f"dynamic_axes: expected names among inputs {sorted(arrays)} and outputs {sorted(output_names)}, "
            f"got {unknown}"
        )
    specs = []
    for name, array in arrays.items():
        shape: list[int | str] = list(array.shape)
        for axis, axis_name in dynamic_axes.get(name, {}).items():
            if not -array.ndim <= axis < array.ndim:
                raise InvalidInputError(
                    f"dynamic_axes[{name!r}]: expected an axis of shape {array.shape}, got {axis}"
                )
            shape[axis] = str(axis_name)
        specs.append(TensorSpec(name, str(array.dtype), tuple(shape)))
    axis_sizes(specs, arrays)
    return specs


def axis_sizes(specs: Sequence[TensorSpec], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Check arrays against specs and return the size that each dynamic axis has in them.

    Raises:
        NameMismatch: other names than the specs'.
        DtypeMismatch: an array has another dtype.
        AxisMismatch: an array has another rank or fixed size, or a dynamic axis has two sizes at once.
    """
    expected = [spec.name for spec in specs]
    if set(arrays) != set(expected):
        raise NameMismatch(f"expected tensors named {expected}, got {list(arrays)}")
    sizes: dict[str, int] = {}
    for spec in specs:
        array = arrays[spec.name]
        if str(array.dtype) != spec.dtype:
            raise DtypeMismatch(f"{spec.name!r}: expected dtype {spec.dtype}, got {array.dtype}")
        if array.ndim != len(spec.shape):
            raise AxisMismatch(f"{spec.name!r}: expected shape {list(spec.shape)}, got {list(array.shape)}")
        for index, (size, actual) in enumerate(zip(spec.shape, array.shape, strict=True)):
            wanted = sizes.setdefault(size, actual) if isinstance(size, str) else size
            if wanted != actual:
                raise AxisMismatch(
                    f"{spec.name!r}: axis {index} ({size}): expected size {wanted}, got {actual} "
                    f"in shape {list(array.shape)}"
                )
    return sizes


def output_specs(
    names: Sequence[str],
    results: Sequence[Mapping[str, np.ndarray]],
    sizes: Sequence[Mapping[str, int]],
    dynamic_axes: DynamicAxes | None = None,
) -> list[TensorSpec]:
    """Infer the outputs' axes from what the model returned at several input sizes.

    An output axis that had one size every time is fixed. One that followed a dynamic input axis gets its
    name; any other is called as ``dynamic_axes`` says, else ``<output>_axis<i>``.

    Raises:
        AxisMismatch: the rank varies, or ``dynamic_axes`` declares for an output what the model does not do.
    """
    specs = []
    for name in names:
        shapes = [result[name].shape for result in results]
        if len({len(shape) for shape in shapes}) != 1:
            raise AxisMismatch(f"output {name!r}: expected one rank, got shapes {sorted(set(shapes))}")
        declared = (dynamic_axes or {}).get(name, {})
        shape = tuple(
            _output_axis(f"{name}_axis{axis}", seen, sizes, declared.get(axis))
            for axis, seen in enumerate(zip(*shapes, strict=True))
        )
        missing = {
            axis: text for axis, text in declared.items() if not 0 <= axis < len(shape) or shape[axis] != text
        }
        if missing:
            raise AxisMismatch(
                f"output {name!r}: dynamic_axes declares {missing}, the model returns {list(shape)}"
            )
        specs.append(TensorSpec(name, str(results[0][name].dtype), shape))
    return specs


def _output_axis(
    fallback: str, seen: Sequence[int], sizes: Sequence[Mapping[str, int]], declared: str | None
) -> int | str:
    if len(set(seen)) == 1:
        return seen[0]
    followed = [axis for axis in sizes[0] if [size[axis] for size in sizes] == list(seen)]
    return followed[0] if followed else declared or fallback
