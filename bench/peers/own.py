"""pylog itself, driven as its peers are."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pylog
from bench.peers.store import Bytes, Peer, Store
from bench.turns import DISK, KERNEL


class PylogStore(Store):
    """A topic of one partition whose files exist, as those of other stores do when they are open.

    What made them was a record, which is deleted: rows begin behind it.
    """

    def __init__(self, log: pylog.Log, durability: str) -> None:
        self._log = log
        topic = log.create_topic("events", durability=durability)
        self._partition = topic.partition(0)
        self._first_offset = self._partition.append(b"first").offset + 1
        topic.delete_records({0: self._first_offset})
        self._groups = map(str, itertools.count())
        log.consumer("events", group="first").close()  # makes the topic of commits
        log.alter_topic("__consumer_offsets", durability=durability)

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        append = self._partition.append
        for key, value in zip(keys, values, strict=True):
            append(value, key)

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        append_many = self._partition.append_many
        for keys, values in batches:
            append_many(values, keys)

    def scan(self) -> int:
        count = 0
        for record in self._partition.records():
            record.key  # noqa: B018
            record.value  # noqa: B018
            count += 1
        return count

    def get_each(self, rows: Sequence[int]) -> None:
        read, first = self._partition.read, self._first_offset
        for row in rows:
            for record in read(first + row, 1):
                record.value  # noqa: B018
                break

    def consume(self, count: int, commit_every: int) -> None:
        done = 0
        name = next(self._groups)
        with self._log.consumer("events", group=name, enable_auto_commit=False) as consumer:
            for record in consumer.records(timeout=0):
                record.value  # noqa: B018
                done += 1
                if done % commit_every == 0:
                    consumer.commit()
        assert done == count


@contextlib.contextmanager
def opened(path: Path, durability: str) -> Iterator[PylogStore]:
    """Open a log with its store."""
    with pylog.open(path) as log:
        yield PylogStore(log, durability)


PEERS = (
    Peer("pylog", KERNEL, functools.partial(opened, durability="os"), PylogStore),
    Peer("pylog", DISK, functools.partial(opened, durability="fsync"), PylogStore),
)
