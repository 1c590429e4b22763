"""Training any ``paddle.nn.Layer``: an exact loop, resumable bit for bit, with streaming metrics."""

from __future__ import annotations

from paddle_infra.train.adversarial import FGM, PGD
from paddle_infra.train.batches import IGNORE_INDEX, count_items
from paddle_infra.train.best_metrics import BestMetrics
from paddle_infra.train.bleu import BLEU
from paddle_infra.train.calibration import ExpectedCalibrationError
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.checkpoint import (
    checkpoints_in,
    load_model,
    newest_intact,
    read_checkpoint,
    verify_checkpoint,
)
from paddle_infra.train.checkpointing import Checkpoint
from paddle_infra.train.classification import F1, Accuracy, ConfusionMatrix, Score
from paddle_infra.train.clipping import ClipByGlobalNorm, ClipByValue
from paddle_infra.train.collected import CollectedMetric
from paddle_infra.train.curves import PrecisionRecallCurve
from paddle_infra.train.dropout_schedule import DropoutSchedule, ramp
from paddle_infra.train.early_stopping import EarlyStopping
from paddle_infra.train.entity import EntityF1, TokenTable, entities
from paddle_infra.train.evaluation import Evaluator
from paddle_infra.train.history import History, read_history
from paddle_infra.train.interrupt import TrainingInterrupted
from paddle_infra.train.loggers import (
    CSVLogger,
    Logger,
    MLflowLogger,
    TensorBoardLogger,
    VisualDLLogger,
    WandbLogger,
)
from paddle_infra.train.losses import CrossEntropy, Mixup, RDrop
from paddle_infra.train.metrics import MeanLoss, Metric, Perplexity
from paddle_infra.train.multilabel import MultilabelF1
from paddle_infra.train.optim import adamw, schedule_factor
from paddle_infra.train.precision import Float32, MixedPrecision, Precision
from paddle_infra.train.progress import ProgressBar
from paddle_infra.train.ranking import BinaryRanking
from paddle_infra.train.regression import R2, MeanAbsoluteError, MeanSquaredError
from paddle_infra.train.retrieval import RetrievalMetrics
from paddle_infra.train.rng import get_rng_state, preserved_rng, seed_everything, set_rng_state
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice, Strategy
from paddle_infra.train.top_k import TopKAccuracy
from paddle_infra.train.trainer import Trainer

__all__ = [
    "BLEU",
    "F1",
    "FGM",
    "IGNORE_INDEX",
    "PGD",
    "R2",
    "Accuracy",
    "BestMetrics",
    "BinaryRanking",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "ClipByGlobalNorm",
    "ClipByValue",
    "CollectedMetric",
    "ConfusionMatrix",
    "CrossEntropy",
    "DropoutSchedule",
    "EarlyStopping",
    "EntityF1",
    "Evaluator",
    "ExpectedCalibrationError",
    "Float32",
    "History",
    "Logger",
    "MLflowLogger",
    "MeanAbsoluteError",
    "MeanLoss",
    "MeanSquaredError",
    "Metric",
    "MixedPrecision",
    "Mixup",
    "MultilabelF1",
    "Perplexity",
    "Precision",
    "PrecisionRecallCurve",
    "ProgressBar",
    "RDrop",
    "RetrievalMetrics",
    "Score",
    "SingleDevice",
    "Strategy",
    "TensorBoardLogger",
    "TokenTable",
    "TopKAccuracy",
    "TrainState",
    "Trainer",
    "TrainingInterrupted",
    "VisualDLLogger",
    "WandbLogger",
    "adamw",
    "checkpoints_in",
    "count_items",
    "entities",
    "get_rng_state",
    "load_model",
    "newest_intact",
    "preserved_rng",
    "ramp",
    "read_checkpoint",
    "read_history",
    "schedule_factor",
    "seed_everything",
    "set_rng_state",
    "verify_checkpoint",
]
