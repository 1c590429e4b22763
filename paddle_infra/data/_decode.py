"""Read a text file whole, or say in which line it is not what it should be."""

from __future__ import annotations

import os
from pathlib import Path

from paddle_infra._core.errors import DataError


def decode_file(path: str | os.PathLike[str], encoding: str) -> str:
    """Return the content without a byte order mark, every line end as a line feed.

    Raises:
        DataError: no such file, empty, or not valid in this encoding (names the line).
    """
    source = Path(path)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"expected a readable file: {error.strerror or error}", source) from error
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        found = data[error.start : error.end].hex(" ")
        raise DataError(
            f"expected {encoding} text, got the bytes {found}; if it has another encoding, pass encoding=…",
            source,
            before.count("\n") + 1,
        ) from error
    except LookupError as error:
        raise DataError(f"expected an encoding that Python knows, got {encoding!r}", source) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"expected at least one example, the file is empty ({len(data)} bytes)", source)
    return text
