"""Training any ``paddle.nn.Layer``: an exact loop, resumable bit for bit, with streaming metrics."""

from __future__ import annotations

from paddle_infra.train.averaging import EMA, SWA
from paddle_infra.train.batch_norm import refresh_batch_norm
from paddle_infra.train.batches import IGNORE_INDEX, count_items
from paddle_infra.train.best_metrics import BestMetrics
from paddle_infra.train.callbacks import Callback
from paddle_infra.train.checkpoints.checkpoint import (
    checkpoints_in,
    load_model,
    newest_intact,
    read_checkpoint,
    verify_checkpoint,
)
from paddle_infra.train.checkpoints.checkpointing import Checkpoint
from paddle_infra.train.distributed.parallel import DataParallel
from paddle_infra.train.distributed.recompute import recompute_layers
from paddle_infra.train.distributed.sharding import Sharding
from paddle_infra.train.early_stopping import EarlyStopping
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
from paddle_infra.train.metrics.base import MeanLoss, Metric, Perplexity
from paddle_infra.train.metrics.bleu import BLEU
from paddle_infra.train.metrics.calibration import ExpectedCalibrationError
from paddle_infra.train.metrics.classification import F1, Accuracy, ConfusionMatrix, Score
from paddle_infra.train.metrics.collected import CollectedMetric
from paddle_infra.train.metrics.curves import PrecisionRecallCurve
from paddle_infra.train.metrics.entity import EntityF1, TokenTable, entities
from paddle_infra.train.metrics.multilabel import MultilabelF1
from paddle_infra.train.metrics.ranking import BinaryRanking
from paddle_infra.train.metrics.regression import R2, MeanAbsoluteError, MeanSquaredError
from paddle_infra.train.metrics.retrieval import RetrievalMetrics
from paddle_infra.train.metrics.top_k import TopKAccuracy
from paddle_infra.train.optimizers.adafactor import Adafactor
from paddle_infra.train.optimizers.clipping import ClipByGlobalNorm, ClipByValue
from paddle_infra.train.optimizers.freezing import freeze, unfreeze
from paddle_infra.train.optimizers.lion import Lion
from paddle_infra.train.optimizers.optim import ParameterGroup, adamw, optimizer
from paddle_infra.train.optimizers.schedules import schedule_factor
from paddle_infra.train.precision import Float32, MixedPrecision, Precision
from paddle_infra.train.profiler import Profiler
from paddle_infra.train.progress import ProgressBar
from paddle_infra.train.regularizers.adversarial import FGM, PGD
from paddle_infra.train.regularizers.dropout_schedule import DropoutSchedule, ramp
from paddle_infra.train.regularizers.losses import CrossEntropy, Mixup, RDrop
from paddle_infra.train.rng import get_rng_state, preserved_rng, seed_everything, set_rng_state
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice, Strategy
from paddle_infra.train.throughput import Throughput
from paddle_infra.train.trainer import Trainer
from paddle_infra.train.tuning.auto_batch import BatchPlan, find_batch_size
from paddle_infra.train.tuning.dry_run import fast_dev_run, overfit_batches
from paddle_infra.train.tuning.lr_finder import LearningRateCurve, find_learning_rate

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
