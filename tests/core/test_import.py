"""Importing the package: silent, light, and without side effects on logging."""

from __future__ import annotations

import subprocess
import sys

import pytest

import paddle_infra

HEAVY = (
    "visualdl",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pandas",
    "rich",
    "tokenizers",
    "safetensors",
    "yaml",
    "jinja2",
)


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_import_prints_nothing_and_leaves_logging_alone() -> None:
    result = run(
        "import logging\nbefore = logging.root.level, list(logging.root.handlers)\nimport paddle_infra\n"
        "assert (logging.root.level, list(logging.root.handlers)) == before\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_import_adds_nothing_heavy_to_paddle() -> None:
    """What makes an import slow is what it imports: beside Paddle's own modules only small ones of ours."""
    result = run(
        "import sys, warnings\nwarnings.simplefilter('ignore')\nimport paddle\nbefore = set(sys.modules)\n"
        "import paddle_infra\nprint(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))\n"
        "print(len([m for m in set(sys.modules) - before if m.startswith('paddle_infra')]))"
    )
    added, own = result.stdout.splitlines()[-2:]
    assert not set(added.split()) & set(HEAVY), added
    assert int(own) <= 10


def test_public_names() -> None:
    for name in paddle_infra.__all__:
        assert getattr(paddle_infra, name) is not None
    assert set(paddle_infra.__all__) <= set(dir(paddle_infra))
    with pytest.raises(AttributeError, match="no_such_name"):
        paddle_infra.no_such_name  # noqa: B018
