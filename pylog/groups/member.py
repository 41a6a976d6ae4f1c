"""`Membership`: one live member of a group, as its consumer uses it.

Knows what the member may read and commit.  Must not know how it reads, nor what listeners do.

Locks: the group log's, around what a commit is checked against.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
from collections.abc import Collection, Mapping
from typing import Final

from pylog.errors import (
    ClosedError,
    DurabilityUnknownError,
    InvalidAssignmentError,
    InvalidConfigurationError,
    OffsetMetadataTooLargeError,
    RecordTooLargeError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from pylog.groups import membership
from pylog.groups.assignors import Assignor, name_of
from pylog.groups.facts import MemberKey, MemberValue, OffsetKey, OffsetValue
from pylog.groups.group_log import GroupLog, check_readable
from pylog.groups.membership import Standing
from pylog.groups.schemas import encode_key, encode_offset, encode_value
from pylog.groups.state import Group
from pylog.groups.view import EncodedRecord, View
from pylog.records import OffsetAndMetadata, TopicPartition, partition_named

logger = logging.getLogger("pylog")

MAX_METADATA_BYTES: Final = 4096  # Kafka's offset.metadata.max.bytes
_MAX_INT32: Final = 2**31 - 1
_PROGRESS_PARTS: Final = 3  # how often in its time a member says that it polls (guessed)
_NO_PARTITIONS: Final[frozenset[TopicPartition]] = frozenset()

Offsets = Mapping[TopicPartition, OffsetAndMetadata]


def member_value(
    topics: Collection[str],
    *,
    pattern: str | None,
    instance_id: str | None,
    session_timeout_ms: int,
    max_poll_interval_ms: int | None,
    assignor: str | Assignor,
    client_id: str,
) -> MemberValue:
    """Return what a member says of itself.  Raises InvalidConfigurationError, TypeError."""
    if isinstance(topics, str):
        raise TypeError("topics are names, not one str")
    for name, number in (
        ("session_timeout_ms", session_timeout_ms),
        ("max_poll_interval_ms", max_poll_interval_ms),
    ):
        if number is not None and not (type(number) is int and 0 <= number <= _MAX_INT32):
            raise InvalidConfigurationError(name, number, f"an integer in [0, {_MAX_INT32}]")
    return MemberValue(
        instance_id=instance_id,
        client_id=client_id,
        client_host=f"process {os.getpid()}",
        topics=tuple(sorted(set(topics))),
        pattern=pattern,
        rebalance_timeout_ms=max_poll_interval_ms,
        assignor=name_of(assignor),
        session_timeout_ms=None if instance_id is None else session_timeout_ms,
    )


def check_offset(offset: OffsetAndMetadata) -> bytes:
    """Return the metadata of an offset that is to be committed, as UTF-8.

    Raises ValueError for a number out of its range, OffsetMetadataTooLargeError, TypeError.
    """
    if not isinstance(offset, OffsetAndMetadata):
        raise TypeError(f"expected an OffsetAndMetadata, not {type(offset).__name__}")
    if not 0 <= operator.index(offset.offset) < 2**63:
        raise ValueError(f"offset {offset.offset}: expected one in [0, 2**63)")
    epoch = offset.leader_epoch
    if epoch is not None and not 0 <= operator.index(epoch) <= _MAX_INT32:
        raise ValueError(f"leader_epoch {epoch}: expected None or one in [0, 2**31)")
    if not isinstance(offset.metadata, str):
        raise TypeError(f"metadata must be a str, not {type(offset.metadata).__name__}")
    metadata = offset.metadata.encode()
    if len(metadata) > MAX_METADATA_BYTES:
        raise OffsetMetadataTooLargeError(len(metadata), MAX_METADATA_BYTES)
    return metadata


def offset_records(group: str, offsets: Offsets, *, now: int) -> list[EncodedRecord]:
    """Return the records that commit these offsets.

    Raises what `check_offset` and `partition_named` raise.
    """
    if not isinstance(offsets, Mapping):
        raise TypeError(f"expected offsets by partition, not {type(offsets).__name__}")
    records: list[EncodedRecord] = []
    for partition, offset in offsets.items():
        metadata = check_offset(offset)
        key = encode_key(OffsetKey(group, *partition_named(partition)))
        value = encode_offset(offset.offset, offset.leader_epoch, metadata, now)
        records.append((key, value))
    return records


class Membership:
    """A live member.  `look`, `let_go` and `subscribe` are its consumer's; `commit` is anybody's.

    Every method raises UnknownMemberIdError when the member was removed, FencedInstanceIdError when
    another one took its place, ClosedError when it left or belongs to the parent of this process;
    CorruptionError when a record of its group cannot be read; OSError.  What writes raises what
    `Partition.append` raises as well.
    """

    def __init__(self, log: GroupLog, group: str, said: MemberValue) -> None:
        """Join the group.  Raises what `GroupLog.new_member` raises."""
        self.group = group
        self.instance_id = said.instance_id
        self.member_id = log.new_member(group, said)
        self._log = log
        self._said = said
        self._forks = log.forks
        self._is_closed = False
        self._is_behind = False  # nothing could be appended at the last look, which was told
        self._is_said = True  # what it wants
        self._standing = Standing(-1, _NO_PARTITIONS, _NO_PARTITIONS, {})
        self._looked: tuple[Group | None, int] = (None, -1)  # the state that the standing is of
        self._basis: tuple[object, object] = (None, None)  # what of it the standing follows from
        # What may be committed, and the state of the group that says so, which may be a later one.
        self._own: frozenset[TopicPartition] = _NO_PARTITIONS
        self._state: Group | None = None
        self._version = -1
        self._keys: dict[tuple[str, int], bytes] = {}

    def __repr__(self) -> str:
        return f"<Membership {self.member_id} of group {self.group!r}>"

    def _check_open(self) -> None:
        if self._is_closed or self._forks != self._log.forks:
            raise ClosedError(f"{self!r} is closed")

    # ------------------------------------------------------------------ what it may do

    def look(self) -> Standing:
        """Return what the member may do now, after doing what is due in its group.

        The same object until something changes for it.  What cannot be appended is due later.
        Without news some copies of marks.
        """
        self._check_open()
        log = self._log
        with log.lock:
            group = self._group_locked()
        self._look_after(group)
        with log.lock:
            group = self._group_locked()
            looked = self._looked
            if group is not looked[0] or group.version != looked[1]:
                self._standing = self._standing_locked(group)
                self._note_looked_locked(group)
            return self._standing

    def is_due(self, standing: Standing | None) -> bool:
        """Return whether `look` may do anything, or return another standing than this one.

        Waits for nobody.  Some copies of marks, and it takes in what was committed meanwhile.
        """
        self._check_open()
        log = self._log
        if not log.lock.acquire(blocking=False):
            return True
        try:
            group = self._group_locked()
            # What others did to the group is no reason to look where nothing changes for this one.
            is_same = standing is self._standing and self._stands_as_before_locked(group)
        finally:
            log.lock.release()
        return (
            not is_same
            or not self._is_said
            or self._is_silent(group)
            or log.is_due(self.group, group)
        )

    def _stands_as_before_locked(self, group: Group) -> bool:
        """Return whether the last look's standing holds, and note that it was of this state."""
        if group is not self._looked[0] or group.version != self._looked[1]:
            if self._standing_locked(group) is not self._standing:
                return False
            self._note_looked_locked(group)
        return True

    def _standing_locked(self, group: Group) -> Standing:
        """Return what the member may do now; the same object while nothing changed for it."""
        check_readable(group)
        member = membership.member_of(group, self.member_id, self.instance_id)
        if member is self._basis[0] and group.shapes is self._basis[1]:
            # Both are replaced, never changed; so nothing that others did need be worked out.
            return self._standing
        standing = membership.standing_of(group, member)
        return self._standing if standing == self._standing else standing

    def _note_looked_locked(self, group: Group) -> None:
        """Note that the standing is of this state."""
        self._own = self._standing.assigned | self._standing.to_revoke
        self._state, self._version = self._looked = group, group.version
        self._basis = group.members[self.member_id], group.shapes

    def _look_after(self, group: Group) -> None:
        """Do what is due in the group, as far as anything can be appended now.

        Where nothing can be, members still may read what they have: the next look tries again.  So
        it is when an assignor fails, which would stop every member in every process.
        """
        try:
            # First: who is late, and was not missed by anybody, goes on.
            self._say_progress(group)
            if not self._is_said:
                self._say_wanted()
            self._log.look_after(self.group, group)
        except DurabilityUnknownError:
            raise
        except (OSError, InvalidAssignmentError, RecordTooLargeError) as error:
            if not self._is_behind:
                logger.warning("group %r: what is due has to wait: %s", self.group, error)
            self._is_behind = True
        else:
            self._is_behind = False

    def _group_locked(self) -> Group:
        """Return the group as it is now."""
        view = self._log.view_locked(create=True)
        assert view is not None
        view.refresh()
        group = view.groups.get(self.group)
        if group is None:
            raise UnknownMemberIdError(self.group, self.member_id)
        return group

    def _say_progress(self, group: Group) -> None:
        """Say now and then that the member polls, if it may be dropped for not doing so."""
        if not self._is_silent(group):
            return

        def check(view: View) -> list[EncodedRecord]:
            latest = view.groups.get(self.group)
            if latest is None:
                raise UnknownMemberIdError(self.group, self.member_id)
            said = membership.member_of(latest, self.member_id, self.instance_id).said
            assert said is not None
            key = MemberKey(self.group, self.member_id)
            return [(encode_key(key), encode_value(said))]

        self._log.write(check, self._log.clock())

    def _is_silent(self, group: Group) -> bool:
        """Return whether it is time to say that the member polls."""
        interval = self._said.rebalance_timeout_ms
        if interval is None:
            return False
        member = membership.member_of(group, self.member_id, self.instance_id)
        return abs(self._log.clock() - member.said_at) >= interval // _PROGRESS_PARTS

    def let_go(self, partitions: Collection[TopicPartition]) -> Standing:
        """Say that these are not read any more; return what the member may do now.

        partitions: of those to revoke; others are left as they are.  They are the next owner's from
        now on.
        """
        self._check_open()

        def event(draft: Group) -> bool:
            membership.member_of(draft, self.member_id, self.instance_id)
            ids = {shape.name: topic_id for topic_id, shape in draft.shapes.items()}
            places = {(ids[one.topic], one.partition) for one in partitions if one.topic in ids}
            membership.let_go(draft, self.member_id, places)
            return False

        self._log.change(self.group, event)
        return self.look()

    def subscribe(self, topics: Collection[str], *, pattern: str | None = None) -> Standing:
        """Want these topics from now on; return what the member may do now.

        Raises InvalidAssignmentError, with nothing changed.
        """
        self._check_open()
        before = self._said, self._is_said
        self.want(topics, pattern=pattern)
        try:
            self._say_wanted()
        except BaseException:
            self._said, self._is_said = before
            raise
        return self.look()

    def want(self, topics: Collection[str], *, pattern: str | None = None) -> None:
        """Want these topics from the next look on that can say so.  No I/O."""
        said = self._said.subscribed(tuple(sorted(set(topics))), pattern)
        self._is_said = self._is_said and said == self._said
        self._said = said

    def _say_wanted(self) -> None:
        """Say which topics the member wants.  Raises what `GroupLog.change` raises."""

        def event(draft: Group) -> bool:
            membership.member_of(draft, self.member_id, self.instance_id)
            return membership.subscribe(draft, self.member_id, self._said, now=self._log.clock())

        self._log.change(self.group, event)
        self._is_said = True

    def leave(self) -> None:
        """End: what a dynamic member has is others' at once; a static one is awaited.  Idempotent.

        Raises what `GroupLog.change` raises; the member is dead then, and will be noticed.
        """
        if not self._is_closed and self._forks == self._log.forks:
            self._is_closed = True
            self._log.end_member(self.group, self.member_id, is_final=False)

    def abandon(self) -> None:
        """End without a word, as if this process had died: others notice.  Idempotent.

        Takes no lock and appends nothing, so a finalizer may call it.  Raises OSError.
        """
        if not self._is_closed and self._forks == self._log.forks:
            self._is_closed = True
            # A log that is closed has let go of all its members.
            with contextlib.suppress(ClosedError):
                self._log.liveness.release(self.group, self.member_id)
                self._log.events.notify()

    # ------------------------------------------------------------------ offsets

    def commit(self, offsets: Offsets) -> None:
        """Commit offsets of partitions that the member has; all or nothing.

        Raises StaleMemberEpochError for a partition that it has not, or not without interruption
        since the last `look`; ValueError, OffsetMetadataTooLargeError; RecordTooLargeError for more
        than one batch holds, some 100,000 offsets.
        One batch; check and append are one step among all processes.  One offset is one C append
        where no sync is waited for.
        """
        self._check_open()
        if len(offsets) == 1:
            ((partition, offset),) = offsets.items()
            if self._commit_one(partition, offset):
                return
        elif not offsets:
            return
        now = self._log.clock()
        records = offset_records(self.group, offsets, now=now)

        def check(view: View) -> list[EncodedRecord]:
            group = view.groups.get(self.group)
            for partition in offsets:
                self._check_own_locked(group, partition)
            return records

        self._log.write(check, now)

    def _commit_one(self, partition: TopicPartition, one: OffsetAndMetadata) -> bool:
        """Try to commit one offset in a single call; return whether that was done."""
        log = self._log
        metadata = check_offset(one)
        key = self._keys.get(partition)
        if key is None:
            key = self._keys[partition] = encode_key(
                OffsetKey(self.group, *partition_named(partition))
            )
        with log.lock:
            view = log.view_locked(create=True)
            assert view is not None
            view.refresh()
            group = view.groups.get(self.group)
            self._check_own_locked(group, partition)
            assert group is not None
            # Where a sync is waited for, others shall not wait for it too, but with it.
            if view.partition.waits_after_placing:
                return False
            now = log.clock()
            value = encode_offset(one.offset, one.leader_epoch, metadata, now)
            if not view.append_one(key, value, now):
                return False
            group.offsets[partition] = OffsetValue(one.offset, one.leader_epoch, one.metadata, now)
            view.offset += 1
            return True

    def _check_own_locked(self, group: Group | None, partition: TopicPartition) -> None:
        """Raise unless the member has a partition as it had it at its last look."""
        if group is None:
            raise UnknownMemberIdError(self.group, self.member_id)
        if group is not self._state or group.version != self._version:
            self._check_again_locked(group)
        if partition not in self._own:
            raise StaleMemberEpochError(
                self.group, self.member_id, *partition, self._standing.epoch
            )

    def _check_again_locked(self, group: Group) -> None:
        """Find out what the member still has of what it had at its last look."""
        check_readable(group)
        member = membership.member_of(group, self.member_id, self.instance_id)
        self._own = group.named(membership.kept_since(member, self._standing.epoch))
        self._state, self._version = group, group.version

    def committed(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """Return what was committed in the group, None where nothing was."""
        self._check_open()
        return committed(self._log, self.group, partitions)


def committed(
    log: GroupLog, group: str, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata | None]:
    """Return what was committed in a group, None where nothing was."""
    state = log.read(group)
    found: dict[TopicPartition, OffsetAndMetadata | None] = {}
    for one in partitions:
        partition = partition_named(one)
        value = None if state is None else state.offsets.get(partition)
        found[partition] = value and OffsetAndMetadata(
            value.offset, value.metadata, value.leader_epoch
        )
    return found
