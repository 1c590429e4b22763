"""The families of encoders that :class:`BertModel` and its tasks read, and what each calls its parameters.

Names on the left are ours; on the right, the field's, in the layout of PyTorch: Linear weights are ``[out, in]`` there
and ``[in, out]`` in Paddle, embeddings and norms agree. A new family is a new entry of :data:`FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Rules = Mapping[str, str]

_BERT_LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_DISTILBERT_LAYER = {
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "attention.output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_BERT_MASKED_LM = {
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "output_bias": "cls.predictions.bias",
}
_ROBERTA_MASKED_LM = {
    "transform": "lm_head.dense",
    "transform_norm": "lm_head.layer_norm",
    "output_bias": "lm_head.bias",
}
_DISTILBERT_MASKED_LM = {
    "transform": "vocab_transform",
    "transform_norm": "vocab_layer_norm",
    "output_bias": "vocab_projector.bias",
}
_CONFIG_OF_DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}


@dataclass(frozen=True)
class Family:
    """What sets one family apart.

    Attributes:
        prefix: of the encoder's names in a file with a head; a file of the bare encoder has none.
        class_prefix: of class names in ``architectures``.
        stack: name of the list of layers.
        layer: parts of a layer.
        sequence_head: the layers of the sequence classifier; ``"pooler"`` is the dense layer before the last one.
        sequence_activation: after that dense layer: ``"tanh"`` or ``"relu"``.
        has_inner_dropout: whether the sequence classifier drops before its dense layer too.
        masked_lm: the layers of the masked language model, whose last weight is the word embedding.
        masked_lm_activation: in there; None: that of the encoder.
        counts_positions: whether positions count the tokens that are no padding, from ``pad_token_id + 1`` on.
        has_token_types: whether there are embeddings of token types.
        has_pooler: whether the bare encoder has a pooler.
        config_names: what ``config.json`` calls our fields, where it differs.
        defaults: of fields, where they differ from :class:`BertConfig`'s.
    """

    prefix: str
    class_prefix: str
    stack: str = "encoder.layer"
    layer: Rules = field(default_factory=lambda: MappingProxyType(_BERT_LAYER))
    sequence_head: Rules = field(default_factory=lambda: MappingProxyType({"classifier": "classifier"}))
    sequence_activation: str = "tanh"
    has_inner_dropout: bool = False
    masked_lm: Rules = field(default_factory=lambda: MappingProxyType(_BERT_MASKED_LM))
    masked_lm_activation: str | None = None
    counts_positions: bool = False
    has_token_types: bool = True
    has_pooler: bool = True
    config_names: Rules = field(default_factory=lambda: MappingProxyType({}))
    defaults: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


def _roberta(class_prefix: str) -> Family:
    return Family(
        "roberta.",
        class_prefix,
        sequence_head=MappingProxyType({"pooler": "classifier.dense", "classifier": "classifier.out_proj"}),
        has_inner_dropout=True,
        masked_lm=MappingProxyType(_ROBERTA_MASKED_LM),
        masked_lm_activation="gelu",
        counts_positions=True,
        defaults=MappingProxyType({"pad_token_id": 1}),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": Family("bert.", "Bert"),
        "distilbert": Family(
            "distilbert.",
            "DistilBert",
            stack="transformer.layer",
            layer=MappingProxyType(_DISTILBERT_LAYER),
            sequence_head=MappingProxyType({"pooler": "pre_classifier", "classifier": "classifier"}),
            sequence_activation="relu",
            masked_lm=MappingProxyType(_DISTILBERT_MASKED_LM),
            has_token_types=False,
            has_pooler=False,
            config_names=MappingProxyType(_CONFIG_OF_DISTILBERT),
        ),
        "ernie": Family("ernie.", "Ernie"),
        "roberta": _roberta("Roberta"),
        "xlm-roberta": _roberta("XLMRoberta"),
    }
)

_LAYER = re.compile(r"encoder\.stack\.layers\.(\d+)\.(.+)\.(weight|bias)")
_EMBEDDINGS = MappingProxyType(
    {
        "word": "word_embeddings",
        "position": "position_embeddings",
        "token_type": "token_type_embeddings",
        "task_type": "task_type_embeddings",
        "norm": "LayerNorm",
    }
)


def checkpoint_names(family: Family, head: Rules, name: str) -> tuple[str, ...]:
    """Return the checkpoint's names of one of our parameters, e.g. ``bert.pooler.dense.bias``.

    Args:
        family: the encoder's family.
        head: what the file calls the layers of the head.
        name: our name.

    Returns:
        The name that is written, then those that are read too: the bare encoder's, and the ones that norms had in files
        converted from TensorFlow (``gamma``, ``beta``).

    Raises:
        KeyError: there is none.
    """
    full = _full_name(family, head, name)
    names = [full, full.removeprefix(family.prefix)]
    if re.search(r"norm", full, re.IGNORECASE):
        names += [re.sub("weight$", "gamma", re.sub("bias$", "beta", old)) for old in names]
    return tuple(dict.fromkeys(names))


def _full_name(family: Family, head: Rules, name: str) -> str:
    if match := _LAYER.fullmatch(name):
        index, part, kind = match.groups()
        return f"{family.prefix}{family.stack}.{index}.{family.layer[part]}.{kind}"
    stem, _, kind = name.rpartition(".")
    if stem.startswith("encoder.embeddings."):
        return f"{family.prefix}embeddings.{_EMBEDDINGS[stem.removeprefix('encoder.embeddings.')]}.{kind}"
    if stem == "encoder.pooler":
        return f"{head['pooler']}.{kind}" if "pooler" in head else f"{family.prefix}pooler.dense.{kind}"
    if name in head:  # a parameter, not a layer
        return head[name]
    return f"{head[stem.removeprefix('head.')]}.{kind}"


def is_transposed(name: str) -> bool:
    """Whether our parameter is the transpose of the checkpoint's: weights of Linear layers only."""
    return name.endswith(".weight") and not re.search(r"embeddings\.|norm\.", name)
