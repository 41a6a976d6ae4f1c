"""What of that which a consumer got is done, and what of it is committed.

Knows positions, and when commits are due.  Must not know groups' members, nor how offsets are kept.

A record is done when whoever got it asks for the next one, or for the next list of them: then it is
committed by itself, if the user wants that, every `auto_commit_interval_ms`, and before its
partition is given to another member.  So a crash repeats records, and loses none.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Collection, Mapping
from typing import Protocol

from pylog._native import Record
from pylog.consumer.config import ConsumerConfig
from pylog.consumer.positioned import name_of
from pylog.errors import (
    ClosedError,
    CommitFailedError,
    OffsetOutOfRangeError,
    PylogError,
    UnknownTopicOrPartitionError,
)
from pylog.records import OffsetAndMetadata, TopicPartition, partition_named
from pylog.storage.epochs import NO_EPOCH
from pylog.storage.partition import Partition
from pylog.topics.cursors import Cursor, Cursors, Locate

logger = logging.getLogger("pylog")


class OffsetStore(Protocol):
    """Where offsets are committed: a Membership, or a group without members."""

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit all or nothing; none of them is nothing."""

    def committed(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """Return what is committed, None where nothing is."""


class Commits:
    """The commits of one consumer.  store: where they are made; its owner says so."""

    store: OffsetStore

    def __init__(self, config: ConsumerConfig) -> None:
        self._reset = config.auto_offset_reset
        self._is_automatic = config.enable_auto_commit
        self._interval = config.auto_commit_interval_ms / 1000
        self._due = float("-inf")
        self._given: set[Cursor] = set()  # who gave records that may not be done
        self._done: dict[Cursor, int] = {}  # positions to commit, behind what is done
        self._known: dict[Cursor, int] = {}  # what this consumer committed last
        self._pins: dict[Cursor, int] = {}  # where partitions begin, until that is committed
        self._loop: tuple[Cursor, int] | None = None  # who gives to a loop, and its position before

    def locating(self, otherwise: Locate) -> Locate:
        """Return what begins at the committed offset of a partition, `otherwise` without one."""

        def locate(partition: Partition, error: OffsetOutOfRangeError | None) -> int:
            if error is None:
                name = TopicPartition(partition.topic, partition.number)
                found = self.store.committed([name])[name]
                if found is not None:
                    return _where_it_is_left(partition, found)
            return otherwise(partition, error)

        return locate

    def note(self, cursor: Cursor) -> None:
        """Note that a partition gives records, or was sought."""
        self._given.add(cursor)
        self._loop = None

    def note_loop(self, cursor: Cursor) -> None:
        """Note that a partition gives records to a loop: it asks for another when one is done."""
        self._given.add(cursor)
        self._loop = cursor, cursor.position

    def settle(self) -> None:
        """Note that everything that was given is done."""
        for cursor in self._given:
            position = cursor.position
            if self._known.get(cursor) != position:
                self._done[cursor] = position
            else:
                # Sought back to what is committed: what was done since is to be done again.
                self._done.pop(cursor, None)
        self._given.clear()
        self._loop = None

    def is_due(self, now: float) -> bool:
        """Return whether `commit_due` would commit anything, once what was given is done.

        now: seconds.
        """
        is_done = self._is_automatic and (self._given or self._done)
        return now >= self._due and bool(is_done or self._pins)

    def commit_due(self, now: float) -> None:
        """Commit what is done if the time for that has come.

        now: seconds.  What keeps a commit from being done is logged, and it is tried again.
        """
        if now >= self._due:
            self._due = now + self._interval
            try:
                self.commit_done()
            except (PylogError, OSError) as error:
                logger.warning("offsets are not committed yet: %s", error)

    def commit_done(self) -> None:
        """Commit what is done, if the user wants that, and what was pinned and could not be.

        Raises what `OffsetStore.commit` raises.
        """
        self._commit(self._pins | (self._done if self._is_automatic else {}))

    def commit_given(self, metadata: str) -> None:
        """Commit all positions that moved since they were committed.  Raises as `commit_done`."""
        positions = self._done | {cursor: cursor.position for cursor in self._given}
        self._commit(positions, metadata)
        self._go_on_from_here()

    def begin(self, cursors: Collection[Cursor], *, later: Collection[Cursor]) -> None:
        """Commit where partitions begin, if nothing is committed and it depends on the time.

        So nothing is skipped if this consumer dies early; that is done before they give anything,
        and also for who commits by hand.  later: those that were made after the consumer had begun:
        to it, all that they hold came since.
        What keeps a commit from being done is logged, and it is tried again.  Raises what
        `OffsetStore.committed` raises, and finding the place.
        """
        if not cursors or self._reset in ("earliest", "none"):
            return
        committed = self.store.committed([name_of(cursor) for cursor in cursors])
        for cursor in cursors:
            if committed[name_of(cursor)] is None:
                partition, is_later = cursor.partition, self._reset == "latest" and cursor in later
                position = partition.log_start_offset if is_later else cursor.position
                epoch = partition.leader_epochs.latest_epoch
                cursor.seek(position, leader_epoch=None if epoch == NO_EPOCH else epoch)
                self._pins[cursor] = position
        try:
            self._commit(dict(self._pins))
        except (PylogError, OSError) as error:
            logger.warning("where to begin is not committed yet: %s", error)

    def _commit(self, positions: Mapping[Cursor, int], metadata: str = "") -> None:
        """Commit positions, and note that they are."""
        if positions:
            self.store.commit(
                {
                    name_of(cursor): OffsetAndMetadata(position, metadata, cursor.leader_epoch)
                    for cursor, position in positions.items()
                }
            )
        for cursor, position in positions.items():
            self._known[cursor] = position
            self._done.pop(cursor, None)
            self._pins.pop(cursor, None)

    def commit_offsets(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], cursors: Cursors
    ) -> None:
        """Commit just these offsets.  Raises what `OffsetStore.commit` raises."""
        self.store.commit(offsets)
        # Nothing that was done before is committed over it.
        self._go_on_from_here()
        for name, one in offsets.items():
            cursor = cursors.get(*name)
            if cursor is not None:
                self._known[cursor] = one.offset
                self._pins.pop(cursor, None)
                if self._done.get(cursor, one.offset) <= one.offset:
                    self._done.pop(cursor, None)

    def _go_on_from_here(self) -> None:
        """Note that of what a loop was given only what comes next is done by itself."""
        if self._loop is not None:
            self.note_loop(self._loop[0])

    def finish(self) -> None:
        """Commit what is done, at the end, if the user wants that.

        That a loop got a record does not mean that it is done with it; it is with those before.
        What is no longer this consumer's to commit is left to the others, and said.
        Raises what else `OffsetStore.commit` raises.
        """
        if self._loop is not None:
            cursor, before = self._loop
            # The position is behind the last record, so one less is that record's offset.
            position = cursor.position - 1
            if position > before:
                self._done[cursor] = position
        try:
            self.commit_done()
        except (CommitFailedError, UnknownTopicOrPartitionError) as error:
            logger.warning("what was done last is not committed: %s", error)

    def forget(self, cursors: Collection[Cursor]) -> None:
        """Forget partitions that are not read any more."""
        self._given.difference_update(cursors)
        for cursor in cursors:
            self._done.pop(cursor, None)
            self._known.pop(cursor, None)
            self._pins.pop(cursor, None)
        if self._loop is not None and self._loop[0] in cursors:
            self._loop = None


