"""``python -m tests.train.memory_limit``: find a batch size under a real limit of memory (RLIMIT_AS), then train.

Prints a JSON object: the plan, the errors that were met, and whether everything was put back.
"""

from __future__ import annotations

import json
import resource
from typing import Any

import numpy as np
import paddle

from paddle_infra.train import BatchPlan, find_batch_size, get_rng_state, optimizer
from paddle_infra.train.tuning import auto_batch as module
from tests.train.problem import make_trainer, tensors

WANTED, SAMPLES = 64, 128
WIDTH = 1 << 21  # 8 MiB per sample and tensor
LIMIT_BYTES = 400 << 20


def loader(batch_size: int) -> list[dict[str, np.ndarray]]:
    points = np.random.default_rng(0).normal(size=(SAMPLES, 8)).astype("float32")
    labels = np.arange(SAMPLES) % 3
    return [
        {"points": points[i : i + batch_size], "labels": labels[i : i + batch_size]}
        for i in range(0, SAMPLES, batch_size)
    ]


def training_step(model: paddle.nn.Layer, batch: dict[str, Any]) -> paddle.Tensor:
    size = len(batch["points"])
    wide = paddle.tanh(batch["points"].sum(axis=1, keepdim=True).expand([size, WIDTH]) * 1e-3)  # the memory
    hidden = model[0](batch["points"]) + wide[:, :4]
    return paddle.nn.functional.cross_entropy(
        model[2](model[1](paddle.nn.functional.tanh(hidden))), batch["labels"]
    )


def allowed_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize() + LIMIT_BYTES


def main() -> None:
    model = paddle.nn.Sequential(paddle.nn.Linear(8, 4), paddle.nn.Dropout(0.1), paddle.nn.Linear(4, 3))
    trainer = make_trainer(
        model=model, optimizer=optimizer(model, 0.1, name="adamw"), training_step=training_step
    )
    trainer.fit([{key: value[:1] for key, value in loader(1)[0].items()}], max_steps=1)  # threads, libraries
    before, rng = tensors(trainer), get_rng_state()
    met: list[str] = []
    original = module.is_out_of_memory

    def noted(error: BaseException) -> bool:
        met.append(f"{type(error).__name__}: {error}")
        return original(error)

    module.is_out_of_memory = noted
    limit = allowed_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    plan: BatchPlan = find_batch_size(trainer, loader, WANTED)
    after = tensors(trainer)
    is_same_rng = get_rng_state() == rng
    is_same = before.keys() == after.keys() and all(before[k].tobytes() == after[k].tobytes() for k in before)
    state = trainer.fit(plan.loader, max_steps=2)
    result = {
        "batch_size": plan.batch_size,
        "accumulate": plan.accumulate,
        "met": met,
        "is_put_back": is_same and is_same_rng,
        "samples": state.samples,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
