"""Which tags may follow which in a tagging scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import InvalidInputError

# BILOU's and BMES's letters, written as those of BIOES.
_LETTERS: Mapping[str, str] = MappingProxyType(
    {"B": "B", "I": "I", "E": "E", "S": "S", "M": "I", "L": "E", "U": "S"}
)


class TagConstraints(NamedTuple):
    """What a :class:`CRF` may do; ``N`` tags, True: allowed."""

    transitions: np.ndarray  # bool [N, N]: the column's tag may follow the row's
    start: np.ndarray  # bool [N]
    end: np.ndarray  # bool [N]


def tag_constraints(tags: Sequence[str], scheme: Literal["iob1", "iob2", "bioes"]) -> TagConstraints:
    """Return what a tagging scheme allows.

    Args:
        tags: names in order of their ids: ``"O"``, or a letter, ``-`` and a type.
        scheme: ``"iob2"`` (BIO: ``I-X`` follows ``B-X`` or ``I-X``), ``"iob1"`` (``B-X`` follows ``B-X`` or ``I-X``)
            or ``"bioes"`` (an entity is ``B I* E`` or ``S``; M, L and U are read as I, E and S).

    Raises:
        InvalidInputError: unknown scheme, or a tag that it does not have.
    """
    check_choice("scheme", scheme, ("iob1", "iob2", "bioes"))
    outside = ("O", "")
    parsed = [outside if tag == "O" else _parse(tag, scheme) for tag in tags]
    return TagConstraints(
        np.array([[_may_follow(now, before, scheme) for now in parsed] for before in parsed], dtype=bool),
        np.array([_may_follow(now, outside, scheme) for now in parsed], dtype=bool),
        np.array([_may_follow(outside, before, scheme) for before in parsed], dtype=bool),
    )


def _parse(tag: str, scheme: str) -> tuple[str, str]:
    letter, dash, kind = tag.partition("-")
    letter = _LETTERS.get(letter, "")
    if not (dash and kind and letter in (("B", "I", "E", "S") if scheme == "bioes" else ("B", "I"))):
        raise InvalidInputError(f"tags: expected 'O' or a letter of {scheme}, '-' and a type, got {tag!r}")
    return letter, kind


def _may_follow(now: tuple[str, str], before: tuple[str, str], scheme: str) -> bool:
    same_type = now[1] == before[1]
    if scheme == "bioes":
        is_open = before[0] in ("B", "I")
        return (now[0] in ("I", "E") and same_type) if is_open else now[0] not in ("I", "E")
    continuing = "I" if scheme == "iob2" else "B"
    return now[0] != continuing or (before[0] != "O" and same_type)
