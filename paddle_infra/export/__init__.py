"""Exporters that prove their own output: Paddle Inference and ONNX."""

from __future__ import annotations

from paddle_infra.export._build import ExportReport
from paddle_infra.export.cases import default_cases
from paddle_infra.export.float64 import Float64Errors
from paddle_infra.export.inference import to_inference
from paddle_infra.export.latency import LatencyReport, measure_latency
from paddle_infra.export.lowering import lowered_operators, lowers
from paddle_infra.export.manifest import Manifest, read_manifest
from paddle_infra.export.onnx import to_onnx
from paddle_infra.export.predictor import ExportedModel, load_predictor
from paddle_infra.export.spec import TensorSpec
from paddle_infra.export.verify import CaseResult, VerificationReport, verify

__all__ = [
    "CaseResult",
    "ExportReport",
    "ExportedModel",
    "Float64Errors",
    "LatencyReport",
    "Manifest",
    "TensorSpec",
    "VerificationReport",
    "default_cases",
    "load_predictor",
    "lowered_operators",
    "lowers",
    "measure_latency",
    "read_manifest",
    "to_inference",
    "to_onnx",
    "verify",
]
