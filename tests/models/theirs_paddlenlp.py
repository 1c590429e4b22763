"""Run by the tests in an environment with PaddleNLP; knows nothing of this package.

``make FOLDER`` saves models with random weights, with inputs and what they compute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
from paddlenlp import transformers

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
    "type_vocab_size": 4,
}
FAMILIES = {
    "bert": ("Bert", SIZES),
    "ernie": ("Ernie", {**SIZES, "use_task_id": True, "task_id": 1, "hidden_act": "relu"}),
    "roberta": ("Roberta", {**SIZES, "pad_token_id": 1, "layer_norm_eps": 1e-5}),
}


def make(folder: Path) -> None:
    for family, (prefix, sizes) in FAMILIES.items():
        for task in TASKS:
            paddle.seed(0)
            config = getattr(transformers, f"{prefix}Config")(**sizes)
            if task in ("ForSequenceClassification", "ForTokenClassification"):
                config.num_labels = 3
            model = getattr(transformers, prefix + task)(config)
            for parameter in model.parameters():
                # Norms stay near 1: after small ones all inputs would give nearly the same.
                old = parameter if parameter.ndim == 1 else 0
                parameter.set_value(old + 0.3 * paddle.randn(parameter.shape))
            model.eval()
            ids = np.random.default_rng(0).integers(3, 61, (3, 11))
            mask = (np.arange(11) < np.array([[11], [6], [1]])).astype(np.int64)
            arrays = {"input_ids": np.where(mask == 1, ids, config.pad_token_id), "attention_mask": mask}
            with paddle.no_grad():
                # PaddleNLP wants a mask of four axes
                bias = paddle.to_tensor(((mask - 1) * 1e9).astype("float32")[:, None, None, :])
                found = model(paddle.to_tensor(arrays["input_ids"]), attention_mask=bias)
            found = found if isinstance(found, tuple) else (found,)
            names = {
                "Model": ("last_hidden_state", "pooler_output"),
                "ForQuestionAnswering": ("start_logits", "end_logits"),
            }
            results = dict(zip(names.get(task, ("logits",)), found, strict=True))
            target = folder / f"{family}-{task}"
            model.save_pretrained(str(target))
            np.savez(
                target / "arrays.npz", **arrays, **{name: value.numpy() for name, value in results.items()}
            )


if __name__ == "__main__":
    {"make": make}[sys.argv[1]](Path(sys.argv[2]))
