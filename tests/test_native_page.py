"""SharedPage and Marks in one process."""

from __future__ import annotations

import gc
import threading
import time

import pytest
from tail_memory import (
    IS_PORTABLE,
    in_thread,
    signal_when_asleep,
    tiny_switch_interval,
    wait_until,
    wait_until_asleep,
)

from pylog import _native
from pylog.errors import ClosedError, LockTimeoutError

MARK_NAMES = [name for name in dir(_native.Marks) if not name.startswith("_")]


def values_of(marks: _native.Marks) -> dict[str, int]:
    return {name: getattr(marks, name) for name in MARK_NAMES}


@pytest.fixture
def page() -> _native.SharedPage:
    page = _native.SharedPage(bytearray(_native.PAGE_BYTES))
    page.initialize(b"boot and log")
    return page


# ---------------------------------------------------------------- the page


def test_a_page_of_zeros_is_not_valid_and_refuses_everything_but_initialize() -> None:
    page = _native.SharedPage(bytearray(_native.PAGE_BYTES))

    assert not page.is_valid
    for call in (page.marks, page.lock, page.publish, lambda: page.intent):
        with pytest.raises(RuntimeError, match="not initialized"):
            call()
    page.initialize(b"x")
    assert page.is_valid


def test_initialize_sets_identity_and_marks_and_defaults() -> None:
    page = _native.SharedPage(bytearray(b"\xff" * _native.PAGE_BYTES))

    page.initialize(b"boot \x00 id", log_end_offset=5, state=_native.FULL, flags=-(2**63))

    values = values_of(page.marks())
    assert page.identity == b"boot \x00 id"
    assert page.intent == (0, 0)
    assert page.events.value == 0
    none = {name for name in MARK_NAMES if "time" in name and "entries" not in name} - {
        "time_allocated"
    }
    given = {"log_end_offset": 5, "state": _native.FULL, "flags": -(2**63)}
    assert values == {name: -1 if name in none else 0 for name in MARK_NAMES} | given


def test_initialize_refuses_a_long_identity_and_unknown_marks() -> None:
    page = _native.SharedPage(bytearray(_native.PAGE_BYTES))

    with pytest.raises(ValueError, match="256"):
        page.initialize(bytes(257))
    with pytest.raises(TypeError, match="no mark 'offset'"):
        page.initialize(b"", offset=1)
    with pytest.raises(OverflowError):
        page.initialize(b"", position=2**63)
    page.initialize(bytes(256))
    assert page.identity == bytes(256)


