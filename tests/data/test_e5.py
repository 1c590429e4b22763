"""The package's file becomes a folder: on a tiny file written here, and on what the real one became."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from paddle_infra._core.errors import ResourceError
from paddle_infra.data import Tokenizer, _e5

PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "b", "c", "bc", "你", "你好", "。", "!", "<mask>")
SCORES = (0, 0, 0, 0, -2, -1, -2, -2.5, -3, -3, -2, -4, -4, 0)
NORMALIZED = {"Ａ": "A", "\t": " ", "\x07": "", "ﷺ": "صلى الله عليه وسلم", "①": "1"}
HIDDEN, INNER = 32, 64


def numbers(size: int, seed: int) -> tuple[bytes, np.ndarray]:
    """Return Q4_0 blocks and what they stand for, number by number as the package's source does it."""
    rng = np.random.default_rng(seed)
    raw, values = b"", []
    for _ in range(size // 32):
        scale = np.float16(rng.normal())
        data = rng.integers(0, 256, 16).tolist()
        raw += struct.pack("<e16B", scale, *data)
        values += [(byte % 16 - 8) * float(scale) for byte in data]
        values += [(byte // 16 - 8) * float(scale) for byte in data]
    return raw, np.array(values)


def tiny_file() -> tuple[bytes, dict[str, np.ndarray]]:
    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, 1, 4, INNER, 20, 6, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(b"".join(text)))
    head += struct.pack(f"<{len(PIECES) + 1}I", *np.cumsum([0, *map(len, text)]))
    head += struct.pack(f"<{len(PIECES)}f", *SCORES) + b"".join(text)
    rules = b"".join(
        struct.pack(f"<IB{len(value)}I", ord(key), len(value), *map(ord, value))
        for key, value in NORMALIZED.items()
    )
    head += struct.pack("<iI", len(NORMALIZED), len(rules)) + rules
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (20, HIDDEN), "emb.pos": (6, HIDDEN), "emb.type": (2, HIDDEN), "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,), "l0.fi.w": (INNER, HIDDEN), "l0.fi.b": (INNER,), "l0.fo.w": (HIDDEN, INNER),
        "l0.fo.b": (HIDDEN,),
    }  # fmt: skip
    for part in ("q", "k", "v", "ao"):
        shapes |= {f"l0.{part}.w": (HIDDEN, HIDDEN), f"l0.{part}.b": (HIDDEN,)}
    for part in ("aln", "oln"):
        shapes |= {f"l0.{part}.w": (HIDDEN,), f"l0.{part}.b": (HIDDEN,)}
    directory_size = 4 + sum(2 + len(name) + 21 for name in shapes)
    directory, body, expected = struct.pack("<i", len(shapes)), b"", {}
    for seed, (name, shape) in enumerate(shapes.items()):
        is_packed = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        size = int(np.prod(shape))
        if is_packed:
            raw, values = numbers(size, seed)
        else:
            values = np.random.default_rng(seed).normal(size=size).astype("<f4")
            raw = values.tobytes()
        place = len(head) + directory_size + len(body)
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", is_packed, size, place, len(raw))
        body += raw
        expected[name] = values.reshape(shape)
    return head + directory + body, expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / _e5.SOURCE).write_bytes(tiny_file()[0])
    return tmp_path


