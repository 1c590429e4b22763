"""One of the processes of test_contrastive_processes.py: ``contrastive_process.py FOLDER``."""

from __future__ import annotations

import sys

import numpy as np
import paddle
import paddle.distributed as dist

from paddle_infra import nn
from paddle_infra._core.errors import InvalidInputError

folder = sys.argv[1]
dist.init_parallel_env()
rank, data = dist.get_rank(), dict(np.load(folder + "/data.npz"))
half = len(data["query"]) // 2
results = {}
for kind in ("symmetric", "ids"):
    own = {name: value[rank * half : rank * half + half] for name, value in data.items()}
    rows = {
        name: paddle.to_tensor(own[name], stop_gradient=False) for name in ("query", "positive", "negatives")
    }
    options = {}
    if kind == "ids":
        options = {name: paddle.to_tensor(own[name]) for name in ("ids", "log_probability")}
    loss = nn.ContrastiveLoss(0.2, symmetric=kind == "symmetric", gather=True)(**rows, **options)
    loss.backward()
    results[kind] = loss.numpy()
    results |= {f"{kind}.{name}": value.grad.numpy() for name, value in rows.items()}
np.savez(f"{folder}/found-{rank}.npz", **results)
uneven = paddle.ones([2 + rank, 3])
try:
    nn.ContrastiveLoss(gather=True)(uneven, uneven)
except InvalidInputError as error:
    print("refused:", error)
