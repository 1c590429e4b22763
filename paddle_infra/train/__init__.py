"""Training any ``paddle.nn.Layer``: an exact loop, resumable bit for bit, with streaming metrics."""

from __future__ import annotations

from paddle_infra.train.adversarial import FGM, PGD
from paddle_infra.train.batches import IGNORE_INDEX, count_items
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
from paddle_infra.train.dropout_schedule import DropoutSchedule, ramp
from paddle_infra.train.early_stopping import EarlyStopping
from paddle_infra.train.ensemble import Ensemble
from paddle_infra.train.entity import EntityF1, TokenTable, entities
from paddle_infra.train.evaluation import Evaluator
from paddle_infra.train.folds import CrossValidation, Fold, cross_validate, split_folds
from paddle_infra.train.history import History, read_history
from paddle_infra.train.interrupt import TrainingInterrupted
from paddle_infra.train.losses import CrossEntropy, Mixup, RDrop
from paddle_infra.train.metrics import MeanLoss, Metric
from paddle_infra.train.optim import adamw, schedule_factor
from paddle_infra.train.precision import Float32, MixedPrecision, Precision
from paddle_infra.train.progress import ProgressBar
from paddle_infra.train.pruning import PruneTrial, Report, trainer_objective
from paddle_infra.train.ray_search import ray_search
from paddle_infra.train.rng import get_rng_state, preserved_rng, seed_everything, set_rng_state
from paddle_infra.train.search import read_search, search
from paddle_infra.train.search_result import SearchResult, TrialRow
from paddle_infra.train.search_space import Choice, FloatRange, IntegerRange
from paddle_infra.train.search_storage import SearchStorage
from paddle_infra.train.soup import Soup, average_weights, greedy_soup, uniform_soup
from paddle_infra.train.state import TrainState
from paddle_infra.train.strategy import SingleDevice, Strategy
from paddle_infra.train.trainer import Trainer
from paddle_infra.train.visualdl_logger import VisualDLLogger

__all__ = [
    "F1",
    "FGM",
    "IGNORE_INDEX",
    "PGD",
    "Accuracy",
    "Callback",
    "Checkpoint",
    "Choice",
    "ClipByGlobalNorm",
    "ClipByValue",
    "ConfusionMatrix",
    "CrossEntropy",
    "CrossValidation",
    "DropoutSchedule",
    "EarlyStopping",
    "Ensemble",
    "EntityF1",
    "Evaluator",
    "Float32",
    "FloatRange",
    "Fold",
    "History",
    "IntegerRange",
    "MeanLoss",
    "Metric",
    "MixedPrecision",
    "Mixup",
    "Precision",
    "ProgressBar",
    "PruneTrial",
    "RDrop",
    "Report",
    "Score",
    "SearchResult",
    "SearchStorage",
    "SingleDevice",
    "Soup",
    "Strategy",
    "TokenTable",
    "TrainState",
    "Trainer",
    "TrainingInterrupted",
    "TrialRow",
    "VisualDLLogger",
    "adamw",
    "average_weights",
    "checkpoints_in",
    "count_items",
    "cross_validate",
    "entities",
    "get_rng_state",
    "greedy_soup",
    "load_model",
    "newest_intact",
    "preserved_rng",
    "ramp",
    "ray_search",
    "read_checkpoint",
    "read_history",
    "read_search",
    "schedule_factor",
    "search",
    "seed_everything",
    "set_rng_state",
    "split_folds",
    "trainer_objective",
    "uniform_soup",
    "verify_checkpoint",
]
