"""Changing a topic's durability: what appends wait for then, and what is visible meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Numbers, children
from tail_memory import wait_until

import pylog
from pylog import Log, Partition
from pylog._native import encode
from pylog.storage.attachment import Attachment
from pylog.storage.produced import Piece
from pylog.topics.metadata import METADATA_TOPIC

pytestmark = pytest.mark.disk  # syncs take their time there, so that others wait


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[Log, Log]]:
    """One directory, opened twice: to each the other is another process."""
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        yield one, other


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[Attachment]:
    """Who synced a user's topic for waiting appenders, in order."""
    seen: list[Attachment] = []
    sync_segments = Attachment._sync_segments

    def sync(self: Attachment, *how: Any) -> None:
        if self._topic != METADATA_TOPIC:
            seen.append(self)
        sync_segments(self, *how)

    monkeypatch.setattr(Attachment, "_sync_segments", sync)
    return seen


def values(partition: Partition) -> list[bytes | None]:
    return [record.value for record in partition.records()]


@pytest.mark.parametrize("kind", ["topic", "partition", "slow"])
@pytest.mark.parametrize("before", ["os", "interval"])
def test_a_bound_append_waits_for_the_sync_when_the_topic_asks_for_it(
    logs: tuple[Log, Log], kind: str, before: str, syncs: list[Attachment]
) -> None:
    log, other = logs
    topic = other.topic(log.create_topic("t", durability=before, flush_ms=10**9).name)
    partition = topic.partition(0)
    append = {"topic": topic.append, "partition": partition.append, "slow": topic.append}[kind]
    append(b"a")
    assert partition.durable_offset == 0
    log.alter_topic("t", durability="fsync")
    for number in range(2, 5):
        if kind == "slow":
            topic.append_many([b"b"], partition=0)
        else:
            append(b"b")
        assert partition.durable_offset == number
    assert len(syncs) == 3


def test_another_process_keeps_the_durability_of_every_moment(tmp_path: Path) -> None:
    # An odd round says that the topic has been "fsync" since before it was noted.
    told = Numbers(3)
    rounds = 12
    with pylog.open(tmp_path) as log, children() as start:
        log.create_topic("t", durability="os")

        def append_all_the_time() -> None:
            with pylog.open(tmp_path) as mine:
                partition = mine.topic("t").partition(0)
                append = partition.append
                while (begun := told[0]) < rounds:
                    offset = append(b"x").offset
                    assert partition.high_watermark > offset
                    told[2] = 1
                    if begun % 2 and told[0] == begun:
                        assert partition.durable_offset > offset
                    if told[0] == begun:
                        told[1] = begun

        child = start(append_all_the_time)
        wait_until(lambda: told[2] == 1)  # it has begun, with the first settings
        for number in range(1, rounds):
            log.alter_topic("t", durability="fsync" if number % 2 else "os")
            told[0] = number
            wait_until(lambda number=number: told[1] == number)
            told[0] = number + 1 if number % 2 else number
        told[0] = rounds
        child.join()
        assert log.topic("t").partition(0).log_end_offset >= rounds - 1


def test_a_bound_append_waits_no_longer_when_the_topic_does_not_ask_for_it(
    logs: tuple[Log, Log], syncs: list[Attachment]
) -> None:
    log, other = logs
    log.create_topic("t", durability="fsync")
    append = other.topic("t").append
    append(b"a")
    assert len(syncs) == 1
    log.alter_topic("t", durability="os")
    for _ in range(3):
        append(b"b")
    assert len(syncs) == 1
    assert values(log.topic("t").partition(0)) == [b"a", b"b", b"b", b"b"]


def test_records_stay_visible_and_are_synced_with_the_next_one(logs: tuple[Log, Log]) -> None:
    log, other = logs
    log.create_topic("t", durability="os")
    mine, theirs = log.topic("t").partition(0), other.topic("t").partition(0)
    mine.append(b"a")
    theirs.append(b"b")
    log.alter_topic("t", durability="fsync")
    assert (mine.high_watermark, mine.durable_offset) == (2, 0)
    theirs.append(b"c")
    assert (mine.high_watermark, mine.durable_offset) == (3, 3)


def test_what_a_killed_writer_left_unsynced_shows_with_the_next_record(
    logs: tuple[Log, Log],
) -> None:
    log, other = logs
    log.create_topic("t", durability="fsync")
    mine, theirs = log.topic("t").partition(0), other.topic("t").partition(0)
    mine.append(b"a")
    attachment = theirs._attached()
    assert attachment is not None
    theirs._newest_settings()
    theirs.append(b"b")
    attachment.tail.native.append(b"c")  # as if killed here: placed, not synced
    assert mine.high_watermark == 2
    log.alter_topic("t", durability="os")
    mine.append(b"d")
    assert values(mine) == [b"a", b"b", b"c", b"d"]


