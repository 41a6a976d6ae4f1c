"""What a consumer reads that is a member of a group: what it is given, until it gives it back.

Knows what has to be done before a partition is given back, and who is told.  Must not know how a
group agrees on who gets what (groups/).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from pylog.commits import Commits
from pylog.consumer_config import ConsumerConfig
from pylog.cursors import Cursor, Cursors
from pylog.errors import (
    CommitFailedError,
    ConcurrentUseError,
    FencedInstanceIdError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)
from pylog.groups.coordinator import Coordinator
from pylog.groups.member import Membership, Standing
from pylog.positioned import name_of
from pylog.records import OffsetAndMetadata, TopicPartition
from pylog.storage.partition import Partition
from pylog.subscription import KnownTopics, Subscription

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

    def __init__(self, coordinator: Coordinator, group: str) -> None:
        self._coordinator = coordinator
        self._group = group

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit all or nothing.  Raises what `Coordinator.commit` raises."""
        self._coordinator.commit(self._group, offsets)

    def commit_one(
        self,
        topic: str,
        partition: int,
        offset: int,
        leader_epoch: int | None = None,
        metadata: str = "",
    ) -> None:
        """Commit one offset, as `commit`."""
        one = OffsetAndMetadata(offset, metadata, leader_epoch)
        self.commit({TopicPartition(topic, partition): one})

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
        # How many partitions topics had when they were first wanted: others were added later.
        self._counts: dict[str, int] = {}
        self._standing: Standing | None = None
        self._held: frozenset[TopicPartition] = _NONE
        self._untold: frozenset[TopicPartition] = _NONE  # held, but on_assigned was not told yet
        self._is_telling = False

    # ------------------------------------------------------------------ what is wanted

    def subscribe(self, subscription: Subscription) -> None:
        """Want these topics from now on.

        Raises what `Subscription.names` and `Coordinator.join` raise, with nothing changed.
        """
        version = self._topics.version
        names = subscription.existing(self._topics)
        for name in names:
            self._counts.setdefault(name, len(self._topics.get(name)))
        self._want(subscription, names)
        self._subscription, self._version = subscription, version

    def refresh(self) -> bool:
        """Follow topics that were made or deleted; return whether any topic changed.

        Raises what `Subscription.names` raises.  Without news: one copy of the marks.
        """
        version = self._topics.version
        if version == self._version:
            return False
        self._want(self._subscription, self._subscription.existing(self._topics))
        self._read()
        self._version = version
        return True

    def _want(self, subscription: Subscription, names: Collection[str]) -> None:
        wanted = frozenset(names)
        if self._membership is None:
            self._join(subscription, wanted)
        elif wanted != self._names:
            # One that was removed joins again with its next look.
            with contextlib.suppress(UnknownMemberIdError):
                self._membership.subscribe(wanted, pattern=_text_of(subscription))
        self._names = wanted

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

    def look(self) -> None:
        """Follow what the group decided: give back, tell the listeners, take.

        Raises FencedInstanceIdError, what the listeners raise, and what `Membership.look` raises.
        Without news some copies of marks.
        """
        assert self._membership is not None
        try:
            self._look(self._membership)
        except UnknownMemberIdError as error:
            logger.warning("%s: it joins again", error)
            self._lose()
            self._look(self._join(self._subscription, self._names))
        except FencedInstanceIdError:
            self._lose()
            raise

    def _look(self, membership: Membership) -> None:
        standing = membership.look()
        if standing is not self._standing:
            self._follow(membership, standing)

    def _follow(self, membership: Membership, standing: Standing) -> None:
        # First: a commit is all or nothing, and what is lost would spoil that of the others.
        self._drop_lost(standing)
        while standing.to_revoke:
            standing = self._give_back(membership, standing.to_revoke)
            self._drop_lost(standing)
        self._untold = (self._untold | (standing.assigned - self._held)) & standing.assigned
        self._held = standing.assigned
        self._begin(membership, self._read())
        self._standing = standing
        gained, self._untold = self._untold, _NONE
        self._tell(self.listeners.on_assigned, gained)

    def _drop_lost(self, standing: Standing) -> None:
        """Drop what others have already, or is no more, and tell the listener."""
        lost = self._held - standing.assigned - standing.to_revoke
        if lost:
            self._drop(lost)
        self._tell_lost(lost)

    def _begin(self, membership: Membership, added: list[Cursor]) -> None:
        """Pin down where partitions begin, if nothing is committed and it depends on the time."""
        if not added or self._config.auto_offset_reset in ("earliest", "none"):
            return
        committed = membership.committed([name_of(cursor) for cursor in added])
        fresh = [cursor for cursor in added if committed[name_of(cursor)] is None]
        for cursor in fresh:
            topic, number = name_of(cursor)
            if self._config.reset_ms is None and number >= self._counts.get(topic, 0):
                # What it holds was appended after the consumer had begun.
                cursor.seek(cursor.partition.log_start_offset)
        self._commits.pin(fresh)

    def _give_back(self, membership: Membership, partitions: frozenset[TopicPartition]) -> Standing:
        """Tell the listener, commit, and let go; return how things stand then.

        When the listener raises, what is not committed is read again by the next owner.
        """
        is_told = False
        try:
            self._tell(self.listeners.on_revoked, partitions & self._held)
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

    def _read(self) -> list[Cursor]:
        """Read just what is held; return the cursors that are new."""
        partitions: list[Partition] = []
        for topic, number in sorted(self._held):
            # One whose topic was deleted is taken away soon.
            with contextlib.suppress(UnknownTopicOrPartitionError):
                partitions.append(self._topics.get(topic).partition(number))
        added, gone = self._cursors.follow(partitions)
        # Of a topic that was made anew, what was done of the old one is not done.
        self._commits.forget(gone)
        return added

    def _lose(self) -> None:
        lost, self._standing = self._held, None
        self._drop(lost)
        self._tell_lost(lost)

    def _tell_lost(self, partitions: frozenset[TopicPartition]) -> None:
        self._tell(self.listeners.on_lost or self.listeners.on_revoked, partitions)

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

    def leave(self) -> None:
        """Give everything back and leave the group, telling the listener.

        Raises what the listener and the last commit raise; the group is left nevertheless.
        """
        try:
            self._tell(self.listeners.on_revoked, self._held)
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
