"""What a consumer reads that shares with nobody: all that it asked for.

Knows which partitions are meant, and follows topics as they are made, grow and go.  Must not know
groups.
"""

from __future__ import annotations

from collections.abc import Sequence

from pylog.commits import Commits
from pylog.consumer_config import ConsumerConfig
from pylog.cursors import Cursor, Cursors
from pylog.storage.partition import Partition
from pylog.subscription import KnownTopics, Subscription


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

    def subscribe(self, subscription: Subscription) -> None:
        """Read what is meant, instead of what was; raises what `Subscription.partitions` raises."""
        # The version first: what is changed after it makes another one.
        version = self._topics.version
        partitions = subscription.partitions(self._topics)
        self._finish()
        added = self._follow(partitions)
        self._subscription, self._version = subscription, version
        if self._is_latest:
            for cursor in added:
                # What is appended from now on counts, whenever it is asked for; where the group
                # committed, it goes on there.
                cursor.seek(cursor.position)

    def refresh(self) -> bool:
        """Follow topics that were made, grew or were deleted; return whether any was.

        Raises what `Subscription.partitions` raises.  Without news: one copy of the marks.
        """
        version = self._topics.version
        if version == self._version:
            return False
        added = self._follow(self._subscription.partitions(self._topics))
        self._version = version
        if self._is_latest:
            # What they hold was appended after the consumer had begun.
            for cursor in added:
                cursor.seek(cursor.partition.log_start_offset)
        return True

    def look(self) -> None:
        """Nobody else decides what is read."""

    def leave(self) -> None:
        """Read nothing any more.  Raises what the last commit raises."""
        try:
            self._finish()
        finally:
            self._follow(())

    def check(self) -> None:
        """Nobody is told of anything."""

    def abandon(self) -> None:
        """Nobody waits for what it reads."""

    def _finish(self) -> None:
        if self._commits is not None:
            self._commits.finish()

    def _follow(self, partitions: Sequence[Partition]) -> list[Cursor]:
        """Read just these; return the cursors that are new."""
        added, gone = self._cursors.follow(partitions)
        if self._commits is not None:
            # Of a topic that was made anew, what was done of the old one is not done.
            self._commits.forget(gone)
        return added
