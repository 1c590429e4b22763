from __future__ import annotations

import random
import unicodedata

import pytest

from paddle_infra.data import clean_text, text_key


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  a \t\r\n b  ", "a b"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),  # no-break space, ideographic space, line separator
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\x07c\x7f", "abc"),
        ("a \x00 b", "a b"),
        ("\ufeffsoft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("lone\ud800surrogate", "lonesurrogate"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\x00\u200b \n", ""),
        ("", ""),
    ],
)
def test_clean_text(raw: str, cleaned: str) -> None:
    assert clean_text(raw) == cleaned


def test_cleaning_twice_changes_nothing() -> None:
    rng = random.Random(0)
    ranges = [
        (0, 0x250),
        (0x300, 0x370),
        (0x2000, 0x2070),
        (0xD7F0, 0xD810),
        (0xFE00, 0xFF80),
        (0x1F600, 0x1F650),
    ]
    for _ in range(3000):
        raw = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(12)))
        cleaned = clean_text(raw)
        assert clean_text(cleaned) == cleaned
        assert unicodedata.is_normalized("NFC", cleaned)
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned)
        cleaned.encode("utf-8")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is  X ?", "what IS x ?"),
        ("\uff21\uff22\uff23", "abc"),
        ("Stra\u00dfe", "STRASSE"),
        ("\ufb01t", "FIT\n"),
    ],
)
def test_texts_of_one_key(one: str, other: str) -> None:
    assert text_key(one) == text_key(other)


def test_texts_of_different_keys() -> None:
    assert len({text_key(t) for t in ("a b", "ab", "a, b", "a b ?", "b a")}) == 5
