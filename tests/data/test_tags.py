"""Tagging schemes: all of them describe the same entities."""

from __future__ import annotations

import random

import pytest

from paddle_infra.data.tags import Scheme, detect_scheme, parse_tag, to_iob2, transition_error

Span = tuple[int, int, str]  # first word, one past the last, type


def write(spans: list[Span], length: int, scheme: Scheme) -> list[str]:
    """Write entities in a scheme: an implementation of its own, from the definitions."""
    tags = ["O"] * length
    ends = {stop: kind for _, stop, kind in spans}
    for start, stop, kind in spans:
        for i in range(start, stop):
            tags[i] = f"I-{kind}"
        if scheme != "iob1" or ends.get(start) == kind:
            tags[start] = f"B-{kind}"
        if scheme == "bioes":
            tags[stop - 1] = f"E-{kind}" if stop - start > 1 else f"S-{kind}"
    return tags


def random_spans(rng: random.Random, length: int) -> list[Span]:
    spans, start = [], 0
    while start < length:
        stop = min(length, start + rng.randint(1, 3))
        if rng.random() < 0.6:
            spans.append((start, stop, rng.choice("XY")))
        start = stop
    return spans


def test_every_scheme_gives_the_same_iob2() -> None:
    rng = random.Random(0)
    for _ in range(500):
        length = rng.randint(1, 12)
        spans = random_spans(rng, length)
        expected = tuple(write(spans, length, "iob2"))
        for scheme in ("iob1", "iob2", "bioes"):
            tags = write(spans, length, scheme)
            assert transition_error(tags, scheme) is None
            assert to_iob2(tags, scheme) == expected
        assert transition_error(expected, "iob2") is None


def test_the_scheme_of_a_file_is_detected() -> None:
    rng = random.Random(1)
    sentences = [random_spans(rng, 10) for _ in range(20)]
    for scheme in ("iob1", "iob2", "bioes"):
        assert detect_scheme([write(spans, 10, scheme) for spans in sentences]) == scheme
    assert detect_scheme([["O", "O"]]) == "iob2"
    damaged = [write(spans, 10, "iob2") for spans in sentences]
    damaged[3] = ["O", "I-X", "O", "B-Y"]
    assert detect_scheme(damaged) == "iob2"  # and then the damage is an error


@pytest.mark.parametrize("tag", ["", "B", "B-", "-X", "O-X", "PER", "BI-X", "b-X", "BIO-X"])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(ValueError, match=f"expected 'O' or one of .*, got '{tag}'"):
        parse_tag(tag)


def test_a_type_may_hold_a_dash() -> None:
    assert parse_tag("B-work-of-art") == ("B", "work-of-art")
    assert to_iob2(["S-a-b", "S-a-c"], "bioes") == ("B-a-b", "B-a-c")
