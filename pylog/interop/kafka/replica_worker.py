"""The thread that writes what a leader hands over into a cluster, transaction after transaction.

Each transaction takes what came while the one before was committed.  Knows batches, and what has to
be written down with them.  Must not know who leads.

Locks: `_ready`, around what is handed over and acknowledged.  The thread has the producer.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any, Final

from pylog._native import Record, Records, batch_headers
from pylog.codecs import decompress
from pylog.errors import MirrorError, PylogError, ReplicationError, ReplicationTimeoutError
from pylog.interop.kafka.client import Settings
from pylog.interop.kafka.replica_state import Copied, copied_entry, replica_entry
from pylog.interop.kafka.runs import runs_of
from pylog.interop.kafka.states import Entry, LaneKey, offsets_entries
from pylog.interop.kafka.writers import END_SECONDS, Transactions
from pylog.records import TopicPartition
from pylog.replication.facts import PartitionId
from pylog.replication.standing import ReplicaState
from pylog.replication.transport import Acknowledgement, ReplicaBatches

_MEMORY: Final = 32 << 20


class Worker:
    """A thread that writes what was handed over.

    state, copies: what is written down, of the replica and of each partition.
    """

    def __init__(self, settings: Settings, state_topic: str, timeout: float) -> None:
        self._settings = settings
        self._state_topic = state_topic
        self._timeout = timeout
        self._ready = threading.Condition()
        self._is_closed = threading.Event()
        self._handed: collections.deque[tuple[LaneKey, ReplicaBatches]] = collections.deque()
        self._calls: collections.deque[tuple[Callable[[], None], Any]] = collections.deque()
        self._acknowledged: collections.deque[Acknowledgement] = collections.deque()
        self._error: PylogError | OSError | None = None
        self._thread: threading.Thread | None = None
        self._writer: Transactions | None = None
        self.state = ReplicaState(replica_id="-")
        self.copies: dict[LaneKey, Copied] = {}

    def open(self, transactional_id: str) -> None:
        """End what a predecessor left, and shut it out."""
        self._writer = Transactions(
            self._settings,
            memory=_MEMORY,
            timeout=self._timeout,
            stop=self._is_closed,
            transactional_id=transactional_id,
        )
        self._writer.open()

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="pylog-kafka", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ other threads

    def put(self, key: LaneKey, batches: ReplicaBatches) -> None:
        """Hand over batches."""
        with self._ready:
            self._check()
            self._handed.append((key, batches))
            self._ready.notify_all()

    def take(self, timeout: float) -> Acknowledgement | None:
        """Return the next acknowledgement, or None after so many seconds."""
        with self._ready:
            self._ready.wait_for(
                lambda: self._acknowledged or self._error or self._is_closed.is_set(), timeout
            )
            if self._acknowledged:
                return self._acknowledged.popleft()
            self._check()
            return None

    def call(self, function: Callable[[], None]) -> None:
        """Let the thread call a function, and wait for it.  Raises what it raises."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._ready:
            self._check()
            self._calls.append((function, future))
            self._ready.notify_all()
        try:
            future.result(self._timeout)
        except TimeoutError as error:
            raise ReplicationTimeoutError("no answer of the cluster", self._timeout) from error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_closed.is_set():
            raise ReplicationError("the session is closed")

    def close(self) -> None:
        """End the thread; waits some seconds for it."""
        with self._ready:
            self._is_closed.set()
            self._ready.notify_all()
        if self._thread is not None:
            self._thread.join(2 * END_SECONDS)

    # ------------------------------------------------------------------ its own

    def _work(self) -> None:
        """Write what is handed over, as much at once as there is, until the session ends."""
        try:
            while True:
                with self._ready:
                    self._ready.wait_for(
                        lambda: self._handed or self._calls or self._is_closed.is_set()
                    )
                    if self._is_closed.is_set():
                        break
                    handed = list(self._handed)
                    self._handed.clear()
                    calls, self._calls = self._calls, collections.deque()
                self._call_all(calls)
                done = self._write_all(handed)
                with self._ready:
                    self._acknowledged += done
                    self._ready.notify_all()
        except (PylogError, OSError) as error:
            with self._ready:
                self._error = error
                self._ready.notify_all()
        finally:
            self._end()

    def _end(self) -> None:
        with self._ready:
            # Whatever ended the thread: nobody waits for it any more.
            self._is_closed.set()
            self._ready.notify_all()
        assert self._writer is not None
        with contextlib.suppress(MirrorError):
            self._writer.abort(END_SECONDS)
        error = ReplicationError("the session is over")
        for _, future in self._calls:
            future.set_exception(self._error or error)

    def _call_all(self, calls: collections.deque[tuple[Callable[[], None], Any]]) -> None:
        for function, future in calls:
            try:
                function()
            except (PylogError, OSError) as error:
                future.set_exception(error)
                raise
            future.set_result(None)

    def write(self, entries: list[Entry]) -> None:
        """Write down what is to be remembered, in a transaction of its own."""
        writer = self._writer
        assert writer is not None
        writer.begin()
        for entry in entries:
            writer.send_entry(self._state_topic, entry)
        writer.finish()
        writer.end()

    def _write_all(self, handed: list[tuple[LaneKey, ReplicaBatches]]) -> list[Acknowledgement]:
        """Write batches in one transaction; return what may be acknowledged then."""
        changed: dict[LaneKey, Change] = {}
        state = self.state
        answers: list[tuple[PartitionId, int]] = []
        for key, batches in handed:
            if batches.in_sync is not None:
                state = state.noted(batches.in_sync)
            change = changed.get(key) or Change(self.copies[key])
            if batches.from_offset == change.copied.position and (
                batches.data or batches.end_offset > batches.from_offset
            ):
                changed[key] = change
                self._send(key, batches, change)
            # As of now, not as of the end: each acknowledgement says what it is for.
            answers.append((batches.partition, change.copied.position))
        self._commit(changed, state)
        order = None if self.state.in_sync is None else self.state.in_sync.order
        return [Acknowledgement(partition, position, order) for partition, position in answers]

    def _send(self, key: LaneKey, batches: ReplicaBatches, change: Change) -> None:
        writer = self._writer
        assert writer is not None
        records = change.add(batches)
        writer.begin()
        target = TopicPartition(key.target, key.partition)
        writer.send_records(target, records, functools.partial(writer.take_offset, change.targets))

    def _commit(self, changed: dict[LaneKey, Change], state: ReplicaState) -> None:
        """End the transaction with what is to be remembered of it; none if that is nothing new."""
        if not changed and state == self.state:
            return
        writer = self._writer
        assert writer is not None
        writer.begin()
        writer.finish()  # now all offsets are known
        copies = {}
        for key, change in changed.items():
            for entry in offsets_entries(key, runs_of(change.sources, change.targets)):
                writer.send_entry(self._state_topic, entry)
            copied = change.copied
            if change.targets:
                copied = dataclasses.replace(copied, target=change.targets[-1] + 1)
            copies[key] = copied
            writer.send_entry(self._state_topic, copied_entry(key, copied))
        if state != self.state:
            writer.send_entry(self._state_topic, replica_entry(state))
        writer.finish()
        writer.end()
        self.copies.update(copies)
        self.state = state


class Change:
    """What a transaction changes of a partition."""

    def __init__(self, copied: Copied) -> None:
        self.copied = copied
        self.sources: list[int] = []
        self.targets: list[int] = []

    def add(self, batches: ReplicaBatches) -> list[Record]:
        """Return the records of batches, and be as far as they reach."""
        copied = self.copied
        for header in batch_headers(batches.data):
            copied = copied.with_epoch(header["leader_epoch"], header["base_offset"])
        records = list(Records(batches.data, topic=batches.partition.topic, decompress=decompress))
        self.sources += [record.offset for record in records]
        self.copied = dataclasses.replace(
            copied,
            position=batches.end_offset,
            log_start_offset=batches.log_start_offset,
            high_watermark=max(
                copied.high_watermark, min(batches.high_watermark, batches.end_offset)
            ),
        )
        return records
