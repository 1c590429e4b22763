"""A model as a function of numbers that can be put in the place of inputs and of the outputs of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError

Arrays = dict[str, np.ndarray]


def as_arrays(name: str, values: Any) -> Arrays:
    """Return named arrays of one batch size, without those that are None.

    Raises:
        InvalidDtypeError: not a mapping.
        InvalidInputError: empty, or the batch sizes differ.
    """
    if not isinstance(values, Mapping):
        raise InvalidDtypeError(
            f"{name}: expected a mapping from argument names to arrays, got {type(values).__name__}"
        )
    arrays = {str(key): np.asarray(value) for key, value in values.items() if value is not None}
    sizes = {key: array.shape[0] if array.ndim else None for key, array in arrays.items()}
    if len(set(sizes.values())) != 1 or None in sizes.values() or 0 in sizes.values():
        raise InvalidInputError(f"{name}: expected arrays of one batch size, at least 1, got {sizes}")
    return arrays


def baseline_arrays(baselines: Any, inputs: Arrays) -> Arrays:
    """Return the baselines in the shapes and dtypes of the inputs.

    Raises:
        InvalidDtypeError: not a mapping.
        InvalidInputError: empty, one has no input, or does not broadcast to it.
    """
    if not isinstance(baselines, Mapping) or not baselines:
        raise InvalidDtypeError(
            f"baselines: expected a mapping from argument names to arrays, got {type(baselines).__name__} "
            f"{baselines!r:.60}"
        )
    unknown = sorted(set(baselines) - set(inputs))
    if unknown:
        raise InvalidInputError(f"baselines: expected names among {sorted(inputs)}, got {unknown}")
    result = {}
    for name, value in baselines.items():
        array, shape = np.asarray(value), inputs[name].shape
        try:
            result[name] = np.broadcast_to(array, shape).astype(inputs[name].dtype)
        except ValueError:
            raise InvalidInputError(
                f"baselines[{name!r}]: expected a shape that broadcasts to {list(shape)}, got {list(array.shape)}"
            ) from None
    return result


class Runner:
    """Runs a model on rows of its inputs, and reads or replaces the outputs of some layers.

    Raises:
        InvalidInputError: the model has no layer of a given name.
    """

    def __init__(self, model: paddle.nn.Layer, inputs: Arrays, layers: Sequence[str]) -> None:
        if not isinstance(model, paddle.nn.Layer):
            raise InvalidDtypeError(f"model: expected a paddle.nn.Layer, got {type(model).__name__}")
        known = dict(model.named_sublayers())
        for name in layers:
            if name not in known:
                close = [other for other in known if "embed" in other.lower()] or list(known)
                raise InvalidInputError(
                    f"layers: expected names of layers, such as {close[:5]}, got {name!r}"
                )
        self._model, self._layers = model, {name: known[name] for name in layers}
        self.inputs = inputs

    def __call__(
        self, rows: np.ndarray, *, instead: Mapping[str, paddle.Tensor], changed: Arrays | None = None
    ) -> paddle.Tensor:
        """Run the rows and return the model's output.

        Args:
            rows: which rows of the inputs.
            instead: tensors in the place of inputs or of outputs of layers, one row for each of ``rows``.
            changed: arrays in the place of inputs, already with those rows.
        """
        arguments = {name: array[rows] for name, array in self.inputs.items()} | (changed or {})
        tensors = {
            name: instead[name] if name in instead and name not in self._layers else paddle.to_tensor(array)
            for name, array in arguments.items()
        }
        with self._hooked({name: instead[name] for name in self._layers if name in instead}, None):
            return _checked(self._model(**tensors), len(rows))

    def outputs_of_layers(self, inputs: Arrays) -> dict[str, paddle.Tensor]:
        """Run on other inputs and return what the layers give."""
        if not self._layers:
            return {}
        found: dict[str, paddle.Tensor] = {}
        with self._hooked({}, found), paddle.no_grad():
            self._model(**{name: paddle.to_tensor(array) for name, array in inputs.items()})
        return {name: tensor.detach() for name, tensor in found.items()}

    @contextmanager
    def _hooked(
        self, instead: Mapping[str, paddle.Tensor], found: dict[str, paddle.Tensor] | None
    ) -> Iterator[None]:
        runs = dict.fromkeys(self._layers, 0)

        def hook_of(name: str) -> Any:
            def hook(layer: Any, given: Any, output: Any) -> Any:
                runs[name] += 1
                if not isinstance(output, paddle.Tensor):
                    raise InvalidDtypeError(
                        f"layers: expected one that returns a tensor, {name!r} returns {type(output).__name__}"
                    )
                if found is not None:
                    found[name] = output
                return instead.get(name)  # None: the output stays

            return hook

        handles = [layer.register_forward_post_hook(hook_of(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, count in runs.items():
            if count != 1:
                raise InvalidInputError(
                    f"layers: expected one that runs once in a forward pass, {name!r} ran {count} times"
                    + (": name the layer around it" if count == 0 else "")
                )


def _checked(output: Any, rows: int) -> paddle.Tensor:
    if not isinstance(output, paddle.Tensor):
        raise InvalidDtypeError(
            f"model: expected one that returns a tensor of scores, got {type(output).__name__}"
        )
    if not 1 <= len(output.shape) <= 3 or output.shape[0] != rows:
        raise InvalidInputError(
            f"model: expected scores [{rows}], [{rows}, classes] or [{rows}, length, classes], got {list(output.shape)}"
        )
    return output
