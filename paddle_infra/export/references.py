"""What the Python model gives, for the inputs that it must take and for those at the edges that it may refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paddle_infra._core.errors import InvalidInputError, NameMismatch
from paddle_infra.export._dygraph import Layer, check_finite, run_reference
from paddle_infra.export.cases import Case
from paddle_infra.export.edge_cases import LARGE_MAGNITUDES
from paddle_infra.export.spec import Arrays, TensorSpec, axis_sizes

Reference = Layer | Callable[[Arrays], Any]
"""The model to compare with: a ``paddle.nn.Layer``, or a function from a dict of arrays to outputs."""


def run_references(reference: Reference, cases: Sequence[Case], output_names: Sequence[str]) -> list[Arrays]:
    """Return the reference's outputs for every case.

    Raises:
        InvalidInputError: the reference fails or returns NaN for a case: it proves nothing there.
        NameMismatch: it has other arguments or outputs.
    """
    return [_run(reference, case, output_names) for case in cases]


def run_edges(
    reference: Reference,
    edges: Mapping[str, Arrays],
    specs: Sequence[TensorSpec],
    output_names: Sequence[str],
) -> tuple[list[Case], list[Arrays], dict[str, str]]:
    """Return the cases at the edges that the reference takes, its outputs, and why it refuses the others."""
    cases, expected, refused = [], [], {}
    for name, arrays in edges.items():
        sizes = axis_sizes(specs, arrays)
        text = ", ".join(f"{axis}={size}" for axis, size in sizes.items()) or "fixed shape"
        case = Case(f"{name} ({text})", arrays, sizes, is_scaled=name == LARGE_MAGNITUDES)
        try:
            expected.append(_run(reference, case, output_names))
        except InvalidInputError as error:
            refused[name] = str(error).splitlines()[0]
        else:
            cases.append(case)
    return cases, expected, refused


def _run(reference: Reference, case: Case, output_names: Sequence[str]) -> Arrays:
    try:
        outputs = run_reference(reference, case.inputs, output_names)
    except NameMismatch:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"the model itself cannot run case {case.name}: {error}\n"
            "Pass inputs that it accepts (verify_inputs=... of the exporters, inputs=... of verify)."
        ) from error
    for name, array in outputs.items():
        check_finite(name, case.name, array)
    return outputs