def test_who_need_not_wait_any_more_has_a_visible_record(log: Log) -> None:
    # The record is placed by the old settings, and its writer comes back to find the new ones.
    topic = log.create_topic("t", durability="fsync")
    partition = topic.partition(0)
    partition.append(b"a")
    attachment = partition._attached()
    assert attachment is not None
    assert not isinstance(attachment.tail.native.append(b"b"), int)
    assert partition.high_watermark == 1
    log.alter_topic("t", durability="os")
    with partition._lock:
        partition._follow_settings(attachment)  # another thread's append, before it places
    assert partition.high_watermark == 2
    assert not partition._waits_for_sync


def test_nothing_placed_by_new_settings_is_shown_by_old_ones(logs: tuple[Log, Log]) -> None:
    # Who still writes by "os" shows all that is placed, so it must notice before it places.
    log, other = logs
    log.create_topic("t", durability="os")
    mine, theirs = log.topic("t").partition(0), other.topic("t").partition(0)
    for partition in (mine, theirs):
        partition.append(b"a")
    log.alter_topic("t", durability="fsync")
    attachment = mine._attached()
    assert attachment is not None
    with mine._lock:
        mine._follow_settings(attachment)
    assert attachment.tail.native.append(b"unsynced") == pylog._native.NOT_OPEN
    with mine._lock:
        attachment.write(bytearray(100), 1, 0, -1, is_large=False)  # makes room, places nothing
    assert not isinstance(attachment.tail.native.append(b"unsynced"), int)
    assert mine.high_watermark == 2
    theirs_attachment = theirs._attached()
    assert theirs_attachment is not None
    assert theirs_attachment.tail.native.append(b"shown?") == pylog._native.NOT_OPEN
    assert mine.high_watermark == 2


def test_a_change_in_the_middle_of_an_append_under_the_page_lock_is_followed(log: Log) -> None:
    # Story: the append of a producer's batch asserted that nobody had changed any settings.
    partition = log.create_topic("t", durability="os").partition(0)
    produced = partition._produced_log()
    attach, changes = produced._attach, [1, 2]

    def attach_and_see_a_change() -> Attachment:
        attachment = attach()
        if changes:
            log.alter_topic("t", retention_ms=changes.pop())
        return attachment

    produced._attach = attach_and_see_a_change
    data, _ = encode((b"x",), None, None, 0, 1000)
    assert produced._append_alone([Piece(data, 1, 0, None)]) == [range(1)]
    assert changes == []
    assert values(partition) == [b"x"]


def test_a_roll_makes_durable_what_another_durability_left_unsynced(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Story: the roll synced the active segment only, and vouched for those before it.
    topic = log.create_topic("t", durability="os", segment_bytes=1000)
    partition = topic.partition(0)
    monkeypatch.setattr(log._engine, "_flush_sealed_soon", lambda partition: None)
    monkeypatch.setattr(type(partition), "flush_sealed", lambda self: None)
    for _ in range(6):
        partition.append(bytes(400))
    assert partition.durable_offset == 0
    attachment = partition._attached()
    assert attachment is not None
    log.alter_topic("t", durability="fsync")

    synced: list[str] = []
    sync_locked = pylog.storage.lifecycle.sync_locked

    def note(page: Any, segment: Any) -> None:
        synced.append(segment.log_name)
        sync_locked(page, segment)

    monkeypatch.setattr(pylog.storage.lifecycle, "sync_locked", note)
    partition.append(bytes(400))
    assert [int(name.removesuffix(".log")) for name in synced] == [0, 2, 4]
    assert partition.durable_offset == 7


def test_interval_begins_to_sync_with_the_next_append(log: Log) -> None:
    partition = log.create_topic("t", durability="os").partition(0)
    partition.append(b"a")
    log.alter_topic("t", durability="interval", flush_ms=1)
    partition.append(b"b")
    wait_until(lambda: partition.durable_offset == 2)
    assert partition.high_watermark == 2


def test_a_shorter_interval_does_not_wait_for_the_longer_one(log: Log) -> None:
    partition = log.create_topic("t", durability="interval", flush_ms=10**9).partition(0)
    partition.append(b"a")
    log.alter_topic("t", flush_ms=1)
    partition.append(b"b")
    wait_until(lambda: partition.durable_offset == 2)
    assert partition.high_watermark == 2
