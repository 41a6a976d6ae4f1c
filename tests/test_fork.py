"""Fork while a log is open: parent and child go on, apart and together.

What a fork copies belongs to the parent: its locks, its threads, its place at every partition.  The
child takes its own at its first use.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Child, Numbers, children
from tail_memory import in_thread, wait_until

import pylog
from pylog import Log, Partition
from pylog.errors import ClosedError
from pylog.storage import recovery

# From 3.12 on Python warns of what these tests do on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

Start = Callable[[Callable[[], object]], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    with children() as born:
        yield born


@pytest.fixture(params=["os", "fsync"])
def log(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Log]:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", durability=request.param)
        yield log


def offsets(partition: Partition) -> list[int]:
    return [record.offset for record in partition.records()]


def values(partition: Partition) -> list[bytes | None]:
    return [record.value for record in partition.records()]


# ---------------------------------------------------------------- both go on


def test_parent_and_child_append_and_read(log: Log, start: Start) -> None:
    partition = log.topic("t").partition(0)
    partition.append(b"before")
    turns = 200

    def work() -> None:
        for turn in range(turns):
            partition.append(b"child %d" % turn)
        assert values(partition)[0] == b"before"
        partition.check()
        log.close()

    child = start(work)
    for turn in range(turns):
        partition.append(b"parent %d" % turn)
    child.join()

    partition.check()
    stored = values(partition)
    assert len(stored) == 1 + 2 * turns
    for who in (b"parent", b"child"):
        assert [v for v in stored if v.startswith(who)] == [
            b"%s %d" % (who, n) for n in range(turns)
        ]


def test_a_child_uses_a_partition_that_nobody_had_opened(log: Log, start: Start) -> None:
    topic = log.topic("t")

    start(lambda: topic.append(b"first")).join()

    assert topic.append(b"second").offset == 1
    assert values(topic.partition(0)) == [b"first", b"second"]


def test_a_child_that_does_not_use_the_log_changes_nothing(log: Log, start: Start) -> None:
    topic = log.topic("t")
    topic.append(b"0")

    start(lambda: None).join()
    start(gc.collect).join()

    assert topic.append(b"1").offset == 1
    assert offsets(topic.partition(0)) == [0, 1]


def test_grandchildren_append(log: Log, start: Start) -> None:
    topic = log.topic("t")
    topic.append(b"0")

    def beget() -> None:
        topic.append(b"child")
        with children() as start_another:
            start_another(lambda: topic.append(b"grandchild")).join()
        topic.append(b"child again")

    start(beget).join()

    expected = [b"0", b"child", b"grandchild", b"child again"]
    assert values(topic.partition(0)) == expected


def test_a_child_creates_and_deletes_topics(log: Log, start: Start) -> None:
    log.create_topic("gone").append(b"x")

    def work() -> None:
        log.delete_topic("gone")
        log.create_topic("new", partitions=2).append(b"y", partition=1)

    start(work).join()

    assert log.topics() == ["new", "t"]
    assert values(log.topic("new").partition(1)) == [b"y"]


def test_a_closed_log_stays_closed_in_the_child(log: Log, start: Start) -> None:
    topic = log.topic("t")
    topic.append(b"0")
    log.close()

    def work() -> None:
        with pytest.raises(ClosedError):
            topic.append(b"1")

    start(work).join()
    with pytest.raises(ClosedError):
        topic.append(b"1")


# ---------------------------------------------------------------- who is there


def test_the_parent_stays_present_when_the_child_ends(
    log: Log, tmp_path: Path, start: Start
) -> None:
    """A lock that the child shared would be gone with it: a newcomer would think itself alone."""
    topic = log.topic("t")
    topic.append(b"0")

    def leave_properly() -> None:
        topic.append(b"child")
        log.close()

    start(lambda: None).join()
    start(leave_properly).join()

    assert "is_clean 0" in (tmp_path / "t-0" / "manifest").read_text()
    with pylog.open(tmp_path) as other:
        other.topic("t").append(b"newcomer")
    assert "is_clean 0" in (tmp_path / "t-0" / "manifest").read_text()
    assert topic.append(b"parent").offset == 3
    assert values(topic.partition(0)) == [b"0", b"child", b"newcomer", b"parent"]


def test_the_child_stays_present_when_the_parent_closes(
    log: Log, tmp_path: Path, start: Start
) -> None:
    topic = log.topic("t")
    topic.append(b"0")
    told = Numbers(2)

    def work() -> None:
        topic.append(b"child")
        told[0] = 1
        wait_until(lambda: told[1] == 1)
        assert topic.append(b"child again").offset == 3
        assert offsets(topic.partition(0)) == [0, 1, 2, 3]

    child = start(work)
    wait_until(lambda: told[0] == 1)
    log.close()
    assert "is_clean 0" in (tmp_path / "t-0" / "manifest").read_text()
    with pylog.open(tmp_path) as other:
        other.topic("t").append(b"newcomer")
    told[1] = 1
    child.join()


def test_an_unused_child_does_not_hold_the_parents_place(
    log: Log, tmp_path: Path, start: Start
) -> None:
    """The inherited descriptor keeps the parent's locks; the child must have let go of it."""
    topic = log.topic("t")
    topic.append(b"0")
    told = Numbers(1)
    child = start(lambda: wait_until(lambda: told[0] == 1))

    log.close()

    assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()
    with pylog.open(tmp_path) as other:
        assert other.topic("t").append(b"1").offset == 1
    told[0] = 1
    child.join()


