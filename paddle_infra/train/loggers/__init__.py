"""Loggers: one per program that shows or keeps what a run measures. What they log is the same, see :class:`Logger`."""

from __future__ import annotations

from paddle_infra.train.loggers.csv_logger import CSVLogger
from paddle_infra.train.loggers.logger import Logger
from paddle_infra.train.loggers.mlflow_logger import MLflowLogger
from paddle_infra.train.loggers.tensorboard_logger import TensorBoardLogger
from paddle_infra.train.loggers.visualdl_logger import VisualDLLogger
from paddle_infra.train.loggers.wandb_logger import WandbLogger

__all__ = ["CSVLogger", "Logger", "MLflowLogger", "TensorBoardLogger", "VisualDLLogger", "WandbLogger"]
