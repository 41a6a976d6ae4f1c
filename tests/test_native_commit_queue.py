"""CommitQueue: one thread leads, the others wait, and nobody is forgotten."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from patience import HANG_SECONDS
from tail_memory import in_thread, run_threads, tiny_switch_interval, wait_until_asleep

from pylog import _native
from pylog._native import COVERED, ENDED, LEADS, CommitQueue

# A wake-up that is lost is a wait without end.
pytestmark = pytest.mark.usefixtures("no_second_look")


class Waiter:
    """A thread that waits for an offset, or for the lead."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.answers: list[object] = []
        self._wait = wait
        self._thread = in_thread(self._run)

    def _run(self) -> None:
        self.answers.append(self._wait())

    def sleeps(self) -> Waiter:
        """Return when the thread sleeps in the kernel."""
        wait_until_asleep(self._thread.native_id)
        return self

    def answer(self) -> object:
        """Return what the wait came to."""
        self._thread.join()
        return self.answers[0]


@pytest.fixture
def queue() -> Iterator[CommitQueue]:
    queue = CommitQueue()
    yield queue
    queue.end()


def waiter(queue: CommitQueue, end_offset: int) -> Waiter:
    return Waiter(lambda: queue.wait(end_offset)).sleeps()


def test_who_comes_alone_leads_and_what_is_durable_needs_no_leader(queue: CommitQueue) -> None:
    assert queue.wait(0) == COVERED
    assert queue.wait(3) == LEADS
    queue.finish(3)
    assert queue.wait(3) == COVERED
    assert queue.wait(4) == LEADS


def test_a_leader_serves_all_below_the_durable_offset(queue: CommitQueue) -> None:
    assert queue.wait(1) == LEADS
    waiters = [waiter(queue, end_offset) for end_offset in (3, 2, 5, 4, 1 << 40)]

    queue.finish(5)

    assert [one.answer() for one in waiters] == [COVERED] * 4 + [LEADS]


def test_a_leader_that_gives_up_is_followed_by_the_next_one(queue: CommitQueue) -> None:
    assert queue.wait(1) == LEADS
    first, second = waiter(queue, 2), waiter(queue, 3)

    queue.give_up()
    assert first.answer() == LEADS
    assert second.answers == []

    # Only the thread that leads can give up.
    queue.give_up()
    second.sleeps()
    assert second.answers == []
    queue.finish(3)
    assert second.answer() == COVERED


def test_an_older_offset_takes_nothing_back(queue: CommitQueue) -> None:
    assert queue.wait(5) == LEADS
    queue.finish(5)
    assert queue.wait(6) == LEADS
    queue.finish(4)
    assert queue.wait(5) == COVERED


def test_the_end_sends_everybody_away(queue: CommitQueue) -> None:
    assert queue.wait(1) == LEADS
    waiters = [waiter(queue, 2), Waiter(lambda: queue.take(blocking=True)).sleeps()]

    queue.end()

    assert [one.answer() for one in waiters] == [ENDED, False]
    assert queue.wait(1) == ENDED
    assert not queue.take()
    assert queue.wait(0) == COVERED


def test_the_lead_is_taken_once_and_again_by_its_owner(queue: CommitQueue) -> None:
    assert queue.take()
    assert queue.take(blocking=True)
    assert queue.wait(7) == LEADS
    other = Waiter(queue.take)
    assert other.answer() is False
    waiting = waiter(queue, 8)

    queue.finish(7)
    queue.give_up()
    waiting.sleeps()
    assert waiting.answers == []
    queue.give_up()

    assert waiting.answer() == LEADS


def test_who_waits_for_the_lead_gets_it_before_those_who_come_and_go(queue: CommitQueue) -> None:
    # Story: closing a partition would wait for as long as others append to it.
    assert queue.wait(1) == LEADS
    follower = waiter(queue, 2)
    taker = Waiter(lambda: queue.take(blocking=True)).sleeps()

    queue.finish(1)
    late = waiter(queue, 3)

    assert taker.answer() is True
    assert (follower.answers, late.answers) == ([], [])


