"""`Groups`: look at a log's groups, delete them, and say where they go on.

Knows what an administrator asks for.  Must not know how members come and go.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Literal

from pylog.arguments import whole_number
from pylog.engine.moments import milliseconds_of
from pylog.errors import (
    GroupIdNotFoundError,
    NonEmptyGroupError,
    NoOffsetForPartitionError,
    PylogError,
    UnknownTopicOrPartitionError,
)
from pylog.groups import membership
from pylog.groups.descriptions import (
    GroupDescription,
    GroupListing,
    GroupOffset,
    MemberDescription,
    OffsetReset,
)
from pylog.groups.facts import (
    ClassicGroupKey,
    CurrentKey,
    GroupKey,
    Key,
    MemberKey,
    OffsetKey,
    OffsetValue,
    TargetEpochKey,
    TargetKey,
    TopicsKey,
)
from pylog.groups.group_log import GroupLog, check_protocol, check_readable
from pylog.groups.member import offset_records
from pylog.groups.schemas import encode_key
from pylog.groups.state import STABLE, Group
from pylog.groups.view import EncodedRecord, View
from pylog.records import OffsetAndMetadata, TopicPartition, partition_named
from pylog.storage.partition import Partition

logger = logging.getLogger("pylog")

# Where to go on: a place, an offset, or the first record that is as late as a time.
Target = Literal["earliest", "latest"] | int | datetime.datetime

_PLACES: Final = ("earliest", "latest")


class Groups:
    """The groups of a log, for who administers them.  Any number of threads may use it.

    Every method first sees to it that members whose process died are gone.  Where nothing can be
    appended, as on a full disk or in a replica that follows, `list` and `describe` tell of them
    still.  Each may raise CorruptionError, ClosedError, OSError; those that change something also
    what `Partition.append` raises, RecordTooLargeError for more than one batch holds, and
    InvalidAssignmentError.
    """

    def __init__(self, log: GroupLog) -> None:
        self._log = log

    # ------------------------------------------------------------------ looking

    def list(self) -> Sequence[GroupListing]:
        """Return all groups, by name."""
        listings = []
        for name in self._log.names():
            group = self._log.read(name, careful=False)
            if group is not None and group.members and not group.unreadable:
                self._bury(name, group, is_only_looking=True)
                group = self._log.read(name, careful=False)
            if group is not None:
                members = group.members if group.classic is None else group.classic.members
                listings.append(GroupListing(name, _state(group), len(members or group.members)))
        return listings

    def describe(self, group: str) -> GroupDescription:
        """Return a group's members, what each has, and how far the group is.

        Raises GroupIdNotFoundError.  Opens the partitions that it tells of.
        """
        state = self._notice(group, is_only_looking=True)
        members = [
            MemberDescription(
                member_id,
                member.said.instance_id,
                member.said.client_id,
                member.said.client_host,
                member.is_away,
                member.said.topics,
                state.named(member.current.assigned),
                state.named(member.current.pending),
                state.named(dict.fromkeys(member.target, 0)),
            )
            for member_id, member in state.members.items()
            if member.said is not None
        ]
        owners = {
            partition: member.member_id
            for member in members
            for partition in member.assigned | member.to_revoke
        }
        offsets = {
            partition: self._offset(partition, state.offsets.get(partition), owners.get(partition))
            for partition in sorted(owners.keys() | state.offsets.keys())
        }
        is_led = bool(state.members)
        assignor = membership.chosen_assignor(state.members.values()) if is_led else ""
        members.sort(key=lambda member: (member.instance_id or "", member.member_id))
        return GroupDescription(
            group, _state(state), state.epoch, assignor, tuple(members), offsets
        )

    def _notice(self, name: str, *, is_only_looking: bool = False) -> Group:
        """Return a group as it is when its dead members are gone.  Raises GroupIdNotFoundError.

        is_only_looking: what keeps them from being let go is logged.
        """
        group = self._log.read(name)
        if group is not None and group.members:
            self._bury(name, group, is_only_looking=is_only_looking)
            group = self._log.read(name)
        if group is None:
            raise GroupIdNotFoundError(name)
        return group

    def _bury(self, name: str, group: Group, *, is_only_looking: bool) -> None:
        """Let members go whose process died; not of another protocol, of which nobody knows."""
        if _is_classic(group):
            return
        try:
            self._log.bury(name)
        except (PylogError, OSError) as error:
            if not is_only_looking:
                raise
            logger.warning("group %r: its dead are still there: %s", name, error)

    def _offset(
        self, partition: TopicPartition, value: OffsetValue | None, member_id: str | None
    ) -> GroupOffset:
        committed = value and OffsetAndMetadata(value.offset, value.metadata, value.leader_epoch)
        try:
            end = self._partition(partition).high_watermark
        except UnknownTopicOrPartitionError:
            return GroupOffset(committed, None, None, member_id)
        lag = None if committed is None else max(end - committed.offset, 0)
        return GroupOffset(committed, end, lag, member_id)

    def _partition(self, partition: TopicPartition) -> Partition:
        return self._log.registry.get(partition.topic).partition(partition.partition)

    # ------------------------------------------------------------------ changing

    def delete(self, group: str) -> None:
        """Forget a group with all that it committed.

        Also one whose records cannot be read.
        Raises GroupIdNotFoundError, NonEmptyGroupError; InconsistentGroupProtocolError when members
        of another protocol are in it.  Source: Kafka's deleteConsumerGroups.
        """
        self._bury_readable(group)
        self._write_empty(group, _tombstones, careful=False)

    def remove_members(self, group: str, members: Iterable[str]) -> None:
        """Let members go for good, whatever they do: what they have is others' now.

        members: member ids, or the instance ids of static members.
        Raises GroupIdNotFoundError, and LookupError for who is no member, with nobody removed.
        Source: Kafka's removeMembersFromConsumerGroup.
        """
        self._notice(group)
        wanted = set(members)

        def event(draft: Group) -> bool:
            found = {
                member_id: member.said.instance_id
                for member_id, member in draft.members.items()
                if member.said is not None and wanted & {member_id, member.said.instance_id}
            }
            missing = wanted - found.keys() - set(found.values())
            if missing:
                raise LookupError(f"not in group {group!r}: {', '.join(sorted(missing))}")
            for member_id in found:
                membership.leave(draft, member_id, now=self._log.clock(), is_final=True)
            return bool(found)

        self._log.change(group, event)

    def alter_offsets(
        self,
        group: str,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        *,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Commit offsets of a group without members; it is made if there is none.

        check: raises unless it still is right to commit these; called, perhaps several times, in
        one step with the append: nothing else is committed in between, and no topic deleted.
        All or nothing.  Raises NonEmptyGroupError, InconsistentGroupProtocolError,
        InvalidGroupIdError, TypeError, ValueError, OffsetMetadataTooLargeError, and what `check`
        raises.
        """
        self._log.check_id(group)
        records = offset_records(group, offsets, now=self._log.clock())
        if self._log.read(group) is not None:
            self._notice(group)

        def checked(state: Group) -> Sequence[EncodedRecord]:
            check()
            return records

        self._write_empty(group, checked, is_new=True)

    def delete_offsets(self, group: str, partitions: Iterable[TopicPartition]) -> None:
        """Forget what a group without members committed in these partitions; all or nothing.

        Raises GroupIdNotFoundError, NonEmptyGroupError, InconsistentGroupProtocolError, TypeError,
        ValueError.
        """
        self._notice(group)
        named = [partition_named(partition) for partition in partitions]

        def records(state: Group) -> Sequence[EncodedRecord]:
            keys = [OffsetKey(group, *one) for one in named if one in state.offsets]
            return [(encode_key(key), None) for key in keys]

        self._write_empty(group, records)

    def reset_offsets(
        self,
        group: str,
        partitions: Iterable[str | TopicPartition] | None = None,
        *,
        to: Target | None = None,
        shift: int | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, OffsetReset]:
        """Let a group without members go on elsewhere; return where it was and is now.

        partitions: or names of topics, for all of theirs; by default all that were committed.
        to: "earliest", "latest", an offset, or an aware datetime: the first record as late.
        shift: or so many records further, or back when it is below 0.  What lies before the first
        record or behind the last is brought to that.  dry_run: change nothing.
        All or nothing.  Raises ValueError unless one of `to` and `shift` is given, TypeError;
        GroupIdNotFoundError for no partitions and an unknown group, NonEmptyGroupError,
        InconsistentGroupProtocolError, UnknownTopicOrPartitionError, NoOffsetForPartitionError for
        a shift of what was not committed.  Source: Kafka's kafka-consumer-groups --reset-offsets.
        """
        place = _placing(to, shift)
        self._log.check_id(group)
        if partitions is None or self._log.read(group) is not None:
            state: Group | None = self._notice(group)
        else:
            state = None
        before = {} if state is None else state.offsets
        named = list(before) if partitions is None else self._expanded(partitions)
        resets: dict[TopicPartition, OffsetReset] = {}
        for one in named:
            old = before[one].offset if one in before else None
            partition = self._partition(one)
            lowest, highest = partition.log_start_offset, partition.high_watermark
            resets[one] = OffsetReset(old, min(max(place(partition, old), lowest), highest))
        offsets = {one: OffsetAndMetadata(reset.after) for one, reset in resets.items()}
        records = offset_records(group, offsets, now=self._log.clock())
        self._write_empty(group, lambda state: [] if dry_run else records, is_new=True)
        return resets

    def _expanded(self, partitions: Iterable[str | TopicPartition]) -> Sequence[TopicPartition]:
        """Return partitions, with those of topics that are named alone, each once."""
        named: dict[TopicPartition, None] = {}
        for one in partitions:
            if isinstance(one, str):
                count = len(self._log.registry.get(one))
                named |= dict.fromkeys(TopicPartition(one, number) for number in range(count))
            else:
                named[partition_named(one)] = None
        return list(named)

    def _bury_readable(self, name: str) -> None:
        group = self._log.read(name, careful=False)
        if group is None:
            raise GroupIdNotFoundError(name)
        if not group.unreadable:
            self._notice(name)

    def _write_empty(
        self,
        name: str,
        records: Callable[[Group], Collection[EncodedRecord]],
        *,
        is_new: bool = False,
        careful: bool = True,
    ) -> None:
        """Append records of a group that has no members; see `GroupLog.write`.

        is_new: it need not be there.  careful: its records have to be readable.
        """

        def check(view: View) -> Sequence[EncodedRecord]:
            state = view.groups.get(name)
            if state is None and not is_new:
                raise GroupIdNotFoundError(name)
            if state is not None:
                if careful:
                    check_readable(state)
                check_protocol(state)
                if state.members and not state.unreadable:
                    raise NonEmptyGroupError(name, len(state.members))
            return [*records(state or Group(name))]

        self._log.write(check, self._log.clock())


