"""Training loops of Paddle: by hand, by this package, by paddle.Model and by PaddleNLP; all train the same layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import paddle_infra as pi
from benchmarks._encoder_contestants import SIZES
from benchmarks._trainer_turns import MAX_NORM, PEAK_RATE, SAVE_EVERY, WEIGHT_DECAY, TurnLoader, Workload
from paddle_infra import train

MakeLoader = Callable[..., TurnLoader]


class Task(paddle.nn.Layer):
    """The layer that everyone trains: called with a batch, it returns the loss."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        paddle.seed(0)
        self.is_tiny = workload.name == "tiny"
        if self.is_tiny:
            self.model = paddle.nn.Linear(workload.length, 2)
            values = np.random.default_rng(1).normal(size=(workload.length, 2)).astype("float32")
            self.model.weight.set_value(values)
        else:
            config = pi.models.BertConfig(labels=("no", "yes"), pooling="pooler", **SIZES[workload.name])
            self.model = pi.models.BertForSequenceClassification(config)

    def forward(self, **batch: Any) -> Any:
        """Return the mean loss."""
        if self.is_tiny:
            return paddle.nn.functional.cross_entropy(self.model(batch["inputs"]), batch["labels"])
        return self.model.loss(
            batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
        )


def set_threads(threads: int) -> None:
    """Make the most of the CPU, for all contestants alike."""
    pi.tune_cpu(threads)
    pi.ops.set_matmul_precision("highest")


def make(workload: Workload) -> tuple[Task, paddle.optimizer.AdamW]:
    """Return the layer and its optimizer: AdamW, clipping by norm, a rate that falls linearly to 0."""
    task = Task(workload)
    task.train()
    optimizer = train.adamw(
        task,
        PEAK_RATE,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_NORM,
        total_steps=workload.total_steps,
    )
    return task, optimizer


def to_tensors(batch: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    """Return the batch as tensors."""
    return {name: paddle.to_tensor(array) for name, array in batch.items()}


def weights_of(task: Task) -> np.ndarray:
    """Return all weights in one vector, those of a linear layer as ``[inputs, outputs]``."""
    return np.concatenate([parameter.numpy().ravel() for parameter in task.parameters()])


def by_hand(workload: Workload, folder: Path, make_loader: MakeLoader) -> np.ndarray:
    """The loop that one writes without any framework: nothing is read, checked or logged."""
    task, optimizer = make(workload)
    schedule = optimizer._learning_rate
    for arrays in make_loader():
        loss = task(**to_tensors(arrays))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    return weights_of(task)


def by_trainer(
    workload: Workload, folder: Path, make_loader: MakeLoader, callbacks: tuple[train.Callback, ...] = ()
) -> np.ndarray:
    """This package's Trainer."""
    task, optimizer = make(workload)
    trainer = train.Trainer(task, optimizer, lambda model, batch: model(**batch), callbacks=callbacks)
    trainer.fit(make_loader(), max_epochs=1)
    return weights_of(task)


def by_trainer_with_callbacks(workload: Workload, folder: Path, make_loader: MakeLoader) -> np.ndarray:
    """The same with progress, a history of every step and checkpoints."""
    callbacks = (
        train.ProgressBar(),
        train.History(folder / "history.jsonl"),
        train.Checkpoint(folder / "checkpoints", every_steps=SAVE_EVERY),
    )
    return by_trainer(workload, folder, make_loader, callbacks)


def by_hapi(workload: Workload, folder: Path, make_loader: MakeLoader) -> np.ndarray:
    """``paddle.Model.fit``, silent, without metrics; its own callback steps the schedule."""
    task, optimizer = make(workload)
    names = ["inputs"] if task.is_tiny else ["input_ids", "attention_mask"]

    class Positional(paddle.nn.Layer):
        """The same layer, called as ``paddle.Model`` calls: with the fields in order."""

        def __init__(self) -> None:
            super().__init__()
            self.task = task

        def forward(self, *fields: Any) -> Any:
            return self.task(**dict(zip([*names, "labels"], fields, strict=True)))

    specs = [paddle.static.InputSpec([None, None], name=name) for name in [*names, "labels"]]
    model = paddle.Model(Positional(), inputs=specs)
    model.prepare(optimizer, loss=lambda loss: loss)
    loader = make_loader(lambda arrays: [arrays[name] for name in [*names, "labels"]])
    model.fit(loader, epochs=1, verbose=0)
    return weights_of(task)


def by_paddlenlp(workload: Workload, folder: Path, make_loader: MakeLoader) -> np.ndarray:
    """PaddleNLP's Trainer, silent, saving nothing."""
    from paddlenlp.trainer import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

    class Turns(Trainer):
        """Their Trainer with the benchmark's loader."""

        def get_train_dataloader(self) -> Any:
            return make_loader(to_tensors)

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
            return model(**inputs)

    task, optimizer = make(workload)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=workload.total_steps,
        per_device_train_batch_size=workload.batch,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        device="cpu",
        remove_unused_columns=False,
    )
    trainer = Turns(
        model=task,
        args=arguments,
        train_dataset=[None] * (workload.batch * workload.total_steps),
        optimizers=(optimizer, optimizer._learning_rate),
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    return weights_of(task)


CONTESTANTS = {
    "paddle-loop": by_hand,
    "paddle_infra": by_trainer,
    "paddle_infra-callbacks": by_trainer_with_callbacks,
    "paddle-model": by_hapi,
    "paddlenlp-loop": by_hand,
    "paddlenlp": by_paddlenlp,
}
