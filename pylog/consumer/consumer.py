"""`Consumer`: reads topics, one after the other or many at once, and follows what is appended.

Knows which partitions are read and where each goes on.  Must not know files or segments.

Locks: the gate's, which lets one thread in at a time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from pylog._native import Record, system_clock
from pylog.arguments import check_callable, seconds, whole_number
from pylog.closing import Closing
from pylog.consumer.alone_part import AlonePart
from pylog.consumer.commits import Commits, may_be_of, offsets_of
from pylog.consumer.config import ConsumerConfig
from pylog.consumer.gate import Gate, alone
from pylog.consumer.group_part import GroupOffsets, GroupPart, Listener, Listeners
from pylog.consumer.positioned import PositionedConsumer, name_of
from pylog.consumer.subscription import KnownTopics, Subscription, beginning
from pylog.errors import (
    ClosedError,
    InvalidConfigurationError,
    InvalidGroupIdError,
    NotAssignedError,
    PylogError,
    UnknownTopicOrPartitionError,
)
from pylog.groups.coordinator import Coordinator
from pylog.records import OffsetAndMetadata, TopicPartition, partition_named
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.topics.cursors import Cursor, Cursors

# A loop asks for so long before all else is looked at: other partitions, what others decided, when
# a commit is due, whoever calls wakeup().  Guessed: nobody waits long, and a look costs 2 us.
_PIECE_SECONDS: Final = 0.05


class Consumer(PositionedConsumer, Closing):
    """Reads the records of topics, several partitions in turns, and waits for more.

    Made by `Log.consumer`.  An iterator over it gives record after record and never ends by itself;
    `records` and `batches` can; `poll` returns what there is.  They share one position a partition.
    A context manager.  One thread at a time may use it: a call by a second thread raises
    ConcurrentUseError; only `wakeup` may be called at any time.  All methods but `close` raise
    ClosedError when it or the log is closed, and UnknownTopicOrPartitionError when a topic that it
    was given by name is deleted; those that look at partitions CorruptionError and OSError.
    Where a partition is read from at first, and after what was to come next is gone, is said by
    `auto_offset_reset`; a partition that is added later is read from its beginning.
    With a group it reads what the group gives it, from where the group committed; closed, by
    `close` or with its log, it leaves.  One that is dropped instead is noticed as one that died.
    """

    _part: AlonePart | GroupPart | None = None

    def __init__(
        self,
        topics: KnownTopics,
        config: ConsumerConfig,
        *,
        coordinator: Coordinator | None = None,
        clock: Callable[[], int] = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """coordinator: of the log's groups, where `config` names one."""
        self.config = config
        self._topics = topics
        self._monotonic = monotonic
        self._events = topics.events
        self._commits = None if config.group is None else Commits(config)
        self._coordinator = coordinator
        locate = beginning(config, clock)
        if self._commits is not None:
            locate = self._commits.locating(locate)
        self._cursors = Cursors(locate)
        self._commit_as_nobody()
        end = None if self._commits is None else _weakly(self._leave)
        self.gate = Gate(self._events, end=end, stop=self._cursors.stop)
        self._subscription: Subscription | None = None

    def _commit_as_nobody(self) -> None:
        """Commit from now on as who is no member of the group."""
        if self._commits is not None:
            assert self._coordinator is not None and self.config.group is not None
            self._commits.store = GroupOffsets(
                self._coordinator, self.config.group, self._topics, self._cursors
            )

    # ------------------------------------------------------------------ what is read

    @alone
    def subscribe(
        self,
        *topics: str,
        pattern: str | re.Pattern[str] | None = None,
        on_assigned: Listener | None = None,
        on_revoked: Listener | None = None,
        on_lost: Listener | None = None,
    ) -> None:
        """Read these topics from now on, instead of what was read before.

        topics: names.  pattern: or a regular expression that whole names match; topics that are
        made later are read as soon as they are there.  Partitions that are read already go on
        where they are.
        With a group, the consumer is a member of it from now on, and is given partitions by `poll`
        and in iterations, as the group decides.  There, in the consumer's own thread, listeners are
        called with a set of partitions:
            on_assigned: read from now on.
            on_revoked: to be given back.  They may still be committed; what is done is, after this,
                if that is automatic, and then they are another member's.
            on_lost: others have them already, nothing can be committed.  By default on_revoked.
        What a listener raises is raised there; partitions are given back nevertheless, without a
        commit.  So they are when another thread closes the log while the one that called last is at
        work elsewhere: nobody is told then.
        Raises UnknownTopicOrPartitionError for a name, ValueError, TypeError, re.error,
        InvalidConfigurationError for a listener without a group, InvalidGroupIdError,
        InconsistentGroupProtocolError, InvalidAssignmentError, each with nothing changed but that
        what was assigned is not read any more; what appending to `__consumer_offsets` raises;
        CorruptionError, OSError.
        """
        listeners = Listeners(on_assigned, on_revoked, on_lost)
        for name, listener in listeners._asdict().items():
            check_callable(name, listener)
        subscription = Subscription.to(topics, pattern)
        if self._commits is None:
            for name, listener in listeners._asdict().items():
                if listener is not None:
                    raise InvalidConfigurationError(name, listener, "a group as well")
            self._read_alone(subscription)
            return
        part = self._part
        if not isinstance(part, GroupPart):
            subscription.existing(self._topics)  # raises before anything is changed
            self._leave()
            assert self._coordinator is not None
            part = GroupPart(
                self._coordinator, self._topics, self._cursors, self._commits, self.config
            )
        part.check()
        part.subscribe(subscription)
        part.listeners = listeners
        self._part, self._subscription = part, subscription

    @alone
    def assign(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Read just these partitions, (topic, number) pairs, instead of what was read before.

        None of them is as `unsubscribe`.  A consumer that has a group is no member of it then; it
        can commit while the group has no members.  Raises what `subscribe` raises.
        """
        subscription = Subscription.of(partitions)
        if subscription.assigned:
            self._read_alone(subscription)
        else:
            self._leave()

    @alone
    def unsubscribe(self) -> None:
        """Read nothing any more, and leave the group.

        What is done is committed first, if that is automatic.
        Raises what the listener and appending to `__consumer_offsets` raise.
        """
        self._leave()

    @alone
    def subscription(self) -> set[str]:
        """Return the names of the topics that are subscribed to, or match the pattern, now."""
        subscription = self._subscription
        return set() if subscription is None else set(subscription.names(self._topics))

    @alone
    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that are read now."""
        self._refresh()
        return {name_of(cursor) for cursor in self._cursors}

    def _read_alone(self, subscription: Subscription) -> None:
        part = self._part
        if not isinstance(part, AlonePart):
            subscription.partitions(self._topics)  # raises before anything is changed
            self._leave()
            part = AlonePart(self._topics, self._cursors, self.config, self._commits)
        self._part = part
        part.subscribe(subscription)
        self._subscription = subscription

    def _refresh(self) -> bool:
        """Follow topics that were made, grew or were deleted; return whether any was."""
        return self._part is not None and self._part.refresh()

    def _leave(self) -> None:
        part = self._part
        if part is not None:
            part.check()
            try:
                part.leave(is_told=self.gate.is_users_thread)
            finally:
                # Not before: the listener may commit.
                self._part = self._subscription = None
                self._commit_as_nobody()

    # ------------------------------------------------------------------ records

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the records as they come, for ever; see `records`."""
        return self.records()

    def records(self, timeout: float | None = None) -> Iterator[Record]:
        """Iterate over the records, and end when none came for `timeout` seconds.

        timeout: None never ends; 0 ends when everything is read that is there.
        Partitions take turns; records of one keep their order.  What is sought, paused or assigned
        meanwhile counts from the next record on; what others decided and commits that are due are
        looked at every 50 ms, or where a record takes longer with each.
        Raises NotAssignedError, NoOffsetForPartitionError, WakeupError, ConcurrentUseError, and
        what `Partition.read` and iterating over its result raise; with auto_offset_reset "none"
        OffsetOutOfRangeError.  Those about one partition name it in `topic` and `partition`; its
        position stays, and another iteration goes on with the next partition.
        With a group also FencedInstanceIdError, what listeners raise, DurabilityUnknownError, and
        what else appending to `__consumer_offsets` raises when a partition is to be given back:
        it is then, with a later look.
        A wait holds no GIL and ends on Ctrl-C.  Per record it costs what `Partition.records` does.
        """
        # No frame of Python between two records of a piece.
        return itertools.chain.from_iterable(
            iter(functools.partial(self._next_piece, timeout), None)
        )

    def batches(
        self, max_records: int | None = None, *, timeout: float | None = None
    ) -> Iterator[list[Record]]:
        """Iterate over lists of records, as `poll` returns them; ends as `records` does."""
        return iter(functools.partial(self.poll, timeout, max_records), [])

    @alone
    def poll(self, timeout: float | None = None, max_records: int | None = None) -> list[Record]:
        """Return the next records, of all partitions that have some, each in its order.

        timeout: seconds to wait for the first one, None for ever; after it the result is empty.
        max_records: at least 1, by default the setting `max_poll_records`.  Partitions share it
        evenly while they have enough.
        Raises what `records` raises, and ValueError; what other partitions have is returned first.
        """
        limit = self._limit(max_records)
        return self._collect(functools.partial(self._await, self._deadline(timeout)), limit)

    def _limit(self, max_records: int | None) -> int:
        if max_records is None:
            return self.config.max_poll_records
        limit = whole_number("max_records", max_records)
        if limit < 1:
            raise ValueError(f"max_records={limit}: expected at least 1")
        return limit

    def _collect(self, next_ready: Callable[[], Cursor | None], limit: int) -> list[Record]:
        """Return the records of `poll`; next_ready: returns who has some, None for no more."""
        taken: list[Record] = []
        before: dict[Cursor, int] = {}
        try:
            while not taken and (cursor := next_ready()) is not None:
                self._take(cursor, limit, taken, before)
        except (PylogError, OSError):
            if not taken:
                raise
        except BaseException:
            # An interrupt: records that nobody got are given again.
            for cursor, position in before.items():
                cursor.seek(position)
            raise
        return taken

    def _take(
        self, ready: Cursor, limit: int, taken: list[Record], before: dict[Cursor, int]
    ) -> None:
        """Move records to `taken`, beginning with a partition that is ready; notes positions."""
        share = -(-limit // len(self._cursors))
        cursor: Cursor | None = ready
        while cursor is not None and len(taken) < limit:
            before.setdefault(cursor, cursor.position)
            if self._commits is not None:
                self._commits.note(cursor)
            cursor.take(min(share, limit - len(taken)), taken)
            cursor = self._next_ready() if len(taken) < limit else None

    @alone
    def _next_piece(self, timeout: float | None) -> Iterator[Record] | None:
        """Return some records for a loop, None when none came in time."""
        cursor = self._await(self._deadline(timeout))
        return None if cursor is None else self._piece(cursor, _PIECE_SECONDS)

    def _piece(self, cursor: Cursor, seconds: float) -> Iterator[Record]:
        assert cursor.rest is not None
        if self._commits is not None:
            self._commits.note_loop(cursor)
        return cursor.rest.piece(seconds)

    def _await(self, deadline: float | None) -> Cursor | None:
        """Return the next partition that has records, waiting for some; None after the deadline."""
        part = self._part
        if part is None:
            raise NotAssignedError
        part.check()
        while True:
            seen = self._events.value
            self.gate.check()
            now = self._monotonic()
            self._look(part, now)
            cursor = self._next_ready()
            if cursor is not None:
                return cursor
            left = LOOK_AGAIN_SECONDS if deadline is None else deadline - now
            if left <= 0:
                return None
            self._events.wait(seen, min(left, LOOK_AGAIN_SECONDS))

    def _look(self, part: AlonePart | GroupPart, now: float) -> None:
        """Follow what others changed, and commit what is done."""
        commits = self._commits
        if commits is None:
            part.look()
            return
        # Who asks for more is done with what it got.  The commit comes last: what is no more, and
        # what may be of another topic by now, is forgotten by then.
        commits.settle()
        try:
            part.look()
        finally:
            commits.commit_due(now)

    def _next_ready(self) -> Cursor | None:
        while True:
            try:
                return self._cursors.next_ready(self._read_bytes)
            except (UnknownTopicOrPartitionError, ClosedError):
                # A topic was deleted, here or elsewhere: a pattern does not match it any more.
                if not self._refresh():
                    raise

    @property
    def _read_bytes(self) -> int:
        """The bytes of one read, at most."""
        config = self.config
        share = config.fetch_max_bytes // max(len(self._cursors), 1)
        return max(min(share, config.max_partition_fetch_bytes), 1)

    def _deadline(self, timeout: float | None) -> float | None:
        timeout = seconds(timeout)
        return None if timeout is None else self._monotonic() + timeout

    # ------------------------------------------------------------------ commits

    @alone
    def commit(
        self,
        what: Record | Mapping[tuple[str, int], int | OffsetAndMetadata] | None = None,
        *,
        metadata: str = "",
    ) -> None:
        """Commit in the consumer's group where its members go on.

        what: a record that is done: the offset behind it; or offsets of the next records, by
        (topic, number) pairs; by default all positions that moved: behind all that was given.
        metadata: a text that `committed` gives back, at most 4,096 bytes of UTF-8; those of a
        mapping may have their own, as OffsetAndMetadata.
        Raises StaleMemberEpochError for a partition that is not this member's any more,
        UnknownMemberIdError, FencedInstanceIdError; for who did not subscribe NonEmptyGroupError
        while the group has members, and NotAssignedError for all positions of one that reads
        nothing; UnknownTopicOrPartitionError for a record of a topic that was deleted, also when it
        was made anew, and for a topic that was deleted since it was assigned; InvalidGroupIdError
        for a consumer without a group, OffsetMetadataTooLargeError, ValueError, TypeError;
        CorruptionError, and what `Partition.append` raises.  All or nothing; with any of these
        nothing is committed, but DurabilityUnknownError.
        One append, as durable as `__consumer_offsets` is; some microseconds without a sync.
        """
        commits = self._groups_commits()
        if isinstance(what, Record):
            self._check_is_there(what)
        if what is not None:
            commits.commit_offsets(offsets_of(what, metadata), self._cursors)
        elif self._part is None:
            raise NotAssignedError
        else:
            commits.commit_given(metadata)

    def _check_is_there(self, record: Record) -> None:
        """Raise UnknownTopicOrPartitionError for a record of a topic that was made anew since."""
        cursor = self._cursors.get(record.topic, record.partition)
        if cursor is not None:
            partition = cursor.partition
        elif isinstance(self._part, GroupPart):
            return  # it is not this member's
        else:
            partition = self._topics.get(record.topic).partition(record.partition)
        if not may_be_of(partition, record):
            raise UnknownTopicOrPartitionError(record.topic, record.partition)

    @alone
    def committed(
        self, *partitions: tuple[str, int]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """Return what is committed in the consumer's group, by anybody; None where nothing is.

        partitions: (topic, number) pairs, by default those that are read.
        Raises InvalidGroupIdError for a consumer without a group, TypeError, ValueError,
        CorruptionError, OSError.
        """
        store = self._groups_commits().store
        names = [*map(partition_named, partitions)] or [*map(name_of, self._cursors)]
        return store.committed(names)

    def _groups_commits(self) -> Commits:
        if self._commits is None:
            raise InvalidGroupIdError("", "a consumer without a group commits nothing")
        return self._commits

    def _seek(self, cursor: Cursor, offset: int) -> None:
        super()._seek(cursor, offset)
        if self._commits is not None:
            self._commits.note(cursor)

    # ------------------------------------------------------------------ end

    def wakeup(self) -> None:
        """Let the wait that is going on, or the next one, raise WakeupError.

        May be called by any thread and by a signal handler.  Source: Kafka Consumer.wakeup.
        """
        self.gate.wakeup()

    def close(self) -> None:
        """End, and leave the group; what is done is committed first, if that is automatic.

        A record that a loop got last does not count as done, nor what the last `poll` returned:
        `commit` says so.  Idempotent.
        Raises ConcurrentUseError; what the listener and the last commit raise, when it has ended.
        """
        # The log may be closed meanwhile, and the consumer with it.
        with contextlib.suppress(ClosedError):
            self._close()

    @alone
    def _close(self) -> None:
        if self._part is not None:
            self._part.check()
        try:
            self._leave()
        finally:
            self.gate.close()

    def __del__(self) -> None:
        # A member that nobody uses would keep its partitions from the others.
        if self._part is not None:
            self._part.abandon()

    def __repr__(self) -> str:
        return f"<Consumer{' (closed)' if self.gate.is_closed else ''}>"


def _weakly(method: Callable[[], object]) -> Callable[[object], object]:
    """Return a call of a method that does not keep its object alive."""
    reference = weakref.WeakMethod(method)

    def call(_: object) -> object:
        found = reference()
        return None if found is None else found()

    return call
