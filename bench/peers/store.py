"""What a store of records can be asked for in a race, and how one is described."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

Bytes = Sequence[bytes]


class Store:
    """An open store.  What it cannot do it does not define; the loops are its own, and tight.

    keys: ascending, 16 bytes.  Rows are numbered from 0 in the order of appending.
    """

    def append_each(self, keys: Bytes, values: Bytes) -> None:
        """Append one by one, each as durable as the peer promises when the next one begins."""
        raise NotImplementedError

    def append_batches(self, batches: Sequence[tuple[Bytes, Bytes]]) -> None:
        """Append batch after batch of (keys, values); durable after each batch."""
        raise NotImplementedError

    def scan(self) -> int:
        """Touch the key and value of all records in order; return how many they were."""
        raise NotImplementedError

    def get_each(self, rows: Sequence[int]) -> None:
        """Touch the value of single rows."""
        raise NotImplementedError

    def consume(self, count: int, commit_every: int) -> None:
        """Take `count` records, remembering the position, or what is done, every so many."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to open a store.

    package: the module that has to be installed.  durability: see bench.turns.  opened: opens a new
    store in a directory that is not there yet.  slowness, batch_slowness: how many times fewer
    records a round appends than of the fastest, one by one and in batches, so that all rounds take
    about as long; from the measurements that pylog was planned with.
    """

    name: str
    durability: str
    opened: Callable[[Path], AbstractContextManager[Store]]
    store: type[Store]
    package: str = "pylog"
    slowness: int = 1
    batch_slowness: int = 1

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None

    def can(self, operation: str) -> bool:
        """Whether it has an operation, by the name of Store's method."""
        return getattr(self.store, operation) is not getattr(Store, operation)
