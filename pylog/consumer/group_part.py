"""What a consumer reads that is a member of a group: what it is given, until it gives it back.

Knows what has to be done before a partition is given back, and who is told.  Must not know how a
group agrees on who gets what (groups/).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from pylog.consumer.commits import Commits
from pylog.consumer.config import ConsumerConfig
from pylog.consumer.subscription import KnownTopics, Subscription, is_there
from pylog.errors import (
    CommitFailedError,
    ConcurrentUseError,
    FencedInstanceIdError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)
from pylog.groups.coordinator import Coordinator
from pylog.groups.member import Membership
from pylog.groups.membership import Standing
from pylog.records import OffsetAndMetadata, TopicPartition
from pylog.storage.partition import Partition
from pylog.topics.cursors import Cursor, Cursors

logger = logging.getLogger("pylog")

Listener = Callable[[set[TopicPartition]], object]
_NONE: Final[frozenset[TopicPartition]] = frozenset()


class Listeners(NamedTuple):
    """Users' functions, which are told of partitions; see `Consumer.subscribe`."""

    on_assigned: Listener | None = None
    on_revoked: Listener | None = None
    on_lost: Listener | None = None


class GroupOffsets:
    """Where a consumer commits that has a group and chooses its partitions itself."""

    def __init__(
        self, coordinator: Coordinator, group: str, topics: KnownTopics, cursors: Cursors
    ) -> None:
        self._coordinator = coordinator
        self._group = group
        self._topics = topics
        self._cursors = cursors

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit all or nothing.

        Raises what `Coordinator.commit` raises, and UnknownTopicOrPartitionError for a partition
        whose topic was deleted since it was read: of one made anew, records would be skipped.
        """

        def check() -> None:
            for topic, number in offsets:
                cursor = self._cursors.get(topic, number)
                if cursor is not None and not is_there(self._topics, cursor.partition):
                    raise UnknownTopicOrPartitionError(topic, number)

        self._coordinator.commit(self._group, offsets, check=check)

    def committed(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """Return what is committed.  Raises what `Coordinator.committed` raises."""
        return self._coordinator.committed(self._group, partitions)


class GroupPart:
    """A consumer as a member of its group, which it joins with its first subscription."""

    def __init__(
        self,
        coordinator: Coordinator,
        topics: KnownTopics,
        cursors: Cursors,
        commits: Commits,
        config: ConsumerConfig,
    ) -> None:
        self.listeners = Listeners()
        self._coordinator = coordinator
        self._topics = topics
        self._cursors = cursors
        self._commits = commits
        self._config = config
        self._membership: Membership | None = None
        self._subscription = Subscription()
        self._names: frozenset[str] = frozenset()
        self._version = -1  # of the topics, when they were last looked at
        # How many partitions topics had, by id, when they were first wanted: others came later.
        self._counts: dict[bytes, int] = {}
        self._standing: Standing | None = None
        self._held: frozenset[TopicPartition] = _NONE
        self._topic_ids: Mapping[str, bytes] = {}  # of what is held
        self._told: frozenset[TopicPartition] = _NONE  # of those: on_assigned was told
        self._fresh: dict[Cursor, None] = {}  # read, but where they begin is not committed yet
        self._is_telling = False

    # ------------------------------------------------------------------ what is wanted

    def subscribe(self, subscription: Subscription) -> None:
        """Want these topics from now on.

        Raises what `Subscription.names` and `Coordinator.join` raise, with nothing changed.
        """
        version = self._topics.version
        names = frozenset(subscription.existing(self._topics))
        self._count(names)
        if self._membership is None:
            self._join(subscription, names)
        else:
            # One that was removed joins again with its next look.
            with contextlib.suppress(UnknownMemberIdError):
                self._membership.subscribe(names, pattern=_text_of(subscription))
        self._subscription, self._names, self._version = subscription, names, version

    def refresh(self) -> bool:
        """Follow topics that were made or deleted; return whether any topic changed.

        Others hear of it with the next look.  Raises what `Subscription.existing` raises.  Without
        news: one copy of the marks.
        """
        version = self._topics.version
        if version == self._version:
            return False
        self._names = frozenset(self._subscription.existing(self._topics))
        assert self._membership is not None
        self._membership.want(self._names, pattern=_text_of(self._subscription))
        self._read()
        self._version = version
        return True

    def _count(self, names: Collection[str]) -> None:
        """Note how many partitions topics have now."""
        for name in names:
            # One that a pattern matched may be deleted meanwhile.
            with contextlib.suppress(UnknownTopicOrPartitionError):
                topic = self._topics.get(name)
                self._counts.setdefault(topic.topic_id.bytes, len(topic))

    def _join(self, subscription: Subscription, names: Collection[str]) -> Membership:
        config = self._config
        assert config.group is not None
        membership = self._coordinator.join(
            config.group,
            names,
            pattern=_text_of(subscription),
            instance_id=config.instance_id,
            session_timeout_ms=config.session_timeout_ms,
            max_poll_interval_ms=config.max_poll_interval_ms,
            assignor=config.assignor,
        )
        self._membership = self._commits.store = membership
        return membership

    # ------------------------------------------------------------------ what is given

    def is_due(self) -> bool:
        """Return whether `refresh` or `look` may do anything; raises what `look` raises."""
        return (
            self._membership is None
            or self._topics.version != self._version
            or self._membership.is_due(self._standing)
        )

    def look(self) -> None:
        """Follow what the group decided: give back, tell the listeners, take.  And `refresh`.

        Raises FencedInstanceIdError, what the listeners raise, and what `Membership.look` and
        `refresh` raise.  Without news some copies of marks.
        """
        # The topics last: what became of them must not keep others from what they wait for.
        self._look()
        if self.refresh():
            self._look()

    def _look(self) -> None:
        assert self._membership is not None
        try:
            self._follow_group(self._membership)
        except UnknownMemberIdError as error:
            logger.warning("%s: it joins again", error)
            self._lose_all()
            self._follow_group(self._join(self._subscription, self._names))
        except FencedInstanceIdError:
            self._lose_all()
            raise

    def _follow_group(self, membership: Membership) -> None:
        standing = membership.look()
        if standing is not self._standing:
            self._follow(membership, standing)

    def _follow(self, membership: Membership, standing: Standing) -> None:
        # First: a commit is all or nothing, and what is lost would spoil that of the others.
        self._drop_lost(standing)
        while standing.to_revoke:
            standing = self._give_back(membership, standing.to_revoke)
            self._drop_lost(standing)
        self._held, self._topic_ids = standing.assigned, standing.topic_ids
        self._read()
        self._begin()
        self._standing = standing
        gained, self._told = self._held - self._told, self._held
        self._tell(self.listeners.on_assigned, gained)

    def _drop_lost(self, standing: Standing) -> None:
        """Drop what others have already, or is no more, and tell the listener."""
        before, now = self._topic_ids, standing.topic_ids
        lost = self._held - standing.assigned - standing.to_revoke
        lost |= {one for one in self._held if before[one.topic] != now.get(one.topic)}
        if lost:
            self._lose(lost)

    def _begin(self) -> None:
        """Decide where those are read from that are new; what raises is tried again."""
        counts, ids = self._counts, self._topic_ids
        later = {
            cursor
            for cursor in self._fresh
            if cursor.partition.number >= counts.get(ids[cursor.partition.topic], 0)
        }
        self._commits.begin(self._fresh.keys(), later=later)
        self._fresh.clear()

    def _give_back(self, membership: Membership, partitions: frozenset[TopicPartition]) -> Standing:
        """Tell the listener, commit, and let go; return how things stand then.

        When the listener raises, what is not committed is read again by the next owner.
        """
        is_told = False
        told, self._told = partitions & self._told, self._told - partitions
        try:
            self._tell(self.listeners.on_revoked, told)
            is_told = True
        finally:
            if is_told:
                self._commit()
            self._drop(partitions)
            standing = membership.let_go(partitions)
        return standing

    def _commit(self) -> None:
        try:
            self._commits.commit_done()
        except CommitFailedError as error:
            logger.warning("what was done last is not committed: %s", error)

    def _drop(self, partitions: frozenset[TopicPartition]) -> None:
        """Read these no more."""
        self._held -= partitions
        self._read()

    def _read(self) -> None:
        """Read just what is held."""
        partitions: list[Partition] = []
        for name, number in sorted(self._held):
            # One whose topic was deleted is taken away soon, and another's when it is made anew.
            with contextlib.suppress(UnknownTopicOrPartitionError):
                topic = self._topics.get(name)
                if topic.topic_id.bytes == self._topic_ids[name]:
                    partitions.append(topic.partition(number))
        added, gone = self._cursors.follow(partitions)
        # Of a topic that was made anew, what was done of the old one is not done.
        self._commits.forget(gone)
        self._fresh.update(dict.fromkeys(added))
        for cursor in gone:
            self._fresh.pop(cursor, None)

    def _lose(self, partitions: frozenset[TopicPartition]) -> None:
        """Read these no more, and tell the listener."""
        told, self._told = partitions & self._told, self._told - partitions
        self._drop(partitions)
        self._tell(self.listeners.on_lost or self.listeners.on_revoked, told)

    def _lose_all(self) -> None:
        self._standing = None
        self._lose(self._held)

    def _tell(self, listener: Listener | None, partitions: frozenset[TopicPartition]) -> None:
        if listener is not None and partitions:
            self._is_telling = True
            try:
                listener(set(partitions))
            finally:
                self._is_telling = False

    def check(self) -> None:
        """Raise ConcurrentUseError in a listener, which cannot change what it is told about."""
        if self._is_telling:
            raise ConcurrentUseError("a listener may commit and seek, not ask for records or leave")

    def leave(self, *, is_told: bool) -> None:
        """Give everything back and leave the group.

        is_told: the listener is; else, where there is one, nothing is committed either: it may have
        to do something first.
        Raises what the listener and the last commit raise; the group is left nevertheless.
        """
        on_revoked = self.listeners.on_revoked
        told, self._told = self._told, _NONE
        try:
            if is_told:
                self._tell(on_revoked, told)
            elif on_revoked is not None:
                logger.warning("closed by another thread: on_revoked is not called, nor a commit")
            if is_told or on_revoked is None:
                self._read()  # a commit is all or nothing, and what is gone would spoil it
                self._commits.finish()
        finally:
            self._drop(self._held)
            membership, self._membership = self._membership, None
            if membership is not None:
                membership.leave()

    def abandon(self) -> None:
        """Let others have everything, as if this process had died; see `Membership.abandon`."""
        if self._membership is not None:
            self._membership.abandon()


def _text_of(subscription: Subscription) -> str | None:
    """Return the pattern that is written down with a member, for those who look."""
    return None if subscription.pattern is None else subscription.pattern.pattern