def test_locks_of_a_killed_parent_do_not_live_on_in_its_idle_child(
    tmp_path: Path, start: Start
) -> None:
    # Story: the child held the gate open for as long as it lived, and nobody else got in.
    with pylog.open(tmp_path) as log:
        log.create_topic("t").append(b"x")
    told = Numbers(2)

    def die_in_the_gate(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def parent() -> None:
        log = pylog.open(tmp_path)
        topic = log.topic("t")
        if os.fork() == 0:
            told[0] = 1
            wait_until(lambda: told[1] == 1)
            os._exit(0)
        wait_until(lambda: told[0] == 1)
        recovery.examine = die_in_the_gate  # type: ignore[assignment]
        topic.append(b"never")

    child = start(parent)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pylog.open(tmp_path) as log:
            in_thread(lambda: log.topic("t").append(b"y")).join()
            assert log.topic("t").partition(0).log_end_offset == 2
    finally:
        told[1] = 1
    child.kill()


def test_a_child_that_dies_without_a_word_holds_up_nobody(log: Log, start: Start) -> None:
    topic = log.topic("t")

    def work() -> None:
        while True:
            topic.append(b"x")

    for _ in range(5):
        child = start(work)
        assert topic.partition(0).wait(topic.partition(0).high_watermark + 20, timeout=30)
        child.kill()
        topic.append(b"parent")
    topic.partition(0).check()
    assert offsets(topic.partition(0)) == list(range(topic.partition(0).log_end_offset))


# ---------------------------------------------------------------- threads of the parent


def test_a_child_of_a_parent_with_busy_threads(log: Log, start: Start) -> None:
    topic = log.topic("t")
    partition = topic.partition(0)
    stop = threading.Event()
    appended = [0, 0]

    def append(slot: int) -> None:
        while not stop.is_set():
            partition.append(b"thread %d %d" % (slot, appended[slot]))
            appended[slot] += 1

    def read() -> None:
        while not stop.is_set():
            for _ in partition.records(max(partition.high_watermark - 20, 0)):
                pass
            log.topics()

    threads = [in_thread(lambda slot=slot: append(slot)) for slot in range(2)] + [in_thread(read)]
    forks = 10
    try:
        for _ in range(forks):
            goal = sum(appended) + 10
            wait_until(lambda goal=goal: sum(appended) >= goal)

            def work() -> None:
                for _ in range(20):
                    log.topic("t").append(b"child")
                partition.check()
                assert partition.high_watermark >= 20

            start(work).join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    stored = values(partition)
    assert len(stored) == partition.log_end_offset == sum(appended) + 20 * forks
    assert stored.count(b"child") == 20 * forks


@pytest.mark.parametrize("name", ["partition", "engine", "registry", "turn", "page", "descriptors"])
def test_a_lock_that_a_thread_of_the_parent_holds_does_not_stop_the_child(
    log: Log, start: Start, name: str
) -> None:
    topic = log.topic("t")
    partition = topic.partition(0)
    topic.append(b"0")
    attachment = partition._attachment
    assert attachment is not None
    engine, registry = log._engine, log._registry
    lock, unlock = {
        "partition": (partition._lock.acquire, partition._lock.release),
        "engine": (engine._lock.acquire, engine._lock.release),
        "registry": (registry._lock.acquire, registry._lock.release),
        "turn": (attachment.commit._queue.take, attachment.commit._queue.give_up),
        "page": (attachment.page.lock, attachment.page.unlock),
        "descriptors": (
            engine._open_environment().descriptors._lock.acquire,
            engine._open_environment().descriptors._lock.release,
        ),
    }[name]
    held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        lock()
        held.set()
        may_end.wait()
        unlock()

    thread = in_thread(hold)
    held.wait()

    def work() -> None:
        # A new topic makes the registry replay; records make the rest move.
        log.create_topic("of-the-child")
        assert log.topics() == ["of-the-child", "t"]
        topic.append(b"child")
        assert values(partition)[-1] == b"child"

    child = start(work)
    if name == "page":
        # This one is shared by all processes on purpose: the child waits for its holder.
        wait_until(child.is_asleep)
        may_end.set()
    try:
        child.join()
    finally:
        may_end.set()
        thread.join()
    assert topic.append(b"parent").offset == 2


def test_background_work_runs_in_the_child(tmp_path: Path, start: Start) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", durability="interval", flush_ms=1)
        topic.append(b"0")
        wait_until(lambda: topic.partition(0).durable_offset == 1)

        def work() -> None:
            topic.append(b"1")
            wait_until(lambda: topic.partition(0).durable_offset == 2)
            assert any(thread.name == "pylog" for thread in threading.enumerate())
            os._exit(0)  # without a close

        start(work).join()
        topic.append(b"2")
        wait_until(lambda: topic.partition(0).durable_offset == 3)


def test_a_follower_begun_before_the_fork_goes_on_in_both(log: Log, start: Start) -> None:
    topic = log.topic("t")
    topic.append(b"0")
    follower = topic.read(follow=True)
    assert next(follower).offset == 0
    seen = Numbers(1)

    def work() -> None:
        assert next(follower).value == b"1"
        seen[0] = 1
        assert next(follower).value == b"2"

    child = start(work)
    wait_until(child.is_asleep)
    topic.append(b"1")
    assert next(follower).value == b"1"
    wait_until(lambda: seen[0] == 1)
    topic.append(b"2")
    child.join()
    assert next(follower).value == b"2"


def test_a_child_that_is_forked_in_a_compaction_does_not_keep_its_lock(
    tmp_path: Path, start: Start
) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", cleanup_policy="compact", durability="os", segment_bytes=500)
        partition = topic.partition(0)
        for number in range(100):
            partition.append(b"%d" % number, key=b"k")
        said = Numbers(2)

        def work() -> None:
            said[0] = 1 + (partition.compact_if_due() is None)
            wait_until(lambda: said[1] == 1)
            assert values(partition)[-1] == b"99"
            os._exit(0)  # without a close

        born: list[Child] = []

        def fork(_: object) -> None:
            if not born:
                born.append(start(work))
                wait_until(lambda: said[0] > 0)

        partition.compact(progress=fork)
        assert said[0] == 2, "the parent compacts, so the child does not"
        partition.append(b"99", key=b"k")
        assert partition.compact().rounds == 1, "the child is alive, and holds nothing"
        said[1] = 1
        born[0].join()
