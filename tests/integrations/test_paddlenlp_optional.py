"""Without PaddleNLP: importing works, does not import it, and accelerating names the extra."""

from __future__ import annotations

import subprocess
import sys

import paddle
import pytest

from paddle_infra._core.errors import MissingExtraError
from paddle_infra.integrations import paddlenlp as fused_nlp


def test_importing_does_not_import_paddlenlp() -> None:
    script = (
        "import sys, warnings\nwarnings.simplefilter('ignore')\nimport paddle\n"
        "forward = paddle.nn.TransformerEncoderLayer.forward\n"
        "from paddle_infra.integrations import paddlenlp\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('paddlenlp', 'aistudio_sdk', 'datasets')]\n"
        "assert paddle.nn.TransformerEncoderLayer.forward is forward\n"
        "try:\n    paddlenlp.accelerate(paddle.nn.Linear(1, 1))\nexcept Exception as error:\n"
        "    print(type(error).__name__)\n"
        "assert 'paddlenlp' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] in ("MissingExtraError", "InvalidInputError")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddlenlp", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'paddlenlp'.*paddle_infra\[nlp\]"):
        fused_nlp.accelerate(paddle.nn.Linear(1, 1))
