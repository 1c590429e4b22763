"""LoRA in the files of Hugging Face's PEFT: names, layout, and the library itself in an environment of its own.

The slow tests need an interpreter with ``peft``, ``transformers`` and ``torch``: that of ``make bench-trainer``
(``.venv-torch-trainers``), or another one in the variable ``PEFT_PYTHON``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddle_infra import peft
from paddle_infra._core.errors import InvalidInputError, UnsupportedError, WeightError
from paddle_infra.models import BertModel
from tests.peft.tiny import adapted, batch, logits, model, randomize

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = Path(__file__).parents[2]
LAYER = "base_model.model.bert.encoder.layer.0."
CASES = {
    "lora": {"rank": 3},
    "stabilized": {"rank": 4, "alpha": 5.0, "rank_stabilized": True, "layers": ("query", "attention.output")},
    "mlp": {"rank": 2, "layers": ("intermediate", "layers.1.output")},
    "embedding": {"rank": 2, "layers": ("word", "value")},
}


def made(case: str):
    """A model pooled as the original, with an adapter and a trained head."""
    network = model(pooling="pooler")
    peft.apply_lora(network, train_also=("head", "pooler"), **CASES[case])
    randomize(network)
    return network


def test_names_and_layout(tmp_path: Path) -> None:
    network = made("lora")
    peft.save_huggingface(network, tmp_path, base_model="tiny", task_type="SEQ_CLS")
    stored = load_file(tmp_path / WEIGHTS)
    assert len(stored) == 12 * 2 + 4
    adapter = network.encoder.stack.layers[0].intermediate.adapters["default"]
    name = f"{LAYER}intermediate.dense.lora_"
    assert np.array_equal(stored[f"{name}A.weight"], adapter.down.numpy().T)
    assert np.array_equal(stored[f"{name}B.weight"], adapter.up.numpy().T)
    assert stored[f"{LAYER}attention.self.query.lora_A.weight"].shape == (3, 16)
    assert stored["base_model.model.classifier.weight"].shape == (3, 16)
    values = json.loads((tmp_path / CONFIG).read_text())
    assert (values["r"], values["lora_alpha"], values["task_type"]) == (3, 16.0, "SEQ_CLS")
    assert values["modules_to_save"] == ["pooler.dense", "classifier"]
    assert "encoder.layer.1.attention.output.dense" in values["target_modules"]


@pytest.mark.parametrize("case", CASES)
def test_written_and_read_back(case: str, tmp_path: Path) -> None:
    network = made(case)
    peft.save_huggingface(network, tmp_path)
    other = model(pooling="pooler")
    applied = peft.load_huggingface(other, tmp_path, name="theirs")
    assert np.array_equal(logits(other), logits(network))
    ours = peft.adapters(network)["default"]
    assert applied.layers == ours.layers
    assert applied.train_also == ours.train_also
    assert (applied.config.scale, applied.config.rank) == (ours.config.scale, ours.config.rank)


def test_a_bare_encoder(tmp_path: Path) -> None:
    bare = BertModel(model().config)
    bare.eval()
    peft.apply_lora(bare, layers=("query",))
    randomize(bare)
    peft.save_huggingface(bare, tmp_path)
    assert min(load_file(tmp_path / WEIGHTS)) == (
        "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"
    )
    other = model()
    peft.load_huggingface(other, tmp_path)
    adapter = other.encoder.stack.layers[1].attention.query.adapters["default"]
    expected = bare.encoder.stack.layers[1].attention.query.adapters["default"]
    assert np.array_equal(adapter.up.numpy(), expected.up.numpy())


def rewrite(folder: Path, **changes: object) -> None:
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "peft_type: expected 'LORA', got 'IA3'"),
        ({"use_dora": True}, UnsupportedError, "use_dora: expected an adapter of plain LoRA, got True"),
        ({"bias": "all"}, UnsupportedError, "bias: expected an adapter of plain LoRA, got 'all'"),
        (
            {"alpha_pattern": {"query": 3}},
            UnsupportedError,
            "alpha_pattern: expected an adapter of plain LoRA",
        ),
        ({"loftq_config": {"bits": 4}}, UnsupportedError, "loftq_config: expected an adapter of plain LoRA"),
        ({"init_lora_weights": "pissa"}, UnsupportedError, "got 'pissa', which also changes the base model"),
        ({"r": "8"}, WeightError, "r: expected a number, got '8'"),
        ({"r": 5}, WeightError, r"expected float32\[50, 5\], got float32\[50, 2\]|expected float32\[16, 5\]"),
    ],
)
def test_settings_that_are_not_ours(tmp_path: Path, changes: dict, error: type, message: str) -> None:
    peft.save_huggingface(made("mlp"), tmp_path)
    rewrite(tmp_path, **changes)
    other = model(pooling="pooler")
    with pytest.raises(error, match=message):
        peft.load_huggingface(other, tmp_path)
    assert not peft.adapters(other)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    network = made("mlp")
    peft.save_huggingface(network, tmp_path)
    with pytest.raises(
        WeightError, match=r"expected format 'paddle_infra.peft/1', got None; read it with peft.load_hug"
    ):
        peft.load_adapter(model(), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    name = f"{LAYER}intermediate.dense.lora_A.weight"
    save_file({**tensors, f"{LAYER}extra.lora_A.weight": tensors[name]}, tmp_path / WEIGHTS)
    with pytest.raises(WeightError, match=r"expected names of this model's layers, got \['base_model.*extra"):
        peft.load_huggingface(model(pooling="pooler"), tmp_path)
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / WEIGHTS)
    with pytest.raises(WeightError, match=r"expected an adapter of the same layers|missing or unknown are"):
        peft.load_huggingface(model(pooling="pooler"), tmp_path)
    save_file(
        {"base_model.model.classifier.bias": tensors["base_model.model.classifier.bias"]}, tmp_path / WEIGHTS
    )
    with pytest.raises(WeightError, match="expected LoRA matrices of this model's layers, got none"):
        peft.load_huggingface(model(pooling="pooler"), tmp_path)
    with pytest.raises(UnsupportedError, match="expected a LoRA adapter, got 'default' of 'ia3'"):
        peft.save_huggingface(adapted("ia3"), tmp_path)
    with pytest.raises(InvalidInputError, match="rules: expected a name for the layer 'encoder"):
        peft.save_huggingface(made("lora"), tmp_path, rules=())


def python_with_peft() -> Path:
    path = Path(os.environ.get("PEFT_PYTHON", ROOT / ".venv-torch-trainers/bin/python"))
    command = [str(path), "-c", "import peft, torch, transformers"]
    if not path.exists() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(
            f"{path}: no interpreter with peft, torch and transformers (make bench-trainer, or PEFT_PYTHON)"
        )
    return path


THEIRS = """
import sys
import numpy as np, torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertForSequenceClassification

