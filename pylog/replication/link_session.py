"""One session of a leader with a follower: what has grown is sent, what comes back is taken in.

Two threads: one hands over batches and heartbeats, the other takes acknowledgements.  What is sent
and not acknowledged is bounded; who has nothing to send sleeps until the leader's log has grown.

Knows the transport's contract and what was sent.  Must not know the rules of leading: it tells them
what the follower said.

Locks: `_condition`, around what is to be sent and what is in flight.  It may be taken while the
leader's lock is held, never the other way round.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pylog.errors import (
    CorruptionError,
    PylogError,
    ReplicationError,
    ReplicationTimeoutError,
)
from pylog.replication.divergence import StartAnew, Truncate, divergence
from pylog.replication.facts import InSync, PartitionId, ReplicaPosition
from pylog.replication.leader import Leader, Led
from pylog.replication.replicated_log import METADATA, position_of
from pylog.replication.transport import ReplicaBatches, ReplicaHello, ReplicationTransport
from pylog.storage.replica_batches import StoredBatches

logger = logging.getLogger("pylog")

# A high watermark that moved waits so many seconds for batches to go with (guessed: less than a
# reader of a follower would notice, more than the next append of who waited for this one).
_LINGER: Final = 0.005
_TRY_AGAIN: Final = 10.0  # seconds until what could not be read is tried again (guessed)
# What a message takes besides its batches, so that empty ones are bounded, too (guessed).
_MESSAGE_BYTES: Final = 256
_MAX_ROUNDS: Final = 100  # of truncations of one partition; one for each 2048 epochs (guessed)


class _Sent(NamedTuple):
    """Something that is in flight; the follower's log has to end at end_offset when it arrived."""

    partition: PartitionId
    end_offset: int
    size: int
    time: float


class _UnreadableError(Exception):
    """That the leader cannot read a partition of its own; nothing is wrong with the session."""

    def __init__(self, reason: CorruptionError | OSError) -> None:
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (CorruptionError, OSError) as error:
        raise _UnreadableError(error) from error


