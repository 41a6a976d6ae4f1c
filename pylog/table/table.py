"""`Table`: a topic as a mapping of its keys to their latest values, as a user holds it.

Knows what a mapping is.  How it is kept up to date is in replay.py; what it holds, and
where, in state.py and store.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TypeVar, overload

from pylog._native import RecordMetadata
from pylog.arguments import seconds, whole_number
from pylog.closing import Closing
from pylog.errors import ClosedError
from pylog.storage.partition import Partition
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.table.replay import Replay

_Default = TypeVar("_Default")


class Table(Closing, Mapping[bytes, bytes]):
    """The latest value of each key of a topic.  Made by `Log.table`, which says what it promises.

    Looking raises what `refresh` raises whenever it refreshes.
    Any number of threads may use a table at once.  After a fork both processes go on with what was
    in it; a store is the user's to open anew.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._topic = replay.topic

    def __repr__(self) -> str:
        return f"<Table {self._topic.name}{' (closed)' if self._replay.is_closed else ''}>"

    # ------------------------------------------------------------------ up to date

    def refresh(self) -> dict[int, int]:
        """Take in all records that are visible now; return the offset it ends at, by partition.

        These are the high watermarks of the moment it begins, also where compaction left no record
        before them.  The first call builds the table, or what its store lacks.  Called in
        `on_change` it only says how far the table is.
        Raises StaleTableError of a kind, unless the table was opened with if_stale="rebuild";
        CorruptRangeError for damaged records, which a table cannot leave out; InvalidRecordError
        and MissingExtraError for a batch that cannot be decompressed;
        UnknownTopicOrPartitionError when the topic was deleted, ClosedError, CorruptionError,
        OSError, and what the store raises.  What was taken in before stays, and so does how far.
        Blocks for as long as reading takes; the GIL is held for 256 KiB of records at a time, for
        4 MiB with a store.
        """
        return self._replay.refresh()

    @property
    def offsets(self) -> dict[int, int]:
        """The offset that is read next, by partition: all records below it are in the table.

        As far as it came; does not refresh.
        """
        return dict(self._replay.state.offsets)

    @property
    def keyless_records(self) -> int:
        """How many records without a key were passed over since the table was opened."""
        return self._replay.state.keyless_records

    def wait_for(
        self,
        offset: int | RecordMetadata,
        *,
        partition: int | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Wait until the record at an offset is in the table; return whether it is.

        offset: or what an append returned.  partition: of an offset, not needed where the topic has
        one.  timeout: seconds to wait for the record to become visible, None for ever; taking it in
        is not bounded.  Raises what `refresh` raises, within a second when the table is closed
        meanwhile; ValueError for metadata of another topic and for an offset that lacks a
        partition; TypeError.  Waits without the GIL; ends on Ctrl-C.
        """
        number = self._partition_of(offset, partition)
        wanted = offset.offset if isinstance(offset, RecordMetadata) else offset
        wanted = whole_number("offset", wanted)
        where = self._topic.partition(number)
        if self._replay.come_up_to_date().offsets.get(number, 0) > wanted:
            return True
        if not self._wait_visible(where, wanted, timeout):
            return False
        return self.refresh().get(number, 0) > wanted

    def _wait_visible(self, where: Partition, offset: int, timeout: float | None) -> bool:
        """Wait in pieces, as the table may be closed meanwhile; return whether it is visible."""
        timeout = seconds(timeout)
        left = math.inf if timeout is None else timeout
        deadline = time.monotonic() + left
        while True:
            try:
                if where.wait(offset, min(left, LOOK_AGAIN_SECONDS)):
                    return True
            except ClosedError:
                self._topic.check_exists()
                raise
            self._replay.check_open()
            left = deadline - time.monotonic()
            if left <= 0:
                return False

    def _partition_of(self, offset: int | RecordMetadata, partition: int | None) -> int:
        if isinstance(offset, RecordMetadata):
            if offset.topic != self._topic.name:
                raise ValueError(f"metadata is of topic {offset.topic!r}, not {self._topic.name!r}")
            return offset.partition
        if partition is not None:
            return partition
        if len(self._topic) > 1:
            raise ValueError("an offset needs a partition: the topic has several")
        return 0

    # ------------------------------------------------------------------ a mapping

    def __getitem__(self, key: bytes) -> bytes:
        return self._replay.come_up_to_date().value(key)

    @overload
    def get(self, key: bytes, default: None = None, /) -> bytes | None: ...
    @overload
    def get(self, key: bytes, default: bytes | _Default, /) -> bytes | _Default: ...
    def get(self, key: bytes, default: object = None, /) -> object:
        """Return the value of a key, or the default."""
        try:
            return self._replay.come_up_to_date().value(key)
        except KeyError:
            return default

    def __len__(self) -> int:
        return len(self._replay.come_up_to_date())

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys of this moment: a list of them is made, 8 bytes each."""
        return iter(self._replay.come_up_to_date().keys())

    def snapshot(self) -> dict[bytes, bytes]:
        """Return the keys and values of this moment, as a dict of its own that stays as it is.

        Keys and values are shared, not copied.  O(len(self)); with a store, all of it is read.
        """
        return self._replay.come_up_to_date().copy()

    def keys(self) -> KeysView[bytes]:
        """Return a view of the keys of this moment; costs as `snapshot`, iterating costs less."""
        return self.snapshot().keys()

    def items(self) -> ItemsView[bytes, bytes]:
        """Return a view of the keys and values of this moment; costs as `snapshot`."""
        return self.snapshot().items()

    def values(self) -> ValuesView[bytes]:
        """Return a view of the values of this moment; costs as `snapshot`."""
        return self.snapshot().values()

    # ------------------------------------------------------------------ the end

    def check(self) -> None:
        """Assert every invariant; with a store it reads all keys."""
        with self._replay.lock:
            self._replay.state.check()
            for partition in self._topic.partitions:
                offset = self._replay.state.offsets.get(partition.number, 0)
                assert offset <= partition.high_watermark, (partition, offset)

    def close(self) -> None:
        """Stop following; looking raises ClosedError from now on.  Idempotent.

        A store stays open: it is the user's.  Waits for the background to end what it does, except
        in `on_change`.  The log's close closes its tables.
        """
        self._replay.close()
