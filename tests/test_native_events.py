"""Events: counting and waiting in one process."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tail_memory import (
    IS_PORTABLE,
    in_thread,
    run_threads,
    signal_when_asleep,
    tiny_switch_interval,
    wait_for_sleeper,
)

from pylog import _native


def test_events_count_and_wait_returns_at_once_when_the_value_differs() -> None:
    events = _native.Events(bytearray(64), 8)

    events.notify()
    events.notify()

    assert events.value == 2
    assert events.wait(0)
    assert events.wait(1, timeout=0)
    assert not events.wait(2, timeout=0)


def test_events_at_two_positions_do_not_meet() -> None:
    memory = bytearray(16)
    first, second = _native.Events(memory, 0), _native.Events(memory, 4)

    first.notify()

    assert (first.value, second.value) == (1, 0)


@pytest.mark.parametrize("position", [-4, 1, 2, 13, 16, 2**62, -(2**62)])
def test_events_must_be_aligned_and_inside_the_memory(position: int) -> None:
    with pytest.raises(ValueError, match="position"):
        _native.Events(bytearray(16), position)


def test_a_wait_times_out_and_not_early() -> None:
    events = _native.Events(bytearray(8))
    began = time.monotonic()

    assert not events.wait(0, timeout=0.6)  # longer than a slice

    assert time.monotonic() - began >= 0.6


@pytest.mark.usefixtures("no_second_look")
def test_notify_wakes_all_waiters_and_nobody_else_is_needed() -> None:
    memory = bytearray(8)
    events = _native.Events(memory)
    woken: list[bool] = []
    threads = [in_thread(lambda: woken.append(events.wait(0))) for _ in range(5)]
    wait_for_sleeper(memory)

    events.notify()
    for thread in threads:
        thread.join()

    assert woken == [True] * 5


@pytest.mark.skipif(IS_PORTABLE, reason="waiters poll")
def test_the_sleepers_flag_is_taken_back_when_nobody_sleeps() -> None:
    memory = bytearray(8)
    events = _native.Events(memory)
    events.wait(0, timeout=0.001)
    assert memory[0] & 1

    events.notify()

    assert (memory[0] & 1, events.value) == (0, 1)


def test_a_signal_ends_a_wait_for_events() -> None:
    events = _native.Events(bytearray(8))
    thread = signal_when_asleep()

    with pytest.raises(KeyboardInterrupt):
        events.wait(0)

    thread.join()


@pytest.mark.parametrize("milliseconds", [0, -1, 10**9, 2**70, "1"])
def test_a_slice_that_is_none_is_refused(milliseconds: Any) -> None:
    with pytest.raises((ValueError, OverflowError, TypeError)):
        _native.set_events_slice_ms(milliseconds)


@pytest.mark.usefixtures("no_second_look")
def test_no_wake_up_is_lost_in_a_game_of_ping_pong() -> None:
    """Each side waits for the other's event: one lost wake-up would be a wait without end."""
    rounds = 3_000
    ping, pong = _native.Events(bytearray(8)), _native.Events(bytearray(8))

    def answer() -> None:
        for turn in range(rounds):
            assert ping.wait(turn)
            pong.notify()

    def serve() -> None:
        for turn in range(rounds):
            ping.notify()
            assert pong.wait(turn)

    with tiny_switch_interval():
        run_threads(answer, serve)

    assert pong.value == rounds


@pytest.mark.usefixtures("no_second_look")
def test_many_waiters_and_notifiers_lose_nothing() -> None:
    events = _native.Events(bytearray(8))
    notifiers, each, last = 3, 2_000, 6_000

    def follow() -> None:
        seen = 0
        while seen < last:
            assert events.wait(seen)
            seen = events.value

    def notify() -> None:
        for _ in range(each):
            events.notify()

    with tiny_switch_interval():
        run_threads(*[follow] * 4, *[notify] * notifiers)

    assert events.value == last


@pytest.mark.usefixtures("no_second_look")
def test_waiting_for_several_ends_with_a_change_of_any() -> None:
    first, second = _native.Events(bytearray(8)), _native.Events(bytearray(8))

    assert not _native.wait_for_events([(first, 0), (second, 0)], 0.01)
    assert _native.wait_for_events([(first, 0), (second, 7)], 0)
    assert not _native.wait_for_events([], 0.01)
    memory = bytearray(8)
    late = _native.Events(memory)
    thread = in_thread(lambda: _native.wait_for_events([(first, 0), (late, 0), (second, 0)]))
    wait_for_sleeper(memory)
    late.notify()
    thread.join()


@pytest.mark.usefixtures("no_second_look")
@pytest.mark.parametrize("count", [2, 128, 129])  # the kernel takes 128, more are polled
def test_no_wake_up_is_lost_where_several_are_waited_for(count: int) -> None:
    rounds = 300
    served = [_native.Events(bytearray(8)) for _ in range(count)]
    answers = _native.Events(bytearray(8))

    def answer() -> None:
        seen = [0] * count
        for _ in range(rounds):
            assert _native.wait_for_events(list(zip(served, seen, strict=True)))
            seen = [one.value for one in served]
            answers.notify()

    def serve() -> None:
        for turn in range(rounds):
            served[turn * 7 % count].notify()
            assert answers.wait(turn)

    with tiny_switch_interval():
        run_threads(answer, serve)

    assert sum(one.value for one in served) == answers.value == rounds


@pytest.mark.parametrize(
    "pairs", [[None], [[_native.Events(bytearray(8)), 0]], [(1, 0)], [(None, 0)], 5]
)
def test_what_is_waited_for_are_pairs(pairs: Any) -> None:
    with pytest.raises(TypeError):
        _native.wait_for_events(pairs, 0)


def test_a_signal_ends_a_wait_for_several() -> None:
    pairs = [(_native.Events(bytearray(8)), 0), (_native.Events(bytearray(8)), 0)]
    thread = signal_when_asleep()

    with pytest.raises(KeyboardInterrupt):
        _native.wait_for_events(pairs)

    thread.join()
