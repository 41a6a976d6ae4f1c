"""`GroupLog`: one process's share in running all groups of a log.  No process runs them alone.

Every process replays `__consumer_offsets`.  What it decides is appended only if nothing else was
appended since what it decided from: check and write are one step, in the append itself.  Who comes
too late reads what came before and decides anew.  So a member that slept through its own removal
can do nothing any more: what it wants to write is checked against a view that knows.

Whoever notices does what is due: members whose process died (liveness.py), time-outs, topics that
changed.  Every such transition is an append, which wakes all who wait on the log's events.

Knows groups, the clock and who lives.  Must not know what consumers do with partitions.

Locks: `lock`, around the view and conditional appends; nothing is waited for while it is held, no
sync, and no user's function is called.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from pylog._native import Events, system_clock
from pylog.config import TopicConfig
from pylog.engine.engine import Engine
from pylog.errors import (
    CorruptionError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    UnknownTopicOrPartitionError,
)
from pylog.groups import membership
from pylog.groups.assignors import ASSIGNORS, Assignor
from pylog.groups.facts import MemberValue, OffsetKey, TopicShape
from pylog.groups.leaps import Leaps
from pylog.groups.liveness import Liveness
from pylog.groups.schemas import encode_key, encode_value
from pylog.groups.state import Change, Group, changes_between
from pylog.groups.view import EncodedRecord, View
from pylog.groups.wire import MAX_STRING_BYTES
from pylog.topics.registry import TopicRegistry

logger = logging.getLogger("pylog")

OFFSETS_TOPIC: Final = "__consumer_offsets"
# Segments are small, as all that is in the active one is replayed by who opens the log; a batch may
# be as large as the transition of some 10,000 members.
OFFSETS_CONFIG: Final = TopicConfig(
    cleanup_policy="compact", segment_bytes=16 << 20, max_message_bytes=8 << 20
)

# How often at most who looks anyway looks for the dead, and how many members it asks for then.  A
# question takes the longer the more members there are (1.5 us of 300, 50 us of 3,000, measured), so
# processes share them: each member is asked for about three times, and where one is found dead all
# are.  Guessed: what one process misses the others find with their next looks.
_LOOK_SECONDS: Final = 0.1
_QUESTIONS: Final = 3
_LEAST_ASKED: Final = 8
_MAX_FORGOTTEN_BYTES: Final = 1 << 20  # in one batch, which has to stay far below 8 MiB (guessed)
_ATTEMPTS: Final = 3  # before all others have to wait (guessed)

# What happens to a draft of a group; returns whether its epoch has to rise.
Event = Callable[[Group], bool]


@dataclasses.dataclass(slots=True)
class _Care:
    """When this process has to look after a group again that it has members of."""

    topics_version: int = -1
    group_version: int = -1
    look_again: float = 0.0
    is_busy: bool = False
    # Who may have died, as of a state; whose turn it is to be asked for, and how many at a time.
    members: list[str] = dataclasses.field(default_factory=list)
    state: tuple[Group | None, int] = (None, -1)
    turn: int = dataclasses.field(default_factory=lambda: uuid.uuid4().fields[0])
    count: int = 0

    def has_missed(self, group: Group, topics_version: int) -> bool:
        """Return whether topics changed since, or the group, which has not all that it decided."""
        return topics_version != self.topics_version or (
            group.target_epoch != group.epoch and self.group_version != group.version
        )

    def next_asked(self, group: Group) -> list[str]:
        """Return the members that are to be asked for now."""
        if group is not self.state[0] or group.version != self.state[1]:
            self.state = group, group.version
            alive = {at: one for at, one in list(group.members.items()) if not one.is_away}
            hosts = {one.said.client_host for one in alive.values() if one.said is not None}
            self.members = list(alive)
            share = -(-_QUESTIONS * len(alive) // max(len(hosts), 1))
            self.count = min(max(share, _LEAST_ASKED), len(alive))
        start = self.turn % max(len(self.members), 1)
        self.turn = start + self.count
        end = max(self.turn - len(self.members), 0)
        return self.members[start : self.turn] + self.members[:end]


class GroupLog:
    """The groups of a log.  Every method may be called by many threads at once.

    Made once per log; does no I/O before it is used.
    """

    def __init__(
        self,
        engine: Engine,
        registry: TopicRegistry,
        *,
        clock: Callable[[], int] = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.clock = clock
        self.liveness = Liveness(engine.current_lock_file)
        self.forks = 0  # before this process: members of another count are a parent's
        self._engine = engine
        self.monotonic = monotonic
        self.lock = threading.Lock()
        self._view: View | None = None
        self._leaps = self._new_leaps()
        self._assignors: dict[str, Assignor] = dict(ASSIGNORS)
        self._cares: dict[str, _Care] = {}
        engine.fork_listeners.append(self._after_fork)

    def _after_fork(self) -> None:
        # Another thread of the parent may have been changing any of it.
        self.forks += 1
        self.lock = threading.Lock()
        self._view = None
        self._cares = {}
        self._leaps = self._new_leaps()
        self.liveness.after_fork()

    def _new_leaps(self) -> Leaps:
        return Leaps(lambda: self.clock(), lambda: self.monotonic())

    @property
    def events(self) -> Events:
        """Changes with every append to the log; who waits for a group waits for it."""
        return self.registry.events

    def check_id(self, group: str) -> None:
        """Raise InvalidGroupIdError for what cannot be a group's name, TypeError for no str."""
        if not isinstance(group, str):
            raise TypeError(f"a group must be a str, not {type(group).__name__}")
        if not group:
            raise InvalidGroupIdError(group, "a group needs a name")
        if len(group.encode()) > MAX_STRING_BYTES:
            raise InvalidGroupIdError(group, f"longer than {MAX_STRING_BYTES} bytes")

    def add_assignor(self, name: str, assignor: Assignor) -> None:
        """Know an assignor from now on."""
        self._assignors[name] = assignor

    # ------------------------------------------------------------------ reading

    def view_locked(self, *, create: bool) -> View | None:
        """Return the view, as of its last refresh; None while nobody ever used a group.

        create: make the topic if it is not there.  The caller holds `lock`.
        """
        if self._view is None:
            try:
                if create:
                    topic = self.registry.internal(OFFSETS_TOPIC, OFFSETS_CONFIG)
                else:
                    topic = self.registry.get(OFFSETS_TOPIC)
            except UnknownTopicOrPartitionError:
                return None
            self._view = View(topic.partition(0))
        return self._view

    def read(self, name: str, *, careful: bool = True) -> Group | None:
        """Return a copy of a group as it is now, with its committed offsets; None if unknown.

        careful: its records have to be readable.
        Raises CorruptionError when a record of it cannot be read, or of the whole partition;
        ClosedError, OSError.
        """
        with self.lock:
            view = self.view_locked(create=False)
            if view is None:
                return None
            view.refresh()
            group = view.groups.get(name)
            if group is None:
                return None
            if careful:
                check_readable(group)
            copy = group.draft()
            copy.offsets, copy.unreadable = dict(group.offsets), dict(group.unreadable)
            return copy

    def names(self) -> list[str]:
        """Return the names of all groups, sorted.  Raises as `read`."""
        with self.lock:
            view = self.view_locked(create=False)
            if view is None:
                return []
            view.refresh()
            return sorted(view.groups)

    # ------------------------------------------------------------------ writing

    def change(self, name: str, event: Event) -> None:
        """Let an event happen to a group, with all that follows from it.

        event: called with a draft of the group, perhaps several times, each with a newer one.
        Raises what it raises; InvalidAssignmentError; RecordTooLargeError for what needs more than
        one batch; what `Partition.append` raises.  Returns when it is as durable as the topic asks.
        """
        while True:
            before, version = self._snapshot(name)
            draft = before.draft()
            is_changed = event(draft)
            topics = self._topics_of(draft)
            membership.settle(draft, topics, self._assignors, is_changed=is_changed)
            changes = changes_between(before, draft)
            if not changes or self.append(name, version, changes):
                return

    def _snapshot(self, name: str) -> tuple[Group, tuple[Group | None, int]]:
        """Return a copy of a group, and what tells whether it is still the same."""
        with self.lock:
            view = self.view_locked(create=True)
            assert view is not None
            view.refresh()
            group = view.groups.get(name)
            if group is None:
                return Group(name), (None, 0)
            check_readable(group)
            check_protocol(group)
            return group.draft(), (group, group.version)

    def _topics_of(self, group: Group) -> dict[str, TopicShape]:
        """Return the topics that a group is concerned with, as they are now."""
        names = {shape.name for shape in group.shapes.values()}
        for member in group.members.values():
            if member.said is not None:
                names.update(member.said.topics)
        return {
            facts.name: TopicShape(facts.topic_id.bytes, facts.name, facts.partitions)
            for facts in self.registry.known(names)
        }

    def append(
        self, name: str, version: tuple[Group | None, int], changes: Collection[Change]
    ) -> bool:
        """Append changes of a group in one batch, unless it changed; return whether it was done.

        Only its committed offsets may be others than when the changes were decided.
        """
        now = self.clock()
        records = _encoded(changes)

        def check(view: View) -> Sequence[EncodedRecord]:
            group = view.groups.get(name)
            is_same = (group, 0 if group is None else group.version) == version
            return records if is_same else ()

        return self.write(check, now)

    def write(self, check: Callable[[View], Sequence[EncodedRecord]], now: int) -> bool:
        """Append records in one batch, decided from the very latest view.

        check: called with the view, perhaps several times; returns the records, none to give up.
        now: their timestamp.  Returns False when it was given up.
        Raises what `check` and `Partition.append` raise, and RecordTooLargeError for what needs
        more than one batch.
        """
        for attempt in range(_ATTEMPTS + 1):
            with self.lock:
                view = self.view_locked(create=True)
                assert view is not None
                view.refresh()
                role = view.partition.begin_append()
                if attempt < _ATTEMPTS:
                    records = check(view)
                    placed = view.append(records, now) if records else None
                else:
                    # Many others append just now, and each time one of them was faster.
                    records, placed = view.append_decided(check, now)
            if not records:
                return False
            if placed is not None:
                view.partition.wait_durable(placed[0], placed[1], role)
                return True
        raise AssertionError("nobody can be faster than who keeps all others out")

    def forget_topic(self, topic: str) -> None:
        """Forget what all groups committed for a topic that is no more.

        Offsets are committed by names: of a topic that is made anew, records would be skipped.  For
        that reason members lose it in the same step, before any of them looks: what they commit
        from then on is of the old one.  Who has looked whether the topic is there, and has not
        appended yet, finds that something was appended meanwhile, and looks again.
        Where a topic of that name is there again, whoever made it forgot before: nothing is done.
        Where `__consumer_offsets` is damaged, that is logged and nothing is done.
        Raises what `write` raises.
        """
        # In a group that never is.  It forgets nothing, so there always is something to append.
        mark: EncodedRecord = (encode_key(OffsetKey("", topic, 0)), None)
        is_whole = False

        def check(view: View) -> Sequence[EncodedRecord]:
            nonlocal is_whole
            is_whole = True
            if self.registry.known([topic]):
                return ()
            records = [mark]
            size = 0
            for group in view.groups.values():
                for together in _forgetting(group, topic):
                    if size > _MAX_FORGOTTEN_BYTES:
                        is_whole = False
                        return records
                    records += together
                    size += sum(len(key) + len(value or b"") for key, value in together)
            return records

        try:
            with self.lock:
                if self.view_locked(create=False) is None:
                    return
            while not is_whole:
                self.write(check, self.clock())
        except CorruptionError:
            logger.exception("offsets committed for %r were not forgotten", topic)

    # ------------------------------------------------------------------ looking after groups

    def look_after(self, name: str, group: Group) -> None:
        """Do what is due for a group that this process has members of, if anything is.

        group: as just seen.  One thread at a time does; the others need not wait for it.
        """
        care = self._cares.get(name)
        if care is None:
            care = self._cares.setdefault(name, _Care())
        topics_version = self.registry.version
        now = self.monotonic()
        is_due = care.has_missed(group, topics_version)
        if not is_due and now < care.look_again:
            return
        with self.lock:
            if care.is_busy:
                return
            care.is_busy = True
        try:
            care.look_again = now + _LOOK_SECONDS
            care.group_version = group.version
            if is_due or self._has_lost(group, care.next_asked(group)):
                self.change(name, self._due)
            # Only now: what raised is tried again by the next one who looks.
            care.topics_version = topics_version
        finally:
            care.is_busy = False

    def is_due(self, name: str, group: Group) -> bool:
        """Return whether `look_after` would do anything, and nobody else does it just now."""
        care = self._cares.get(name)
        if care is None:
            return True
        return not care.is_busy and (
            care.has_missed(group, self.registry.version) or self.monotonic() >= care.look_again
        )

    def _has_lost(self, group: Group, asked: Iterable[str]) -> bool:
        """Return whether a member's time is over, or the process of one of those asked for died."""
        if self._overdue(group):
            return True
        return any(not self.liveness.is_alive(group.name, member_id) for member_id in asked)

    def _overdue(self, group: Group) -> list[str]:
        """Return the members whose time is over, as far as the clock can be trusted."""
        return membership.overdue(group, now=self._leaps.now(), leapt=self._leaps.since)

    def bury(self, name: str) -> None:
        """Let members of a group go whose process died, or that are away for too long, now.

        Who is alive and slow is left to the other members: they know whether the clock leapt.
        """

        def event(draft: Group) -> bool:
            away = [at for at in self._overdue(draft) if draft.members[at].is_away]
            return self._let_go(draft, away)

        self.change(name, event)

    def _due(self, draft: Group) -> bool:
        """Let members go whose process died or whose time is over."""
        return self._let_go(draft, self._overdue(draft))

    def _let_go(self, draft: Group, overdue: Iterable[str]) -> bool:
        is_changed = False
        now = self.clock()
        for member_id in overdue:
            is_changed |= membership.leave(draft, member_id, now=now, is_final=True)
        for member_id, member in list(draft.members.items()):
            if not member.is_away and not self.liveness.is_alive(draft.name, member_id):
                is_changed |= membership.leave(draft, member_id, now=now)
        return is_changed

    # ------------------------------------------------------------------ members

    def new_member(self, name: str, said: MemberValue) -> str:
        """Let a new member into a group; return its id.

        Raises InvalidGroupIdError, InconsistentGroupProtocolError, and what `change` raises.
        """
        self.check_id(name)
        member_id = uuid.uuid4().hex
        # Before anybody hears of it: who is not held is taken for dead.
        self.liveness.hold(name, member_id)
        try:
            self.change(
                name, lambda draft: membership.join(draft, member_id, said, now=self._leaps.now())
            )
        except BaseException:
            self.liveness.release(name, member_id)
            raise
        return member_id

    def end_member(self, name: str, member_id: str, *, is_final: bool) -> None:
        """Let a member leave, if it is there.  Raises what `change` raises; it is dead then."""

        def event(draft: Group) -> bool:
            if member_id not in draft.members:
                return False
            return membership.leave(draft, member_id, now=self.clock(), is_final=is_final)

        try:
            self.change(name, event)
        finally:
            self.liveness.release(name, member_id)


