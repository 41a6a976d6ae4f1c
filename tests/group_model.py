"""A world of processes that share a group through one log, to be driven at random.

The log is a list of batches, each a list of encoded records, as `__consumer_offsets` is.  A process
sees a prefix of it.  What it decides from an old prefix is refused, as a conditional append is.
After every batch the whole world is checked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from pylog.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from pylog.groups import membership
from pylog.groups.assignors import ASSIGNORS
from pylog.groups.facts import MemberValue, OffsetKey, OffsetValue, Place, TopicShape
from pylog.groups.leaps import Leaps
from pylog.groups.schemas import encode_key, encode_value, parse_key, parse_value
from pylog.groups.state import Change, Group, Member, changes_between

GROUP = "g"
Batch = tuple[int, list[tuple[bytes, bytes | None]]]


def fold_batch(group: Group, batch: Batch) -> None:
    timestamp, records = batch
    for key_bytes, value_bytes in records:
        key = parse_key(key_bytes)
        assert key is not None
        value = None if value_bytes is None else parse_value(key, value_bytes)
        group.fold(key, value, timestamp)


def compacted(batches: Iterable[Batch]) -> list[Batch]:
    """Return what a cleaner that drops every tombstone leaves."""
    latest: dict[bytes, tuple[int, bytes | None]] = {}
    for timestamp, records in batches:
        for key, value in records:
            latest.pop(key, None)
            latest[key] = (timestamp, value)
    return [
        (timestamp, [(key, value)])
        for key, (timestamp, value) in latest.items()
        if value is not None
    ]


def facts_of(group: Group) -> object:
    return (
        group.epoch,
        group.target_epoch,
        group.shapes,
        {member_id: group.members[member_id] for member_id in sorted(group.members)},
        group.offsets,
    )


class Process:
    """One member's process: what it saw of the log, and what it believes that it may read."""

    def __init__(self, world: World, member_id: str, said: MemberValue) -> None:
        self.world = world
        self.member_id = member_id
        self.said = said
        self.group = Group(GROUP)
        self.seen = 0
        self.epoch = 0
        self.reading: set[Place] = set()
        self.is_stopped = False  # SIGSTOP: does nothing, and is alive
        self.leaps = Leaps(lambda: world.now, lambda: world.elapsed)
        self.leaps.now()
        self.born = world.elapsed
        self.has_overslept = False

    def refresh(self) -> None:
        for batch in self.world.log[self.seen :]:
            fold_batch(self.group, batch)
        self.seen = len(self.world.log)

    def propose(self, event: Callable[[Group], bool]) -> bool:
        """Append what follows from an event, if nothing was appended since this process looked."""
        draft = self.group.draft()
        is_changed = event(draft)
        membership.settle(draft, self.world.topics, self.world.assignors, is_changed=is_changed)
        changes = changes_between(self.group, draft)
        return not changes or self.world.append(changes, self.seen, self)

    def join(self) -> bool:
        return self.propose(
            lambda draft: membership.join(draft, self.member_id, self.said, now=self.world.now)
        )

    def follow(self) -> None:
        """Do what a consumer does when it polls: stop reading what is to be let go, say so."""
        current = membership.member_of(self.group, self.member_id, self.said.instance_id).current
        self.epoch = current.epoch
        self.reading = set(current.assigned)
        if current.pending:
            places = set(current.pending)
            self.world.released.append((self.member_id, places))

            def event(draft: Group) -> bool:
                membership.let_go(draft, self.member_id, places)
                return False

            if not self.propose(event):
                self.world.released.pop()

    def look_after_others(self) -> None:
        """Do what is due: bury the dead, drop those whose time is over, take new topics up."""
        now = self.leaps.now()

        def event(draft: Group) -> bool:
            is_changed = False
            for member_id in membership.overdue(draft, now=now, leapt=self.leaps.since):
                self.world.check_patience(self, draft.members[member_id])
                is_changed |= membership.leave(draft, member_id, now=now, is_final=True)
            for member_id, member in list(draft.members.items()):
                if member_id not in self.world.processes and not member.is_away:
                    is_changed |= membership.leave(draft, member_id, now=now)
            return is_changed

        self.propose(event)

    def commit(self, place: Place, offset: int) -> bool:
        """Commit as the coordinator does: checked in the view that the append is bound to."""
        topic = self.world.names[place[0]]
        member = membership.member_of(self.group, self.member_id, self.said.instance_id)
        if place not in membership.kept_since(member, self.epoch):
            raise StaleMemberEpochError(GROUP, self.member_id, topic, place[1], self.epoch)
        value = OffsetValue(offset, None, "", self.world.now)
        return self.world.append([(OffsetKey(GROUP, topic, place[1]), value)], self.seen, self)


