"""Databases: lmdb, RocksDB by rocksdict, SQLite.  Records lie by their number or ascending key."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.peers.store import Bytes, Peer, Store
from bench.turns import DISK, KERNEL

_MAP_BYTES = 64 << 30  # address space only
_POSITION = b"\xffposition"  # behind all keys of records


def _key(row: int) -> bytes:
    return b"%016d" % row


class LmdbStore(Store):
    """One transaction for a record, or for a batch."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        begin = self._environment.begin
        for key, value in zip(keys, values, strict=True):
            with begin(write=True) as transaction:
                transaction.put(key, value, append=True)

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        for keys, values in batches:
            with self._environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(list(zip(keys, values, strict=True)), append=True)

    def scan(self) -> int:
        count = 0
        with self._environment.begin() as transaction:
            for _key, _value in transaction.cursor():
                count += 1
        return count

    def get_each(self, rows: Sequence[int]) -> None:
        begin = self._environment.begin
        for row in rows:
            with begin() as transaction:
                transaction.get(_key(row))

    def consume(self, count: int, commit_every: int) -> None:
        start = _key(0)
        for end in range(commit_every, count + 1, commit_every):
            with self._environment.begin() as transaction:
                cursor = transaction.cursor()
                cursor.set_range(start)
                pairs = iter(cursor)
                for _ in range(commit_every):
                    next(pairs)
            start = _key(end)
            with self._environment.begin(write=True) as transaction:
                transaction.put(_POSITION, start)


class RocksStore(Store):
    """One write for a record, a write batch for many."""

    def __init__(self, database: Any, options: Any) -> None:
        self._database = database
        self._options = options

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        put, options = self._database.put, self._options
        for key, value in zip(keys, values, strict=True):
            put(key, value, options)

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        from rocksdict import WriteBatch

        for keys, values in batches:
            batch = WriteBatch(raw_mode=True)
            for key, value in zip(keys, values, strict=True):
                batch.put(key, value)
            self._database.write(batch, self._options)

    def scan(self) -> int:
        count = 0
        for _key, _value in self._database.items():
            count += 1
        return count

    def get_each(self, rows: Sequence[int]) -> None:
        get = self._database.get
        for row in rows:
            get(_key(row))

    def consume(self, count: int, commit_every: int) -> None:
        pairs = iter(self._database.items())
        for end in range(commit_every, count + 1, commit_every):
            for _ in range(commit_every):
                next(pairs)
            self._database.put(_POSITION, _key(end), self._options)


class SqliteStore(Store):
    """A table in WAL mode; a transaction for a record, or for a batch."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("CREATE TABLE events (row INTEGER PRIMARY KEY, key BLOB, value BLOB)")
        connection.execute("CREATE TABLE positions (name TEXT PRIMARY KEY, row INTEGER)")

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        execute = self._connection.execute
        for pair in zip(keys, values, strict=True):
            execute("INSERT INTO events (key, value) VALUES (?, ?)", pair)

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        connection = self._connection
        for keys, values in batches:
            connection.execute("BEGIN")
            pairs = zip(keys, values, strict=True)
            connection.executemany("INSERT INTO events (key, value) VALUES (?, ?)", pairs)
            connection.execute("COMMIT")

    def scan(self) -> int:
        count = 0
        for _key, _value in self._connection.execute("SELECT key, value FROM events ORDER BY row"):
            count += 1
        return count

    def get_each(self, rows: Sequence[int]) -> None:
        execute = self._connection.execute
        for row in rows:
            execute("SELECT value FROM events WHERE row = ?", (row + 1,)).fetchone()

    def consume(self, count: int, commit_every: int) -> None:
        execute = self._connection.execute
        for start in range(0, count, commit_every):
            found = execute(
                "SELECT key, value FROM events WHERE row > ? ORDER BY row LIMIT ?",
                (start, commit_every),
            )
            assert len(found.fetchall()) == commit_every
            execute("REPLACE INTO positions VALUES ('reader', ?)", (start + commit_every,))


@contextlib.contextmanager
def opened_lmdb(path: Path, *, is_synced: bool) -> Iterator[LmdbStore]:
    """Open an environment; an unsynced one writes through the map, its fastest way."""
    import lmdb

    with lmdb.open(
        str(path), map_size=_MAP_BYTES, sync=is_synced, writemap=not is_synced
    ) as environment:
        yield LmdbStore(environment)


@contextlib.contextmanager
def opened_rocks(path: Path, *, is_synced: bool) -> Iterator[RocksStore]:
    """Open a database of raw bytes with its write-ahead log."""
    from rocksdict import Options, Rdict, WriteOptions

    options = WriteOptions()
    options.sync = is_synced
    database = Rdict(str(path), Options(raw_mode=True))
    try:
        yield RocksStore(database, options)
    finally:
        database.close()


@contextlib.contextmanager
def opened_sqlite(path: Path, *, synchronous: str) -> Iterator[SqliteStore]:
    """Open a database in WAL mode; statements outside a transaction are one each."""
    path.mkdir()
    with contextlib.closing(sqlite3.connect(path / "events", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        yield SqliteStore(connection)


def _peer(
    name: str, durability: str, opened: Any, store: type[Store], package: str, *slowness: int
) -> Peer:
    return Peer(name, durability, opened, store, package, *slowness)


PEERS = (
    _peer("lmdb", KERNEL, functools.partial(opened_lmdb, is_synced=False), LmdbStore, "lmdb", 4),
    _peer("lmdb", DISK, functools.partial(opened_lmdb, is_synced=True), LmdbStore, "lmdb"),
    _peer(
        "rocksdict",
        KERNEL,
        functools.partial(opened_rocks, is_synced=False),
        RocksStore,
        "rocksdict",
        8,
        2,
    ),
    _peer(
        "rocksdict", DISK, functools.partial(opened_rocks, is_synced=True), RocksStore, "rocksdict"
    ),
    _peer(
        "sqlite3-WAL-NORMAL",
        KERNEL,
        functools.partial(opened_sqlite, synchronous="NORMAL"),
        SqliteStore,
        "sqlite3",
        40,
        8,
    ),
    _peer(
        "sqlite3-WAL-FULL",
        DISK,
        functools.partial(opened_sqlite, synchronous="FULL"),
        SqliteStore,
        "sqlite3",
    ),
)
