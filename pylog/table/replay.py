"""Bring a table up to date: read what is new of its topic, tell of changes, begin anew if need be.

Knows when a table has to look, and what to do when the topic is not what it was.  Must not know how
a table is looked at.

Locks: `lock`, held by who takes in records, and by who touches a store.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Literal

from pylog._native import Records
from pylog.arguments import check_callable
from pylog.callbacks import call_safely
from pylog.errors import (
    ClosedError,
    InvalidConfigurationError,
    OffsetOutOfRangeError,
    StaleTableError,
)
from pylog.records import TableChange
from pylog.storage.partition import Partition
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.table.follower import Follower
from pylog.table.state import MemoryState, TableState
from pylog.table.store import Store, StoreState
from pylog.topics.topic import Topic

logger = logging.getLogger("pylog")

Follow = Literal["read", "background", "never"]
IfStale = Literal["error", "rebuild"]

_FOLLOW: Final = ("read", "background", "never")
_IF_STALE: Final = ("error", "rebuild")
_NEVER_LOOKED: Final = 2**31  # a count of events that none is: they are counted modulo 2**31


class Replay:
    """What keeps a table's state up to date.  A client of the engine: see `engine.Client`.

    state: replaced as a whole when a table in memory is built anew.
    """

    def __init__(
        self,
        topic: Topic,
        *,
        store: Store | None,
        follow: Follow,
        if_stale: IfStale,
        on_change: Callable[[TableChange], object] | None,
    ) -> None:
        if follow not in _FOLLOW:
            raise InvalidConfigurationError("follow", follow, "one of " + ", ".join(_FOLLOW))
        if if_stale not in _IF_STALE:
            raise InvalidConfigurationError("if_stale", if_stale, "one of " + ", ".join(_IF_STALE))
        check_callable("on_change", on_change)
        self.topic = topic
        self._events = topic.events
        self._follow = follow
        self._if_stale = if_stale
        self._on_change = on_change
        self.lock = threading.RLock()
        self.state: TableState = (
            MemoryState()
            if store is None
            else StoreState(store, topic=topic.name, topic_id=topic.topic_id, lock=self.lock)
        )
        self._partitions: tuple[Partition, ...] = ()
        self._is_filled = False
        self._refreshing_thread: int | None = None
        self.is_closed = False
        # Looked at last when the log's events were so many, and to be looked at again at this time.
        self._seen = _NEVER_LOOKED
        self._look_at = -math.inf
        self._follower: Follower | None = None

    def __repr__(self) -> str:
        return f"<table of topic {self.topic.name}>"

    def check_open(self) -> None:
        """Raise ClosedError after `close`."""
        if self.is_closed:
            raise ClosedError(f"{self!r} is closed")

    def open(self) -> None:
        """Look at the store, if there is one; see `Log.table` for what it raises."""
        if isinstance(self.state, StoreState):
            try:
                self.state.open()
            except StaleTableError as error:
                self.state = self._restarted(error)

    def refresh(self) -> dict[int, int]:
        """Take in what is visible now; see `Table.refresh`."""
        with self.lock:
            self.check_open()
            if self._refreshing_thread is None:  # else this is `on_change`
                self._refreshing_thread = threading.get_ident()
                try:
                    self._refresh_locked()
                finally:
                    self._refreshing_thread = None
            return dict(self.state.offsets)

    def _refresh_locked(self) -> None:
        # Both first: what becomes visible from here on makes another count.
        seen, now = self._events.value, time.monotonic()
        try:
            state = self._filled(self.state)
        except StaleTableError as error:
            state = self._filled(self._restarted(error))
        self.state = state
        self._is_filled = True
        self._seen, self._look_at = seen, now + LOOK_AGAIN_SECONDS
        is_followed = self._follower is not None and self._follower.is_alive
        if self._follow == "background" and not is_followed:
            self._follower = Follower(self.refresh, self._events, name=repr(self))
            self._follower.start()

    def _restarted(self, error: StaleTableError) -> TableState:
        """Return an empty state, if that is wanted."""
        if self._if_stale != "rebuild":
            raise error
        logger.warning("%r is built anew: %s", self, error)
        return self.state.restarted()

    def _filled(self, state: TableState) -> TableState:
        """Read each partition up to what is visible of it now."""
        self.topic.check_exists()
        if len(self._partitions) != len(self.topic):  # at first, and when some were added
            self._partitions = self.topic.partitions
        ends = [partition.high_watermark for partition in self._partitions]
        for partition, end in zip(self._partitions, ends, strict=True):
            if state.offsets.get(partition.number) == end:
                continue
            offset = state.begin(partition)
            while offset < end:
                self.check_open()
                try:
                    records = partition.read(offset, state.read_bytes, end)
                except OffsetOutOfRangeError:
                    # Deleted since; begin says whether that matters.
                    offset = state.begin(partition)
                    continue
                if not state.is_whole(partition):
                    offset = state.begin(partition)
                    continue
                self._take(state, partition, records)
                offset = records.next_offset
        return state

    def _take(self, state: TableState, partition: Partition, records: Records) -> None:
        if self._on_change is None:
            state.fold(partition.number, records)
            return
        changes = list(_changes_of(state, records))
        state.fold(partition.number, records)
        for change in changes:
            call_safely(self._on_change, change, what="on_change of a table")

    def come_up_to_date(self) -> TableState:
        """Return the state, after what has to be done before looking.  Raises what refresh does."""
        self.check_open()
        if self._follow == "read":
            if self._events.value != self._seen or time.monotonic() >= self._look_at:
                self.refresh()
        elif self._follow == "background":
            follower = self._follower
            if follower is None or not follower.is_current:
                # In this thread, where errors can be raised.
                self.refresh()
        elif not self._is_filled:
            self.refresh()
        return self.state

    def close(self) -> None:
        """End; see Table.close."""
        self.is_closed = True
        # In `on_change` this thread has the lock that the follower may wait for.
        follower, is_telling = self._follower, self._refreshing_thread == threading.get_ident()
        if follower is not None:
            follower.stop(wait=not is_telling)

    def after_fork(self) -> None:
        """In a forked child: the lock may be held by a thread that is not there."""
        self.lock = threading.RLock()
        self.state.after_fork(self.lock)
        self._refreshing_thread = None
        self._follower = None
        self._seen = _NEVER_LOOKED


def _changes_of(state: TableState, records: Records) -> Iterator[TableChange]:
    """Yield what records will change of a state that has not taken them in yet."""
    latest: dict[bytes, bytes | None] = {}
    for record in records:
        key, new = record.key, record.value
        if key is None:
            continue
        if key in latest:
            old = latest[key]
        else:
            try:
                old = state.value(key)
            except KeyError:
                old = None
        latest[key] = new
        if old is not None or new is not None:
            yield TableChange(
                record.topic, record.partition, record.offset, record.timestamp, key, old, new
            )
