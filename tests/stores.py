"""Stores for tables: mappings that users may have (see docs/tables.md), and some that fail."""

from __future__ import annotations

import dbm.dumb
import json
import sqlite3
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

import pylog

RESERVED = b"\x00pylog\x00"  # what keys begin with that are not users'


class SqliteStore(MutableMapping[bytes, bytes]):
    """Keys and values in one table of a SQLite database."""

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, check_same_thread=False)
        self.database.execute("CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, value BLOB)")

    def __getitem__(self, key: bytes) -> bytes:
        for (value,) in self.database.execute("SELECT value FROM kept WHERE key = ?", [key]):
            return bytes(value)
        raise KeyError(key)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.database.execute("REPLACE INTO kept VALUES (?, ?)", [key, value])

    def __delitem__(self, key: bytes) -> None:
        self.database.execute("DELETE FROM kept WHERE key = ?", [key])

    def __iter__(self) -> Iterator[bytes]:
        for (key,) in self.database.execute("SELECT key FROM kept").fetchall():
            yield key

    def __len__(self) -> int:
        (count,) = self.database.execute("SELECT count(*) FROM kept").fetchone()
        return int(count)

    def commit(self) -> None:
        self.database.commit()

    def close(self) -> None:
        self.database.close()


class KeysAndValues(MutableMapping[bytes, bytes]):
    """What has items and keys, but not all that a mapping has, as `dbm.gnu` and RocksDB."""

    def __init__(self, inner: Any, sync: Callable[[], object]) -> None:
        self.inner = inner
        self.sync = sync

    def __getitem__(self, key: bytes) -> bytes:
        return bytes(self.inner[key])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.inner[key] = value

    def __delitem__(self, key: bytes) -> None:
        del self.inner[key]

    def __contains__(self, key: object) -> bool:
        return key in self.inner

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self.inner.keys()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def close(self) -> None:
        self.inner.close()


def open_dumb(path: Path) -> Any:
    return dbm.dumb.open(str(path / "dumb"), "c")


def open_gnu(path: Path) -> KeysAndValues:
    gnu = pytest.importorskip("dbm.gnu")
    database = gnu.open(str(path / "gnu"), "c")
    return KeysAndValues(database, database.sync)


def open_sqlite(path: Path) -> SqliteStore:
    return SqliteStore(path / "sqlite")


def open_rocks(path: Path) -> KeysAndValues:
    rocksdict = pytest.importorskip("rocksdict")
    options = rocksdict.Options(raw_mode=True)
    database = rocksdict.Rdict(str(path / "rocks"), options)
    return KeysAndValues(database, lambda: database.flush_wal(True))


STORES: dict[str, Callable[[Path], Any]] = {
    "sqlite3": open_sqlite,
    "dbm.dumb": open_dumb,
    "dbm.gnu": open_gnu,
    "rocksdict": open_rocks,
}


class Recorder(dict[bytes, bytes]):
    """A dict that notes what is done to it, and fails when it is told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.done: list[str] = []
        self.fails_at = fails_at

    def note(self, what: str) -> None:
        if self.fails_at == len(self.done):
            raise RuntimeError("the store failed")
        self.done.append(what)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        is_position = key.startswith(RESERVED + b"position")
        moves = is_position and json.loads(value)["reached"] != json.loads(value)["reaching"]
        is_topic = key == RESERVED + b"topic"
        self.note(
            "topic" if is_topic else "intent" if moves else "position" if is_position else "put"
        )
        super().__setitem__(key, value)

    def __delitem__(self, key: bytes) -> None:
        self.note("delete")
        super().__delitem__(key)


class Synced(Recorder):
    def sync(self) -> None:
        self.note("sync")


class Committed(Recorder):
    """Forgets at a failure what was not committed."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__(fails_at)
        self.kept: dict[bytes, bytes] = {}

    def commit(self) -> None:
        self.note("commit")
        self.kept = dict(self)

    def sync(self) -> None:
        raise AssertionError("it has a commit")


def cut(tmp_path: Path, end: int, values: list[bytes]) -> None:
    """Cut the topic's one segment as a power cut does, and append other records behind that."""
    with pylog.open(tmp_path / "log") as log:
        kept = [record.value for record in log.read("t")][:end]
    path = tmp_path / "log" / "t-0"
    size = 0
    data = (path / "00000000000000000000.log").read_bytes()
    for header in pylog._native.batch_headers(data)[:end]:
        size = header["position"] + header["size"]
    for file in path.iterdir():
        if file.name not in ("00000000000000000000.log", "partition.metadata"):
            file.unlink()
    (path / "00000000000000000000.log").write_bytes(data[:size])
    with pylog.open(tmp_path / "log") as log:
        assert [record.value for record in log.read("t")] == kept
        for value in values:
            log.topic("t").append(value, key=b"a")
