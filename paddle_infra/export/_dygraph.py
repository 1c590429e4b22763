"""The Python model's side of an export: its reference outputs, and its program."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import paddle
from paddle.static import InputSpec

from paddle_infra._core.errors import ExportError, InvalidInputError, NameMismatch, StorageError
from paddle_infra._core.modes import evaluation_mode
from paddle_infra.export._program import Program
from paddle_infra.export.spec import Arrays, TensorSpec

MODEL_FILE, PARAMETER_FILE = "model.json", "model.pdiparams"

Layer: TypeAlias = Any
"""A ``paddle.nn.Layer`` (which mypy sees as untyped)."""


def check_arguments(model: Layer, names: Sequence[str]) -> None:
    """Check that ``model.forward`` takes exactly these arguments.

    Raises:
        NameMismatch: it has no such argument, or requires another one.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    accepted = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in parameters if p.name in accepted and p.default is p.empty]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [] if takes_any else [name for name in names if name not in accepted]
    missing = [name for name in required if name not in names]
    if unknown or missing:
        raise NameMismatch(
            f"{type(model).__name__}.forward takes {accepted} and requires {required}: "
            f"got inputs {list(names)} (unknown {unknown}, missing {missing})"
        )


def named_outputs(result: Any, names: Sequence[str]) -> dict[str, Any]:
    """Give a model's result, one tensor, a sequence or a dict, the output names.

    Raises:
        NameMismatch: the result has another number of tensors, or the dict lacks a name.
    """
    if isinstance(result, Mapping):
        missing = [name for name in names if name not in result]
        if missing:
            raise NameMismatch(
                f"expected outputs {list(names)}, the model returns {list(result)}: no {missing}"
            )
        return {name: result[name] for name in names}
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    if len(values) != len(names):
        raise NameMismatch(f"expected {len(names)} outputs {list(names)}, the model returns {len(values)}")
    return dict(zip(names, values, strict=True))


def run_reference(
    model: Layer | Callable[..., Any], inputs: Mapping[str, np.ndarray], names: Sequence[str]
) -> Arrays:
    """Return what the Python model gives for ``inputs``, in evaluation mode and without gradients.

    ``model`` may also be a plain function of a dict of arrays, for references that are not Paddle models.
    """
    if not isinstance(model, paddle.nn.Layer):
        return {name: np.asarray(value) for name, value in named_outputs(model(dict(inputs)), names).items()}
    check_arguments(model, list(inputs))
    with evaluation_mode(model), paddle.no_grad():
        result = model(**{name: paddle.to_tensor(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in named_outputs(result, names).items()}


def save_program(
    model: Layer, folder: Path, inputs: Sequence[TensorSpec], output_names: Sequence[str]
) -> Program:
    """Trace the model and write ``model.json`` and ``model.pdiparams`` with the given input and output names.

    Raises:
        ExportError: Paddle cannot trace the model.
        StorageError: the parameters were not written completely.
    """
    specs = [
        InputSpec([None if isinstance(n, str) else n for n in spec.shape], spec.dtype, spec.name)
        for spec in inputs
    ]
    wrapper = _positional(model, [spec.name for spec in inputs], output_names)
    with evaluation_mode(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # jit.save talks about what is intended here
        wrapper.eval()
        try:
            paddle.jit.save(wrapper, str(folder / "model"), input_spec=[specs])
        except OSError:
            raise
        except Exception as error:
            raise ExportError(f"Paddle cannot trace {type(model).__name__}: {error}") from error
    program = Program(folder / MODEL_FILE)
    program.rename_outputs(tuple(output_names))
    program.save()
    _check_parameter_size(program, folder / PARAMETER_FILE)
    return program


def _positional(model: Layer, names: Sequence[str], output_names: Sequence[str]) -> Layer:
    """Wrap the model to take one list and return one tuple: the order of both is then ours, not Paddle's."""
    arrange = paddle.jit.not_to_static(named_outputs)  # plain Python, not to be rewritten by the tracer

    class PositionalModel(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: list[Any]) -> tuple[Any, ...]:
            result = self.model(**dict(zip(names, inputs)))  # noqa: B905 - Paddle converts zip without keywords only
            return tuple(arrange(result, output_names).values())

    return PositionalModel()


def _check_parameter_size(program: Program, path: Path) -> None:
    """Paddle's writer ignores a full disk: compare the file with what the parameters need.

    Every parameter has a header of at least 20 bytes before its data. The state that recurrent layers keep for dropout
    is listed as a number, but has no data.
    """
    needed = sum(
        20
        + (not info.name.endswith("__non_persistable"))
        * math.prod(n or 0 for n in info.shape)
        * _item_size(info.dtype)
        for info in program.parameters
    )
    size = path.stat().st_size if path.is_file() else 0
    if size < needed:
        raise StorageError(
            f"{path.name} was not written completely (is the disk full?): "
            f"expected at least {needed} bytes, got {size}"
        )


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def check_finite(name: str, case: str, array: np.ndarray) -> None:
    """Refuse a reference that is NaN: nothing could be proven with it.

    Raises:
        InvalidInputError: there is one.
    """
    if array.dtype.kind in "fc" and np.isnan(array).any():
        index = [int(i) for i in np.argwhere(np.isnan(array))[0]]
        raise InvalidInputError(
            f"the model itself returns NaN in output {name!r} at index {index} for case {case}: "
            "nothing can be proven with it"
        )
