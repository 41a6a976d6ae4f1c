"""Groups among processes that are killed, stopped and forked: one owner, and nothing goes back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from group_model import GROUP
from patience import HANG_SECONDS
from processes import Child, Numbers, children
from tail_memory import wait_until

import pylog
from pylog import Log, OffsetAndMetadata, TopicPartition
from pylog._native import batch_headers
from pylog.errors import (
    ClosedError,
    CommitFailedError,
    FencedInstanceIdError,
    UnknownMemberIdError,
)
from pylog.groups.group_log import OFFSETS_TOPIC
from pylog.groups.member import Membership
from pylog.groups.view import View

# From 3.12 on Python warns of what these tests do on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

Start = Callable[[Callable[[], object]], Child]
PARTITIONS = 6
WORKERS = 12


def at(number: int, offset: int) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return what is to be committed in one partition of orders."""
    return {TopicPartition("orders", number): OffsetAndMetadata(offset)}


@pytest.fixture
def start() -> Iterator[Start]:
    with children() as born:
        yield born


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the directory of a log that no process has open."""
    with pylog.open(tmp_path / "log") as log:
        log.create_topic("orders", PARTITIONS)
    return tmp_path / "log"


def join(log: Log, **settings: object) -> Membership:
    return log._coordinator.join(GROUP, ["orders"], **settings)  # type: ignore[arg-type]


def follow(log: Log, member: Membership, is_done: Callable[[int], bool]) -> None:
    """Do as a consumer does, until what the member may read is what is expected."""
    events = log._coordinator.events
    while True:
        seen = events.value
        standing = member.look()
        if standing.to_revoke:
            standing = member.let_go(standing.to_revoke)
        if is_done(len(standing.assigned)):
            return
        events.wait(seen, 0.2)


# ---------------------------------------------------------------- death and sleep


def test_what_a_killed_process_had_is_others(path: Path, start: Start) -> None:
    has = Numbers(1)

    def live() -> None:
        log = pylog.open(path)
        member = join(log)
        follow(log, member, lambda count: count == PARTITIONS)
        has[0] = 1
        follow(log, member, lambda count: False)

    child = start(live)
    wait_until(lambda: has[0])
    with pylog.open(path) as log:
        member = join(log)
        follow(log, member, lambda count: count == PARTITIONS // 2)
        child.kill()
        follow(log, member, lambda count: count == PARTITIONS)
        assert not member.look().to_revoke


def test_a_killed_static_member_is_awaited_and_then_dropped(path: Path, start: Start) -> None:
    has = Numbers(1)

    def live() -> None:
        log = pylog.open(path)
        member = join(log, instance_id="w1")
        follow(log, member, lambda count: count == PARTITIONS // 2)
        has[0] = 1
        follow(log, member, lambda count: False)

    child = start(live)
    with pylog.open(path) as log:
        member = join(log)
        follow(log, member, lambda count: has[0] == 1)
        assert len(member.look().assigned) == PARTITIONS // 2
        child.kill()

        def is_away(count: int) -> bool:
            group = log._coordinator.log.read(GROUP)
            assert group is not None
            return any(one.is_away for one in group.members.values())

        follow(log, member, is_away)
        assert len(member.look().assigned) == PARTITIONS // 2
        groups = log._coordinator.log
        clock, monotonic = groups.clock, groups.monotonic
        groups.clock, groups.monotonic = lambda: clock() + 45_000, lambda: monotonic() + 45
        follow(log, member, lambda count: count == PARTITIONS)


@pytest.mark.parametrize("is_static", [True, False])
def test_who_slept_through_its_removal_commits_nothing(
    path: Path, start: Start, is_static: bool
) -> None:
    state = Numbers(1)

    def sleep() -> None:
        log = pylog.open(path)
        settings = {"instance_id": "w1"} if is_static else {"max_poll_interval_ms": 1000}
        member = join(log, **settings)
        follow(log, member, lambda count: count == PARTITIONS)
        member.commit(at(0, 1))
        state[0] = 1
        os.kill(os.getpid(), signal.SIGSTOP)
        expected = FencedInstanceIdError if is_static else UnknownMemberIdError
        for call in (
            lambda: member.commit(at(0, 2)),
            lambda: member.commit(at(0, 2) | at(1, 2)),
            member.look,
        ):
            with pytest.raises(expected):
                call()
        state[0] = 2

    child = start(sleep)
    wait_until(lambda: state[0] == 1 and child.is_stopped())
    with pylog.open(path) as log:
        member = join(log, instance_id="w1" if is_static else None)
        follow(log, member, lambda count: count == PARTITIONS)
        member.commit(at(0, 7))
        os.kill(child.pid, signal.SIGCONT)
        child.join()
        assert state[0] == 2
        zero = TopicPartition("orders", 0)
        assert member.committed([zero]) == {zero: OffsetAndMetadata(7)}


# ---------------------------------------------------------------- forks


def test_a_forked_child_is_not_its_parents_member_and_may_join_itself(
    path: Path, start: Start
) -> None:
    has_shared = Numbers(1)
    with pylog.open(path) as log:
        member = join(log)
        follow(log, member, lambda count: count == PARTITIONS)

        def work() -> None:
            for call in (member.look, lambda: member.commit(at(0, 1))):
                with pytest.raises(ClosedError):
                    call()
            member.leave()  # not its own: nothing happens
            own = join(log)
            follow(log, own, lambda count: count == PARTITIONS // 2)
            own.commit(dict.fromkeys(own.look().assigned, OffsetAndMetadata(5)))
            wait_until(lambda: has_shared[0] == 1)
            own.leave()

        child = start(work)
        follow(log, member, lambda count: count == PARTITIONS // 2)
        has_shared[0] = 1
        follow(log, member, lambda count: count == PARTITIONS)
        child.join()
        member.commit(at(0, 1))


@pytest.mark.parametrize("who", ["another process", "its child"])
def test_a_child_that_lives_on_does_not_keep_a_killed_parent_in_its_group(
    path: Path, start: Start, who: str
) -> None:
    state, children_id, is_dead, has_all = Numbers(1), Numbers(1), Numbers(1), Numbers(1)

    def parent() -> None:
        log = pylog.open(path)
        member = join(log)
        follow(log, member, lambda count: count == PARTITIONS)
        if os.fork() == 0:
            signal.alarm(HANG_SECONDS)
            children_id[0] = os.getpid()
            wait_until(lambda: is_dead[0] == 1)
            if who == "its child":
                follow(log, join(log), lambda count: count == PARTITIONS)
                has_all[0] = 1
            signal.pause()
        state[0] = 1
        signal.pause()

    child = start(parent)
    wait_until(lambda: state[0] == 1 and children_id[0] > 0)
    try:
        child.kill()
        is_dead[0] = 1
        if who == "its child":
            wait_until(lambda: has_all[0] == 1)
        with pylog.open(path) as log:
            members = log.groups.describe(GROUP).members
            assert len(members) == (1 if who == "its child" else 0)
    finally:
        os.kill(children_id[0], signal.SIGKILL)


# ---------------------------------------------------------------- chaos


class Arena:
    """Memory of all workers: who reads which partition now, who is doomed, what they did."""

    def __init__(self, workers: int) -> None:
        self.readers = Numbers(PARTITIONS)  # 1 + worker, 0 for nobody
        self.doomed = Numbers(workers)
        self.work = Numbers(workers)

    @property
    def total(self) -> int:
        return sum(self.work[worker] for worker in range(len(self.work)))

    def enter(self, number: int, worker: int) -> None:
        """Begin to read; asserts that nobody who lives does."""
        reader = self.readers[number]
        assert reader in (0, worker + 1) or self.doomed[reader - 1], (
            f"{worker} got {number} while {reader - 1} reads it"
        )
        self.readers[number] = worker + 1

    def leave(self, number: int, worker: int) -> None:
        assert self.readers[number] == worker + 1, f"{number} was taken from {worker}"
        self.readers[number] = 0


def work_for_ever(path: Path, arena: Arena, worker: int, instance_id: str | None) -> None:
    """Join, read, commit and let go, and check all the time that nobody else reads the same."""
    log = pylog.open(path)
    pause = threading.Event()
    member = join(log, instance_id=instance_id, session_timeout_ms=300)
    reading: set[TopicPartition] = set()
    while True:
        standing = member.look()
        for partition in reading & standing.to_revoke:
            arena.leave(partition.partition, worker)
            reading.discard(partition)
        if standing.to_revoke:
            standing = member.let_go(standing.to_revoke)
            continue
        for partition in standing.assigned - reading:
            arena.enter(partition.partition, worker)
            reading.add(partition)
        for partition in reading:
            committed = member.committed([partition])[partition]
            offset = 1 + (committed.offset if committed else 0)
            # A rebalance between the look and here: what is refused is not done.
            with contextlib.suppress(CommitFailedError):
                member.commit({partition: OffsetAndMetadata(offset, member.member_id)})
            arena.work[worker] += 1
        pause.wait(0.003)  # or the history is nothing but commits


def check_history(path: Path) -> int:
    """Assert of every batch ever appended what has to hold; return how many commits there were."""
    data = b"".join(
        file.read_bytes() for file in sorted((path / f"{OFFSETS_TOPIC}-0").glob("*.log"))
    )
    ends = {header["base_offset"] + header["last_offset_delta"] for header in batch_headers(data)}
    commits = 0
    with pylog.open(path) as log:
        partition = log.topic(OFFSETS_TOPIC).partition(0)
        view = View(partition)
        offsets: dict[TopicPartition, int] = {}
        for record in partition.records():
            view.take(record.key or b"", record.value, record.timestamp)
            group = view.groups.get(GROUP)
            if record.offset not in ends or group is None:
                continue
            owners = list(group.owners())
            assert len({place for place, _ in owners}) == len(owners), "two owners"
            names = {
                (group.shapes[topic_id].name, number): member_id
                for (topic_id, number), member_id in owners
                if topic_id in group.shapes
            }
            for place, value in group.offsets.items():
                before = offsets.get(place, 0)
                assert value.offset >= before, "a committed offset went back"
                if value.offset > before:
                    assert names[place] == value.metadata, "committed by who had it not"
                    commits += 1
                offsets[place] = value.offset
    return commits


@pytest.mark.slow
def test_processes_that_are_killed_and_stopped_never_read_the_same(
    path: Path, start: Start
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    source = random.Random(seed)
    arena = Arena(WORKERS)
    with pylog.open(path) as log:
        log._coordinator.commit("other", {TopicPartition("orders", 0): OffsetAndMetadata(1)})
        log.alter_topic(OFFSETS_TOPIC, durability="os")
    alive: list[tuple[int, Child]] = []
    for worker in range(WORKERS):
        # Two with one id would fence each other, which takes no leave.
        instance_id = f"w{worker}" if source.random() < 0.3 else None

        def work(worker: int = worker, instance_id: str | None = instance_id) -> None:
            work_for_ever(path, arena, worker, instance_id)

        alive.append((worker, start(work)))
        wait_until(lambda worker=worker: arena.work[worker] > 3)  # type: ignore[misc]
        if len(alive) == PARTITIONS:
            if source.random() < 0.5:
                sleep_through_others_work(source.choice(alive)[1], arena)
            number, child = alive.pop(source.randrange(len(alive)))
            arena.doomed[number] = 1
            child.kill()
    enough = arena.total + 300  # of which some are refused
    wait_until(lambda: arena.total > enough)
    for number, _ in alive:
        arena.doomed[number] = 1
    for _, child in alive:
        child.kill()
    assert check_history(path) > 100
    assert all(arena.work[worker] > 3 for worker in range(WORKERS))


def sleep_through_others_work(child: Child, arena: Arena) -> None:
    """Stop a process until others worked, or for a while if it holds a lock they wait for."""
    os.kill(child.pid, signal.SIGSTOP)
    total, enough = arena.total, time.monotonic() + 2
    wait_until(lambda: arena.total > total + 20 or time.monotonic() > enough)
    os.kill(child.pid, signal.SIGCONT)
