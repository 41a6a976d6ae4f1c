"""What is told of groups to who administers them.

Knows names and numbers.  Must not know where they come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pylog.records import OffsetAndMetadata, TopicPartition


@dataclasses.dataclass(frozen=True, slots=True)
class GroupListing:
    """A group, in a list of all.

    state: "empty", nobody is in it; "stable", everybody has what it is to have; "assigning", what
    that is has to be computed; "reconciling", somebody has to let something go first; "classic",
    its members are another log's, of the classic protocol.
    """

    group: str
    state: str
    members: int


@dataclasses.dataclass(frozen=True, slots=True)
class MemberDescription:
    """A member of a group.

    is_away: a static member that is expected back.  assigned: what it may read.  to_revoke: what it
    has to let go.  target: what it is to have.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    is_away: bool
    topics: tuple[str, ...]
    assigned: frozenset[TopicPartition]
    to_revoke: frozenset[TopicPartition]
    target: frozenset[TopicPartition]


@dataclasses.dataclass(frozen=True, slots=True)
class GroupOffset:
    """How far a group is in a partition that it committed in or has a member for.

    committed: None when nothing was.  high_watermark: None when the partition is no more.
    lag: records not passed yet; None where one of both is missing.  member_id: who reads it.
    """

    committed: OffsetAndMetadata | None
    high_watermark: int | None
    lag: int | None
    member_id: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group.  state: as in GroupListing.  epoch: grows with each change of its members or topics.

    assignor: the name of the one that is used, "" where nobody is.
    """

    group: str
    state: str
    epoch: int
    assignor: str
    members: tuple[MemberDescription, ...]
    offsets: Mapping[TopicPartition, GroupOffset]

    @property
    def lag(self) -> int:
        """How many records all its partitions lag together, those without a commit left out."""
        return sum(offset.lag or 0 for offset in self.offsets.values())


@dataclasses.dataclass(frozen=True, slots=True)
class OffsetReset:
    """A committed offset that was reset, or would be.  before: None when nothing was committed."""

    before: int | None
    after: int