def _where_it_is_left(partition: Partition, committed: OffsetAndMetadata) -> int:
    """Return a committed offset, or where the log ended that it belongs to, if it lost its end.

    Other records have the offsets from there on, and the group has not seen them.
    Raises what `Partition.leader_epochs` raises.  Source: KIP-320.
    """
    offset, epoch = committed.offset, committed.leader_epoch
    if epoch is None:
        return offset
    ended = partition.end_offset_for_epoch(epoch)
    end_offset = partition.log_end_offset if ended is None else ended[1]
    if offset <= end_offset:
        return offset
    logger.warning(
        "%r: offset %d was committed, but of leader epoch %d there is nothing from %d on: the log"
        " lost its end; going on there", partition, offset, epoch, end_offset,
    )  # fmt: skip
    return max(end_offset, partition.log_start_offset)


def may_be_of(partition: Partition, record: Record) -> bool:
    """Return whether a record may be of this partition, and not of one that was before it.

    A topic that is made anew has the name of the old one, and other records at its offsets.
    Raises what `Partition.read` raises.  No I/O for what was read from this very partition.
    """
    # Records share the name of the topic that they were read from, as an object; Python has one
    # object for all names of one letter.
    if record.topic is partition.topic and len(record.topic) > 1:
        return True
    try:
        if record.offset >= partition.high_watermark:
            return False
        found = next(iter(partition.read(record.offset, 1, record.offset + 1)), None)
    except OffsetOutOfRangeError:
        found = None
    except (UnknownTopicOrPartitionError, ClosedError):
        return True  # it was deleted just now, which who commits finds out
    # What is no more, by age or compaction, may have been this one.
    return found is None or _contents(found) == _contents(record)


def _contents(record: Record) -> tuple[object, ...]:
    return record.timestamp, record.key, record.value


def offsets_of(
    what: Record | Mapping[tuple[str, int], int | OffsetAndMetadata], metadata: str
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return what a user wants committed, as `Consumer.commit` takes it.

    Raises TypeError, ValueError.
    """
    if isinstance(what, Record):
        epoch = what.leader_epoch if what.leader_epoch >= 0 else None
        one = OffsetAndMetadata(what.offset + 1, metadata, epoch)
        return {TopicPartition(what.topic, what.partition): one}
    if not isinstance(what, Mapping):
        raise TypeError(f"expected a record or offsets by partition, not {type(what).__name__}")
    return {
        partition_named(name): one
        if isinstance(one, OffsetAndMetadata)
        else OffsetAndMetadata(operator.index(one), metadata)
        for name, one in what.items()
    }
