"""Tail: what it refuses and says why, what it cleans, and marks that are nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from tail_memory import NOW, SERIAL, TailMemory, batches_of

from pylog import _native
from pylog.errors import RecordTooLargeError

NO_ROOM, STALE, NOT_OPEN = _native.NO_ROOM, _native.STALE, _native.NOT_OPEN
SIZE = len(batches_of([b""]))
ENTRIES_DUE = {"bytes_since_index_entry": 4097, "max_timestamp": 5, "position": 100}
REFUSED: list[tuple[int, dict[str, int], dict[str, Any], dict[str, Any]]] = [
    # status, marks, rules, attachment
    (NOT_OPEN, {"state": _native.FAILED}, {}, {}),
    (NOT_OPEN, {"segment_serial": SERIAL + 1}, {}, {}),
    (NOT_OPEN, {}, {}, {"segment_serial": SERIAL - 1}),
    (STALE, {"log_end_offset": 6}, {}, {}),
    (STALE, {"log_end_offset": 4}, {}, {}),
    (NO_ROOM, {"position": 1}, {"segment_bytes": SIZE}, {}),
    (NO_ROOM, {"position": 1, "first_timestamp": NOW - 101}, {"segment_ms": 100}, {}),
    (NO_ROOM, {"base_offset": 5 - 2**31}, {}, {}),
    (NO_ROOM, {"base_offset": 6}, {}, {}),
    (NO_ROOM, ENTRIES_DUE | {"index_entries": 9, "index_allocated": 9}, {}, {}),
    (NO_ROOM, ENTRIES_DUE | {"index_entries": 9}, {}, {"index": bytearray(9 * 8 + 7)}),
    (NO_ROOM, ENTRIES_DUE | {"time_entries": 9, "time_allocated": 9}, {}, {}),
    (NO_ROOM, ENTRIES_DUE | {"time_entries": 9}, {}, {"timeindex": bytearray(9 * 12 + 11)}),
]
# Stamped data is written to the file, so these are no reason to refuse it.
REFUSED_BY_THE_WINDOW: list[tuple[int, dict[str, int], dict[str, Any], dict[str, Any]]] = [
    (NO_ROOM, {"allocated": SIZE - 1}, {}, {}),
    (NO_ROOM, {"position": (1 << 16) - SIZE + 1}, {}, {}),
    (NO_ROOM, {}, {}, {"window": bytearray(SIZE - 1)}),
    (NO_ROOM, {}, {}, {"window_position": 1}),
    (NO_ROOM, {"position": 4095}, {}, {"window_position": 4096}),
]
HOW = ["append", "place"]
CASES = [(how, case) for how in [*HOW, "stamp"] for case in REFUSED]
CASES += [(how, case) for how in HOW for case in REFUSED_BY_THE_WINDOW]


@pytest.mark.parametrize(
    ("how", "case"), CASES, ids=lambda one: one if isinstance(one, str) else "-".join(one[1])
)
def test_a_refused_append_says_why_and_changes_nothing(how: str, case: Any) -> None:
    status, marks, rules, attachment = case
    memory = TailMemory(rules=rules)
    memory.initialize(**({"log_end_offset": 5} | marks))
    memory.attach(**attachment)
    before, data = memory.marks(), batches_of([b""])

    if how == "stamp":
        memory.page.lock()
        result = memory.tail.stamp(data, 5)
        memory.page.unlock()
    elif how == "place":
        result = memory.tail.place(data, 5)
    else:
        result = memory.tail.append(b"", expected_offset=5)

    assert (result, type(result)) == (status, int)
    assert memory.marks() == before
    assert memory.page.intent == (0, 0)
    assert bytes(memory.window) == bytes(len(memory.window))
    assert memory.page.events.value == 0


ACCEPTED: list[tuple[dict[str, int], dict[str, Any]]] = [
    ({"state": _native.FULL}, {}),
    ({}, {"segment_bytes": 0}),  # an empty segment takes a batch of any size
    ({"position": 1}, {"segment_bytes": SIZE + 1}),
    ({"position": 1, "first_timestamp": NOW - 100}, {"segment_ms": 100}),
    ({"position": 1, "first_timestamp": -1}, {"segment_ms": 0}),
    ({"base_offset": 5 - (2**31 - 1)}, {}),
    ({"position": (1 << 16) - SIZE}, {}),
    (ENTRIES_DUE | {"index_entries": 9, "index_allocated": 10}, {}),
    (ENTRIES_DUE | {"bytes_since_index_entry": 4096, "index_allocated": 0}, {}),
    (ENTRIES_DUE | {"last_time_entry": NOW, "time_allocated": 0}, {}),
]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: "-".join([*case[0], *case[1]]))
def test_an_append_at_the_edge_of_a_rule_is_taken(case: Any) -> None:
    marks, rules = case
    memory = TailMemory(rules=rules).initialize(**({"log_end_offset": 5} | marks))

    assert memory.tail.append(b"", expected_offset=5).offset == 5


def test_a_window_in_the_middle_of_the_file_gets_the_bytes_at_its_own_place() -> None:
    memory = TailMemory().initialize(position=4096 + 10, allocated=2**40, log_end_offset=50)
    memory.attach(window_position=4096)

    memory.tail.append(b"")

    assert _native.batch_headers(bytes(memory.window[10 : 10 + SIZE]))[0]["base_offset"] == 50
    assert not any(memory.window[:10])


def test_an_unfinished_intent_is_zeroed_above_the_position() -> None:
    memory = TailMemory().initialize()
    memory.tail.append(b"kept")
    position = memory.page.marks().position
    kept = bytes(memory.window[:position])
    memory.window[position : position + 500] = b"x" * 500
    memory.page.lock()
    memory.page.set_intent(0, position + 400)
    memory.page.unlock()

    assert memory.tail.append(b"", expected_offset=99) == STALE

    assert memory.page.intent == (0, 0)
    assert bytes(memory.window[: position + 500]) == kept + bytes(400) + b"x" * 100


@pytest.mark.parametrize("end", [1 << 16, (1 << 16) + 1, 2**63 - 1])
def test_an_intent_that_leaves_the_window_or_the_file_needs_room(end: int) -> None:
    memory = TailMemory().initialize(allocated=(1 << 16) - 1)
    memory.page.lock()
    memory.page.set_intent(0, end)
    memory.page.unlock()

    assert memory.tail.append(b"") == NO_ROOM
    assert memory.page.intent == (0, end)


def test_a_published_intent_is_only_cleared() -> None:
    memory = TailMemory().initialize()
    memory.tail.append(b"value")
    position = memory.page.marks().position
    memory.page.lock()
    memory.page.set_intent(0, position)
    memory.page.unlock()

    assert memory.tail.append(b"next").offset == 1
    assert len(memory.batches()) == 2


def test_hostile_marks_never_reach_memory_outside() -> None:
    """Every mark takes every ugly number; the sanitizer build watches all other memory."""
    ugly = [-(2**63), -(2**31), -1, 0, 1, 4095, 2**16, 2**31 - 1, 2**31, 2**62, 2**63 - 1]
    names = [name for name in TailMemory().initialize().marks() if name != "segment_serial"]
    guard = 4096
    block = bytearray(b"\xaa" * (guard + 8192 + guard))
    window = memoryview(block)[guard:-guard]
    taken = 0
    for rest in ({}, {"bytes_since_index_entry": 2**62, "allocated": 2**63 - 1}):
        for name in names:
            for value in ugly:
                memory = TailMemory(window=window, index=bytearray(16), timeindex=bytearray(24))
                memory.initialize(**(rest | {name: value}))
                taken += not isinstance(memory.tail.append(b"v"), int)
                memory.tail.place(batches_of([b"a"], [b"b"]))
                memory.page.lock()
                memory.page.set_intent(value, 2**63 - 1)
                memory.page.unlock()
                memory.tail.append(b"v")
    assert block[:guard] == block[-guard:] == b"\xaa" * guard
    assert taken > 100


def test_rules_that_change_while_the_clock_is_asked_send_the_record_back() -> None:
    def clock() -> int:
        memory.configure(max_message_bytes=SIZE - 1, settings_seen=1)
        return NOW

    memory = TailMemory(clock=clock).initialize()
    assert memory.tail.append(b"") == NOT_OPEN
    assert memory.marks()["log_end_offset"] == 0
    with pytest.raises(RecordTooLargeError):  # by the new rules
        memory.tail.append(b"")
