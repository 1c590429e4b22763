"""Reading the offline files of Weights & Biases, for which the package has no reader in Python.

A file is ``:W&B``, a magic number and a version (7 bytes), then a LevelDB log: blocks of 32768 bytes with chunks of
(checksum, length, kind); a record is one full chunk, or a first, some middle and a last one.

References:
    LevelDB, ``doc/log_format.md``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_BLOCK_BYTES = 32768
_START = b":W&B"
_HEADER_BYTES = 7  # also of the file
_CHUNK = struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a ``.wandb`` file; a half last one (a killed run) is left out."""
    content = path.read_bytes()
    if not content.startswith(_START):
        return  # not even the header was written
    position, record = _HEADER_BYTES, b""
    while position + _CHUNK.size <= len(content):
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _CHUNK.size:  # too little for a chunk: padding
            position += left
            continue
        _, length, kind = _CHUNK.unpack_from(content, position)
        start, position = position + _CHUNK.size, position + _CHUNK.size + length
        if position > len(content) or not _FULL <= kind <= _LAST:
            return
        record += content[start:position]
        if kind in (_FULL, _LAST):
            yield record
            record = b""


def logged_names(path: Path) -> tuple[set[tuple[str, int]], bool]:
    """Return what a ``.wandb`` file holds, as (name, step), and whether its run was ended; nothing if there is none."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: set[tuple[str, int]] = set()
    is_ended = False
    for content in read_records(path) if path.exists() else ():
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        is_ended |= kind == "exit"
        if kind == "history":
            step = record.history.step.num
            found |= {(item.key or item.nested_key[0], step) for item in record.history.item}
    return found, is_ended