task, base, folder, data, result = sys.argv[1:]
torch.manual_seed(0)
inputs = {name: torch.from_numpy(value) for name, value in np.load(data).items()}
network = BertForSequenceClassification.from_pretrained(base)
if task == "read":
    network = PeftModel.from_pretrained(network, folder)
else:
    targets = ["query", "value", "intermediate.dense"] + (["word_embeddings"] if "embedding" in task else [])
    config = LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=7, target_modules=targets, use_rslora="stabilized" in task
    )
    network = get_peft_model(network, config)
    for name, p in network.named_parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    network.save_pretrained(folder)
network.eval()
with torch.no_grad():
    np.save(result, network(**inputs).logits.numpy())
"""


def run_theirs(task: str, base: Path, folder: Path, tmp_path: Path) -> np.ndarray:
    python = python_with_peft()
    np.savez(tmp_path / "inputs.npz", **{name: value.numpy() for name, value in batch().items()})
    files = [str(path) for path in (base, folder, tmp_path / "inputs.npz", tmp_path / "logits.npy")]
    done = subprocess.run(
        [str(python), "-c", THEIRS, task, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "logits.npy")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model(pooling="pooler").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_library_reads_ours(case: str, base: Path, tmp_path: Path) -> None:
    network = made(case)
    peft.save_huggingface(network, tmp_path / "adapter", task_type="SEQ_CLS")
    theirs = run_theirs("read", base, tmp_path / "adapter", tmp_path)
    np.testing.assert_allclose(theirs, logits(network), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["write", "write-stabilized", "write-embedding"])
def test_ours_reads_the_library_s(task: str, base: Path, tmp_path: Path) -> None:
    theirs = run_theirs(task, base, tmp_path / "adapter", tmp_path)
    network = model(pooling="pooler")
    before = logits(network)
    peft.load_huggingface(network, tmp_path / "adapter")
    np.testing.assert_allclose(logits(network), theirs, atol=1e-5)
    assert np.abs(theirs - before).max() > 0.01
