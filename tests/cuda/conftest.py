"""Emulated kernels, compiled once per run of the tests."""

from __future__ import annotations

import pytest

from tests.cuda.attention_emulated import EmulatedAttention
from tests.cuda.emulator import Emulator, build
from tests.cuda.linear_cross_entropy_emulated import EmulatedHead
from tests.cuda.linear_topk_emulated import EmulatedTopk


@pytest.fixture(scope="session")
def attention(tmp_path_factory):
    """Attention's kernels for every head dimension and format."""
    return EmulatedAttention(Emulator(build(["attention"], tmp_path_factory.mktemp("attention_cuda"))))


@pytest.fixture(scope="session")
def head(tmp_path_factory):
    """The kernels of linear_cross_entropy for every format."""
    return EmulatedHead(
        Emulator(build(["linear_cross_entropy"], tmp_path_factory.mktemp("linear_cross_entropy_cuda")))
    )


@pytest.fixture(scope="session")
def topk(tmp_path_factory):
    """The kernels of linear_topk for every format."""
    return EmulatedTopk(Emulator(build(["linear_topk"], tmp_path_factory.mktemp("linear_topk_cuda"))))
