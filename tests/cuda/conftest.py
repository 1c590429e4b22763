"""Emulated kernels, compiled once per run of the tests."""

from __future__ import annotations

import pytest

from tests.cuda.attention_emulated import EmulatedAttention
from tests.cuda.emulated_library import emulated_kernels
from tests.cuda.linear_cross_entropy_emulated import EmulatedHead
from tests.cuda.linear_topk_emulated import EmulatedTopk


@pytest.fixture(scope="session")
def attention():
    """Attention's kernels for every head dimension and format."""
    return EmulatedAttention(emulated_kernels())


@pytest.fixture(scope="session")
def head():
    """The kernels of linear_cross_entropy for every format."""
    return EmulatedHead(emulated_kernels())


@pytest.fixture(scope="session")
def topk():
    """The kernels of linear_topk for every format."""
    return EmulatedTopk(emulated_kernels())
