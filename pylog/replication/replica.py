"""`Replica`: a follower's side.  Does to a log what its leader asks, under the rules of following.

Shared by all transports that bring requests to a log.  Knows partitions, the role and the rules
(following.py).  Must not know how requests travel.

Locks: `_lock`, around every request: one leader at a time is obeyed, and it asks in order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from pylog.errors import (
    FencedLeaderEpochError,
    InconsistentClusterIdError,
    InvalidMessageError,
    ReplicationError,
)
from pylog.replication.facts import InSync, PartitionId, ReplicaPosition, ReplicaStatus
from pylog.replication.following import FollowerState
from pylog.replication.replicated_log import METADATA, ReplicatedLog, position_of
from pylog.replication.standing import ReplicaState
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaBatches, ReplicaHello
from pylog.storage.partition import Partition
from pylog.storage.role import RoleKind
from pylog.topics.metadata import TopicFacts

logger = logging.getLogger("pylog")

_MAX_JOINED_BYTES: Final = 4 << 20  # of requests that are applied, and synced, as one (guessed)


def follow(state: ReplicaState, log: ReplicatedLog) -> ReplicaState:
    """Return the state of a log that follows from now on.

    One that never had a role and is not empty is of its own cluster: it cannot become a replica of
    another log.
    """
    return state.to_follow(cluster_id=None if log.is_empty else log.engine.log_id)


class Replica:
    """A log that follows whoever leads.

    One object of one process at a time serves a log: `open` takes that place, `close` gives it up.
    """

    def __init__(self, log: ReplicatedLog) -> None:
        self.log = log
        self._lock = threading.RLock()
        self._sessions = itertools.count()
        self._serving = contextlib.ExitStack()
        self._is_open = False
        self._following = FollowerState(ReplicaState(replica_id=log.roles.replica_id))
        self._seen = -1  # the count of settings that the state is as new as
        self._topics: dict[uuid.UUID, TopicFacts] = {}  # whose files may be here
        self._version = -1  # what these were looked through for; -1 in this session for nothing
        self._is_kept = False  # whether the high watermark of `__metadata` survives a power cut

    def open(self) -> None:
        """Wait for a leader; one with a later epoch than was promised is obeyed.

        Raises ReplicationError when another process lives this log's role, ClosedError, OSError.
        """
        self._serving.callback(self.log.roles.serve())
        self._is_open = True

    def close(self) -> None:
        """End every session.  Idempotent."""
        with self._lock:
            self._is_open = False
            self._following = FollowerState(self._following.state)
            self._serving.close()

    def handshake(self, hello: LeaderHello) -> Session:
        """Obey a leader from now on, and no other of its epoch or an older one.

        Raises FencedLeaderEpochError, InconsistentClusterIdError, OSError.
        """
        log = self.log
        with self._lock:
            if not self._is_open:
                raise ReplicationError(f"log {log.engine.path} is not served any more")
            number = next(self._sessions)
            following = self._following

            def event(state: ReplicaState) -> ReplicaState:
                if state.kind is RoleKind.NONE:
                    state = follow(state, log)
                if state.cluster_id not in (None, hello.cluster_id):
                    ours, theirs = str(state.cluster_id), str(hello.cluster_id)
                    raise InconsistentClusterIdError(ours, theirs)
                following.state = state
                following.hello(epoch=hello.epoch, leader_id=hello.leader_id, session=number)
                return following.state.joined(hello.cluster_id)

            # What was lost is found, and noted, when a partition is opened.
            log.status()
            log.remove_deleted()
            self._seen = log.engine.settings.value
            following.state = log.roles.change(event)
            self._topics = {topic.topic_id: topic for topic in log.registry.all_facts()}
            # What this leader lets be cut it may follow by as much of its own.
            self._version = -1
            return Session(self, number, hello)

    def fence(self, epoch: int) -> ReplicaStatus:
        """Promise an epoch; see `Electable`."""
        with self._lock:
            return self.log.fence(epoch)

    # ------------------------------------------------------------------ for sessions

    def check_locked(self, session: int, *, epoch: int) -> None:
        """Raise unless a request belongs to the session that counts."""
        count = self.log.engine.settings.value
        if count != self._seen:
            # Another process may have promised a later epoch, or led.
            self._following.state = self.log.roles.state
            self._seen = count
        if self._following.state.kind is not RoleKind.FOLLOWER:
            raise InvalidMessageError("this log does not follow any more")
        self._following.check(session, epoch=epoch)

    def truncate_locked(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        """Cut a partition; see `ReplicationTransport.truncate`."""
        target = self.log.partition(partition)
        self._following.check_truncation(
            partition, end_offset=end_offset, high_watermark=target.high_watermark
        )
        before = target.log_end_offset
        # The check above is the one that knows who may be cut below its high watermark.
        end = target.truncate(end_offset, force=True)
        if end < before:
            logger.warning("%r: truncated from %d to %d", target, before, end)
        return position_of(target)

    def start_anew_locked(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        """Empty a partition; see `ReplicationTransport.start_anew`."""
        target = self.log.partition(partition)
        self._following.check_truncation(partition, end_offset=offset, high_watermark=offset)
        target.start_anew(offset)
        logger.warning("%r: begins anew at %d", target, offset)
        return position_of(target)

    def apply_locked(self, batches: ReplicaBatches) -> Acknowledgement:
        """Do what one request asks; return what is there then."""
        partition = self.log.partition(batches.partition)
        end = partition.log_end_offset
        if self._following.takes(
            batches.partition, from_offset=batches.from_offset, log_end_offset=end
        ):
            if batches.end_offset > end:
                _, end = partition.append_replica(batches.data, end_offset=batches.end_offset)
            if batches.in_sync is not None:
                self._note(batches.in_sync, epoch=batches.epoch)
            is_moved = _follow_marks(partition, batches, end)
            if batches.partition == METADATA:
                self._is_kept = self._is_kept and not is_moved
                self._delete_gone_topics()
        if not self._is_kept:
            # What was acknowledged of a topic is looked for after a power cut only where the topic
            # is known: so before anything of it is acknowledged.
            self.log.partition(METADATA).keep_high_watermark()
            self._is_kept = True
        in_sync = self._following.state.in_sync
        return Acknowledgement(batches.partition, end, None if in_sync is None else in_sync.order)

    def _note(self, in_sync: InSync, *, epoch: int) -> None:
        """Write down who is in sync, if that is news and this replica is one of them."""
        following = self._following
        if following.state.noted(in_sync) is following.state:
            return

        def event(state: ReplicaState) -> ReplicaState:
            # Whoever promised a later epoch, also in another process, said what it had noted.
            if epoch < state.promised_epoch:
                raise FencedLeaderEpochError(epoch, state.promised_epoch)
            return state.noted(in_sync)

        # Only when it is on disk: what is acknowledged is taken from here.
        following.state = self.log.roles.change(event)

    def _delete_gone_topics(self) -> None:
        """Give back the space of topics that the leader has deleted."""
        registry = self.log.registry
        version = registry.version
        if version == self._version:
            return
        self._version = version
        facts = {topic.topic_id: topic for topic in registry.all_facts()}
        for topic_id, topic in self._topics.items():
            now = facts.get(topic_id)
            if now is None or now.is_deleting:
                registry.delete_files(topic)
        self._topics = {key: topic for key, topic in facts.items() if not topic.is_deleting}

    @property
    def lock(self) -> threading.RLock:
        """Held around every request."""
        return self._lock

    @property
    def in_sync(self) -> InSync | None:
        """The last set that this replica was a member of."""
        return self._following.state.in_sync


class Session:
    """What one leader asks, from its hello on.  One thread at a time asks."""

    def __init__(self, replica: Replica, number: int, hello: LeaderHello) -> None:
        self._replica = replica
        self._number = number
        self._epoch = hello.epoch
        self.hello = ReplicaHello(replica.log.roles.replica_id, replica.in_sync)

    def position(self, partition: PartitionId) -> ReplicaPosition:
        """Return how far the log is; see `ReplicationTransport.position`."""
        with self._replica.lock:
            self._check(self._epoch)
            self._replica.log.make_way(partition)
            target = self._replica.log.partition(partition)
            # What was placed, by a process that was killed before it synced, is acknowledged soon.
            target.flush()
            return position_of(target)

    def truncate(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        """Cut a partition; see `ReplicationTransport.truncate`."""
        with self._replica.lock:
            self._check(self._epoch)
            return self._replica.truncate_locked(partition, end_offset)

    def start_anew(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        """Empty a partition; see `ReplicationTransport.start_anew`."""
        with self._replica.lock:
            self._check(self._epoch)
            return self._replica.start_anew_locked(partition, offset)

    def apply(self, requests: Sequence[ReplicaBatches]) -> Iterator[Acknowledgement]:
        """Do what requests ask, in their order; yield an acknowledgement for each of them.

        Those of one partition that continue each other are applied, and synced, as one.
        Raises FencedLeaderEpochError, InvalidMessageError, what `Partition.append_replica` raises,
        OSError.
        """
        for parts, joined in _joined(requests):
            with self._replica.lock:
                self._check(joined.epoch)
                done = self._replica.apply_locked(joined)
            is_taken = done.log_end_offset == joined.end_offset
            for part in parts:
                # Each says what it was for: more is there already, and the next ones say so.
                end_offset = part.end_offset if is_taken else done.log_end_offset
                yield dataclasses.replace(done, log_end_offset=end_offset)

    def _check(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise InvalidMessageError(f"epoch {epoch} in a session of epoch {self._epoch}")
        self._replica.check_locked(self._number, epoch=epoch)


def _joined(
    requests: Sequence[ReplicaBatches],
) -> Iterator[tuple[Sequence[ReplicaBatches], ReplicaBatches]]:
    """Yield requests that can be applied as one, and that one."""
    place = 0
    while place < len(requests):
        last = first = requests[place]
        count = 1
        size = len(first.data)
        for one in requests[place + 1 :]:
            size += len(one.data)
            is_next = one.partition == first.partition and one.from_offset == last.end_offset
            is_same = (one.epoch, one.in_sync) == (first.epoch, first.in_sync)
            if not is_next or not is_same or size > _MAX_JOINED_BYTES:
                break
            last = one
            count += 1
        parts = requests[place : place + count]
        if count > 1:
            data = b"".join(part.data for part in parts)
            last = dataclasses.replace(last, from_offset=first.from_offset, data=data)
        yield parts, last
        place += count


def _follow_marks(partition: Partition, batches: ReplicaBatches, end_offset: int) -> bool:
    """Follow the leader's high watermark and log start, as far as the log reaches.

    Returns whether the high watermark moved.
    """
    known = partition.high_watermark
    told = FollowerState.high_watermark(
        told=batches.high_watermark, known=known, log_end_offset=end_offset
    )
    is_moved = told > known
    if is_moved:
        known = partition.advance_high_watermark(told)
    start = min(batches.log_start_offset, known)
    if start > partition.log_start_offset and "delete" in partition.config.cleanup_policy:
        partition.delete_records(start)
    return is_moved
