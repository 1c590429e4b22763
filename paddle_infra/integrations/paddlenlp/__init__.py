"""PaddleNLP's encoders on fused operators, and back.

    from paddle_infra.integrations import paddlenlp as fused_nlp

    report = fused_nlp.accelerate(model)  # in place; print(report) says what was replaced and what was left
    report.restore()

Importing this does not import PaddleNLP, which takes seconds and patches Paddle's Transformer classes.
"""

from paddle_infra.integrations.paddlenlp.accelerate import accelerate, restore
from paddle_infra.integrations.paddlenlp.heads import loss
from paddle_infra.integrations.paddlenlp.report import AccelerationReport, Left, Replaced

__all__ = ["AccelerationReport", "Left", "Replaced", "accelerate", "loss", "restore"]
