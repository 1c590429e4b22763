"""A real pretrained encoder: MiniLM in PaddleNLP, accelerated, is our BertModel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle

from paddle_infra.integrations import paddlenlp as fused_nlp
from paddle_infra.models import BertModel
from tests.integrations.nlp_models import transformers


def test_minilm(minilm_dir: Path) -> None:
    theirs = transformers.BertModel.from_pretrained(str(minilm_dir), convert_from_torch=True)
    ours = BertModel.from_pretrained(minilm_dir)
    theirs.eval()
    ours.eval()
    generator = np.random.default_rng(0)
    tokens = generator.integers(1000, 30000, (3, 21))
    mask = (np.arange(21) < np.array([21, 13, 5])[:, None]).astype("int64")
    inputs = {"input_ids": paddle.to_tensor(tokens), "attention_mask": paddle.to_tensor(mask)}
    with paddle.no_grad():
        expected = ours(**inputs).numpy()
        plain = theirs(**inputs)[0].numpy()
        report = fused_nlp.accelerate(theirs)
        found = theirs(**inputs)[0].numpy()
    assert len(report.left) == 1
    for array in (plain, found):
        assert np.abs((array - expected)[mask == 1]).max() < 1e-4
