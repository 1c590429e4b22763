"""Run by the tests in an environment with PyTorch and transformers; knows nothing of this package.

``make FOLDER`` saves models with random weights, with inputs and what they compute; ``load FOLDER`` loads what it finds
there and writes what that computes, and which names were missing or not used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

TASKS = (
    "Model",
    "ForMaskedLM",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
)
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
DISTILBERT = {
    "vocab_size": 61, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 24,
}  # fmt: skip
FAMILIES = {
    "bert": ("Bert", {**SIZES, "hidden_act": "gelu_new"}),
    "distilbert": ("DistilBert", {**DISTILBERT, "activation": "relu"}),
    "ernie": ("Ernie", {**SIZES, "use_task_id": True, "type_vocab_size": 4, "layer_norm_eps": 1e-5}),
    "roberta": ("Roberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta": ("XLMRoberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
}


def inputs(pad_token_id: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(3, 61, (3, 11))
    mask = (np.arange(11) < np.array([[11], [6], [1]])).astype(np.int64)
    return {"input_ids": np.where(mask == 1, ids, pad_token_id), "attention_mask": mask}


def outputs(model: torch.nn.Module, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    model.eval()
    with torch.no_grad():
        found = model(**{name: torch.tensor(value) for name, value in arrays.items()})
    names = ("last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits")
    return {name: found[name].numpy() for name in names if found.get(name) is not None}


def make(folder: Path) -> None:
    for family, (prefix, sizes) in FAMILIES.items():
        for task in TASKS:
            torch.manual_seed(0)
            config = getattr(transformers, f"{prefix}Config")(**sizes)
            if task in ("ForSequenceClassification", "ForTokenClassification"):
                config.num_labels = 3
            model = getattr(transformers, prefix + task)(config)
            for parameter in model.parameters():
                # Norms stay near 1: after small ones all inputs would give nearly the same.
                parameter.data = (parameter.data if parameter.ndim == 1 else 0) + 0.3 * torch.randn_like(
                    parameter
                )
            arrays = inputs(config.pad_token_id)
            target = folder / f"{family}-{task}"
            model.save_pretrained(target)
            np.savez(target / "arrays.npz", **arrays, **outputs(model, arrays))


def load(folder: Path) -> None:
    for target in sorted(folder.iterdir()):
        config = json.loads((target / "config.json").read_text())
        cls = getattr(transformers, config["architectures"][0])
        model, info = cls.from_pretrained(target, output_loading_info=True)
        np.savez(target / "theirs.npz", **outputs(model, inputs(config["pad_token_id"])))
        report = {name: sorted(map(str, value)) for name, value in info.items()}
        (target / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    {"make": make, "load": load}[sys.argv[1]](Path(sys.argv[2]))
