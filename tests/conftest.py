"""Real data and weights for the tests: fetched over the network once, from the cache afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import paddle
import pytest

from paddle_infra._core.errors import ResourceError
from paddle_infra.data import resources

# The matrix library reads MKL_DEBUG_CPU_TYPE, which tune_cpu sets, at its first product, and its last bits follow it.
# This process makes that product untuned, and hands no test's setting on to the processes that later tests start.
_MKL_VARIABLE = "MKL_DEBUG_CPU_TYPE"
_MKL_VALUE = os.environ.get(_MKL_VARIABLE)
paddle.matmul(paddle.ones([8, 8]), paddle.ones([8, 8]))


@pytest.fixture(autouse=True)
def _same_matrix_kernels() -> Iterator[None]:
    yield
    if _MKL_VALUE is None:
        os.environ.pop(_MKL_VARIABLE, None)


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """Folder of the MiniLM-L6 checkpoint: config.json, model.safetensors, tokenizer.json, vocab.txt, …"""
    return resources.fetch("minilm-l6")


@pytest.fixture(scope="session")
def e5_dir() -> Path:
    """Folder of multilingual-e5-small: config.json, model.safetensors, tokenizer.json, …; 470 MB."""
    try:
        return resources.fetch("multilingual-e5-small")
    except ResourceError as error:
        pytest.skip(f"multilingual-e5-small cannot be fetched: {error}")


@pytest.fixture(scope="session")
def trec_file() -> Path:
    """TREC questions, ``COARSE:fine question`` per line, with repeated lines."""
    return resources.fetch("trec-questions") / "question_labels.txt"


@pytest.fixture(scope="session")
def conll_dir() -> Path:
    """CoNLL-2003: train.txt, valid.txt, test.txt."""
    return resources.fetch("conll2003")
