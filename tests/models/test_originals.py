"""Models of the libraries that the files come from: theirs loaded here, ours loaded there, equal outputs.

The libraries are in environments of their own: ``make test-originals`` makes them, and runs this. Other interpreters
that have them can be named: PADDLE_INFRA_TRANSFORMERS_PYTHON and PADDLE_INFRA_PADDLENLP_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import models
from paddle_infra.models import PretrainedModel

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CASES = [
    f"{family}-{task}"
    for family in ("bert", "distilbert", "ernie", "roberta", "xlm-roberta")
    for task in (
        "Model",
        "ForMaskedLM",
        "ForQuestionAnswering",
        "ForSequenceClassification",
        "ForTokenClassification",
    )
]
OF_PADDLENLP = [case for case in CASES if case.startswith(("bert", "ernie", "roberta"))]


def run(library: str, environment: str, *arguments: str, script: str | None = None) -> None:
    python = Path(os.environ.get(f"PADDLE_INFRA_{library.upper()}_PYTHON", ROOT / environment / "bin/python"))
    if not python.exists():
        pytest.skip(f"no {library}: {python} is not there; `make test-originals` makes it")
    path = ROOT / f"tests/models/theirs_{script or library}.py"
    done = subprocess.run([str(python), str(path), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def transformers_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformers")
    run("transformers", ".venv-torch-trainers", "make", str(folder))
    return folder


@pytest.fixture(scope="module")
def paddlenlp_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paddlenlp")
    run("paddlenlp", ".venv-paddlenlp", "make", str(folder))
    return folder


@pytest.fixture(scope="module")
def ours_loaded_there(transformers_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    for case in CASES:
        loaded(transformers_models / case).save_pretrained(folder / case)
    run("transformers", ".venv-torch-trainers", "load", str(folder))
    return folder


def loaded(directory: Path) -> PretrainedModel:
    model = getattr(models, "Bert" + directory.name.rpartition("-")[2]).from_pretrained(directory)
    model.eval()
    return model


def compare(directory: Path) -> None:
    arrays = np.load(directory / "arrays.npz")
    model = loaded(directory)
    assert model.load_report.missing == ()
    # PaddleNLP's models have a pooler where they do not use it.
    assert [name for name in model.load_report.unexpected if ".pooler." not in name] == []
    mask = paddle.to_tensor(arrays["attention_mask"])
    with paddle.no_grad():
        found = model(paddle.to_tensor(arrays["input_ids"]), attention_mask=mask)
        if directory.name.endswith("-Model"):
            ours = {"last_hidden_state": found}
            if "pooler_output" in arrays:
                ours["pooler_output"] = model.pool(found)
        elif isinstance(found, tuple):
            ours = {"start_logits": found[0], "end_logits": found[1]}
        else:
            ours = {"logits": found}
    assert set(ours) == set(arrays) - {"input_ids", "attention_mask"}
    real = arrays["attention_mask"].astype(bool)
    for name, value in ours.items():
        theirs, value = arrays[name], value.numpy()
        if value.shape[:2] == real.shape:  # what stands in the padding is nobody's business
            theirs, value = theirs[real], value[real]
        assert theirs.std(axis=0).mean() > 0.1, "other inputs give something else"
        np.testing.assert_allclose(value, theirs, atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_models_of_transformers(transformers_models: Path, case: str) -> None:
    compare(transformers_models / case)


@pytest.mark.parametrize("case", OF_PADDLENLP)
def test_models_of_paddlenlp(paddlenlp_models: Path, case: str) -> None:
    compare(paddlenlp_models / case)


@pytest.mark.parametrize("case", CASES)
def test_ours_in_transformers(transformers_models: Path, ours_loaded_there: Path, case: str) -> None:
    report = json.loads((ours_loaded_there / case / "report.json").read_text())
    assert {name: value for name, value in report.items() if value} == {}
    expected = np.load(transformers_models / case / "arrays.npz")
    theirs = np.load(ours_loaded_there / case / "theirs.npz")
    assert set(theirs) == set(expected) - {"input_ids", "attention_mask"}
    for name in theirs:
        np.testing.assert_array_equal(theirs[name], expected[name])
