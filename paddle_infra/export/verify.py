"""Prove, in a fresh process, that an export is the model it was exported from.

Checked in this order, each with its own exception: the files' hashes, names, dtypes, dynamic axes (by
running every case), values. Nothing is only warned about, and anything unexpected (a crash, a timeout, NaN)
is a failure.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra._core.errors import (
    AxisMismatch,
    DtypeMismatch,
    ExportError,
    InvalidInputError,
    NameMismatch,
    ValueMismatch,
    VerificationError,
)
from paddle_infra.export._arrays import load_arrays, save_arrays
from paddle_infra.export._process import inputs_file, outputs_file, run_fresh
from paddle_infra.export.bisect import first_wrong_layer
from paddle_infra.export.cases import Case, as_cases, cases_like
from paddle_infra.export.compare import check_form, check_values
from paddle_infra.export.edge_cases import Limits, edge_cases
from paddle_infra.export.float64 import Float64Errors, measure_float64
from paddle_infra.export.manifest import EXAMPLES_NAME, Manifest, check_files, read_manifest
from paddle_infra.export.references import Reference, run_edges, run_references
from paddle_infra.export.spec import Arrays, TensorInfo, TensorSpec

_ROUNDING = 4.0
"""How many times the model's own rounding error, where numbers are large, an export may differ from it."""

_FLOAT64_CASES = 2
"""Cases that are run in float64 too: the example, and the one after it."""


@dataclass(frozen=True)
class CaseResult:
    """One case: its name, the size of each dynamic axis, and the largest absolute error of each output."""

    name: str
    sizes: dict[str, int]
    max_errors: dict[str, float]

    @property
    def max_error(self) -> float:
        """The largest over the outputs."""
        return max(self.max_errors.values(), default=0.0)


@dataclass(frozen=True)
class VerificationReport:
    """What a successful verification measured (a failed one raises).

    ``refused_by_model`` names the inputs at the edges that the Python model itself cannot take, and why; ``float64``
    says how far the model and the export are from the model in float64, in the first cases.
    """

    target: str
    engine: str
    outputs: tuple[str, ...]
    cases: tuple[CaseResult, ...]
    atol: float
    rtol: float
    seconds: float
    refused_by_model: dict[str, str] = field(default_factory=dict)
    float64: Float64Errors = field(default_factory=Float64Errors)

    @property
    def max_error(self) -> float:
        """The largest absolute error over all cases and outputs."""
        return max(case.max_error for case in self.cases)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "max_error": self.max_error}


def verify(
    path: str | os.PathLike[str],
    reference: Reference,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    atol: float = 1e-4,
    rtol: float = 0.0,
    timeout_s: float = 600.0,
    bisect: bool = False,
) -> VerificationReport:
    r"""Check that the export in ``path`` gives what ``reference`` gives.

    An element passes if :math:`|got - expected| \le atol + rtol \cdot |expected|`.

    Args:
        path: folder of an export.
        reference: the model it was made from; a Layer is run in evaluation mode and left as it was.
        inputs: one dict of arrays by input name, or a list of them (for instance real batches). By default
            the example inputs stored with the export, at every combination of the sizes in
            :mod:`paddle_infra.export.cases`, and at the edges in :mod:`paddle_infra.export.edge_cases`.
        atol: absolute tolerance.
        rtol: relative tolerance.
        timeout_s: seconds until the fresh process is killed.
        bisect: if values differ, find the first layer of the model whose output does; the error names it, also as
            its ``layer``.

    Raises:
        VerificationError: a file has changed, or the engine cannot run the model (crash, timeout).
        NameMismatch: input or output names differ.
        DtypeMismatch: a dtype differs.
        AxisMismatch: an axis is not as promised, or a dynamic axis cannot vary.
        ValueMismatch: an element differs by more than the tolerance, or is NaN.
        UnsupportedError: ``bisect``, and the export cannot be looked into.
        InvalidInputError: ``inputs`` is empty, or the reference itself fails or returns NaN.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    names = [spec.name for spec in manifest.outputs]
    refused: dict[str, str] = {}
    if inputs is None:
        examples = load_arrays(folder / EXAMPLES_NAME)
        limits = Limits(manifest.max_sizes, manifest.value_ranges)
        cases = as_cases(manifest.inputs, cases_like(examples, manifest.inputs))
        expected = run_references(reference, cases, names)
        edges, results, refused = run_edges(
            reference, edge_cases(examples, manifest.inputs, limits), manifest.inputs, names
        )
        cases, expected = cases + edges, expected + results
    else:
        cases = as_cases(manifest.inputs, [inputs] if isinstance(inputs, Mapping) else inputs)
        expected = run_references(reference, cases, names)
    try:
        return verify_outputs(
            folder,
            manifest,
            cases,
            expected,
            atol=atol,
            rtol=rtol,
            timeout_s=timeout_s,
            reference=reference,
            refused=refused,
        )
    except ValueMismatch as error:
        if not bisect:
            raise
        case = next(case for case in cases if case.name == error.case)
        layer = first_wrong_layer(folder, manifest, reference, case.inputs, atol=atol, rtol=rtol)
        raise error.in_layer(layer) from error


def verify_outputs(
    folder: Path,
    manifest: Manifest,
    cases: Sequence[Case],
    expected: Sequence[Arrays],
    *,
    atol: float,
    rtol: float = 0.0,
    timeout_s: float = 600.0,
    reference: Reference | None = None,
    refused: Mapping[str, str] | None = None,
) -> VerificationReport:
    """Run the cases in a fresh process and compare with ``expected``: see :func:`verify`.

    ``reference`` is run in float64 if given; ``refused`` is for the report.
    """
    for name, value in (("atol", atol), ("rtol", rtol)):
        if not 0 <= value < np.inf:
            raise InvalidInputError(f"{name}: expected a finite number >= 0, got {value}")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="paddle-infra-verify-") as temporary:
        exchange = Path(temporary)
        for index, case in enumerate(cases):
            save_arrays(inputs_file(exchange, index), case.inputs)
        request = {
            "task": "run",
            "export": str(folder.resolve()),
            "threads": 1,
            "cases": [case.name for case in cases],
        }
        try:
            answer = run_fresh("paddle_infra.export._worker", request, exchange, timeout_s=timeout_s)
        except ExportError as error:
            raise VerificationError(f"the exported model cannot be run: {error}") from error
        check_declared("input", manifest.inputs, answer["inputs"])
        check_declared("output", manifest.outputs, answer["outputs"])
        check_all_ran(cases, answer["errors"])
        results = [load_arrays(outputs_file(exchange, index)) for index in range(len(cases))]
    for case, want, got in zip(cases, expected, results, strict=True):
        _check_forms(case, want, got)
    own = _rounding(reference, cases, expected)
    measured = tuple(
        CaseResult(case.name, case.sizes, _check_case(case, want, got, atol, rtol, own))
        for case, want, got in zip(cases, expected, results, strict=True)
    )
    first = slice(_FLOAT64_CASES)
    return VerificationReport(
        manifest.target,
        answer["engine"],
        tuple(spec.name for spec in manifest.outputs),
        measured,
        atol,
        rtol,
        time.perf_counter() - start,
        dict(refused or {}),
        measure_float64(reference, cases[first], expected[first], results[first]),
    )


def _rounding(
    reference: Reference | None, cases: Sequence[Case], expected: Sequence[Arrays]
) -> dict[str, float]:
    """Return the model's own rounding errors, by output, in the cases where they may exceed the tolerance."""
    chosen = [index for index, case in enumerate(cases) if case.is_scaled]
    wanted = [expected[index] for index in chosen]
    return measure_float64(reference, [cases[index] for index in chosen], wanted, wanted).model


