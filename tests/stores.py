"""Mappings that outlive a process, as users may have them; README shows the first."""

from __future__ import annotations

import dbm.dumb
import sqlite3
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest


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
