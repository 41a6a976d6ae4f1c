"""What replicas say of themselves and of each other, as value types.

Knows names and numbers.  Must not know how they travel, nor what follows from them.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from typing import Final, NamedTuple

# fullmatch; no spaces and commas, which separate ids in the role file.
_REPLICA_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_EPOCH: Final = 2**31 - 1  # Kafka's leader epochs are int32


def is_replica_id(text: str) -> bool:
    """Return whether `text` can be a replica's id: 1 to 64 of A-Z a-z 0-9 . _ -."""
    return _REPLICA_ID.fullmatch(text) is not None


class PartitionId(NamedTuple):
    """A partition, by its topic's id too: a topic that is made anew has other partitions."""

    topic: str
    number: int
    topic_id: uuid.UUID

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPosition:
    """How far a replica is in one partition, and which histories its records are of.

    epochs: (leader epoch, start offset), both strictly rising; the latest ones if there are more
        than `MAX_EPOCHS`.
    log_start_offset <= high_watermark <= log_end_offset.
    """

    epochs: tuple[tuple[int, int], ...] = ()
    log_start_offset: int = 0
    high_watermark: int = 0
    log_end_offset: int = 0


# Of one position, so that a message has a bound: 64 KiB or so of numbers (guessed).
MAX_EPOCHS: Final = 2048


@dataclasses.dataclass(frozen=True, slots=True)
class InSync:
    """The replicas that have every acknowledged record, as a leader said it.

    One set for the whole log: with one leader for all partitions, a replica that lacks records of
    any of them may not lead.  Each change has another version, which begins again with an epoch.
    members: ids, the leader's own among them.

    Its members write it down before it counts, and nobody else does: so whoever asks enough
    replicas meets it, and who says the greatest one is a member.
    Source: the ISR of Kafka's controller, and the terms of Raft.
    """

    epoch: int
    version: int
    members: frozenset[str]

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, version): of two, the greater one is what holds."""
        return self.epoch, self.version


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """What a replica answers to who elects: all that an election needs of it.

    promised_epoch: it takes nothing from a leader of an older epoch any more.
    in_sync: the greatest that it is a member of.  None: it may not be elected, for it was never in
        sync, or a power cut took, or may have taken, what it had acknowledged.
    log_end_offset: of all partitions together, to tell two apart that are both in sync.
    """

    replica_id: str
    cluster_id: uuid.UUID | None
    promised_epoch: int
    in_sync: InSync | None
    log_end_offset: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FollowerStatus:
    """What a leader knows of one of its followers.

    replica_id: None before its first handshake.  in_flight_bytes: sent and not acknowledged,
    as `ReplicationConfig.max_in_flight_bytes` counts.
    error: why its last session ended, None while one goes on.
    stopped: partitions that the leader cannot read on from where this follower is, as of damaged
    bytes, and why; it gets no more of them, and of all others what there is.
    """

    transport: str
    replica_id: str | None
    is_attached: bool
    in_flight_bytes: int
    error: str | None
    stopped: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationStatus:
    """What a process knows of the replication of a log.

    role: "none", "leader" or "follower".  epoch: of the leader that it is, follows or has promised
    itself to.  leader_id, cluster_id: None while nobody told.
    in_sync: the ids of the last set that this log was a member of; none: it may not be promoted.
    in_sync_replicas: of a leader, how many acks="all" counts on.
    is_run_here: whether this process runs the leader's replication; only then there are followers.
    error: what keeps the leader here from going on, as a full disk does; None while nothing does.
    """

    role: str
    epoch: int
    replica_id: str
    leader_id: str | None
    cluster_id: uuid.UUID | None
    in_sync: tuple[str, ...]
    in_sync_replicas: int
    is_run_here: bool
    error: str | None
    followers: tuple[FollowerStatus, ...]
