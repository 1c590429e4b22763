"""Emulated kernels, compiled once per run of the tests."""

from __future__ import annotations

import pytest

from tests.cuda.attention_emulated import EmulatedAttention
from tests.cuda.emulator import Emulator, build


@pytest.fixture(scope="session")
def attention(tmp_path_factory):
    """Attention's kernels for every head dimension and format."""
    return EmulatedAttention(Emulator(build(["attention"], tmp_path_factory.mktemp("attention_cuda"))))
