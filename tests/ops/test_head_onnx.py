"""The plain forms of the losses of a linear layer, exported to ONNX."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_infra.export import to_onnx
from paddle_infra.ops import (
    implementation,
    linear_binary_cross_entropy,
    linear_cross_entropy,
    linear_focal,
)

ROWS, FEATURES, CLASSES = 6, 8, 5


class Head(paddle.nn.Layer):
    """A loss with every option that changes the graph."""

    def __init__(self, kind: str, reduction: str) -> None:
        super().__init__()
        self.kind, self.reduction = kind, reduction
        self.head = paddle.nn.Linear(FEATURES, CLASSES)
        self.class_weight = paddle.linspace(0.5, 1.5, CLASSES)
        self.token_weight = paddle.linspace(0.5, 1.5, ROWS)

    def forward(self, hidden, label):
        inputs = hidden, self.head.weight, label
        options = {"bias": self.head.bias, "softcap": 4.0, "weight_layout": "dv", "reduction": self.reduction}
        options["token_weight"] = self.token_weight
        if self.kind == "binary":
            return linear_binary_cross_entropy(*inputs, pos_weight=self.class_weight, **options)
        options["class_weight"] = self.class_weight
        if self.kind == "focal":
            return linear_focal(*inputs, gamma=1.5, **options)
        return linear_cross_entropy(*inputs, label_smoothing=0.1, z_loss=1e-3, **options)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "binary"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_plain_form_exports_to_onnx(tmp_path, kind, reduction):
    pytest.importorskip("paddle2onnx")
    paddle.seed(4)
    label = np.arange(ROWS) % CLASSES
    if kind == "binary":
        label = np.eye(CLASSES, dtype="float32")[label]
    else:
        label[2] = -100
    hidden = np.random.default_rng(0).standard_normal((ROWS, FEATURES)).astype("float32")
    with implementation("reference"):
        # Compares with ONNX Runtime, or raises.
        report = to_onnx(
            Head(kind, reduction),
            tmp_path / "export",
            {"hidden": hidden, "label": label},
            output_names=("loss",),
        )
    assert report.verification.engine.startswith("onnxruntime ")
    assert report.verification.max_error < 1e-5
