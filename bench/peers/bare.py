"""What stores are made of: a list, a buffered file, system calls.  No offsets, CRCs or readers."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bench.peers.store import Bytes, Peer, Store
from bench.turns import DISK, KERNEL, MEMORY


class ListStore(Store):
    """A Python list of pairs."""

    def __init__(self) -> None:
        self._pairs: list[tuple[bytes, bytes]] = []

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        append = self._pairs.append
        for pair in zip(keys, values, strict=True):
            append(pair)

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        for keys, values in batches:
            self._pairs.extend(zip(keys, values, strict=True))

    def scan(self) -> int:
        count = 0
        for _key, _value in self._pairs:
            count += 1
        return count

    def get_each(self, rows: Sequence[int]) -> None:
        pairs = self._pairs
        for row in rows:
            pairs[row][1]


class BufferedFile(Store):
    """`file.write` of each value, with Python's own buffer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        write = self._file.write
        for value in values:
            write(value)

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        write = self._file.write
        for _keys, values in batches:
            for value in values:
                write(value)


class Descriptor(Store):
    """`os.write` of each value, or of each batch joined; synced if asked for."""

    def __init__(self, descriptor: int, *, is_synced: bool) -> None:
        self._descriptor = descriptor
        self._is_synced = is_synced

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        descriptor, is_synced = self._descriptor, self._is_synced
        for value in values:
            os.write(descriptor, value)
            if is_synced:
                os.fdatasync(descriptor)

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        for _keys, values in batches:
            os.write(self._descriptor, b"".join(values))
            if self._is_synced:
                os.fdatasync(self._descriptor)


@contextlib.contextmanager
def opened_list(path: Path) -> Iterator[ListStore]:
    """Make a list; nothing is stored."""
    yield ListStore()


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[BufferedFile]:
    """Open a new buffered file."""
    path.mkdir()
    with (path / "file").open("wb") as file:
        yield BufferedFile(file)


@contextlib.contextmanager
def opened_descriptor(path: Path, *, is_synced: bool) -> Iterator[Descriptor]:
    """Open a new file without a buffer."""
    path.mkdir()
    descriptor = os.open(path / "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield Descriptor(descriptor, is_synced=is_synced)
    finally:
        os.close(descriptor)


_KEPT = functools.partial(opened_descriptor, is_synced=False)
_SYNCED = functools.partial(opened_descriptor, is_synced=True)

PEERS = (
    Peer("list", MEMORY, opened_list, ListStore),
    Peer("file.write", MEMORY, opened_file, BufferedFile),
    Peer("os.write", KERNEL, _KEPT, Descriptor, slowness=2),
    Peer("os.write-fdatasync", DISK, _SYNCED, Descriptor),
)
