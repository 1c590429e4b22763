"""Parameter names of BERT checkpoints: the field's (PyTorch layout) against ours (Paddle layout).

Linear weights are ``[out, in]`` in such a checkpoint and ``[in, out]`` in Paddle; embeddings and norms agree.
"""

from __future__ import annotations

import re

_RULES = (
    (r"^encoder\.embeddings\.word\.", "bert.embeddings.word_embeddings."),
    (r"^encoder\.embeddings\.position\.", "bert.embeddings.position_embeddings."),
    (r"^encoder\.embeddings\.token_type\.", "bert.embeddings.token_type_embeddings."),
    (r"^encoder\.embeddings\.norm\.", "bert.embeddings.LayerNorm."),
    (
        r"^encoder\.stack\.layers\.(\d+)\.attention\.(query|key|value)\.",
        r"bert.encoder.layer.\1.attention.self.\2.",
    ),
    (
        r"^encoder\.stack\.layers\.(\d+)\.attention\.output\.",
        r"bert.encoder.layer.\1.attention.output.dense.",
    ),
    (
        r"^encoder\.stack\.layers\.(\d+)\.attention_norm\.",
        r"bert.encoder.layer.\1.attention.output.LayerNorm.",
    ),
    (r"^encoder\.stack\.layers\.(\d+)\.intermediate\.", r"bert.encoder.layer.\1.intermediate.dense."),
    (r"^encoder\.stack\.layers\.(\d+)\.output\.", r"bert.encoder.layer.\1.output.dense."),
    (r"^encoder\.stack\.layers\.(\d+)\.output_norm\.", r"bert.encoder.layer.\1.output.LayerNorm."),
    (r"^encoder\.pooler\.", "bert.pooler.dense."),
    (r"^head\.classifier\.", "classifier."),
)


def checkpoint_name(name: str) -> str:
    """Return the checkpoint's name of one of our parameters, e.g. ``bert.pooler.dense.bias``."""
    for pattern, replacement in _RULES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    raise KeyError(name)


def is_transposed(name: str) -> bool:
    """Whether our parameter is the transpose of the checkpoint's: weights of Linear layers only."""
    return name.endswith(".weight") and not re.search(r"embeddings\.|norm\.", name)