class World:
    """The log, the topics, the clock, and who lives."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)
        self.log: list[Batch] = []
        self.group = Group(GROUP)  # the fold of all of it
        self.now = 1_700_000_000_000
        self.elapsed = 1000.0  # what the monotonic clock says
        self.said: dict[int, float] = {}  # when what was said by the wall clock was said
        self.leapt_at = 0.0  # when it leapt last
        self.set_back = 0  # how far it was set back in all
        self.topics: dict[str, TopicShape] = {}
        self.names: dict[bytes, str] = {}
        self.assignors = ASSIGNORS
        self.processes: dict[str, Process] = {}
        self.released: list[tuple[str, set[Place]]] = []  # let go, and not yet appended
        self.offsets: dict[Place, int] = {}
        self.born = 0
        self.done: dict[str, int] = {}
        for name in ("a", "b"):
            self.make_topic(name)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    # ------------------------------------------------------------------ the log

    def append(self, changes: list[Change], expected: int, by: Process) -> bool:
        if expected != len(self.log):
            self.count("refused")
            return False
        records = [
            (encode_key(key), None if value is None else encode_value(value))
            for key, value in changes
        ]
        before = self.group.draft()
        self.log.append((self.now, records))
        # An earlier one of the same time: who was silent since then was so at least as long.
        self.said[self.now] = self.elapsed
        fold_batch(self.group, self.log[-1])
        self.check(before)
        by.refresh()
        self.count("appended")
        return True

    def check(self, before: Group) -> None:
        """Assert what has to hold after every batch."""
        owners = list(self.group.owners())
        assert len({place for place, _ in owners}) == len(owners), "a partition has two owners"
        assert self.group.epoch >= before.epoch, "the epoch fell"
        assert self.group.target_epoch >= before.target_epoch
        assert self.group.target_epoch <= self.group.epoch
        for member_id, old in before.members.items():
            new = self.group.members.get(member_id)
            if new is None:
                continue
            has_let_go: set[Place] = set()
            if self.released and self.released[-1][0] == member_id:
                has_let_go = self.released[-1][1]
            held = {**old.current.assigned, **old.current.pending}
            holds = {**new.current.assigned, **new.current.pending}
            for place, since in held.items():
                is_gone = place[0] not in self.group.shapes
                if place in has_let_go or is_gone or new.is_away:
                    continue
                assert holds.get(place) == since, "a partition was taken from who had it"
                if place in old.current.pending:
                    assert place in new.current.pending, "what was to be let go was given back"
                elif place in new.target:
                    assert place in new.current.assigned, "a kept partition was interrupted"

    # ------------------------------------------------------------------ what happens

    def make_topic(self, name: str) -> None:
        topic_id = self.source.randbytes(16)
        self.topics[name] = TopicShape(topic_id, name, self.source.randint(1, 5))
        self.names[topic_id] = name

    def topic_happens(self) -> None:
        name = self.source.choice("abc")
        shape = self.topics.get(name)
        if shape is None:
            self.make_topic(name)
        elif self.source.random() < 0.3:
            del self.topics[name]
            self.count("topics deleted")
        else:
            grown = shape.partitions + self.source.randint(1, 3)
            self.topics[name] = TopicShape(shape.topic_id, name, grown)

    def birth(self) -> None:
        self.born += 1
        is_static = self.source.random() < 0.5
        said = MemberValue(
            instance_id=f"w{self.source.randint(1, 3)}" if is_static else None,
            topics=tuple(sorted(self.source.sample("abc", self.source.randint(1, 3)))),
            rebalance_timeout_ms=self.source.choice([None, None, 60_000]),
            session_timeout_ms=self.source.choice([None, 0, 30_000]),
            assignor=self.source.choice([None, None, "range", "round_robin"]),
        )
        process = Process(self, f"m{self.born}", said)
        # Its kernel lock is held before it is known: nobody takes it for dead.
        self.processes[process.member_id] = process
        while True:
            process.refresh()
            if process.join():
                break
        self.count("joined")

    def act(self, process: Process) -> None:
        """Let a process do one thing, on what it last saw of the log or on all of it."""
        if self.source.random() < 0.7:
            process.refresh()
        try:
            action = self.source.choice(["follow", "look", "commit", "change"])
            if action == "look":
                process.look_after_others()
            elif action == "commit" and process.reading:
                self.commit(process)
            elif action == "change" and self.source.random() < 0.2:
                self.change_subscription(process)
            else:
                process.follow()
        except UnknownMemberIdError:
            self.count("unknown")
            del self.processes[process.member_id]
        except FencedInstanceIdError:
            self.count("fenced")
            del self.processes[process.member_id]

    def commit(self, process: Process) -> None:
        place = self.source.choice(sorted(process.reading))
        try:
            is_done = process.commit(place, self.offsets.get(place, 0) + 1)
        except CommitFailedError:
            self.count("commits refused")
            raise_if_owner(self.group, process, place)
            if isinstance_of_loss(self.group, process):
                raise
            return
        if is_done:
            owners = dict(self.group.owners())
            assert owners[place] == process.member_id, "a zombie committed"
            self.offsets[place] = self.offsets.get(place, 0) + 1
            self.count("commits")

    def change_subscription(self, process: Process) -> None:
        membership.member_of(process.group, process.member_id, process.said.instance_id)
        topics = tuple(sorted(self.source.sample("abc", self.source.randint(0, 3))))
        said = MemberValue(
            instance_id=process.said.instance_id,
            topics=topics,
            session_timeout_ms=process.said.session_timeout_ms,
        )

        def event(draft: Group) -> bool:
            return membership.subscribe(draft, process.member_id, said, now=self.now)

        if process.propose(event):
            process.said = said

    def check_patience(self, by: Process, member: Member) -> None:
        """Assert that a member whose time is over had that time, however the wall clock leapt."""
        assert member.said is not None
        at = member.current_at if member.is_away else member.said_at
        allowed = member.said.session_timeout_ms if member.is_away else None
        if allowed is None:
            allowed = 45_000 if member.is_away else member.said.rebalance_timeout_ms
        assert allowed is not None
        silent = 1000 * (self.elapsed - self.said[at])
        # Who began after a leap cannot know of it, nor who slept tell two of them from one.
        if min(by.born, self.leapt_at) < self.said[at] and not by.has_overslept:
            passed = 1000 * (self.elapsed - by.born)
            assert silent >= allowed - self.set_back - 2000 - passed / 500, "dropped too early"
            self.count("dropped in time")
        self.count("dropped")

    def time_passes(self) -> None:
        passed = self.source.choice([0, 1, 10, 1000, 40_000])
        self.elapsed += passed / 1000
        self.now += passed
        self.look_at_clocks()
        chance = self.source.random()
        if chance < 0.03:
            self.now += self.source.choice([20_000, 70_000, 3_600_000])
            self.leapt_at = self.elapsed
            self.count("leaps")
        elif chance < 0.06:
            back = self.source.choice([2000, 20_000])
            self.now -= back
            self.set_back += back
        self.look_at_clocks()

    def look_at_clocks(self) -> None:
        """Let all who are awake see what time it is, as those who wait do every second."""
        for process in self.processes.values():
            process.has_overslept |= process.is_stopped
            if not process.is_stopped:
                process.leaps.now()

    def step(self) -> None:
        self.time_passes()
        chance = self.source.random()
        if chance < 0.08 or not self.processes:
            self.birth()
            return
        process = self.source.choice(list(self.processes.values()))
        if chance < 0.12:
            del self.processes[process.member_id]  # SIGKILL
            self.count("killed")
        elif chance < 0.15:
            process.is_stopped = not process.is_stopped
        elif chance < 0.20:
            self.leave(process)
        elif chance < 0.22:
            self.topic_happens()
        elif not process.is_stopped:
            self.act(process)

    def leave(self, process: Process) -> None:
        process.refresh()

        def event(draft: Group) -> bool:
            return membership.leave(draft, process.member_id, now=self.now)

        if process.member_id in process.group.members:
            process.propose(event)
        del self.processes[process.member_id]
        self.count("left")

    # ------------------------------------------------------------------ the end

    def converge(self) -> None:
        """Let all who live act until nothing is left to do; assert that the target is reached."""
        for _ in range(100):
            self.now += 100_000
            self.elapsed += 100.0
            before = len(self.log)
            for process in list(self.processes.values()):
                process.refresh()
                try:
                    # Who is late with its poll says so first; here they are all on time.
                    membership.member_of(process.group, process.member_id, process.said.instance_id)
                    process.propose(self._on_time(process))
                    process.look_after_others()
                    process.follow()
                except CommitFailedError:
                    del self.processes[process.member_id]
            is_away = any(member.is_away for member in self.group.members.values())
            if len(self.log) == before and not (is_away and self.processes):
                break
        else:
            raise AssertionError("never settled")
        self.check_target()

    def _on_time(self, process: Process) -> Callable[[Group], bool]:
        said = MemberValue(
            instance_id=process.said.instance_id,
            topics=process.group.members[process.member_id].said.topics,  # type: ignore[union-attr]
            session_timeout_ms=process.said.session_timeout_ms,
            assignor=process.said.assignor,
        )
        process.said = said

        def event(draft: Group) -> bool:
            return membership.subscribe(draft, process.member_id, said, now=self.now)

        return event

    def check_target(self) -> None:
        """Assert that all who live have just what they are to have, and together everything."""
        if not self.processes:
            return
        group = self.group
        assert group.members.keys() == self.processes.keys()
        assert group.target_epoch == group.epoch
        subscribed: set[str] = set()
        for member_id, member in group.members.items():
            assert member.said is not None
            assert not member.current.pending
            assert set(member.current.assigned) == member.target
            assert self.processes[member_id].reading == member.target
            subscribed.update(member.said.topics)
        expected = {
            (self.topics[name].topic_id, number)
            for name in subscribed
            if name in self.topics
            for number in range(self.topics[name].partitions)
        }
        assert {place for place, _ in group.owners()} == expected

    def check_compacted(self) -> None:
        """Assert that a compacted log says the same."""
        again = Group(GROUP)
        for batch in compacted(self.log):
            fold_batch(again, batch)
        assert facts_of(again) == facts_of(self.group)


def raise_if_owner(group: Group, process: Process, place: Place) -> None:
    """Assert that a refused commit was rightly refused, in what its process had seen."""
    member = process.group.members.get(process.member_id)
    if member is not None and not member.is_away:
        held = {**member.current.assigned, **member.current.pending}
        assert place not in held or held[place] > process.epoch


def isinstance_of_loss(group: Group, process: Process) -> bool:
    """Return whether the process saw that it is a member no more."""
    member = process.group.members.get(process.member_id)
    return member is None or member.is_away
