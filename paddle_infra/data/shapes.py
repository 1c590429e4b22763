"""What the spelling of a word says that an uncased encoder does not see."""

from __future__ import annotations

WORD_SHAPES = ("lower", "digit", "upper", "single_upper", "title", "mixed")
"""Names of the shapes, by number."""


def word_shape(word: str) -> int:
    """Return the number of a word's shape in :data:`WORD_SHAPES`.

    ``digit``: has a digit. ``upper``: all capitals, two letters or more; ``single_upper``: one capital (``I``, ``U.``).
    ``title``: a capital, then none (``Paris``). ``mixed``: a capital elsewhere (``iPhone``, ``McDonald``).
    ``lower``: everything else, also words in scripts without capitals and punctuation.

    An uncased tokenizer maps ``US`` and ``us`` to the same piece. Given as token types (a
    :class:`~paddle_infra.data.TokenClassificationDataset` with ``word_type=word_shape``, a model with
    ``type_vocab_size=len(WORD_SHAPES)``), the shapes tell them apart again.
    """
    if any(character.isdigit() for character in word):
        return 1
    if not any(character.isupper() for character in word):
        return 0
    letters = [character for character in word if character.isalpha()]
    if all(character.isupper() for character in letters):
        return 2 if len(letters) > 1 else 3
    is_title = letters[0].isupper() and not any(character.isupper() for character in letters[1:])
    return 4 if is_title else 5