def test_ctrl_c_ends_a_wait_and_passes_on_the_lead_that_came_with_it(queue: CommitQueue) -> None:
    lead = threading.Event()
    main, main_id = threading.get_native_id(), threading.get_ident()
    behind: list[Waiter] = []

    def leader() -> None:
        assert queue.wait(1) == LEADS
        lead.set()
        wait_until_asleep(main)
        behind.append(waiter(queue, 9))
        signal.pthread_kill(main_id, signal.SIGINT)
        sum(range(200_000))  # one call that keeps the GIL: the signal has ended the sleep by then
        queue.give_up()

    thread = in_thread(leader)
    lead.wait()
    with pytest.raises(KeyboardInterrupt):
        try:
            queue.wait(8)
        except BaseException:
            queue.give_up()
            raise
    thread.join()

    assert behind[0].answer() == LEADS


def test_a_signal_handler_of_the_leader_may_wait_too(queue: CommitQueue) -> None:
    assert queue.wait(5) == LEADS
    assert queue.wait(6) == LEADS
    queue.finish(6)
    waiting = waiter(queue, 7)
    queue.finish(5)
    assert waiting.answer() == LEADS


def test_a_forked_child_forgets_who_waited_in_the_parent(queue: CommitQueue) -> None:
    assert queue.wait(1) == LEADS
    waiters = [waiter(queue, 2), waiter(queue, 3)]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            queue.abandon()
            queue.finish(10)
            queue.end()
            status = 0 if queue.wait(2) == COVERED and queue.wait(11) == ENDED else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0

    queue.finish(3)
    assert [one.answer() for one in waiters] == [COVERED, COVERED]


def test_a_child_forked_by_a_signal_handler_does_not_wait_for_the_parents_leader(
    queue: CommitQueue,
) -> None:
    lead = threading.Event()
    main, main_id = threading.get_native_id(), threading.get_ident()
    children: list[int] = []

    def fork(*_: object) -> None:
        children.append(os.fork())
        if children[0] == 0:
            signal.alarm(HANG_SECONDS)  # ends a child that waits for ever
            queue.abandon()

    def leader() -> None:
        assert queue.wait(1) == LEADS
        lead.set()
        wait_until_asleep(main)
        signal.pthread_kill(main_id, signal.SIGUSR1)
        while not children:
            os.sched_yield()
        queue.finish(8)

    before = signal.signal(signal.SIGUSR1, fork)
    try:
        thread = in_thread(leader)
        lead.wait()
        answer = queue.wait(8)
        if children == [0]:
            os._exit(0 if answer == ENDED else 1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    thread.join()

    assert answer == COVERED
    assert os.waitpid(children[0], 0)[1] == 0


@pytest.mark.parametrize("threads", [2, 5, 16])
def test_no_wake_up_is_lost_among_leaders_that_finish_fail_and_come_and_go(threads: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    queue = CommitQueue()
    each, appended, durable = 150, 0, 0
    lock = threading.Lock()
    led, leaders = 0, 0

    def append_all(number: int) -> None:
        nonlocal appended, durable, led, leaders
        choice = random.Random(seed + number)
        for _ in range(each):
            with lock:
                appended += 1
                mine = appended
            while True:
                answer = queue.wait(mine)
                if answer == COVERED:
                    break
                assert answer == LEADS
                led += 1
                leaders += 1
                assert leaders == 1, "two lead at once"
                end = appended
                os.sched_yield()  # the sync
                leaders -= 1
                if choice.random() < 0.2:
                    queue.give_up()
                else:
                    durable = max(durable, end)
                    queue.finish(durable)
            assert durable >= mine

    with tiny_switch_interval():
        run_threads(*[lambda number=number: append_all(number) for number in range(threads)])

    assert (appended, durable) == (threads * each, threads * each)
    assert led >= each / 2
    assert queue.wait(threads * each) == COVERED


def test_offsets_are_whole_numbers(queue: CommitQueue) -> None:
    for call in (queue.wait, queue.finish):
        with pytest.raises(TypeError):
            call("1")  # type: ignore[arg-type]
        with pytest.raises(OverflowError):
            call(1 << 63)
    with pytest.raises(TypeError):
        _native.CommitQueue(1)  # type: ignore[call-arg]
