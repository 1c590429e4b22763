"""A report with every section filled, as a real run would fill it."""

from __future__ import annotations

import math

from paddle_infra.report import (
    Chart,
    ClassRow,
    Confusion,
    Curve,
    ExportRow,
    LatencyRow,
    Metric,
    Misclassified,
    ReportData,
)

LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
COUNTS = (
    (9, 0, 0, 0, 0, 0),
    (1, 136, 1, 0, 0, 0),
    (0, 5, 86, 2, 1, 0),
    (0, 0, 1, 64, 0, 0),
    (0, 0, 2, 1, 78, 0),
    (0, 2, 2, 0, 1, 108),
)
INJECTIONS = (
    "<script>document.title = 'injected'</script>",
    "<img src=x onerror=\"document.title = 'injected'\">",
    "</td></table><style>body { display: none }</style>{{ 7 * 7 }}",
    "Who was the 1st prime minister & why \"so\" 'late'?",
)


def full_report() -> ReportData:
    steps = list(range(1, 513))
    loss = [
        1.8 * math.exp(-s / 90) + 0.05 + 0.12 * math.sin(s * 1.7) ** 2 * math.exp(-s / 200) for s in steps
    ]
    rate = [5e-5 * min(s / 51, (512 - s) / 461) for s in steps]
    return ReportData(
        title="TREC question classification with MiniLM-L6",
        summary="A six-layer encoder fine-tuned on 5,452 questions; 481 of 500 held-out questions are right.",
        created="2026-01-31 10:12 UTC",
        headline=(
            Metric("Accuracy", 0.962, "500 held-out questions"),
            Metric("Macro F1", 0.9574, "six classes"),
            Metric("Training time", "3 min 12 s", "2 CPU cores"),
            Metric("Largest export error", 1.9e-6, "allowed 1e-4"),
        ),
        facts={
            "Data": {"training examples": 5452, "held-out examples": 500, "longest question (tokens)": 41},
            "Time": {"training": "3 min 12 s", "evaluation": "4.1 s", "export and verification": "21 s"},
            "Versions": {
                "paddle_infra": "0.1.0",
                "paddlepaddle": "3.3.1",
                "numpy": "2.4.6",
                "onnxruntime": "1.31.1",
            },
        },
        config={
            "model": {"weights": "minilm-l6", "labels": list(LABELS)},
            "train": {"epochs": 3, "batch_size": 32, "learning_rate": 5e-5, "weight_decay": 0.01, "seed": 1},
            "data": {"max_length": 64, "held_out": "TREC_10.label"},
            "output": "runs/trec/2026-01-31",
        },
        loss=Chart("Training loss", "step", "cross-entropy", (Curve("loss", steps, loss),), smooth=True),
        learning_rate=Chart("Learning rate", "step", "", (Curve("learning rate", steps, rate),)),
        evaluation=Chart(
            "Held-out quality",
            "epoch",
            "",
            (
                Curve("accuracy", (1, 2, 3), (0.921, 0.954, 0.962)),
                Curve("macro F1", (1, 2, 3), (0.873, 0.946, 0.9574)),
            ),
        ),
        confusion=Confusion(LABELS, COUNTS),
        per_class=tuple(
            ClassRow(label, 0.9 + i / 70, 0.99 - i / 60, 0.94 + i / 110, sum(COUNTS[i]))
            for i, label in enumerate(LABELS)
        ),
        misclassified=tuple(Misclassified(text, "HUM", "ENTY", 0.71) for text in INJECTIONS),
        misclassified_total=19,
        exports=tuple(
            ExportRow(target, f"batch={b}, length={n}", 1.2e-6 + b * 1e-8, 1e-4, passed=True)
            for target in ("Paddle Inference", "ONNX")
            for b in (1, 7, 32)
            for n in (5, 64)
        ),
        latency=(
            LatencyRow("paddle.inference 3.3.1", "batch=1, length=32", 1, 50, 6.21, 6.98, 9.12),
            LatencyRow("onnxruntime 1.31.1", "batch=1, length=32", 1, 50, 5.43, 5.9, 132.4),
        ),
    )
