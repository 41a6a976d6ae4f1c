"""The ways to store records that are raced: fresh stores, and the loops that fill them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import lmdb

import pylog
from pylog.storage.partition import Partition

_MAP_BYTES = 64 << 30  # address space only
_ZEROS = bytes(1 << 20)
_names = (f"fresh-{number}" for number in itertools.count())


@contextlib.contextmanager
def fresh_partition(directory: Path, durability: str, **settings: Any) -> Iterator[Partition]:
    """Open a log with a topic of one partition whose files exist: it holds one record."""
    with fresh_log(directory, durability, **settings) as log:
        yield log.topic("events").partition(0)


@contextlib.contextmanager
def fresh_log(directory: Path, durability: str, **settings: Any) -> Iterator[pylog.Log]:
    """Open the log of `fresh_partition`, with its topic "events"."""
    path = directory / next(_names)
    with pylog.open(path) as log:
        partition = log.create_topic("events", durability=durability, **settings).partition(0)
        partition.append(b"the first record makes the files")
        yield log
    shutil.rmtree(path)


@contextlib.contextmanager
def fresh_file(directory: Path, *, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a new buffered file for writing; by default with the buffer that Python chooses."""
    path = directory / next(_names)
    with open(path, "wb", buffering=buffering) as file:
        yield file
    path.unlink()


@contextlib.contextmanager
def zero_filled_descriptor(directory: Path, size: int) -> Iterator[int]:
    """Open a file of `size` bytes of zeros that are on disk."""
    path = directory / next(_names)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for start in range(0, size, len(_ZEROS)):
            os.pwrite(descriptor, _ZEROS[: size - start], start)
        os.fsync(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink()


@contextlib.contextmanager
def fresh_lmdb(
    directory: Path, *, is_synced: bool, writes_through_map: bool = False
) -> Iterator[lmdb.Environment]:
    """Open a new py-lmdb environment of one database."""
    path = directory / next(_names)
    with lmdb.open(
        str(path), map_size=_MAP_BYTES, sync=is_synced, writemap=writes_through_map
    ) as environment:
        yield environment
    shutil.rmtree(path)


def append_each(append: Callable[..., object], values: list[bytes], key: bytes) -> None:
    for value in values:
        append(value, key)


def write_each(write: Callable[[bytes], object], values: list[bytes]) -> None:
    for value in values:
        write(value)


def put_each(environment: lmdb.Environment, keys: list[bytes], values: list[bytes]) -> None:
    begin = environment.begin
    for key, value in zip(keys, values, strict=True):
        with begin(write=True) as transaction:
            transaction.put(key, value, append=True)


def put_batches(
    environment: lmdb.Environment, keys: list[bytes], values: list[bytes], *, batch: int
) -> None:
    for start in range(0, len(keys), batch):
        with environment.begin(write=True) as transaction:
            pairs = zip(keys[start : start + batch], values[start : start + batch], strict=True)
            transaction.cursor().putmulti(list(pairs), append=True)