def _is_classic(group: Group) -> bool:
    return group.classic is not None and bool(group.classic.members)


def _state(group: Group) -> str:
    """Return the state of a group in a word; see GroupListing."""
    if _is_classic(group):
        return "classic"
    if not group.members:
        return "empty"
    if group.target_epoch != group.epoch:
        return "assigning"
    is_stable = all(member.current.state == STABLE for member in group.members.values())
    return "stable" if is_stable else "reconciling"


def _tombstones(group: Group) -> list[EncodedRecord]:
    """Return what forgets all that is known of a group."""
    name = group.name
    keys: list[Key] = [OffsetKey(name, *partition) for partition in group.offsets]
    for member_id in group.members:
        keys += [kind(name, member_id) for kind in (CurrentKey, TargetKey, MemberKey)]
    if group.epoch or group.target_epoch or group.shapes:
        keys += [TargetEpochKey(name), TopicsKey(name), GroupKey(name)]
    if group.classic is not None:
        keys.append(ClassicGroupKey(name))
    return [(key, None) for key in [*map(encode_key, keys), *group.unreadable]]


def _placing(to: Target | None, shift: int | None) -> Callable[[Partition, int | None], int]:
    """Return what says where to go on in a partition, given where that was."""
    if (to is None) == (shift is None):
        raise ValueError("expected one of `to` and `shift`")
    if shift is not None:
        distance = whole_number("shift", shift)

        def shifted(partition: Partition, before: int | None) -> int:
            if before is None:
                raise NoOffsetForPartitionError(partition.topic, partition.number)
            return before + distance

        return shifted
    if isinstance(to, datetime.datetime):
        timestamp = milliseconds_of(to)
        return lambda partition, before: partition.first_offset(timestamp)
    if isinstance(to, str):
        if to not in _PLACES:
            raise ValueError(
                f"to={to!r}: expected one of {', '.join(_PLACES)}, an offset or a time"
            )
        if to == "earliest":
            return lambda partition, before: partition.log_start_offset
        return lambda partition, before: partition.high_watermark
    assert to is not None
    offset = whole_number("to", to)
    if offset < 0:
        raise ValueError(f"to={offset}: expected an offset of at least 0")
    return lambda partition, before: offset
