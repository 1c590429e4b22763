"""Sub-word tokenization with the Hugging Face ``tokenizers`` library."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_infra._core.atomic import write_json, write_text
from paddle_infra._core.errors import DataError, InvalidInputError

if TYPE_CHECKING:
    from tokenizers import Encoding as BackendEncoding
    from tokenizers import Tokenizer as Backend

_FILE = "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Encoding:
    """One encoded text.

    Attributes:
        input_ids: sub-word numbers, special ones included.
        token_type_ids: segment numbers, as many.
        word_ids: for each sub-word the index of its word, ``None`` for special ones. For
            :meth:`Tokenizer.encode` a word is what the tokenizer itself splits off.
        dropped: how many sub-words ``max_length`` cut off.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    word_ids: list[int | None]
    dropped: int = 0


class Tokenizer:
    """A tokenizer read from a ``tokenizer.json``. Padding and truncation stored in that file are ignored.

    Immutable, so that threads may share it. As usual, special tokens written out in a text (``[SEP]``) become
    these tokens.
    """

    def __init__(self, backend: Backend, settings: dict[str, dict[str, Any]]) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend, self._settings = backend, settings
        self._num_special = backend.num_special_tokens_to_add(False)
        self._pad_id = self._special_id("pad_token", ("[PAD]", "<pad>"))
        self._unk_id = self._special_id("unk_token", ("[UNK]", "<unk>"))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Tokenizer:
        """Read ``tokenizer.json`` and, if present, ``tokenizer_config.json`` and ``special_tokens_map.json``.

        Raises:
            DataError: the folder or ``tokenizer.json`` is missing, or a file is damaged.
        """
        from tokenizers import Tokenizer as Backend

        folder = Path(directory)
        path = folder / _FILE
        if not path.is_file():
            found = (
                sorted(entry.name for entry in folder.iterdir())[:20] if folder.is_dir() else "no such folder"
            )
            raise DataError(f"expected the file {_FILE}, found {found}", folder)
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"expected a tokenizer file, it is damaged or of another kind: {error}", path
            ) from error
        settings = {name: _read_settings(folder / name) for name in _SETTINGS if (folder / name).is_file()}
        return cls(backend, settings)

    @property
    def vocab_size(self) -> int:
        """Number of different sub-words, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def pad_id(self) -> int:
        """Number of the padding token.

        Raises:
            InvalidInputError: the tokenizer has none.
        """
        if self._pad_id is None:
            raise InvalidInputError(
                "expected a padding token ([PAD], <pad>, or pad_token in a settings file), found none"
            )
        return self._pad_id

    def encode(self, text: str, max_length: int | None = None) -> Encoding:
        """Encode a text with its special tokens, at most ``max_length`` sub-words in all.

        Raises:
            InvalidInputError: not a string, or ``max_length`` leaves no room beside the special tokens.
        """
        if not isinstance(text, str):
            raise InvalidInputError(f"expected a text (str), got {type(text).__name__}")
        return self._finish(self._backend.encode(_utf8(text), add_special_tokens=False), max_length)

    def encode_words(self, tokens: Sequence[str], max_length: int | None = None) -> Encoding:
        """Encode a text that is already split into words; ``word_ids`` index ``tokens``.

        A word without any sub-word of its own (an invisible character) becomes one unknown token, so that
        every word that is not cut off has a first sub-word.

        Raises:
            InvalidInputError: ``tokens`` is one string, or as for :meth:`encode`.
        """
        if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
            raise InvalidInputError(f"expected a sequence of words (str), got {tokens!r:.80}")
        words = [_utf8(token) for token in tokens]
        raw = self._backend.encode(words, is_pretokenized=True, add_special_tokens=False)
        if missing := set(range(len(words))) - set(raw.word_ids):
            if self._unk_id is None:
                lost = [words[i] for i in sorted(missing)[:3]]
                raise InvalidInputError(
                    f"expected sub-words for every word, the tokenizer gives none for {lost}"
                )
            unknown = str(self._backend.id_to_token(self._unk_id))
            words = [unknown if i in missing else word for i, word in enumerate(words)]
            raw = self._backend.encode(words, is_pretokenized=True, add_special_tokens=False)
        return self._finish(raw, max_length)

    def decode(self, input_ids: Sequence[int]) -> str:
        """Return the text of sub-words, without special tokens."""
        return str(self._backend.decode(list(input_ids), skip_special_tokens=True))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the files that :meth:`from_pretrained` reads, each atomically.

        Raises:
            StorageError: a file cannot be written.
        """
        folder = Path(directory)
        for name, content in self._settings.items():
            write_json(folder / name, content)
        write_text(folder / _FILE, self._backend.to_str(pretty=True))

    def _finish(self, raw: BackendEncoding, max_length: int | None) -> Encoding:
        """Cut off what exceeds ``max_length`` and add the special tokens."""
        # Not by the library's enable_truncation: that would be state shared by every caller.
        dropped = 0
        if max_length is not None:
            room = max_length - self._num_special
            if room < 1:
                raise InvalidInputError(
                    f"expected max_length of at least {self._num_special + 1} ({self._num_special} special "
                    f"tokens and one sub-word), got {max_length}"
                )
            dropped = max(0, len(raw) - room)
            raw.truncate(room)
        full = self._backend.post_process(raw)
        return Encoding(full.ids, full.type_ids, full.word_ids, dropped)

    def _special_id(self, role: str, usual: tuple[str, ...]) -> int | None:
        for name in _SETTINGS:
            token = self._settings.get(name, {}).get(role)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and (number := self._backend.token_to_id(token)) is not None:
                return int(number)
        for token in usual:
            if (number := self._backend.token_to_id(token)) is not None:
                return int(number)
        return None


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected tokenizer settings in JSON, got {error}", path) from error
    if not isinstance(content, dict):
        raise DataError(f"expected a JSON object, got {type(content).__name__}", path)
    return content


def _utf8(text: str) -> str:
    """Replace lone surrogates, which the library refuses, by the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
