"""What becomes of a group's members, of what they commit, and of who administers a group."""

from __future__ import annotations

from pylog.errors.base import PylogError, shown


class InvalidGroupIdError(PylogError, ValueError):
    """Raised when a group id is empty or longer than Kafka's format can hold.  Nothing was done."""

    _fields = ("group", "reason")

    def __init__(self, group: str, reason: str) -> None:
        super().__init__(f"group {shown(group)}: {reason}")
        self.group = group
        self.reason = reason


class GroupIdNotFoundError(PylogError, LookupError):
    """Raised when a group has neither members nor committed offsets.

    Source: Kafka GROUP_ID_NOT_FOUND.
    """

    _fields = ("group",)

    def __init__(self, group: str) -> None:
        super().__init__(f"unknown group {shown(group)}")
        self.group = group


class NonEmptyGroupError(PylogError, ValueError):
    """Raised for what cannot be done while a group has members.  Nothing was changed.

    members: how many it has.  Source: Kafka NON_EMPTY_GROUP.
    """

    _fields = ("group", "members")

    def __init__(self, group: str, members: int) -> None:
        super().__init__(f"group {shown(group)} has {members} members")
        self.group = group
        self.members = members


class InconsistentGroupProtocolError(PylogError, ValueError):
    """Raised when a group belongs to members of another protocol, whose records are left alone.

    They came with a log that Kafka wrote.  Source: Kafka INCONSISTENT_GROUP_PROTOCOL.
    """

    _fields = ("group", "protocol")

    def __init__(self, group: str, protocol: str) -> None:
        super().__init__(f"group {shown(group)} has members of protocol {shown(protocol)}")
        self.group = group
        self.protocol = protocol


class InvalidAssignmentError(PylogError, ValueError):
    """Raised when a user's assignor raises, or returns what cannot be done.

    The group stays as it was.  reason: which partition or member, and why.
    """

    _fields = ("assignor", "reason")

    def __init__(self, assignor: str, reason: str) -> None:
        super().__init__(f"assignor {shown(assignor)}: {reason}")
        self.assignor = assignor
        self.reason = reason


class OffsetMetadataTooLargeError(PylogError, ValueError):
    """Raised when the text that is committed with an offset is too long.  Nothing was committed.

    size, limit: bytes of UTF-8.  Source: Kafka OFFSET_METADATA_TOO_LARGE.
    """

    _fields = ("size", "limit")

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"metadata of {size} bytes, the limit is {limit}")
        self.size = size
        self.limit = limit


class CommitFailedError(PylogError):
    """Raised when offsets were certainly not committed: who asked may not commit them."""


class StaleMemberEpochError(CommitFailedError):
    """Raised when a member commits offsets of a partition that it has not, or had before.

    Nothing was committed.  epoch: the member's when it read what it commits.
    Source: Kafka STALE_MEMBER_EPOCH, ILLEGAL_GENERATION; KIP-1251.
    """

    _fields = ("group", "member_id", "topic", "partition", "epoch")

    def __init__(self, group: str, member_id: str, topic: str, partition: int, epoch: int) -> None:
        super().__init__(
            f"group {shown(group)}: {shown(topic)}-{partition} is not member {shown(member_id)}'s "
            f"in epoch {epoch}"
        )
        self.group = group
        self.member_id = member_id
        self.topic = topic
        self.partition = partition
        self.epoch = epoch


class UnknownMemberIdError(CommitFailedError, LookupError):
    """Raised when a member is in its group no more: it hung for too long, or was removed.

    Its partitions are others' now and nothing that it does counts; it may join again.
    Source: Kafka UNKNOWN_MEMBER_ID.
    """

    _fields = ("group", "member_id")

    def __init__(self, group: str, member_id: str) -> None:
        super().__init__(f"group {shown(group)} has no member {shown(member_id)}")
        self.group = group
        self.member_id = member_id


class FencedInstanceIdError(CommitFailedError):
    """Raised when another member took the place of this one: it joined with the same instance id.

    Nothing that this member does counts any more.  Source: Kafka FENCED_INSTANCE_ID, KIP-345.
    """

    _fields = ("group", "member_id", "instance_id")

    def __init__(self, group: str, member_id: str, instance_id: str) -> None:
        super().__init__(
            f"group {shown(group)}: another member than {shown(member_id)} is instance "
            f"{shown(instance_id)} now"
        )
        self.group = group
        self.member_id = member_id
        self.instance_id = instance_id
