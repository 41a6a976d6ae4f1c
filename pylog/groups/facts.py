"""What the records of `__consumer_offsets` say: keys, and the values under them, as value types.

Knows names and numbers.  Must not know their bytes (schemas.py), nor what follows from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

# A partition, by the 16 bytes of its topic's id: a topic that is made anew has other partitions.
# (Bytes, as UUID objects compare and hash in Python: settling 300 members took five times as long.)
Place: TypeAlias = tuple[bytes, int]


# ---------------------------------------------------------------- keys


@dataclasses.dataclass(frozen=True, slots=True)
class OffsetKey:
    """What was committed for a partition, by its topic's name."""

    group: str
    topic: str
    partition: int


@dataclasses.dataclass(frozen=True, slots=True)
class ClassicGroupKey:
    """A group of the classic protocol."""

    group: str


@dataclasses.dataclass(frozen=True, slots=True)
class GroupKey:
    """A group's epoch."""

    group: str


@dataclasses.dataclass(frozen=True, slots=True)
class TopicsKey:
    """The topics of a group."""

    group: str


@dataclasses.dataclass(frozen=True, slots=True)
class MemberKey:
    """What a member said when it joined."""

    group: str
    member_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class TargetEpochKey:
    """The epoch of a group's target assignment."""

    group: str


@dataclasses.dataclass(frozen=True, slots=True)
class TargetKey:
    """What a member is to have."""

    group: str
    member_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class CurrentKey:
    """What a member has."""

    group: str
    member_id: str


Key: TypeAlias = (
    OffsetKey
    | ClassicGroupKey
    | GroupKey
    | TopicsKey
    | MemberKey
    | TargetEpochKey
    | TargetKey
    | CurrentKey
)
# ---------------------------------------------------------------- values


class OffsetValue(NamedTuple):
    """A committed offset.  Times are milliseconds since the epoch.

    leader_epoch, expire_timestamp, topic_id: None where the record does not say.
    """

    offset: int
    leader_epoch: int | None
    metadata: str
    commit_timestamp: int
    expire_timestamp: int | None = None
    topic_id: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ClassicMember:
    """A member of a group of the classic protocol."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int | None
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class ClassicGroupValue:
    """A group of the classic protocol."""

    protocol_type: str
    generation: int
    protocol: str | None
    leader: str | None
    state_timestamp: int | None
    members: tuple[ClassicMember, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class EpochValue:
    """The epoch of a group, or of its target assignment."""

    epoch: int


@dataclasses.dataclass(frozen=True, slots=True)
class TopicShape:
    """A topic as a group knows it."""

    topic_id: bytes
    name: str
    partitions: int


@dataclasses.dataclass(frozen=True, slots=True)
class TopicsValue:
    """The topics of a group."""

    topics: tuple[TopicShape, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemberValue:
    """What a member said when it joined.

    topics: the names that it subscribed to, sorted.  pattern: what they were found with.
    rebalance_timeout_ms: the longest time between two polls, None when there is none (Kafka's
    consumers send their max.poll.interval.ms in it).  assignor: the name of the one it asks for.
    session_timeout_ms: how long a static member may be away; pylog's own tagged field.
    is_classic: it speaks the classic protocol in a group of the newer one.
    """

    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    rebalance_timeout_ms: int | None = None
    assignor: str | None = None
    session_timeout_ms: int | None = None
    is_classic: bool = False

    def subscribed(self, topics: tuple[str, ...], pattern: str | None) -> MemberValue:
        """Return the same with other topics."""
        return dataclasses.replace(self, topics=topics, pattern=pattern)


@dataclasses.dataclass(frozen=True, slots=True)
class TargetValue:
    """What a member is to have."""

    places: frozenset[Place]


@dataclasses.dataclass(frozen=True, slots=True)
class CurrentValue:
    """What a member has.

    epoch: of the target assignment that it was last brought to.  state: Kafka's MemberState.
    assigned, pending: to each partition that it may read, and that it has to let go, the epoch in
    which it got it.
    """

    epoch: int
    previous_epoch: int
    state: int
    assigned: Mapping[Place, int]
    pending: Mapping[Place, int]


Value: TypeAlias = (
    OffsetValue
    | ClassicGroupValue
    | EpochValue
    | TopicsValue
    | MemberValue
    | TargetValue
    | CurrentValue
)