def test_weights_are_exact_and_have_the_field_s_names(folder: Path) -> None:
    _e5.convert(folder)
    stored, expected = load_file(folder / "model.safetensors"), tiny_file()[1]
    names = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.type": "embeddings.token_type_embeddings.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
        "l0.q.w": "encoder.layer.0.attention.self.query.weight",
        "l0.k.b": "encoder.layer.0.attention.self.key.bias",
        "l0.v.w": "encoder.layer.0.attention.self.value.weight",
        "l0.ao.w": "encoder.layer.0.attention.output.dense.weight",
        "l0.aln.w": "encoder.layer.0.attention.output.LayerNorm.weight",
        "l0.fi.w": "encoder.layer.0.intermediate.dense.weight",
        "l0.fo.w": "encoder.layer.0.output.dense.weight",
        "l0.oln.b": "encoder.layer.0.output.LayerNorm.bias",
    }
    assert len(stored) == len(expected) == 21
    for theirs, name in names.items():
        assert stored[name].dtype == np.float32
        assert np.array_equal(stored[name].astype(np.float64), expected[theirs]), name
    config = json.loads((folder / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [config[name] for name in sizes] == [20, 32, 1, 4, 64]
    assert (config["layer_norm_eps"], config["max_position_embeddings"], config["pad_token_id"]) == (
        1e-12,
        6,
        1,
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_the_tokenizer(folder: Path) -> None:
    _e5.convert(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.pad_id == 1
    assert tokenizer.vocab_size == len(PIECES)

    def pieces(text: str) -> list[str]:
        return [PIECES[index] for index in tokenizer.encode(text).input_ids]

    assert pieces("a bc") == ["<s>", "▁a", "▁", "bc", "</s>"]
    assert pieces("  a\t\n  a ") == ["<s>", "▁a", "▁a", "</s>"]
    assert pieces("你好。") == ["<s>", "▁", "你好", "。", "</s>"]
    assert pieces("a！") == ["<s>", "▁a", "!", "</s>"], "of full width"
    assert pieces("a?? b") == ["<s>", "▁a", "<unk>", "▁", "b", "</s>"]
    assert pieces("a <mask>b") == ["<s>", "▁a", "<mask>", "▁", "b", "</s>"]
    assert tokenizer.decode(tokenizer.encode("a bc 你好").input_ids) == "a bc 你好"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"E5S2" + raw[4:], "expected E5S1, version 1, got b'E5S2'"),
        (lambda raw: raw[:40] + struct.pack("<i", 64) + raw[44:], "expected blocks of 32, got 64"),
        (lambda raw: raw[:48] + struct.pack("<i", 5) + raw[52:], "expected special pieces at"),
        (lambda raw: raw.replace("①".encode("utf-32-le"), "②".encode("utf-32-le")), r"expected U\+2461 to become '1'"),
        (lambda raw: raw.replace(b"emb.word\x01", b"emb.word\x02"), "expected float32 or Q4_0, got kind 2"),
        (lambda raw: raw.replace(b"l0.aln.w", b"l0.xln.w"), "KeyError"),
    ],
)  # fmt: skip
def test_another_file(folder: Path, change: object, message: str) -> None:
    path = folder / _e5.SOURCE
    raw = path.read_bytes()
    changed = change(raw)
    assert changed != raw
    path.write_bytes(changed)
    with pytest.raises(ResourceError, match=message):
        _e5.convert(folder)


def test_a_truncated_file(folder: Path) -> None:
    path = folder / _e5.SOURCE
    raw = path.read_bytes()
    for size in (0, 3, 30, 60, 100, 200, 400, 700, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(ResourceError, match="expected the weights of multilingual-e5-small"):
            _e5.read(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What fairseq's page on XLM-R says these become.
        ("Hello world!", [0, 35378, 8999, 38, 2]),
        ("你好，世界", [0, 6, 124084, 4, 3221, 2]),
        ("नमस्ते दुनिया", [0, 68700, 97883, 29405, 2]),
        ("مرحبا بالعالم", [0, 665, 193478, 258, 1705, 77796, 2]),
        ("Bonjour le monde", [0, 84602, 95, 11146, 2]),
    ],
)
def test_known_numbers_of_xlm_r(e5_dir: Path, text: str, expected: list[int]) -> None:
    assert Tokenizer.from_pretrained(e5_dir).encode(text).input_ids == expected


def test_normalization_is_sentencepiece_s(e5_dir: Path) -> None:
    # ids of the two texts are the same if they are normalized alike
    tokenizer = Tokenizer.from_pretrained(e5_dir)
    pairs = (
        ("ＡＢＣ　１２３", "ABC 123"),
        ("cafe\u0301", "café"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("a\u200bb\u00a0c", "a b c"),
        ("㍿", "株式会社"),
    )
    for one, other in pairs:
        assert tokenizer.encode(one).input_ids == tokenizer.encode(other).input_ids
    assert tokenizer.encode("3～5").input_ids != tokenizer.encode("3~5").input_ids, "this one is spared"


def test_the_real_weights(e5_dir: Path) -> None:
    with safe_open(e5_dir / "model.safetensors", framework="np") as file:
        assert len(file.keys()) == 197
        assert file.get_slice("embeddings.word_embeddings.weight").get_shape() == [250_037, 384]
        assert file.get_slice("encoder.layer.11.output.dense.weight").get_shape() == [384, 1536]
        blocks = file.get_tensor("encoder.layer.3.attention.self.key.weight").reshape(-1, 32)
    # The largest number of a block is -8 times its scale, which float16 holds.
    scale = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1) / -8
    assert np.array_equal(scale, scale.astype(np.float16))
    halves = blocks / np.where(scale == 0, 1, scale)
    assert np.array_equal(halves, np.round(halves))
    assert (halves.min(), halves.max()) == (-8, 7)
