"""`ReplicationTransport`: the hook.  One follower as its leader sees it.

What a user implements to keep a replica wherever they like.  In the box: DirectoryTransport (a log
in another directory) and SocketTransport (a log in another process or host).

A leader **pushes**: it hands stored batches, unchanged, to each follower, and is told how far that
one is.  All partitions share one transport.  A session goes like this:

    handshake                       who are you, and do you follow me?
    position                        for each partition: how far are you?  (the first time, and for
    truncate or start_anew          partitions that come later) Where histories part, the follower
                                    cuts its own first.
    send, send, send, ...           batches, pipelined; an empty one is a heartbeat
    acknowledgement, ...            beside it, from another thread: one for each send, in its order
    close

**Threads.**  handshake, position, truncate, start_anew and send are called by one thread at a time;
acknowledgement by one other thread, while those go on.  close may be called by any, at any time;
what the others wait for then ends with an error.

**Order.**  All calls are applied in the order in which they are made, whatever partition they are
about.  A position, truncate or start_anew of a partition is called only when no send of it is
unacknowledged.

**Errors.**  Every method may raise `ReplicationError` or OSError; then the session is over.  The
leader calls close, and after a pause (100 ms, doubling up to 10 s) handshake again, on the same
object, for the next session, in which nothing of this one counts: what was sent and not
acknowledged may or may not be there.  Two of them mean more:

    FencedLeaderEpochError      the follower has promised itself to a later leader: this one steps
                                down, and no session follows
    NotEligibleError,           need a person to look; they are tried again nevertheless, as slowly
    DivergedReplicaError        as any other

**Time-outs** are the transport's own: a call that gets no answer in a time that it lets its user
choose raises `ReplicationTimeoutError` (a `ReplicationError`).  None may block for ever.

**Bounds.**  The leader has at most `ReplicationConfig.max_in_flight_bytes` sent and not
acknowledged, and at most one batch more; so a transport may queue what it is given.  `data` has at
most `replica_fetch_max_bytes`, or one batch if that is larger.

**Durability.**  An acknowledgement promises what the topic's durability asks for, and that
`in_sync` is written down.  Acknowledging more than is there loses acknowledged records.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Protocol

from pylog.replication.facts import InSync, PartitionId, ReplicaPosition, ReplicaStatus


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderHello:
    """What a leader says first.

    cluster_id: what the replicas of one log have in common; never changes.
    leader_id, epoch: who leads, and since which election.  No two leaders have the same epoch.
    """

    cluster_id: uuid.UUID
    leader_id: str
    epoch: int


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaHello:
    """What a follower answers.

    in_sync: the greatest that it is a member of.  None: it was never in sync, or a power cut took,
    or may have taken, what it had acknowledged.
    """

    replica_id: str
    in_sync: InSync | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaBatches:
    """What a leader hands over of one partition.

    epoch: the leader's.
    from_offset: where the follower's log ends, as far as the leader knows.  If it does not, nothing
        of `data` is taken and the acknowledgement says where it ends: so a message that was lost
        can never pass for a gap that compaction left.
    in_sync: to be written down before it is acknowledged, unless it was before; None for a follower
        that is not in sync.
    high_watermark: the leader's; a follower's is the lower of this and its own log end offset.
    log_start_offset: the leader's; what is below may be deleted.
    data: whole batches, as stored, consecutive but for what compaction took away; empty in a
        heartbeat.  Not changed while the transport may read it.
    end_offset: where the follower's log ends after it: behind the last record of `data`, or further
        where compaction left nothing; `from_offset` in a heartbeat.
    """

    partition: PartitionId
    epoch: int
    from_offset: int
    end_offset: int
    in_sync: InSync | None
    high_watermark: int
    log_start_offset: int
    data: bytes | bytearray | memoryview = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Acknowledgement:
    """That everything of a partition below an offset is there, as durable as its topic asks.

    in_sync: the `order` of the greatest `InSync` that it wrote down, None if it has none.
    """

    partition: PartitionId
    log_end_offset: int
    in_sync: tuple[int, int] | None


class ReplicationTransport(Protocol):
    """One follower, as its leader sees it; see this module's docstring for the whole contract."""

    def handshake(self, hello: LeaderHello) -> ReplicaHello:
        """Begin a session, connecting if need be; return who answered.

        Raises FencedLeaderEpochError when the follower promised itself to a later epoch, or follows
        another leader of the same one; InconsistentClusterIdError when it is a replica of another
        log; ReplicationTimeoutError, AuthenticationError, other ReplicationErrors, OSError.
        """

    def position(self, partition: PartitionId) -> ReplicaPosition:
        """Return how far the follower is; a partition that it has not is all zeros.

        Records of an older topic of the same name, by its id, are deleted by the follower first.
        Raises ReplicationTimeoutError, other ReplicationErrors, OSError.
        """

    def truncate(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        """Remove every batch that reaches beyond `end_offset`; return the position after it.

        It may be lower than asked for, where a batch lay across.  Taken only before the first
        send of the partition in a session, so that a late duplicate cuts nothing.
        Raises DivergedReplicaError when that lies below what the follower knows to be
        acknowledged (its own high watermark), unless it may not be elected; and as `position`.
        """

    def start_anew(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        """Remove all records; the next one has an offset of at least `offset`.

        As `truncate`, except that what is below `offset` may have been acknowledged: it is what the
        leader has deleted.
        """

    def send(self, batches: ReplicaBatches) -> None:
        """Hand over; return when that is done, which may be before it is applied.

        May block for as long as the follower does not read.  Raises as `position`.
        """

    def acknowledgement(self, timeout: float) -> Acknowledgement | None:
        """Return the next acknowledgement; None when there was none for `timeout` seconds.

        Raises what went wrong with the send that it would have been for; and as `position`.
        """

    def close(self) -> None:
        """End the session and let go of all that it has open.  Idempotent; never raises."""


class Electable(Protocol):
    """A replica as who elects sees it.  `SocketTransport`, and a `Log`, are electable."""

    def fence(self, epoch: int) -> ReplicaStatus:
        """Let the replica promise to take nothing from leaders of older epochs; return how it is.

        The promise is durable before this returns, and a leader of an older epoch steps down.
        Raises FencedLeaderEpochError when a later epoch was promised before; and as `position`.
        """
