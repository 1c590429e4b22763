"""What is said of memory: neither all similarities nor all logits are stored."""

from __future__ import annotations

import pytest

from tests.ops.fresh_process import python

PROGRAM = """
import sys
import paddle
from paddle_infra import nn

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def run(rows, classes):
    paddle.seed(0)
    if sys.argv[1] == "contrastive":
        query, positive = paddle.randn([rows, 8]), paddle.randn([rows, 8])
        query.stop_gradient = positive.stop_gradient = False
        nn.ContrastiveLoss(symmetric=True)(query, positive).backward()
    else:
        head = nn.MarginHead(8, classes)
        head.loss(paddle.randn([rows // 32, 8]), paddle.randint(0, classes, [rows // 32])).backward()

run(64, 64)
before = peak()
run(8192, 262144)
print("grown", (peak() - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["contrastive", "margin"])
def test_peak_memory_is_far_below_one_matrix_of_logits(kind: str) -> None:
    """Logits would be 256 MiB: of 8,192 pairs with each other, or of 256 rows with 262,144 classes.

    The margin head holds a few copies of its weight, each of 8 MiB here.
    """
    lines = python(PROGRAM, kind).splitlines()
    grown = int(next(line for line in lines if line.startswith("grown")).split()[1])
    assert grown < (64 if kind == "contrastive" else 160), f"{grown} MiB"
