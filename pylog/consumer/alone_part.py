"""What a consumer reads that shares with nobody: all that it asked for.

Knows which partitions are meant, and follows topics as they are made, grow and go.  Must not know
groups.
"""

from __future__ import annotations

from collections.abc import Sequence

from pylog.consumer.commits import Commits
from pylog.consumer.config import ConsumerConfig
from pylog.consumer.subscription import KnownTopics, Subscription, is_there
from pylog.errors import UnknownTopicOrPartitionError
from pylog.storage.partition import Partition
from pylog.topics.cursors import Cursor, Cursors


class AlonePart:
    """A consumer that reads everything it asked for.

    commits: of a consumer that has a group and chooses its partitions itself, else None.
    """

    def __init__(
        self,
        topics: KnownTopics,
        cursors: Cursors,
        config: ConsumerConfig,
        commits: Commits | None = None,
    ) -> None:
        self._topics = topics
        self._cursors = cursors
        self._commits = commits
        self._is_latest = config.auto_offset_reset == "latest"
        self._subscription = Subscription()
        self._version = -1  # of the topics, when they were last looked at
        # Who has not begun yet: where they begin may depend on the time.
        self._fresh: dict[Cursor, None] = {}
        self._later: set[Cursor] = set()  # of those: made after the subscription

    def subscribe(self, subscription: Subscription) -> None:
        """Read what is meant, instead of what was.

        Raises what `Subscription.partitions` raises, with nothing changed; what finding the places
        raises where reading begins, which is tried again with the next look.
        """
        # The version first: what is changed after it makes another one.
        version = self._topics.version
        partitions = subscription.partitions(self._topics)
        self._finish()
        self._follow(partitions)
        self._subscription, self._version = subscription, version
        self._begin()

    def refresh(self) -> bool:
        """Follow topics that were made, grew or were deleted; return whether any was.

        Raises what `Subscription.partitions` raises; what is no more is not read then.  And what
        finding the places raises where reading begins, which is tried again with the next look.
        Without news: one copy of the marks.
        """
        version = self._topics.version
        if version == self._version:
            return False
        try:
            partitions = self._subscription.partitions(self._topics)
        except UnknownTopicOrPartitionError:
            self._drop_gone()
            raise
        self._later.update(self._follow(partitions))
        self._version = version
        self._begin()
        return True

    def is_due(self) -> bool:
        """Return whether `look` would do anything.  One copy of the marks."""
        return bool(self._fresh) or self._topics.version != self._version

    def look(self) -> None:
        """Read what is meant now.  Raises what `refresh` raises."""
        self.refresh()
        self._begin()  # what could not begin before

    def leave(self, *, is_told: bool) -> None:
        """Read nothing any more; nobody is told.  Raises what the last commit raises."""
        try:
            self._finish()
        finally:
            self._follow(())

    def check(self) -> None:
        """Nobody is told of anything."""

    def abandon(self) -> None:
        """Nobody waits for what it reads."""

    def _begin(self) -> None:
        """Decide where those are read from that are new, as far as it depends on the time.

        What is appended from now on counts with "latest", whenever it is asked for; all of what
        was made later; and where the group committed, reading goes on there.
        """
        if not self._fresh:
            return
        if self._commits is not None:
            self._commits.begin(self._fresh.keys(), later=self._later)
        elif self._is_latest:
            for cursor in self._fresh:
                is_later = cursor in self._later
                cursor.seek(cursor.partition.log_start_offset if is_later else cursor.position)
        self._fresh.clear()
        self._later.clear()

    def _finish(self) -> None:
        if self._commits is not None:
            # First: a commit is all or nothing, and what is gone would spoil that of the others.
            if self._topics.version != self._version:
                self._drop_gone()
            self._commits.finish()

    def _drop_gone(self) -> None:
        partitions = [cursor.partition for cursor in self._cursors]
        self._follow([one for one in partitions if is_there(self._topics, one)])

    def _follow(self, partitions: Sequence[Partition]) -> list[Cursor]:
        """Read just these; return the cursors that are new."""
        added, gone = self._cursors.follow(partitions)
        self._fresh.update(dict.fromkeys(added))
        for cursor in gone:
            self._fresh.pop(cursor, None)
            self._later.discard(cursor)
        if self._commits is not None:
            # Of a topic that was made anew, what was done of the old one is not done.
            self._commits.forget(gone)
        return added
