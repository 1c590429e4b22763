"""The accuracy gate: a compressed model that lost more than was allowed does not get through."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paddle_infra._core.atomic import atomic_directory
from paddle_infra._core.checks import check_number
from paddle_infra._core.errors import AccuracyLossError, InvalidInputError
from paddle_infra.compress.sublayers import Layer
from paddle_infra.export import ExportReport, load_predictor
from paddle_infra.export._build import check_destination, write_manifest
from paddle_infra.export._dygraph import run_reference
from paddle_infra.export.card import write_card
from paddle_infra.export.spec import Arrays

Predict = Callable[[Mapping[str, Any]], Arrays]
"""From arrays by input name to arrays by output name: what a metric is given."""

Metric = Callable[[Predict, Any], float]
"""``metric(predict, data)``: a number that is larger for a better model."""


@dataclass(frozen=True)
class GateResult:
    """What a gate measured on a model that got through.

    Attributes:
        metric: name of the metric.
        reference: of the model before.
        compressed: of the compressed model.
        max_drop: the largest drop that was allowed.
    """

    metric: str
    reference: float
    compressed: float
    max_drop: float

    @property
    def drop(self) -> float:
        """How much was lost; negative if the compressed model is better."""
        return self.reference - self.compressed


class AccuracyGate:
    """Measures models with one metric on one data set, and refuses those that lost too much.

    Args:
        metric: ``metric(predict, data)``; ``predict`` takes arrays by input name and returns arrays by output name,
            for a Layer and for an export alike.
        data: handed to the metric; it should not have been trained or calibrated on.
        reference: the model before compression (a Layer or the folder of an export), or its value of the metric.
        max_drop: the largest loss allowed, in units of the metric: 0.01 is one point of an accuracy.
        name: of the metric, for messages.
        output_names: what a Layer's outputs are called; as for the exporters.

    Raises:
        InvalidInputError: ``max_drop`` is negative, or the metric of the reference is not finite.
    """

    def __init__(
        self,
        metric: Metric,
        data: Any,
        *,
        reference: Layer | str | os.PathLike[str] | float,
        max_drop: float,
        name: str = "accuracy",
        output_names: Sequence[str] = ("logits",),
    ) -> None:
        self.metric, self.data, self.name, self.output_names = metric, data, name, tuple(output_names)
        self.max_drop = check_number("max_drop", max_drop, 0.0)
        is_value = isinstance(reference, (int, float))
        self.reference = float(reference) if is_value else self.measure(reference)  # type: ignore[arg-type]
        if not math.isfinite(self.reference):
            raise InvalidInputError(f"reference: expected a finite {name}, got {self.reference}")

    def measure(self, model: Layer | str | os.PathLike[str]) -> float:
        """Return the metric of a Layer, run in evaluation mode, or of the export in a folder."""
        if isinstance(model, (str, os.PathLike)):
            return float(self.metric(load_predictor(model), self.data))
        return float(self.metric(lambda inputs: run_reference(model, inputs, self.output_names), self.data))

    def check(self, model: Layer | str | os.PathLike[str]) -> GateResult:
        """Measure a compressed model.

        Raises:
            AccuracyLossError: it lost more than ``max_drop``, or its metric is NaN.
        """
        value = self.measure(model)
        # A drop of exactly max_drop passes: 0.9 - 0.89 is not quite 0.01 in binary.
        if not self.reference - value <= self.max_drop + 1e-12:
            raise AccuracyLossError(
                f"{self.name}: expected at least {self.reference - self.max_drop:.6g} ({self.reference:.6g} before "
                f"compression, a drop of {self.max_drop:.6g} allowed), got {value:.6g}",
                reference=self.reference,
                compressed=value,
            )
        return GateResult(self.name, self.reference, value, self.max_drop)


def gated(
    gate: AccuracyGate, export: Callable[[Path], ExportReport], path: str | os.PathLike[str]
) -> ExportReport:
    """Make an export at ``path`` only if it gets through the gate; otherwise leave what was there.

    Args:
        gate: measures the export itself, as the engine runs it.
        export: makes the export in the folder that it is given, for instance
            ``lambda folder: to_onnx(model, folder, examples)``.
        path: where the export goes; may be new, empty or an earlier export.

    Returns:
        The report of the export at ``path``; the gate's figures are in ``manifest.compression["gate"]``.

    Raises:
        AccuracyLossError: the export lost too much; no file is left of it.
        InvalidInputError: ``path`` holds something else than an export.
        Exception: whatever ``export`` raises.
    """
    target = Path(os.path.abspath(path))
    check_destination(target)
    with atomic_directory(target) as folder:
        report = export(folder)
        result = gate.check(folder)
        compression = {**report.manifest.compression, "gate": {**asdict(result), "drop": result.drop}}
        manifest = replace(report.manifest, compression=compression)
        write_card(folder, manifest)
        manifest = write_manifest(folder, manifest)
    return replace(report, path=target, manifest=manifest)
