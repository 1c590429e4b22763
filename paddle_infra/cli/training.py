"""Train a configured run: data, model, Trainer, best weights."""

from __future__ import annotations

import math
import time
import typing
from collections.abc import Callable
from typing import Any

import paddle
from rich.console import Console

from paddle_infra._core.atomic import atomic_directory
from paddle_infra._core.errors import ConfigError
from paddle_infra.cli.config import RunConfig, load_config
from paddle_infra.cli.run_directory import RunDirectory
from paddle_infra.cli.sources import Splits, coarse, load_splits, local_path
from paddle_infra.cli.tasks import (
    MAIN_METRIC,
    Classifier,
    inputs_of,
    new_dataset,
    new_loader,
    new_metrics,
    new_model,
)
from paddle_infra.data import LabelMap, Tokenizer
from paddle_infra.ops import set_matmul_precision
from paddle_infra.train import (
    Callback,
    Checkpoint,
    EarlyStopping,
    History,
    ProgressBar,
    Trainer,
    VisualDLLogger,
    adamw,
    load_model,
    seed_everything,
)
from paddle_infra.train.optimizers.optim import Schedule

LABEL_FILE = "labels.json"


def check_fresh(directory: RunDirectory, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        ConfigError: the folder holds a run and neither flag is given, or a resumed run has another configuration.
    """
    if resume:
        if not directory.is_started:
            raise ConfigError(f"{directory.path}: expected checkpoints to resume from, found none")
        saved = load_config(directory.config)
        if saved != config:
            raise ConfigError(
                f"{directory.path}: expected the configuration that the run was started with ({directory.config}), "
                "got another one: a resumed run cannot change it"
            )
    elif not overwrite and (directory.is_started or directory.is_trained):
        state = "a finished run" if directory.is_trained else "an unfinished run: continue it with --resume"
        raise ConfigError(
            f"{directory.path}: expected a new folder, it holds {state}; replace it with --overwrite"
        )


def train_run(
    config: RunConfig,
    directory: RunDirectory,
    console: Console,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Train, keep the best weights by validation, and write ``model/``.

    Raises:
        PaddleInfraError: anything that is wrong with configuration, data or training, before or while training.
        TrainingInterrupted: Ctrl-C; a checkpoint is saved.
    """
    check_fresh(directory, config, resume=resume, overwrite=overwrite)
    splits = load_splits(config)
    learned = LabelMap.from_examples(splits.train)
    labels = LabelMap.from_examples(coarse(config.data, splits.train))
    tokenizer = Tokenizer.from_pretrained(local_path(config.model.pretrained))
    train_data = new_dataset(config, splits.train, tokenizer, learned)
    validation_data = new_dataset(config, coarse(config.data, splits.validation), tokenizer, labels)
    # An unknown label in the test examples should not wait for the end.
    new_dataset(config, coarse(config.data, splits.test), tokenizer, labels)
    _describe(console, config, splits, labels, train_data.truncated_count)
    seed_everything(config.seed)
    model = new_model(config, labels, learned)
    # Data and weights are good: only now may an old run go.
    directory.path.mkdir(parents=True, exist_ok=True)
    if not resume:
        directory.clear()
    config.save(directory.config)
    train_loader = new_loader(config, train_data, tokenizer, training=True)
    steps = config.training.epochs * math.ceil(len(train_loader) / config.training.accumulate)
    checkpoint = _checkpoint(config, directory)
    trainer = Trainer(
        model,
        _optimizer(config, model, steps),
        _training_step(config),
        evaluator=new_metrics(config.task, labels).evaluator,
        callbacks=[*_callbacks(config, directory, console), checkpoint],
        accumulate=config.training.accumulate,
    )
    started = time.monotonic()
    with set_matmul_precision(config.training.matmul_precision):
        state = trainer.fit(
            train_loader,
            new_loader(config, validation_data, tokenizer, training=False),
            max_epochs=config.training.epochs,
            resume="latest" if resume else None,
        )
    assert checkpoint.best_path is not None  # fit has validated at least once
    load_model(checkpoint.best_path, model)
    save_model(model, tokenizer, labels, directory)
    directory.add_results(
        labels=labels.to_list(),
        examples={name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        duplicates_left_out=splits.duplicates,
        truncated=train_data.truncated_count,
        steps=state.step,
        best_step=state.best_step,
        validation={MAIN_METRIC[config.task]: state.best_value},
        training_seconds=round(time.monotonic() - started, 1),
    )


def save_model(model: Classifier, tokenizer: Tokenizer, labels: LabelMap, directory: RunDirectory) -> None:
    """Write the folder that evaluation and export start from, whole or not at all."""
    with atomic_directory(directory.model) as folder:
        model.save_pretrained(folder)
        tokenizer.save(folder)
        labels.save(folder / LABEL_FILE)


def _optimizer(config: RunConfig, model: Classifier, steps: int) -> paddle.optimizer.AdamW:
    settings = config.training
    return adamw(
        model,
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay if settings.layer_decay < 1.0 else None,
        max_grad_norm=settings.max_grad_norm,
        warmup_steps=int(settings.warmup_fraction * steps),
        total_steps=steps,
        schedule=typing.cast(Schedule, settings.schedule),
    )


def _training_step(config: RunConfig) -> Callable[[Any, dict[str, Any]], paddle.Tensor]:
    smoothing = config.training.label_smoothing

    def step(model: Any, batch: dict[str, Any]) -> paddle.Tensor:
        return model.loss(**inputs_of(batch), labels=batch["labels"], label_smoothing=smoothing)

    return step


def _checkpoint(config: RunConfig, directory: RunDirectory) -> Checkpoint:
    return Checkpoint(
        directory.checkpoints,
        every_steps=config.training.checkpoint_every_steps or None,
        keep_last=config.training.keep_checkpoints,
        best_metric=MAIN_METRIC[config.task],
    )


def _callbacks(config: RunConfig, directory: RunDirectory, console: Console) -> list[Callback]:
    callbacks: list[Callback] = [
        ProgressBar(console=console),
        History(directory.history),
        VisualDLLogger(directory.visualdl),
    ]
    if config.training.early_stopping_patience:
        callbacks.append(
            EarlyStopping(MAIN_METRIC[config.task], patience=config.training.early_stopping_patience)
        )
    return callbacks


def _describe(console: Console, config: RunConfig, splits: Splits, labels: LabelMap, truncated: int) -> None:
    console.print(
        f"  {len(splits.train):,} training, {len(splits.validation):,} validation, {len(splits.test):,} test examples; "
        f"{splits.duplicates:,} repeated ones left out; {len(labels)} classes"
    )
    if truncated:
        console.print(
            f"  {truncated} training examples are cut off at data.max_length={config.data.max_length}"
        )
