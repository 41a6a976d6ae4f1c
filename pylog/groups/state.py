"""A group as its records tell it: the fold of what `__consumer_offsets` says of it.

Every record sets or forgets one thing, so the fold is the same over a log that was compacted.
Knows records.  Must not know when a change is due (membership.py), nor who reads and appends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from pylog.groups.facts import (
    ClassicGroupKey,
    ClassicGroupValue,
    CurrentKey,
    CurrentValue,
    EpochValue,
    GroupKey,
    Key,
    MemberKey,
    MemberValue,
    OffsetKey,
    OffsetValue,
    Place,
    TargetEpochKey,
    TargetKey,
    TargetValue,
    TopicShape,
    TopicsKey,
    TopicsValue,
    Value,
)
from pylog.records import TopicPartition

# Kafka's MemberState.
STABLE: Final = 0  # it has what it is to have
UNREVOKED: Final = 1  # it has to let something go
UNRELEASED: Final = 2  # it waits for what others have to let go
# Kafka's epoch of a static member that is expected back.
AWAY_EPOCH: Final = -2

Change: TypeAlias = tuple[Key, Value | None]

_NOTHING: Final = CurrentValue(0, 0, STABLE, {}, {})
_NO_PLACES: Final[frozenset[Place]] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A member, as the records tell.  Times: milliseconds since the epoch, of the records.

    said: None while only other records of it are there; such a member is nobody.
    target: what it is to have.  current: what it has.
    """

    said: MemberValue | None = None
    said_at: int = 0
    target: frozenset[Place] = _NO_PLACES
    current: CurrentValue = _NOTHING
    current_at: int = 0

    @property
    def is_away(self) -> bool:
        """Whether it is a static member that left and is expected back."""
        return self.current.epoch == AWAY_EPOCH


_NOBODY: Final = Member()


class Group:
    """A group.  Members are replaced, never changed, so a copy shares them.

    shapes: the topics its members subscribed to or still have partitions of, by id.
    classic: what a foreign log says of it as a group of the classic protocol.
    unreadable: what is wrong with records that could not be read, by the bytes of their key.
    version: changes with everything but committed offsets.
    """

    __slots__ = (
        "classic",
        "epoch",
        "members",
        "name",
        "offsets",
        "shapes",
        "target_epoch",
        "unreadable",
        "version",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = 0
        self.target_epoch = 0
        self.shapes: dict[bytes, TopicShape] = {}
        self.members: dict[str, Member] = {}
        self.classic: ClassicGroupValue | None = None
        self.offsets: dict[TopicPartition, OffsetValue] = {}
        self.unreadable: dict[bytes, str] = {}
        self.version = 0

    def draft(self) -> Group:
        """Return a copy that may be changed; committed offsets are not copied with it."""
        copy = Group(self.name)
        copy.epoch, copy.target_epoch = self.epoch, self.target_epoch
        copy.shapes, copy.members = dict(self.shapes), dict(self.members)
        copy.classic, copy.version = self.classic, self.version
        return copy

    @property
    def is_unknown(self) -> bool:
        """Whether no record says anything of it."""
        return not (self.members or self.offsets or self.epoch or self.classic or self.unreadable)

    def fold(self, key: Key, value: Value | None, timestamp: int) -> None:
        """Take in one record of this group; value: None forgets.  O(1)."""
        if isinstance(key, OffsetKey):
            partition = TopicPartition(key.topic, key.partition)
            if value is None:
                self.offsets.pop(partition, None)
            else:
                assert isinstance(value, OffsetValue)
                self.offsets[partition] = value
            return
        self.version += 1
        if isinstance(key, MemberKey | TargetKey | CurrentKey):
            self._fold_member(key, value, timestamp)
        elif isinstance(key, TopicsKey):
            assert value is None or isinstance(value, TopicsValue)
            topics = () if value is None else value.topics
            self.shapes = {shape.topic_id: shape for shape in topics}
        elif isinstance(key, ClassicGroupKey):
            assert value is None or isinstance(value, ClassicGroupValue)
            self.classic = value
        else:
            assert value is None or isinstance(value, EpochValue)
            epoch = 0 if value is None else value.epoch
            if isinstance(key, GroupKey):
                self.epoch = epoch
            else:
                self.target_epoch = epoch

    def _fold_member(
        self, key: MemberKey | TargetKey | CurrentKey, value: Value | None, timestamp: int
    ) -> None:
        """Take in a record of a member; one that nothing is known of is forgotten."""
        member = self.members.get(key.member_id, _NOBODY)
        if isinstance(key, MemberKey):
            assert value is None or isinstance(value, MemberValue)
            member = dataclasses.replace(member, said=value, said_at=timestamp if value else 0)
        elif isinstance(key, TargetKey):
            assert value is None or isinstance(value, TargetValue)
            member = dataclasses.replace(member, target=value.places if value else _NO_PLACES)
        else:
            assert value is None or isinstance(value, CurrentValue)
            at = timestamp if value else 0
            member = dataclasses.replace(member, current=value or _NOTHING, current_at=at)
        if member == _NOBODY:
            self.members.pop(key.member_id, None)
        else:
            self.members[key.member_id] = member

    def owners(self) -> Iterator[tuple[Place, str]]:
        """Yield each partition that a member has or has to let go, with the member."""
        for member_id, member in self.members.items():
            for places in (member.current.assigned, member.current.pending):
                for place in places:
                    yield place, member_id

    def named(self, places: Mapping[Place, int]) -> frozenset[TopicPartition]:
        """Return partitions by the names of their topics; those that are no more are left out."""
        shapes = self.shapes
        return frozenset(
            TopicPartition(shapes[topic_id].name, number)
            for topic_id, number in places
            if topic_id in shapes
        )


def changes_between(old: Group, new: Group) -> list[Change]:
    """Return the records that make one state of a group the other; committed offsets aside."""
    name = new.name
    changes: list[Change] = []
    if new.epoch != old.epoch:
        changes.append((GroupKey(name), EpochValue(new.epoch)))
    if new.shapes != old.shapes:
        shapes = sorted(new.shapes.values(), key=lambda shape: (shape.name, shape.topic_id))
        changes.append((TopicsKey(name), TopicsValue(tuple(shapes)) if shapes else None))
    for member_id in sorted(old.members.keys() - new.members.keys()):
        # All three, though not all need be there: a compacted log keeps nothing of it then.
        changes += [(kind(name, member_id), None) for kind in (CurrentKey, TargetKey, MemberKey)]
    changed = [
        (member_id, member, before)
        for member_id, member in new.members.items()
        if member is not (before := old.members.get(member_id, _NOBODY))
    ]
    for member_id, member, before in changed:
        if member.said != before.said:
            changes.append((MemberKey(name, member_id), member.said))
    if new.target_epoch != old.target_epoch:
        changes.append((TargetEpochKey(name), EpochValue(new.target_epoch)))
    for member_id, member, before in changed:
        if member.target != before.target:
            changes.append((TargetKey(name, member_id), TargetValue(member.target)))
        if member.current != before.current:
            changes.append((CurrentKey(name, member_id), member.current))
    return changes