def _check_case(
    case: Case, expected: Arrays, got: Arrays, atol: float, rtol: float, own: Mapping[str, float]
) -> dict[str, float]:
    """Compare the values of every output; return the largest errors, of a scaled case those of the scaled output."""
    errors = {}
    for name, want in expected.items():
        scale = 1.0
        if case.is_scaled:
            if want.dtype.kind not in "fc":
                continue
            scale = max(scale, float(np.abs(want).max(initial=0.0, where=np.isfinite(want))))
            scale += _ROUNDING * own.get(name, 0.0) / atol if atol else 0.0
        errors[name] = check_values(name, case.name, want, got[name], atol=atol * scale, rtol=rtol) / scale
    return errors


def check_declared(kind: str, promised: Sequence[TensorSpec], declared: Sequence[Mapping[str, Any]]) -> None:
    """Compare what the manifest promises with what the model file declares: names, then dtypes, then axes.

    Raises:
        NameMismatch, DtypeMismatch, AxisMismatch: the first difference. An output's axis may be declared
            dynamic and be fixed in truth, because engines infer shapes only as far as they can.
    """
    found = [TensorInfo(item["name"], item["dtype"], tuple(item["shape"])) for item in declared]
    expected_names, names = [spec.name for spec in promised], [info.name for info in found]
    if names != expected_names:
        raise NameMismatch(f"{kind}s: expected names {expected_names}, the model file has {names}")
    for spec, info in zip(promised, found, strict=True):
        if spec.dtype != info.dtype:
            raise DtypeMismatch(
                f"{kind} {spec.name!r}: expected dtype {spec.dtype}, the model file has {info.dtype}"
            )
    for spec, info in zip(promised, found, strict=True):
        expected = tuple(None if isinstance(size, str) else size for size in spec.shape)
        fits = len(expected) == len(info.shape) and all(
            want == got or (kind == "output" and got is None)
            for want, got in zip(expected, info.shape, strict=True)
        )
        if not fits:
            shape = ["any" if size is None else size for size in info.shape]
            raise AxisMismatch(
                f"{kind} {spec.name!r}: expected axes {list(spec.shape)}, the model file has {shape}"
            )


def check_all_ran(cases: Sequence[Case], errors: Mapping[str, str]) -> None:
    """Turn an engine's refusal into an error that says which sizes it concerns.

    Raises:
        AxisMismatch: some cases ran, none of them of the refused ones' sizes: these are the reason.
        VerificationError: no case ran, or one of the same sizes did.
    """
    if not errors:
        return
    failed = {int(index): text for index, text in errors.items()}
    first = min(failed)
    ran = [case for index, case in enumerate(cases) if index not in failed]
    if not ran:
        raise VerificationError(f"the exported model runs no case; {cases[first].name}: {failed[first]}")
    for index in sorted(failed):
        twin = next((case for case in ran if case.sizes == cases[index].sizes), None)
        if twin is not None:
            raise VerificationError(
                f"the exported model cannot run case {cases[index].name}, although it runs {twin.name}: it refuses "
                f"values that the model takes. {failed[index]}"
            )
    raise AxisMismatch(
        f"the exported model cannot run case {cases[first].name}, although it runs {ran[0].name} "
        f"({len(failed)} of {len(cases)} cases fail): an axis is not dynamic. {failed[first]}"
    )


def _check_forms(case: Case, expected: Arrays, got: Arrays) -> None:
    if set(got) != set(expected):
        raise NameMismatch(f"case {case.name}: expected outputs {list(expected)}, got {list(got)}")
    for name, array in expected.items():
        check_form(name, case.name, array, got[name])
