"""Run exports: one predictor over Paddle Inference, ONNX Runtime and OpenVINO, and their comparison."""

from __future__ import annotations

from paddle_infra.inference.benchmark import Benchmark, BenchmarkRow, benchmark
from paddle_infra.inference.buckets import Bucket
from paddle_infra.inference.decision import Candidate, Decision
from paddle_infra.inference.predictor import Predictor

__all__ = ["Benchmark", "BenchmarkRow", "Bucket", "Candidate", "Decision", "Predictor", "benchmark"]
