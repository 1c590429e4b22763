"""Entity tagging schemes, and how to bring them all to IOB2.

IOB2 ("BIO"): every entity starts with ``B-``. IOB1: an entity starts with ``I-`` unless it touches one of the
same type before it. BIOES (also written BILOU or BMES): the last word has ``E-`` or ``L-``, a single one
``S-`` or ``U-``, an inner one ``I-`` or ``M-``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Literal

Scheme = Literal["iob1", "iob2", "bioes"]

_INSIDE = {"M": "I", "L": "E", "U": "S"}  # BILOU and BMES letters written as BIOES
_PREFIXES = "BIOESLUM"


@functools.lru_cache(maxsize=4096)
def parse_tag(tag: str) -> tuple[str, str]:
    """Split ``"B-PER"`` into ``("B", "PER")``; ``"O"`` gives ``("O", "")``. M, L, U become I, E, S.

    Raises:
        ValueError: the tag is neither ``O`` nor a known prefix, ``-`` and a type.
    """
    if tag == "O":
        return "O", ""
    prefix, dash, kind = tag.partition("-")
    if not dash or not kind or len(prefix) != 1 or prefix not in _PREFIXES or prefix == "O":
        raise ValueError(f"expected 'O' or one of B-, I-, E-, S-, L-, U-, M- and a type, got {tag!r}")
    return _INSIDE.get(prefix, prefix), kind


def transition_error(tags: Sequence[str], scheme: Scheme) -> tuple[int, str] | None:
    """Return the position of the first tag that the scheme forbids there, and why; ``None`` if there is none.

    Raises:
        ValueError: a tag has no known form.
    """
    before = ("O", "")
    for position, tag in enumerate(tags):
        now = parse_tag(tag)
        if reason := _forbidden(before, now, scheme):
            return position, reason
        before = now
    if scheme == "bioes" and before[0] in "BI":
        return len(tags) - 1, f"the entity of {tags[-1]!r} is not ended by E-{before[1]}"
    return None


def _forbidden(before: tuple[str, str], now: tuple[str, str], scheme: Scheme) -> str | None:
    tag = "-".join(part for part in now if part)
    previous = "-".join(part for part in before if part)
    if scheme == "bioes":
        is_open = before[0] in "BI"
        if is_open and (now[0] not in "IE" or now[1] != before[1]):
            return f"after {previous!r} expected I-{before[1]} or E-{before[1]}, got {tag!r}"
        if not is_open and now[0] in "IE":
            return f"{tag!r} must follow B-{now[1]} or I-{now[1]}, it follows {previous!r}"
        return None
    if now[0] in "ES":
        return f"{tag!r} belongs to the scheme bioes, not {scheme}"
    continues = before[0] != "O" and before[1] == now[1]
    if scheme == "iob2" and now[0] == "I" and not continues:
        return f"{tag!r} must follow B-{now[1]} or I-{now[1]}, it follows {previous!r}"
    if scheme == "iob1" and now[0] == "B" and not continues:
        return f"{tag!r} must follow an entity of type {now[1]}, it follows {previous!r}"
    return None


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Return the scheme whose rules the tags keep; ``"iob2"`` where several or none do.

    BIOES is recognised by its own letters, so that a damaged file is checked against the rules it meant.

    Raises:
        ValueError: a tag has no known form.
    """
    tags = list(sentences)
    if any(parse_tag(tag)[0] in "ES" for sentence in tags for tag in sentence):
        return "bioes"
    if any(transition_error(sentence, "iob2") for sentence in tags) and not any(
        transition_error(sentence, "iob1") for sentence in tags
    ):
        return "iob1"
    return "iob2"


def to_iob2(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Return the same entities as IOB2 tags.

    Tags that break the scheme's rules are read as ``conlleval`` reads them: an inside tag without its
    beginning begins an entity.

    Raises:
        ValueError: a tag has no known form.
    """
    out: list[str] = []
    before = ("O", "")
    for tag in tags:
        prefix, kind = now = parse_tag(tag)
        if prefix == "O":
            out.append("O")
        else:
            ended = before[0] in "OES" or before[1] != kind
            out.append(f"B-{kind}" if prefix in "BS" or ended else f"I-{kind}")
        before = now
    return tuple(out)
