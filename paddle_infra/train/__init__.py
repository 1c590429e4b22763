"""Training any ``paddle.nn.Layer``: an exact loop, resumable bit for bit, with streaming metrics."""

from __future__ import annotations

from paddle_infra.train.adafactor import Adafactor
from paddle_infra.train.adversarial import FGM, PGD
from paddle_infra.train.auto_batch import BatchPlan, find_batch_size
from paddle_infra.train.averaging import EMA, SWA
from paddle_infra.train.batch_norm import refresh_batch_norm
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
from paddle_infra.train.distributed import DataParallel
from paddle_infra.train.dropout_schedule import DropoutSchedule, ramp
from paddle_infra.train.dry_run import fast_dev_run, overfit_batches
from paddle_infra.train.early_stopping import EarlyStopping
from paddle_infra.train.entity import EntityF1, TokenTable, entities
from paddle_infra.train.evaluation import Evaluator
from paddle_infra.train.freezing import freeze, unfreeze
from paddle_infra.train.history import History, read_history
from paddle_infra.train.interrupt import TrainingInterrupted
from paddle_infra.train.lion import Lion
from paddle_infra.train.loggers import (
    CSVLogger,
    Logger,
    MLflowLogger,
    TensorBoardLogger,
    VisualDLLogger,
    WandbLogger,
)
from paddle_infra.train.losses import CrossEntropy, Mixup, RDrop
from paddle_infra.train.lr_finder import LearningRateCurve, find_learning_rate
from paddle_infra.train.metrics import MeanLoss, Metric, Perplexity
from paddle_infra.train.multilabel import MultilabelF1
from paddle_infra.train.optim import ParameterGroup, adamw, optimizer
from paddle_infra.train.precision import Float32, MixedPrecision, Precision
from paddle_infra.train.profiler import Profiler
from paddle_infra.train.progress import ProgressBar
from paddle_infra.train.ranking import BinaryRanking
from paddle_infra.train.recompute import recompute_layers
from paddle_infra.train.regression import R2, MeanAbsoluteError, MeanSquaredError
from paddle_infra.train.retrieval import RetrievalMetrics
from paddle_infra.train.rng import get_rng_state, preserved_rng, seed_everything, set_rng_state
from paddle_infra.train.schedules import schedule_factor
from paddle_infra.train.sharding import Sharding
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice, Strategy
from paddle_infra.train.throughput import Throughput
from paddle_infra.train.top_k import TopKAccuracy
from paddle_infra.train.trainer import Trainer

__all__ = [
    "BLEU",
    "EMA",
    "F1",
    "FGM",
    "IGNORE_INDEX",
    "PGD",
    "R2",
    "SWA",
    "Accuracy",
    "Adafactor",
    "BatchPlan",
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
    "DataParallel",
    "DropoutSchedule",
    "EarlyStopping",
    "EntityF1",
    "Evaluator",
    "ExpectedCalibrationError",
    "Float32",
    "History",
    "LearningRateCurve",
    "Lion",
    "Logger",
    "MLflowLogger",
    "MeanAbsoluteError",
    "MeanLoss",
    "MeanSquaredError",
    "Metric",
    "MixedPrecision",
    "Mixup",
    "MultilabelF1",
    "ParameterGroup",
    "Perplexity",
    "Precision",
    "PrecisionRecallCurve",
    "Profiler",
    "ProgressBar",
    "RDrop",
    "RetrievalMetrics",
    "Score",
    "Sharding",
    "SingleDevice",
    "Strategy",
    "TensorBoardLogger",
    "Throughput",
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
    "fast_dev_run",
    "find_batch_size",
    "find_learning_rate",
    "freeze",
    "get_rng_state",
    "load_model",
    "newest_intact",
    "optimizer",
    "overfit_batches",
    "preserved_rng",
    "ramp",
    "read_checkpoint",
    "read_history",
    "recompute_layers",
    "refresh_batch_norm",
    "schedule_factor",
    "seed_everything",
    "set_rng_state",
    "unfreeze",
    "verify_checkpoint",
]
