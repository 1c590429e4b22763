"""Gives the layers of a PaddleNLP model their fused forms, and takes them off."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import paddle

from paddle_infra._core import extras
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, UnsupportedError
from paddle_infra.integrations.paddlenlp.attention import FusedAttention
from paddle_infra.integrations.paddlenlp.embeddings import (
    FusedBertEmbeddings,
    FusedDistilBertEmbeddings,
    FusedElectraEmbeddings,
)
from paddle_infra.integrations.paddlenlp.encoder import FusedEncoderLayer
from paddle_infra.integrations.paddlenlp.fused import Fused, put_off, put_on
from paddle_infra.integrations.paddlenlp.heads import HEADS, FusedHead
from paddle_infra.integrations.paddlenlp.layers import FusedLayerNorm, FusedLinear
from paddle_infra.integrations.paddlenlp.report import AccelerationReport, Left, Replaced

_VERSION = "2.8."  # the releases whose classes were read
_MODELS = "paddlenlp.transformers"
_TRANSFORMER = "paddle.nn.layer.transformer"
#: The fused form of a class, by its full name: so that PaddleNLP need not be imported.
_FORMS: Mapping[str, type[Fused]] = MappingProxyType(
    {
        "paddle.nn.layer.norm.LayerNorm": FusedLayerNorm,
        f"{_TRANSFORMER}.MultiHeadAttention": FusedAttention,
        f"{_TRANSFORMER}.TransformerEncoderLayer": FusedEncoderLayer,
        f"{_MODELS}.bert.modeling.BertEmbeddings": FusedBertEmbeddings,
        f"{_MODELS}.distilbert.modeling.BertEmbeddings": FusedDistilBertEmbeddings,
        f"{_MODELS}.electra.modeling.ElectraEmbeddings": FusedElectraEmbeddings,
    }
)
_LINEAR = "paddle.nn.layer.common.Linear"
_HEADS = (_LINEAR, "paddlenlp.layers.linear.Linear")
#: Blocks of which only the norm is fused.
_PADDED = "its tables give zeros for padding_idx, ops.embedding_norm reads that row; only its norm is fused"
_LEFT_BLOCKS: Mapping[str, str] = MappingProxyType(
    {
        f"{_MODELS}.ernie.modeling.ErnieEmbeddings": _PADDED,
        f"{_MODELS}.roberta.modeling.RobertaEmbeddings": _PADDED,
    }
)
_ENCODER_KINDS = (f"{_TRANSFORMER}.MultiHeadAttention", f"{_TRANSFORMER}.TransformerEncoderLayer")


def accelerate(model: paddle.nn.Layer) -> AccelerationReport:
    """Run a PaddleNLP model on fused operators, in place.

    Replaced are attention (``paddle.nn.MultiHeadAttention``), the perceptron with residuals and norms
    (``paddle.nn.TransformerEncoderLayer``, post-norm and pre-norm), LayerNorm, the embeddings of BERT, TinyBERT,
    DistilBERT and ELECTRA, and the heads of classifiers and masked language models of BERT, ERNIE, RoBERTa and of those
    (see :func:`loss`). Outputs and gradients are the same up to rounding; with dropout, other numbers are dropped, with
    the same probability, from Paddle's generator.

    Layers stay the same objects, and so do parameters, their names, hooks and modes. Only the class of a layer changes,
    to a subclass of its own. What a form cannot do (attention weights, cached generation) runs the original code.

    Args:
        model: a PaddleNLP model, or a Layer that holds some.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        MissingExtraError: PaddleNLP is not installed.
        InvalidDtypeError: ``model`` is no Layer.
        InvalidInputError: it holds no PaddleNLP model, or was accelerated before.
        UnsupportedError: another version of PaddleNLP, or nothing to replace; the message has the reasons. The model is
            as it was.
    """
    _check(model)
    layers: dict[str, Any] = dict(model.named_sublayers(include_self=True))
    heads = _heads(layers)
    forms: dict[str, type[Fused]] = {}
    left: dict[str, Left] = {}
    for name, layer in layers.items():
        form = _form_of(name, layer, layers, heads)
        reasons = form.refusals(layer) if form is not None else _why_left(layer)
        if reasons:
            left[name] = Left(name or "model", type(layer).__name__, "; ".join(reasons))
        elif form is not None:
            forms[name] = form
    _drop_tables(left, forms)
    if not forms:
        raise UnsupportedError(
            "accelerate: nothing to replace. "
            + "; ".join(f"{entry.name} ({entry.kind}): {entry.reason}" for entry in left.values())
        )
    replaced = [
        Replaced(name or "model", type(layers[name]).__name__, form.operators, form.unless)
        for name, form in forms.items()
    ]
    for name, form in forms.items():
        put_on(layers[name], form)
        if name in heads:
            layers[name].sequence_config = heads[name]
    return AccelerationReport(
        type(model).__name__, tuple(replaced), tuple(left.values()), lambda: restore(model)
    )


def restore(model: paddle.nn.Layer) -> None:
    """Undo :func:`accelerate`: every layer has its own class again. What was not accelerated stays as it is."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Fused):
            put_off(layer)