def _forgetting(group: Group, topic: str) -> Iterator[list[EncodedRecord]]:
    """Yield what lets a group forget a topic.

    Records that have to be in one batch come together; the first ones first.
    """
    gone = [at for at, shape in group.shapes.items() if shape.name == topic]
    if gone:
        draft = group.draft()
        for topic_id in gone:
            del draft.shapes[topic_id]
        # Who looks next assigns anew.  An enemy's last epoch stays; the topic is forgotten also so.
        draft.epoch = min(draft.epoch + 1, membership.MAX_EPOCH)
        yield _encoded(changes_between(group, draft))
    for partition in group.offsets:
        if partition.topic == topic:
            yield _encoded([(OffsetKey(group.name, *partition), None)])


def _encoded(changes: Collection[Change]) -> list[EncodedRecord]:
    return [
        (encode_key(key), None if value is None else encode_value(value)) for key, value in changes
    ]


def check_readable(group: Group) -> None:
    """Raise CorruptionError when a record of the group could not be read."""
    for reason in group.unreadable.values():
        raise CorruptionError(f"group {group.name!r}: a record cannot be read: {reason}")


def check_protocol(group: Group) -> None:
    """Raise InconsistentGroupProtocolError when members of the classic protocol own the group."""
    if group.classic is not None and group.classic.members:
        raise InconsistentGroupProtocolError(group.name, group.classic.protocol_type)