class LinkSession:
    """One session: `run` in one thread, and another thread beside it."""

    def __init__(
        self, leader: Leader, transport: ReplicationTransport, hello: ReplicaHello
    ) -> None:
        self.replica_id = hello.replica_id
        self._leader = leader
        self._transport = transport
        self._condition = threading.Condition()
        self._error: PylogError | OSError | None = None
        self._is_over = False
        # Sets that keep their order: what has grown, and what has to be told nevertheless.
        self._grown: dict[PartitionId, None] = {}
        self._moved: dict[PartitionId, None] = {}
        self._tell_at = 0.0
        self._heartbeat_at = 0.0
        # What cannot be read here, and why; and which of it is not tried before _try_at.
        self.stopped: dict[PartitionId, str] = {}
        self._blocked: set[PartitionId] = set()
        self._try_at = 0.0
        self._unknown: set[PartitionId] = set()  # until the follower knows their topics
        self._sent: dict[PartitionId, int] = {}  # up to where, of those that were begun
        self._told: dict[PartitionId, int] = {}  # the last high watermark that was sent
        self._flight: collections.deque[_Sent] = collections.deque()
        self._flight_bytes = 0
        self._told_in_sync: InSync | None = None
        self._noted = None if hello.in_sync is None else hello.in_sync.order
        self._receiver = threading.Thread(target=self._receive, name="pylog-acks", daemon=True)

    # ------------------------------------------------------------------ from other threads

    def wake(self, grown: Iterable[PartitionId], moved: Iterable[PartitionId]) -> None:
        """Take note of what has grown and moved, and look who is in sync."""
        with self._condition:
            self._grown.update(dict.fromkeys(grown))
            if not self._moved:
                self._tell_at = time.monotonic() + _LINGER
            self._moved.update(dict.fromkeys(moved))
            self._condition.notify_all()

    def end(self) -> None:
        """End soon."""
        with self._condition:
            self._is_over = True
            self._condition.notify_all()

    def close(self) -> None:
        """Wait for the other thread; the transport is closed."""
        self.end()
        if self._receiver.ident is not None:
            self._receiver.join()

    @property
    def flight_bytes(self) -> int:
        """How much was sent and is not acknowledged."""
        return self._flight_bytes

    def stopped_names(self) -> dict[str, str]:
        """Return which partitions cannot be read here, by name, and why."""
        return {str(partition): why for partition, why in self.stopped.copy().items()}

    # ------------------------------------------------------------------ sending

    def run(self) -> None:
        """Send until it is over; raises what ended it."""
        self._receiver.start()
        while (turn := self._next()) is not None:
            for partition in turn:
                with self._leader.log.unless_deleted():
                    self._bring_on(partition)

    def _next(self) -> list[PartitionId] | None:
        """Wait until something has to be said; return the partitions to say it of, None at the end.

        A heartbeat is said of `__metadata`.
        """
        with self._condition:
            while True:
                if self._is_over:
                    return None
                if self._error is not None:
                    raise self._error
                now = time.monotonic()
                if self._blocked and now >= self._try_at:
                    self._grown.update(dict.fromkeys(self._blocked))
                    self._blocked.clear()
                if self._moved and now >= self._tell_at:
                    # First: there may be something to send at any time, and a topic of which the
                    # follower is not told cannot be brought on.
                    moved, self._moved = list(self._moved), {}
                    return moved
                if self._grown:
                    partition = next(iter(self._grown))
                    del self._grown[partition]
                    return [partition]
                to_note = self._leader.rules.to_note(self.replica_id)
                is_news = to_note is not None and to_note != self._told_in_sync
                if is_news or now >= self._heartbeat_at:
                    return [METADATA]
                ends = [self._heartbeat_at, *([self._tell_at] if self._moved else [])]
                self._condition.wait(min(ends) - now)

    def _bring_on(self, partition: PartitionId) -> None:
        """Send what a partition has more than the follower, as much as one message takes.

        If it has no more, that is sent too: it tells high watermark, log start and who is in sync.
        """
        leader = self._leader
        led = leader.led.get(partition)
        if led is None:
            self._sent.pop(partition, None)
            return
        if partition not in self._sent and not self._knows(led):
            self._unknown.add(partition)
            return
        try:
            if partition not in self._sent:
                self._begin_partition(led)
            start = self._sent[partition]
            stored = self._read(led, start)
        except _UnreadableError as unreadable:
            self._stop(led, unreadable.reason)
            return
        self._send(led, start, stored.end, stored.data)
        if stored.end < led.end_offset and partition not in self._blocked:
            with self._condition:
                self._grown[partition] = None
        if partition == METADATA and self._unknown:
            known = [each for each in self._unknown if self._knows(leader.led.get(each))]
            self._unknown.difference_update(known)
            with self._condition:
                self._grown.update(dict.fromkeys(known))

    def _read(self, led: Led, start: int) -> StoredBatches:
        """Return what the follower lacks, as much as one message takes; nothing while blocked."""
        if led.id in self._blocked:
            return StoredBatches(memoryview(b""), start, start)
        log_start_offset = led.partition.log_start_offset
        limit = self._leader.config.replica_fetch_max_bytes
        with _reading():
            stored = led.partition.read_batches(max(start, log_start_offset), limit)
        # What compaction left out may lie before the first batch; what was deleted may not, for the
        # follower has to be told first.
        is_gap = stored.first > start >= log_start_offset
        if stored.data and stored.first != start and not is_gap:
            raise ReplicationError(f"{led.partition!r}: no batch begins at offset {start} any more")
        if self.stopped.pop(led.id, None) is not None:
            logger.info("%r goes on to %s", led.partition, self.replica_id)
        return stored

    def _stop(self, led: Led, reason: CorruptionError | OSError) -> None:
        """Let a partition that cannot be read here be; all others go on.  It is tried again."""
        partition = led.id
        if partition == METADATA and partition not in self._sent:
            raise reason  # without it no other one can begin
        text = f"{type(reason).__name__}: {reason}"
        if self.stopped.get(partition) != text:
            name = self.replica_id
            logger.error("%r stops, %s gets no more of it: %s", led.partition, name, text)
        self.stopped[partition] = text
        if not self._blocked:
            self._try_at = time.monotonic() + _TRY_AGAIN
        self._blocked.add(partition)
        self._leader.settle(lambda rules, _: rules.stopped(self.replica_id, partition))
        if partition in self._sent:
            # The follower says what it has, in each session, and is told what is acknowledged.
            start = self._sent[partition]
            self._send(led, start, start, b"")

    def _knows(self, led: Led | None) -> bool:
        """Whether the follower has been told enough to know that a partition exists."""
        if led is None:
            return True
        has = min(self._sent.get(METADATA, 0), self._told.get(METADATA, 0))
        return has >= led.version

    def _begin_partition(self, led: Led) -> None:
        """Find out how far the follower is, and let it cut what is not the leader's."""
        position = self._transport.position(led.id)
        for _ in range(_MAX_ROUNDS):
            with _reading():
                ours = position_of(led.partition)
            step = divergence(ours, position)
            if step is None:
                break
            position = self._cut(led, step)
            if isinstance(step, StartAnew):
                # It is empty, and ends where the next batch begins, maybe below the log start.
                break
        else:
            raise ReplicationError(f"{led.partition!r}: no common history with {self.replica_id}")
        # What it says here it need not have on disk; what is sent next it acknowledges.
        self._sent[led.id] = position.log_end_offset

    def _cut(self, led: Led, step: Truncate | StartAnew) -> ReplicaPosition:
        if isinstance(step, Truncate):
            return self._transport.truncate(led.id, step.end_offset)
        # The first batch may begin below the log start: it is sent whole.
        with _reading():
            first = led.partition.read_batches(step.offset, 1).first
        return self._transport.start_anew(led.id, min(first, step.offset))

    def _send(self, led: Led, start: int, end: int, data: memoryview | bytes) -> None:
        """Send, as soon as there is room for it in flight."""
        leader = self._leader
        in_sync = leader.rules.to_note(self.replica_id)
        watermark = led.high_watermark
        batches = ReplicaBatches(
            partition=led.id,
            epoch=leader.epoch,
            from_offset=start,
            end_offset=end,
            in_sync=in_sync,
            high_watermark=watermark,
            log_start_offset=led.log_start_offset,
            data=data,
        )
        size = _MESSAGE_BYTES + len(data)
        with self._condition:
            limit = leader.config.max_in_flight_bytes
            while self._flight_bytes and self._flight_bytes + size > limit:
                if self._error is not None:
                    raise self._error
                if self._is_over:
                    return
                self._condition.wait()
            now = time.monotonic()
            # Before it is sent: the acknowledgement may be faster than the next line.
            self._flight.append(_Sent(led.id, end, size, now))
            self._flight_bytes += size
            self._moved.pop(led.id, None)
        self._transport.send(batches)
        self._sent[led.id], self._told[led.id] = end, watermark
        self._told_in_sync = in_sync
        self._heartbeat_at = now + leader.config.replica_fetch_wait_max_ms / 1000

    # ------------------------------------------------------------------ receiving

    def _receive(self) -> None:
        timeout = self._leader.config.replica_lag_time_max_ms / 1000
        # Unless it is over, or something is raised that no transport may raise.
        error: PylogError | OSError = ReplicationError(f"{self.replica_id}: nobody receives")
        try:
            while self._receive_one(timeout):
                pass
        except (PylogError, OSError) as caught:
            error = caught
        finally:
            with self._condition:
                self._error = self._error or error
                self._condition.notify_all()

    def _receive_one(self, timeout: float) -> bool:
        """Take in the next acknowledgement; return whether another is to be waited for."""
        acknowledgement = self._transport.acknowledgement(timeout)
        with self._condition:
            if self._is_over:
                return False
            if acknowledgement is None:
                if self._flight and time.monotonic() - self._flight[0].time > timeout:
                    message = f"replica {self.replica_id} acknowledges nothing"
                    raise ReplicationTimeoutError(message, timeout)
                return True
            if not self._flight:
                raise ReplicationError(f"{self.replica_id} acknowledges what was not sent")
            sent = self._flight.popleft()
            self._flight_bytes -= sent.size
            self._condition.notify_all()
        partition, end_offset = acknowledgement.partition, acknowledgement.log_end_offset
        if (partition, end_offset) != (sent.partition, sent.end_offset):
            # Somebody else wrote there, or something got lost: the next session asks how far it is.
            raise ReplicationError(
                f"{self.replica_id}: {partition} ends at {end_offset}, "
                f"{sent.partition} should at {sent.end_offset}"
            )
        self._noted = acknowledgement.in_sync
        self._take_in(partition, end_offset)
        return True

    def _take_in(self, partition: PartitionId, end_offset: int) -> None:
        """Tell the rules what the follower has."""
        self._leader.settle(
            lambda rules, now_ms: rules.acknowledged(
                self.replica_id,
                partition,
                end_offset=end_offset,
                in_sync=self._noted,
                now_ms=now_ms,
            )
        )
