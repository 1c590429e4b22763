"""Clean text, and the key by which two texts count as the same."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s+")
# Cc (control) and Cs (surrogates) are exactly these ranges. Then what is invisible and meaningless inside a
# text: soft hyphen, zero-width space, word joiner, byte order mark. The zero-width (non-)joiners are kept:
# Persian spelling and emoji need them.
_REMOVED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u00ad\u200b\u2060\ufeff]")


def clean_text(text: str) -> str:
    """Return the text in Unicode NFC, without control characters, stripped, each run of white space a blank.

    Removed are the categories Cc (control; line feed, tab and the like count as white space) and Cs (lone
    surrogates, which no UTF-8 can hold), the soft hyphen, the zero-width space, the word joiner and the byte
    order mark. Idempotent.
    """
    text = _REMOVED.sub("", _SPACE.sub(" ", text))
    # White space once more: a removed character may have stood between two blanks.
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def text_key(text: str) -> str:
    """Return the key under which two texts are the same: cleaned, Unicode NFKC, case folded.

    An uncased model sees no difference between texts of one key, so one key must not be in two splits.
    """
    return clean_text(unicodedata.normalize("NFKC", clean_text(text)).casefold())
