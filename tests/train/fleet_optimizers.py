"""Lion and Adafactor in fleet: ``python -m paddle.distributed.launch --nproc_per_node 2 … THIS dp|sharding``.

Each process trains on half of the batch; prints the largest difference to one process with the whole batch.
"""

from __future__ import annotations

import sys

import numpy as np
import paddle
from paddle.distributed import fleet

from paddle_infra import train


def trained_pair(name: str, rank: int) -> float:
    points = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    models, optimizers = [], []
    for _ in range(2):
        paddle.seed(0)
        models.append(
            paddle.nn.Sequential(paddle.nn.Linear(8, 16), paddle.nn.Tanh(), paddle.nn.Linear(16, 4))
        )
        schedule = train.schedule_factor("linear", 2, 10)
        optimizers.append(train.optimizer(models[-1], 0.01, name=name, weight_decay=0.1, schedule=schedule))
    start = models[0][0].weight.numpy().copy()
    networks = [models[0], fleet.distributed_model(models[1])]
    steppers = [optimizers[0], fleet.distributed_optimizer(optimizers[1])]
    batches = [points, points[rank * 4 : rank * 4 + 4]]
    for _ in range(6):
        for network, stepper, optimizer, batch in zip(networks, steppers, optimizers, batches, strict=True):
            network(paddle.to_tensor(batch)).square().mean().backward()
            stepper.step()
            stepper.clear_grad()
            optimizer._learning_rate.step()
    assert (models[0][0].weight.numpy() != start).any()
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    return max(float((left - right).abs().max()) for left, right in pairs)


def main() -> None:
    degrees = {"dp": {"dp_degree": 2}, "sharding": {"dp_degree": 1, "sharding_degree": 2}}[sys.argv[1]]
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"mp_degree": 1, "pp_degree": 1, **degrees}
    fleet.init(is_collective=True, strategy=strategy)
    rank = paddle.distributed.get_rank()
    for name in ("lion", "adafactor"):
        print(f"RESULT {rank} {name} {trained_pair(name, rank)!r}", flush=True)


if __name__ == "__main__":
    main()
