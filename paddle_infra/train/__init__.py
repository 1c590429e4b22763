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
from paddle_infra.train.ensembles.ensemble import Ensemble
from paddle_infra.train.ensembles.soup import Soup, average_weights, greedy_soup, uniform_soup
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
from paddle_infra.train.regularizers.distillation import Distillation, HiddenMatch, RelationMatch
from paddle_infra.train.regularizers.dropout_schedule import DropoutSchedule, ramp
from paddle_infra.train.regularizers.losses import CrossEntropy, Mixup, RDrop
from paddle_infra.train.rng import get_rng_state, preserved_rng, seed_everything, set_rng_state
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice, Strategy
from paddle_infra.train.throughput import Throughput
from paddle_infra.train.trainer import Trainer
from paddle_infra.train.tuning.auto_batch import BatchPlan, find_batch_size
from paddle_infra.train.tuning.dry_run import fast_dev_run, overfit_batches
from paddle_infra.train.tuning.folds import CrossValidation, Fold, cross_validate, split_folds
from paddle_infra.train.tuning.lr_finder import LearningRateCurve, find_learning_rate
from paddle_infra.train.tuning.pruning import PruneTrial, Report, trainer_objective
from paddle_infra.train.tuning.ray_search import ray_search
from paddle_infra.train.tuning.search import read_search, search
from paddle_infra.train.tuning.search_result import SearchResult, TrialRow
from paddle_infra.train.tuning.search_space import Choice, FloatRange, IntegerRange
from paddle_infra.train.tuning.search_storage import SearchStorage

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
    "Choice",
    "ClipByGlobalNorm",
    "ClipByValue",
    "CollectedMetric",
    "ConfusionMatrix",
    "CrossEntropy",
    "CrossValidation",
    "DataParallel",
    "Distillation",
    "DropoutSchedule",
    "EarlyStopping",
    "Ensemble",
    "EntityF1",
    "Evaluator",
    "ExpectedCalibrationError",
    "Float32",
    "FloatRange",
    "Fold",
    "HiddenMatch",
    "History",
    "IntegerRange",
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
    "PruneTrial",
    "RDrop",
    "RelationMatch",
    "Report",
    "RetrievalMetrics",
    "Score",
    "SearchResult",
    "SearchStorage",
    "Sharding",
    "SingleDevice",
    "Soup",
    "Strategy",
    "TensorBoardLogger",
    "Throughput",
    "TokenTable",
    "TopKAccuracy",
    "TrainState",
    "Trainer",
    "TrainingInterrupted",
    "TrialRow",
    "VisualDLLogger",
    "WandbLogger",
    "adamw",
    "average_weights",
    "checkpoints_in",
    "count_items",
    "cross_validate",
    "entities",
    "fast_dev_run",
    "find_batch_size",
    "find_learning_rate",
    "freeze",
    "get_rng_state",
    "greedy_soup",
    "load_model",
    "newest_intact",
    "optimizer",
    "overfit_batches",
    "preserved_rng",
    "ramp",
    "ray_search",
    "read_checkpoint",
    "read_history",
    "read_search",
    "recompute_layers",
    "refresh_batch_norm",
    "schedule_factor",
    "search",
    "seed_everything",
    "set_rng_state",
    "split_folds",
    "trainer_objective",
    "unfreeze",
    "uniform_soup",
    "verify_checkpoint",
]