@pytest.mark.parametrize("memory", [bytearray(4095), bytes(4096), memoryview(bytearray(8192))[1:]])
def test_memory_that_cannot_be_a_page_is_refused(memory: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        _native.SharedPage(memory)  # type: ignore[arg-type]


def test_two_pages_over_the_same_memory_see_the_same_marks() -> None:
    memory = bytearray(_native.PAGE_BYTES)
    first, second = _native.SharedPage(memory), _native.SharedPage(memory)
    first.initialize(b"shared")

    first.lock()
    first.publish(high_watermark=3, log_end_offset=4)
    first.set_intent(10, 20)
    first.unlock()

    assert values_of(second.marks()) == values_of(first.marks())
    assert (second.marks().high_watermark, second.intent) == (3, (10, 20))


def test_publish_changes_the_marks_named_and_no_others(page: _native.SharedPage) -> None:
    page.lock()
    for number, name in enumerate(MARK_NAMES):
        before = values_of(page.marks())
        page.publish(**{name: 1000 + number})
        assert values_of(page.marks()) == before | {name: 1000 + number}
    page.unlock()


def test_an_old_marks_object_does_not_change(page: _native.SharedPage) -> None:
    old = page.marks()
    page.lock()
    page.publish(position=1)
    page.publish(position=2)
    page.unlock()

    assert (old.position, page.marks().position) == (0, 2)


def test_publish_tells_waiters_only_what_readers_act_on(page: _native.SharedPage) -> None:
    told = set()
    page.lock()
    for name in MARK_NAMES:
        before = page.events.value
        page.publish(**{name: 99})
        if page.events.value != before:
            told.add(name)
    page.publish(high_watermark=99)  # as it is
    seen = page.events.value
    page.unlock()

    assert told == {
        "high_watermark",
        "log_start_offset",
        "durable_offset",
        "state",
        "generation",
        "segment_serial",
    }
    assert seen == len(told)


def test_an_empty_or_cleared_intent_reads_as_none(page: _native.SharedPage) -> None:
    page.lock()
    page.set_intent(5, 9)
    assert page.intent == (5, 9)
    page.set_intent(7, 7)
    assert page.intent == (0, 0)
    page.set_intent(5, 9)
    page.set_intent(0, 0)
    assert page.intent == (0, 0)
    page.unlock()


def test_readers_never_see_a_mix_of_marks(page: _native.SharedPage) -> None:
    """Under the GIL this shows the interface only; other processes read in the process tests."""
    stop = threading.Event()
    torn: list[dict[str, int]] = []
    reads = [0] * 3

    def read(number: int) -> None:
        while not stop.is_set():
            values = set(values_of(page.marks()).values())
            reads[number] += 1
            if len(values) != 1:
                torn.append(values_of(page.marks()))

    page.lock()
    page.publish(**dict.fromkeys(MARK_NAMES, 0))
    page.unlock()
    threads = [in_thread(lambda number=number: read(number)) for number in range(len(reads))]
    with tiny_switch_interval():
        for value in range(2_000):
            page.lock()
            page.publish(**dict.fromkeys(MARK_NAMES, value))
            page.unlock()
        wait_until(lambda: min(reads) > 0)
        stop.set()
        for thread in threads:
            thread.join()

    assert torn == []
    assert min(reads) > 0


# ---------------------------------------------------------------- the lock


def test_the_lock_excludes_other_threads_until_it_is_given_back(page: _native.SharedPage) -> None:
    got = threading.Event()

    def take() -> None:
        page.lock()
        got.set()
        page.unlock()

    page.lock()
    thread = in_thread(take)
    assert not got.wait(0.05)
    page.unlock()
    got.wait()
    thread.join()


def test_lock_times_out(page: _native.SharedPage) -> None:
    errors: list[BaseException] = []

    def take(timeout: float) -> None:
        try:
            page.lock(timeout)
        except LockTimeoutError as error:
            errors.append(error)

    page.lock()
    for timeout in (0, 0.12):
        began = time.monotonic()
        thread = in_thread(lambda timeout=timeout: take(timeout))
        thread.join()
        assert time.monotonic() - began >= timeout
    page.unlock()
    assert len(errors) == 2
    page.lock(0)
    page.unlock()


def test_misuse_of_the_lock_is_an_error_and_never_a_deadlock(page: _native.SharedPage) -> None:
    for call in (page.unlock, page.publish, lambda: page.set_intent(0, 1)):
        with pytest.raises(RuntimeError, match="does not hold"):
            call()
    page.lock()
    with pytest.raises(RuntimeError, match="already"):
        page.lock()
    with pytest.raises(RuntimeError, match="already"):
        page.lock(0)
    with pytest.raises(RuntimeError, match="in use"):
        page.initialize(b"")
    with pytest.raises(TypeError, match="by name"):
        page.publish(1)  # type: ignore[call-arg]
    page.unlock()
    page.lock(0)
    page.unlock()


def test_another_thread_cannot_publish_or_unlock(page: _native.SharedPage) -> None:
    errors: list[str] = []

    def misuse() -> None:
        for call in (page.unlock, page.publish):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    page.lock()
    in_thread(misuse).join()
    page.unlock()

    assert len(errors) == 2


@pytest.mark.parametrize("timeout", [float("nan"), "soon"])
def test_a_timeout_that_is_no_time_is_refused(page: _native.SharedPage, timeout: object) -> None:
    for call in (page.lock, lambda timeout: page.events.wait(0, timeout)):
        with pytest.raises((ValueError, TypeError)):
            call(timeout)


def test_a_signal_ends_the_wait_for_the_lock(page: _native.SharedPage) -> None:
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        page.lock()
        locked.set()
        done.wait()
        page.unlock()

    thread = in_thread(hold)
    locked.wait()
    interrupting = signal_when_asleep()
    with pytest.raises(KeyboardInterrupt):
        page.lock()
    interrupting.join()
    done.set()
    thread.join()


@pytest.mark.skipif(IS_PORTABLE, reason="only a process that dies gives a flock back")
def test_the_lock_of_a_thread_that_ended_goes_to_the_next() -> None:
    memory = bytearray(_native.PAGE_BYTES)
    page = _native.SharedPage(memory)
    page.initialize(b"")

    def die_inside() -> None:
        page.lock()
        page.set_intent(3, 4)

    in_thread(die_inside).join()
    told = page.events.value
    page.lock()

    assert page.intent == (3, 4)
    assert page.events.value == told + 1  # the dead one may have told nobody
    page.unlock()
    page.lock(0)
    page.unlock()
    page.release()
    memory.clear()


# ---------------------------------------------------------------- release


def test_after_release_every_use_raises_closed_error() -> None:
    memory = bytearray(_native.PAGE_BYTES)
    page = _native.SharedPage(memory)
    page.initialize(b"")
    page.release()
    page.release()

    calls = [
        page.marks,
        page.lock,
        page.publish,
        lambda: page.intent,
        lambda: page.events,
        lambda: page.identity,
        lambda: page.is_valid,
        lambda: page.initialize(b""),
        lambda: page.set_intent(0, 1),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    memory.clear()  # a BufferError would say that the page still holds it


def test_a_release_while_locked_waits_for_the_unlock() -> None:
    memory = bytearray(_native.PAGE_BYTES)
    page = _native.SharedPage(memory)
    page.initialize(b"")
    page.lock()
    page.release()

    with pytest.raises(ClosedError):
        page.publish()
    with pytest.raises(BufferError):
        memory.clear()
    page.unlock()
    memory.clear()


def test_release_ends_a_wait_for_the_lock_in_another_thread() -> None:
    memory = bytearray(_native.PAGE_BYTES)
    holder = _native.SharedPage(memory)
    holder.initialize(b"")
    waiter = holder if IS_PORTABLE else _native.SharedPage(memory)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            waiter.lock()
        except ClosedError as error:
            errors.append(error)

    holder.lock()
    thread = in_thread(wait)
    wait_until_asleep(thread.native_id)
    waiter.release()
    thread.join()
    holder.unlock()

    assert len(errors) == 1


def test_a_page_that_is_dropped_while_locked_gives_the_lock_back() -> None:
    memory = bytearray(_native.PAGE_BYTES)
    page = _native.SharedPage(memory)
    page.initialize(b"")
    page.lock()
    del page

    again = _native.SharedPage(memory)
    again.lock(0)
    again.unlock()
    again.release()
    memory.clear()
    assert memory == b""


def test_events_outlive_the_page() -> None:
    page = _native.SharedPage(bytearray(_native.PAGE_BYTES))
    page.initialize(b"")
    events = page.events
    page.release()
    del page
    gc.collect()

    events.notify()
    assert events.value == 1
