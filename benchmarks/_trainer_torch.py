"""Training loops of PyTorch: by hand, by Hugging Face's Trainer and by Lightning; all train the same module."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._encoder_contestants import SIZES
from benchmarks._trainer_turns import MAX_NORM, PEAK_RATE, WEIGHT_DECAY, TurnLoader, Workload

MakeLoader = Callable[..., TurnLoader]


class Task(torch.nn.Module):
    """The module that everyone trains: called with a batch, it returns the loss."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.is_tiny = workload.name == "tiny"
        if self.is_tiny:
            self.model: Any = torch.nn.Linear(workload.length, 2)
            values = np.random.default_rng(1).normal(size=(workload.length, 2)).astype("float32")
            with torch.no_grad():
                self.model.weight.copy_(torch.from_numpy(values.T))
                self.model.bias.zero_()
        else:
            from transformers import BertConfig, BertForSequenceClassification

            self.model = BertForSequenceClassification(BertConfig(num_labels=2, **SIZES[workload.name]))

    def forward(self, **batch: Any) -> Any:
        """Return the loss in a dict, as Hugging Face's Trainer wants it."""
        if self.is_tiny:
            return {"loss": torch.nn.functional.cross_entropy(self.model(batch["inputs"]), batch["labels"])}
        return {"loss": self.model(**batch).loss}


class _Turns(torch.utils.data.IterableDataset):
    def __init__(self, loader: TurnLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Any:
        return iter(self._loader)


def set_threads(threads: int) -> None:
    """Set the number of threads, and keep the libraries from talking."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def to_tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return the batch as tensors."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def make_data(make_loader: MakeLoader) -> Any:
    """Return the turns as a ``DataLoader``, which two of the three loops expect, so all have it."""
    return torch.utils.data.DataLoader(_Turns(make_loader(to_tensors)), batch_size=None)


def make_optimizer(task: Task, workload: Workload) -> tuple[Any, Any]:
    """Return AdamW, without decay on biases and norms, and a rate that falls linearly to 0."""
    named = list(task.named_parameters())
    plain = [p for name, p in named if "bias" in name.lower() or "norm" in name.lower()]
    decayed = [p for name, p in named if "bias" not in name.lower() and "norm" not in name.lower()]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE)
    total = workload.total_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / total))
    return optimizer, schedule


def weights_of(task: Task) -> np.ndarray:
    """Return all weights in one vector, those of a linear layer as ``[inputs, outputs]``."""
    arrays = [parameter.detach().numpy() for parameter in task.parameters()]
    return np.concatenate([(array.T if array.ndim == 2 else array).ravel() for array in arrays])


def by_hand(workload: Workload, folder: Path, make_loader: MakeLoader) -> np.ndarray:
    """The loop that one writes without any framework."""
    task = Task(workload)
    task.train()
    optimizer, schedule = make_optimizer(task, workload)
    for batch in make_data(make_loader):
        loss = task(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return weights_of(task)


def by_transformers(workload: Workload, folder: Path, make_loader: MakeLoader) -> np.ndarray:
    """Hugging Face's Trainer, silent, saving nothing."""
    from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

    class Turns(Trainer):
        """Their Trainer with the benchmark's loader, prepared by accelerate as theirs is."""

        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(make_data(make_loader))

    task = Task(workload)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=workload.total_steps,
        per_device_train_batch_size=workload.batch,
        max_grad_norm=MAX_NORM,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
    )
    trainer = Turns(
        model=task,
        args=arguments,
        train_dataset=[None] * (workload.batch * workload.total_steps),
        optimizers=make_optimizer(task, workload),
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    return weights_of(task)


def by_lightning(workload: Workload, folder: Path, make_loader: MakeLoader) -> np.ndarray:
    """Lightning's Trainer, silent, saving nothing."""
    import lightning

    class Module(lightning.LightningModule):
        """The same module with the two methods that Lightning asks for."""

        def __init__(self) -> None:
            super().__init__()
            self.task = Task(workload)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.task(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            optimizer, schedule = make_optimizer(self.task, workload)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": schedule, "interval": "step"},
            }

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        gradient_clip_val=MAX_NORM,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, make_data(make_loader))
    return weights_of(module.task)


CONTESTANTS = {"torch-loop": by_hand, "transformers": by_transformers, "lightning": by_lightning}
