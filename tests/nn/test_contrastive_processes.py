"""Contrastive loss with the candidates of two processes: the loss and the gradients of the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import nn
from tests.nn.torch_gold import rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], list, str]:
    folder = tmp_path_factory.mktemp("contrastive")
    data = {name: rows(6, 8, seed=seed) for seed, name in enumerate(("query", "positive", "negatives"))}
    data["ids"] = np.array([4, 1, 7, 1, 4, 9])  # the same partners in both processes
    data["positive"][[3, 4]] = data["positive"][[1, 0]]
    data["log_probability"] = np.log([0.3, 0.2, 0.1, 0.2, 0.3, 0.1]).astype(np.float32)
    np.savez(folder / "data.npz", **data)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += ["--log_dir", str(folder / "logs"), str(Path(__file__).parent / "contrastive_process.py")]
    done = subprocess.run(
        [*command, str(folder)], env=environment, cwd=ROOT, capture_output=True, timeout=240, check=False
    )
    logs = "\n".join(path.read_text() for path in (folder / "logs").glob("workerlog.*"))
    assert done.returncode == 0, logs[-3000:]
    return data, [dict(np.load(folder / f"found-{rank}.npz")) for rank in (0, 1)], logs


@pytest.mark.parametrize("kind", ["symmetric", "ids"])
def test_two_processes_are_one_batch(results: tuple, kind: str) -> None:
    data, found, _ = results
    inputs = {
        name: paddle.to_tensor(data[name], stop_gradient=False) for name in ("query", "positive", "negatives")
    }
    options = {}
    if kind == "ids":
        options = {name: paddle.to_tensor(data[name]) for name in ("ids", "log_probability")}
    loss = nn.ContrastiveLoss(0.2, symmetric=kind == "symmetric")(**inputs, **options)
    loss.backward()
    assert np.mean([part[kind] for part in found]) == pytest.approx(float(loss), rel=1e-6)
    for name, value in inputs.items():
        # Data-parallel training averages the gradients of the processes: each has half of the rows.
        gradient = np.concatenate([part[f"{kind}.{name}"] for part in found]) / 2
        np.testing.assert_allclose(gradient, value.grad.numpy(), atol=1e-6, err_msg=name)


def test_different_numbers_of_rows_are_refused(results: tuple) -> None:
    assert results[2].count("refused: gather=True: expected as many rows in every process, got [2, 3]") == 2
