"""Models, loaders and windows that the tests of several processes use, in one process too."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.errors import StorageError
from paddle_infra.models import BertConfig, BertForTokenClassification
from paddle_infra.train import (
    Callback,
    DataParallel,
    Evaluator,
    MeanLoss,
    Trainer,
    adamw,
    count_items,
    seed_everything,
)
from paddle_infra.train.precision import Float32
from paddle_infra.train.strategy import Strategy
from paddle_infra.train.window import WindowStep
from tests.train.problem import CLASSES, SeekableLoader, mlp, training_step


def seeded_mlp() -> paddle.nn.Layer:
    """No dropout: the numbers would differ between one process and two."""
    seed_everything(3)
    return mlp(dropout=0.0)


class PatchyLoader(SeekableLoader):
    """Six batches, of which the second and the fifth have no valid item: windows differ between processes."""

    def __len__(self) -> int:
        return 6

    def iterate(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[dict[str, np.ndarray]]:
        for index in range(start, 6, step):
            batch = next(super().iterate(epoch, start=index))
            if index in (1, 4):
                batch["labels"] = np.full_like(batch["labels"], -100)
            yield batch


class Short(SeekableLoader):
    """A loader of so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return self.batches


class NotFinite:
    """A training step whose loss is NaN in process 1."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
        loss = training_step(model, batch)
        return loss * math.nan if self.rank == 1 else loss


class Sentences(SeekableLoader):
    """Seven batches of token ids and tags."""

    def __len__(self) -> int:
        return 7

    def iterate(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[dict[str, np.ndarray]]:
        for index in range(start, len(self), step):
            generator = np.random.default_rng([epoch, index])
            tokens = generator.integers(40, size=(3, 5 + index))
            yield {"input_ids": tokens, "labels": tokens % 4}


class Held(Callback):
    """Notes which share of the parameters and gradients this process holds, at the end of the backward pass."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}

    def on_gradients(self, trainer: Trainer) -> None:
        parameters = trainer.model.parameters()
        total = sum(parameter.size for parameter in parameters)
        self.shares["gradients"] = sum(p.size for p in parameters if p._grad_ivar() is not None) / total
        self.shares["parameters"] = sum(p.size for p in parameters if p._is_initialized()) / total

    def watch(self, model: paddle.nn.Layer) -> None:
        """Note the largest share of the parameters that is here when a layer has run."""

        def note(*_: Any) -> None:
            if not model.training:  # an evaluation fetches everything
                return
            parameters = model.parameters()
            here = sum(p.size for p in parameters if p._is_initialized()) / sum(p.size for p in parameters)
            name = "parameters in a layer"
            self.shares[name] = max(here, self.shares.get(name, 0.0))

        for layer in model.encoder.stack.layers:
            layer.output.register_forward_post_hook(note)


def transformer_trainer(strategy: Strategy, held: Held) -> Trainer:
    seed_everything(5)
    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        labels=("a", "b", "c", "d"),
    )
    model = BertForTokenClassification(config)
    optimizer = adamw(model, 1e-3, weight_decay=0.1, max_grad_norm=0.5, schedule="constant")
    trainer = Trainer(
        model,
        optimizer,
        lambda network, batch: network.loss(batch["input_ids"], labels=batch["labels"]),
        evaluator=Evaluator(
            lambda network, batch: {
                "loss": network.loss(batch["input_ids"], labels=batch["labels"]),
                "items": batch["labels"].size,
            },
            [MeanLoss()],
        ),
        strategy=strategy,
        callbacks=[held],
        accumulate=2,
    )
    held.watch(model)
    return trainer


class Branches(paddle.nn.Layer):
    """Uses two layers in turn, starting with number ``first``; a third is never used."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.left, self.right, self.never = (paddle.nn.Linear(64, CLASSES) for _ in range(3))
        self.shared = paddle.nn.Linear(64, 64)
        self.calls = first

    def forward(self, points: paddle.Tensor) -> paddle.Tensor:
        self.calls += 1
        return (self.left if self.calls % 2 else self.right)(self.shared(points))


def branches_trainer(first: int, **options: Any) -> Trainer:
    seed_everything(0)
    model = Branches(first)
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters(), weight_decay=0.5)
    return Trainer(model, optimizer, training_step, callbacks=[GradientsSeen()], **options)


class GradientsSeen(Callback):
    """Notes which parameters have a gradient when all are complete."""

    def on_gradients(self, trainer: Trainer) -> None:
        self.names = [name for name, p in trainer.model.named_parameters() if p._grad_ivar() is not None]


def half() -> paddle.nn.Layer:
    layer = paddle.nn.Linear(64, CLASSES)
    layer.to(dtype="float16")
    return layer


def distributed() -> paddle.nn.Layer:
    layer = paddle.nn.Linear(64, CLASSES)
    layer.weight.is_distributed = True
    return layer


def two_calls(model: paddle.nn.Layer, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
    return training_step(model, batch) + training_step(model, batch)


def train_sparse(strategy: Strategy | None = None) -> None:
    class Bag(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = paddle.nn.Embedding(64, CLASSES, sparse=True)
            self.bias = self.create_parameter([CLASSES])

        def forward(self, points: paddle.Tensor) -> paddle.Tensor:
            return self.embedding(points.argmax(-1)) + self.bias

    model = Bag()
    optimizer = paddle.optimizer.SGD(1e-2, parameters=model.parameters())
    Trainer(model, optimizer, training_step, strategy=strategy or DataParallel()).fit(
        SeekableLoader(), max_steps=1
    )


def gradient_errors(case: list[list[list[int]]], strategy: Strategy) -> dict[str, float]:
    """Return the largest error of each gradient that this process has against one large batch's, both in float32.

    ``case[rank]`` lists the micro-batches of a process, each as the labels of its samples.
    """
    generator = np.random.default_rng(len(str(case)))
    windows = [
        [
            {
                "points": generator.normal(size=(len(labels), 64)).astype("float32"),
                "labels": np.array(labels),
            }
            for labels in window
        ]
        for window in case
    ]
    batches = [batch for window in windows for batch in window]
    large = {key: np.concatenate([batch[key] for batch in batches]) for key in ("points", "labels")}
    model = seeded_mlp()
    training_step(model, {key: paddle.to_tensor(value) for key, value in large.items()}).backward()
    expected = {name: p._grad_ivar().numpy().copy() for name, p in model.named_parameters()}
    model = seeded_mlp()
    optimizer = paddle.optimizer.SGD(1e-2, parameters=model.parameters())
    network, optimizer = strategy.prepare(model, optimizer)
    found: dict[str, Any] = {}
    step = WindowStep(
        network,
        optimizer,
        training_step,
        count_items,
        strategy,
        Float32(),
        "raise",
        lambda: found.update(
            {
                name: p._grad_ivar().numpy().copy()
                for name, p in model.named_parameters()
                if p._grad_ivar() is not None
            }
        ),
    )
    step.run(windows[strategy.rank], str)
    return {name: float(np.abs(found[name] - expected[name]).max()) for name in found}


def full_disk(*_: Any) -> None:
    raise StorageError(errno.ENOSPC, "cannot write the checkpoint: No space left on device")
