"""Run by the tests in an environment with PyTorch and transformers: its searches on a table of logits.

``FOLDER`` holds ``table.npy`` (logits by position and last token), ``prompt.npy`` and ``cases.json``; what transformers
generates is written beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class TableModel(PreTrainedModel, GenerationMixin):
    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig, table: np.ndarray) -> None:
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.tensor(table))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: object) -> dict:
        return {"input_ids": input_ids}

    def forward(
        self, input_ids: torch.Tensor, attention_mask: object = None, **kwargs: object
    ) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table[torch.arange(input_ids.shape[1]), input_ids])


def main() -> None:
    folder = Path(sys.argv[1])
    table, prompt = np.load(folder / "table.npy"), torch.tensor(np.load(folder / "prompt.npy"))
    model = TableModel(PretrainedConfig(vocab_size=table.shape[-1]), table).eval()
    for number, options in enumerate(json.loads((folder / "cases.json").read_text())):
        found = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            use_cache=False,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=options["eos_token_id"],
            **options,
        )
        np.save(folder / f"tokens{number}.npy", found.sequences[:, prompt.shape[1] :].numpy())
        if options["num_beams"] > 1:
            np.save(folder / f"scores{number}.npy", found.sequences_scores.numpy())


main()