def _check(model: Any) -> None:
    if importlib.util.find_spec("paddlenlp") is None:
        extras.require("paddlenlp", extra="nlp", purpose="accelerating PaddleNLP's models")
    if not isinstance(model, paddle.nn.Layer):
        raise InvalidDtypeError(f"model: expected a paddle.nn.Layer, got {type(model).__name__}")
    layers = model.sublayers(include_self=True)
    if any(isinstance(layer, Fused) for layer in layers):
        raise InvalidInputError(
            "model: expected one that is not accelerated, got one that is: restore it first"
        )
    if not any(_is_from_paddlenlp(layer) for layer in layers):
        raise InvalidInputError(
            f"model: expected a model of paddlenlp.transformers, or a Layer with one, got {type(model).__name__}"
        )
    version = sys.modules["paddlenlp"].__version__  # imported: the model is made of its classes
    if not version.startswith(_VERSION):
        raise UnsupportedError(
            f"expected PaddleNLP {_VERSION}*, got {version}: its classes may compute other things"
        )


def _is_from_paddlenlp(layer: Any) -> bool:
    return any(
        kind.__module__ == f"{_MODELS}.model_utils" and kind.__name__ == "PretrainedModel"
        for kind in type(layer).__mro__
    )


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _heads(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of the classifiers' last layers; of those of whole sequences, with the configuration."""
    found: dict[str, Any] = {}
    for name, layer in layers.items():
        kind = type(layer)
        if kind.__name__ in HEADS and kind.__module__.startswith(_MODELS):
            is_sequence = kind.__name__.endswith("ForSequenceClassification")
            found[_join(name, HEADS[kind.__name__])] = layer.config if is_sequence else None
    return found


def _form_of(
    name: str, layer: Any, layers: Mapping[str, Any], heads: Mapping[str, Any]
) -> type[Fused] | None:
    kind = _full_name(type(layer))
    if name in heads:
        return FusedHead if kind in _HEADS else None
    if kind == _LINEAR:
        # Where the work is. Poolers and the like see one row of a sequence.
        parent = layers.get(name.rpartition(".")[0])
        return FusedLinear if parent is not None and _full_name(type(parent)) in _ENCODER_KINDS else None
    return _FORMS.get(kind)


def _why_left(layer: Any) -> list[str]:
    """Return why a layer without a fused form is worth a line in the report; nothing: it is not."""
    kinds = [_full_name(kind) for kind in type(layer).__mro__]
    if kinds[0] in _LEFT_BLOCKS:
        return [_LEFT_BLOCKS[kinds[0]]]
    for base in kinds[1:]:
        if base in _FORMS or base in _HEADS:
            return [f"a subclass of {base}, whose forward is not known"]
    return ["no fused form in this place"] if layer._parameters and not layer._sub_layers else []


def _drop_tables(left: dict[str, Left], forms: Mapping[str, type[Fused]]) -> None:
    """Take out the tables of embeddings of which the whole block is replaced, or has a line of its own."""
    for name in [name for name, entry in left.items() if entry.kind == "Embedding"]:
        block = name.rpartition(".")[0]
        if block in forms or block in left:
            del left[name]


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
