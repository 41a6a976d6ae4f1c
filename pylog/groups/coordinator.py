"""`Coordinator`: what a log's consumers and administrators use of its groups.

Hands on to those who know: `Membership`, the group log, administration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from pylog._native import Events
from pylog.engine.engine import Engine
from pylog.groups.administration import Groups
from pylog.groups.assignors import DEFAULT_ASSIGNOR, Assignor
from pylog.groups.group_log import GroupLog
from pylog.groups.member import Membership, committed, member_value
from pylog.groups.membership import DEFAULT_SESSION_TIMEOUT_MS
from pylog.records import OffsetAndMetadata, TopicPartition
from pylog.topics.registry import TopicRegistry


class Coordinator:
    """The groups of a log.  Made once per log; does no I/O before it is used.

    Every method may be called by many threads at once.  Each may raise CorruptionError,
    ClosedError, OSError, and what writes what `Partition.append` raises.
    """

    def __init__(self, engine: Engine, registry: TopicRegistry) -> None:
        self.log = GroupLog(engine, registry)
        self.groups = Groups(self.log)

    @property
    def events(self) -> Events:
        """Changes with every append to the log; who waits for a group waits for it."""
        return self.log.events

    def join(
        self,
        group: str,
        topics: Collection[str],
        *,
        pattern: str | None = None,
        instance_id: str | None = None,
        session_timeout_ms: int = DEFAULT_SESSION_TIMEOUT_MS,
        max_poll_interval_ms: int | None = None,
        assignor: str | Assignor = DEFAULT_ASSIGNOR,
        client_id: str = "",
    ) -> Membership:
        """Join a group as a new member.

        topics: names; some may not exist yet.  pattern: what they were found with, for those who
        look.  instance_id: who joins with the id of a member takes its place, with what it has;
        such a member may be away for session_timeout_ms before others get that.
        max_poll_interval_ms: a member that does not `look` for so long is dropped.  assignor: the
        one that most members ask for is used.
        Raises InvalidGroupIdError, InvalidConfigurationError, InconsistentGroupProtocolError,
        InvalidAssignmentError.
        """
        said = member_value(
            topics,
            pattern=pattern,
            instance_id=instance_id,
            session_timeout_ms=session_timeout_ms,
            max_poll_interval_ms=max_poll_interval_ms,
            assignor=assignor,
            client_id=client_id,
        )
        if not isinstance(assignor, str) and said.assignor is not None:
            self.log.add_assignor(said.assignor, assignor)
        return Membership(self.log, group, said)

    def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """Return what was committed in a group, None where nothing was."""
        return committed(self.log, group, partitions)

    def commit(
        self,
        group: str,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        *,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Commit offsets of a group without members, for who reads partitions of its own choice.

        Arguments and errors as `Groups.alter_offsets`.
        """
        self.groups.alter_offsets(group, offsets, check=check)

    def forget_topic(self, topic: str) -> None:
        """Forget what all groups committed for a topic; see `GroupLog.forget_topic`."""
        self.log.forget_topic(topic)
