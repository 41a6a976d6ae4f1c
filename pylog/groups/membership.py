"""Membership: what follows for a group when members come, go, die, or topics change.

The model is KIP-848's.  A group has an epoch, which rises with everything that may move partitions.
For each epoch there is a target assignment: what every member is to have.  Each member is brought
from what it has to its target: what it is to lose it has to let go itself, and only then, or when
it is gone, another one gets it.  So no partition ever has two owners, and who keeps a partition is
never interrupted.  Two things are different from Kafka, as no process is the coordinator: anybody
may bring members on, in one batch of records; and a member may get something new while it still has
something to let go.

Every function is given a draft of a group (`Group.draft`), changes it, and ends with `settle`.  The
records are what then differs (`changes_between`): they are appended only if nothing else was
appended since the group was read, else all is computed anew from the newer state.

No clock and no I/O: times, topics and who is dead are given.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from pylog.errors import (
    CorruptionError,
    FencedInstanceIdError,
    UnknownMemberIdError,
)
from pylog.groups.assignors import DEFAULT_ASSIGNOR, Assignor, Subscriber, assign
from pylog.groups.facts import CurrentValue, MemberValue, Place, TopicShape
from pylog.groups.state import AWAY_EPOCH, STABLE, UNRELEASED, UNREVOKED, Group, Member
from pylog.records import TopicPartition

MAX_EPOCH: Final = 2**31 - 1
DEFAULT_SESSION_TIMEOUT_MS: Final = 45_000  # Kafka's

# The topics of the log, by name, and the assignors that this process knows, by name.
Topics: TypeAlias = Mapping[str, TopicShape]
Assignors: TypeAlias = Mapping[str, Assignor]


def member_of(group: Group, member_id: str, instance_id: str | None) -> Member:
    """Return a member that is there, not only expected back.

    Raises FencedInstanceIdError when another one is this instance now, else UnknownMemberIdError.
    """
    member = group.members.get(member_id)
    if member is not None and member.said is not None and not member.is_away:
        return member
    if instance_id is not None and _instance(group, instance_id) not in (None, member_id):
        raise FencedInstanceIdError(group.name, member_id, instance_id)
    raise UnknownMemberIdError(group.name, member_id)


def _instance(group: Group, instance_id: str) -> str | None:
    """Return the id of the member that is this instance, None when there is none."""
    for member_id, member in group.members.items():
        if member.said is not None and member.said.instance_id == instance_id:
            return member_id
    return None


def kept_since(member: Member, epoch: int) -> dict[Place, int]:
    """Return what a member has had without interruption since an epoch, and since which.

    epoch: the member's when it read what it wants to commit.  It may, in these partitions, also
    what it has to let go by now.
    Source: KIP-1251.
    """
    current = member.current
    return {
        place: since
        for places in (current.assigned, current.pending)
        for place, since in places.items()
        if since <= epoch
    }


# ---------------------------------------------------------------- events


def join(draft: Group, member_id: str, said: MemberValue, *, now: int) -> bool:
    """Let a member in; return whether the epoch has to rise.

    One that is an instance which is there already takes its place, with what it has: nothing moves.
    The one before is fenced, if it still lives.
    """
    old_id = None if said.instance_id is None else _instance(draft, said.instance_id)
    if old_id is None:
        draft.members[member_id] = Member(said, now)
        return True
    old = draft.members.pop(old_id)
    # What the one before had to let go is free: it reads no more, or is fenced.
    has = dataclasses.replace(
        old.current, epoch=draft.target_epoch, previous_epoch=old.current.epoch, pending={}
    )
    draft.members[member_id] = Member(said, now, old.target, has, now)
    assert old.said is not None
    return _wants(old.said) != _wants(said)


def _wants(said: MemberValue) -> tuple[object, ...]:
    """Return what decides about assignments."""
    return said.topics, said.assignor


def subscribe(draft: Group, member_id: str, said: MemberValue, *, now: int) -> bool:
    """Take down what a member says from now on; return whether the epoch has to rise."""
    member = draft.members[member_id]
    assert member.said is not None
    draft.members[member_id] = dataclasses.replace(member, said=said, said_at=now)
    return _wants(member.said) != _wants(said)


def leave(draft: Group, member_id: str, *, now: int, is_final: bool = False) -> bool:
    """Let a member go; return whether the epoch has to rise.

    A static one is only away, and keeps what it has until its time-out, unless `is_final`.
    """
    member = draft.members[member_id]
    is_static = member.said is not None and member.said.instance_id is not None
    if is_final or not is_static or _session_timeout_ms(member) == 0:
        del draft.members[member_id]
        return True
    if not member.is_away:
        away = dataclasses.replace(
            member.current, epoch=AWAY_EPOCH, previous_epoch=member.current.epoch, pending={}
        )
        draft.members[member_id] = dataclasses.replace(member, current=away, current_at=now)
    return False


def let_go(draft: Group, member_id: str, places: Collection[Place]) -> None:
    """Take from a member what it has to let go and does not read any more; ignores the rest."""
    member = draft.members[member_id]
    pending = {place: at for place, at in member.current.pending.items() if place not in places}
    current = dataclasses.replace(member.current, pending=pending)
    draft.members[member_id] = dataclasses.replace(member, current=current)


def overdue(group: Group, *, now: int, leapt: Callable[[int], int] = lambda at: 0) -> list[str]:
    """Return the members whose time is over: away for too long, or long without a poll.

    leapt: how far the clock leapt since a time: that is no time that a member could have used.
    """
    return [
        member_id
        for member_id, member in list(group.members.items())
        if (time := _time_of(member)) is not None and now - time[0] >= time[1] + leapt(time[0])
    ]


def _time_of(member: Member) -> tuple[int, int] | None:
    """Return since when a member is silent, and how long it may be, in ms; None for ever."""
    if member.said is None:
        return 0, 0
    if member.is_away:
        return member.current_at, _session_timeout_ms(member)
    timeout = member.said.rebalance_timeout_ms
    return None if timeout is None else (member.said_at, timeout)


def _session_timeout_ms(member: Member) -> int:
    timeout = None if member.said is None else member.said.session_timeout_ms
    return DEFAULT_SESSION_TIMEOUT_MS if timeout is None else timeout


# ---------------------------------------------------------------- what follows


def settle(draft: Group, topics: Topics, assignors: Assignors, *, is_changed: bool) -> None:
    """Bring the group on as far as it goes now.  Settling again changes nothing.

    is_changed: the epoch has to rise.  topics: of the log, at least those subscribed to.
    assignors: when the one that the group asks for is not among them, the target stays as it is
    until somebody comes who has it.
    Raises InvalidAssignmentError; CorruptionError where an enemy wrote the last epoch there is.
    """
    for member_id, member in list(draft.members.items()):
        if member.said is None:
            # What is left of a member that somebody else's records forgot in part.
            del draft.members[member_id]
            is_changed = True
    is_changed |= _take_shapes(draft, topics)
    # Without members nothing moves any more, and such a group can still be emptied and deleted.
    if is_changed and (draft.members or draft.epoch < MAX_EPOCH):
        if draft.epoch >= MAX_EPOCH:
            raise CorruptionError(f"group {draft.name!r}: epoch {draft.epoch} is the last one")
        draft.epoch += 1
    if draft.target_epoch != draft.epoch:  # an enemy's may be a later one
        _retarget(draft, assignors)
    _bring_on(draft)
    _forget_shapes(draft)


def _subscribed(draft: Group) -> set[str]:
    return {name for member in draft.members.values() if member.said for name in member.said.topics}


def _take_shapes(draft: Group, topics: Topics) -> bool:
    """Note the topics that are subscribed to; return whether any is not as it was."""
    names = _subscribed(draft)
    before = {at: shape for at, shape in draft.shapes.items() if shape.name in names}
    now = {topics[name].topic_id: topics[name] for name in names if name in topics}
    for topic_id, shape in list(draft.shapes.items()):
        there = topics.get(shape.name)
        if there is None or there.topic_id != topic_id:
            del draft.shapes[topic_id]  # it was deleted
    draft.shapes |= now
    return before != now


def _forget_shapes(draft: Group) -> None:
    """Forget topics that nobody subscribed to nor has a partition of."""
    names = _subscribed(draft)
    if all(shape.name in names for shape in draft.shapes.values()):
        return
    used = {topic_id for (topic_id, _), _ in draft.owners()}
    draft.shapes = {
        topic_id: shape
        for topic_id, shape in draft.shapes.items()
        if shape.name in names or topic_id in used
    }


def chosen_assignor(members: Iterable[Member]) -> str:
    """Return the name of the assignor that most members ask for; of equals the first by name."""
    names = Counter(
        member.said.assignor or DEFAULT_ASSIGNOR for member in members if member.said is not None
    )
    if not names:
        return DEFAULT_ASSIGNOR
    return min(names, key=lambda name: (-names[name], name))


def _retarget(draft: Group, assignors: Assignors) -> None:
    """Compute the target assignment of this epoch."""
    name = chosen_assignor(draft.members.values())
    assignor = assignors.get(name)
    if assignor is None:
        return
    names = _subscribed(draft)
    ids = {shape.name: at for at, shape in draft.shapes.items() if shape.name in names}
    subscribers = [
        Subscriber(
            member_id,
            member.said.instance_id,
            frozenset(member.said.topics),
            draft.named(dict.fromkeys(member.target, 0)),
        )
        for member_id, member in draft.members.items()
        if member.said is not None
    ]
    counts = {topic: draft.shapes[topic_id].partitions for topic, topic_id in ids.items()}
    for member_id, own in assign(name, assignor, subscribers, counts).items():
        target = frozenset((ids[place.topic], place.partition) for place in own)
        member = draft.members[member_id]
        if target != member.target:
            draft.members[member_id] = dataclasses.replace(member, target=target)
    draft.target_epoch = draft.epoch


def _bring_on(draft: Group) -> None:
    """Bring every member as near to its target as it can be now."""
    moving = {
        member_id: member
        for member_id, member in draft.members.items()
        if not _has_its_target(draft, member)
    }
    if not moving:
        return
    taken = {place for place, member_id in draft.owners() if member_id not in moving}
    remaining: dict[str, CurrentValue] = {}
    for member_id, member in moving.items():
        current = remaining[member_id] = _without_excess(draft, member)
        taken.update(current.assigned, current.pending)
    for member_id, member in moving.items():
        current = remaining[member_id]
        if not member.is_away:
            free = {place for place in member.target - taken if place[0] in draft.shapes}
            taken |= free  # the targets of a foreign log may overlap
            current = _with_gains(member, current, free, draft.target_epoch)
        if current != member.current:
            draft.members[member_id] = dataclasses.replace(member, current=current)


def _has_its_target(draft: Group, member: Member) -> bool:
    """Return whether nothing is to be done for a member; most are so most of the time."""
    current = member.current
    if current.pending or not all(topic_id in draft.shapes for topic_id, _ in current.assigned):
        return False
    if member.is_away:
        return current.assigned.keys() <= member.target
    return current.state == STABLE and current.assigned.keys() == member.target


def _without_excess(draft: Group, member: Member) -> CurrentValue:
    """Return what a member has less what it is to lose; nothing is left of deleted topics."""
    current = member.current
    there = {place: at for place, at in current.assigned.items() if place[0] in draft.shapes}
    assigned = {place: at for place, at in there.items() if place in member.target}
    pending: dict[Place, int] = {}
    if not member.is_away:  # it reads no more, so what it is to lose is free at once
        pending = {place: at for place, at in there.items() if place not in member.target}
        pending |= {place: at for place, at in current.pending.items() if place[0] in draft.shapes}
    if assigned == current.assigned and pending == current.pending:
        return current
    return dataclasses.replace(current, assigned=assigned, pending=pending)


def _with_gains(
    member: Member, current: CurrentValue, free: Collection[Place], epoch: int
) -> CurrentValue:
    """Return what a member has with what is free for it, in the state that this makes."""
    assigned = dict(current.assigned) | dict.fromkeys(free, epoch)
    state = STABLE
    if current.pending:
        state = UNREVOKED
    elif len(assigned) < len(member.target):
        state = UNRELEASED
    brought = current
    if free or state != current.state:
        brought = dataclasses.replace(current, assigned=assigned, state=state)
    if brought == member.current:
        return member.current
    # With something to let go, it is in the new epoch only when it got something in it.
    if (free or not current.pending) and current.epoch != epoch:
        return dataclasses.replace(brought, epoch=epoch, previous_epoch=current.epoch)
    return brought


class Standing(NamedTuple):
    """What a member may do now.

    epoch: grows with what it has.  assigned: it may read and commit these.  to_revoke: it still has
    these, and has to stop reading them, commit what it did, and let them go.
    topic_ids: of the topics of both, by name: a topic that is made anew has another.
    """

    epoch: int
    assigned: frozenset[TopicPartition]
    to_revoke: frozenset[TopicPartition]
    topic_ids: Mapping[str, bytes]


def standing_of(group: Group, member: Member) -> Standing:
    """Return what a member may do."""
    current = member.current
    assigned, to_revoke = group.named(current.assigned), group.named(current.pending)
    ids = {
        group.shapes[topic_id].name: topic_id
        for places in (current.assigned, current.pending)
        for topic_id, _ in places
        if topic_id in group.shapes
    }
    return Standing(current.epoch, assigned, to_revoke, ids)
