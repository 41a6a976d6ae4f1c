"""Adding partitions: who sees them when, where keys go then, and who is killed in between."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
from processes import Numbers, children
from tail_memory import in_thread, run_threads, tiny_switch_interval, wait_until

import pylog
from pylog import Log
from pylog.errors import (
    InvalidConfigurationError,
    InvalidPartitionsError,
    UnknownTopicOrPartitionError,
)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[Log, Log]]:
    """One directory, opened twice: to each the other is another process."""
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        yield one, other


def partition_for(key: bytes, count: int) -> int:
    return (reference.murmur2(key) & 0x7FFFFFFF) % count


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_other_handles_see_added_partitions_without_opening_again(
    logs: tuple[Log, Log], durability: str
) -> None:
    mine = logs[0].create_topic("t", partitions=2, durability=durability)
    theirs = logs[1].topic("t")
    append, append_many = theirs.append, theirs.append_many
    append(b"x", key=b"k")
    mine.add_partitions(5)
    assert len(mine) == len(theirs) == len(theirs.partitions) == 5
    keys = [b"key-%d" % number for number in range(100)]
    expected = [partition_for(key, 5) for key in keys]
    assert [append(b"x", key=key).partition for key in keys] == expected
    assert [row.partition for row in append_many([b"x"] * 100, keys=keys)] == expected
    assert append(b"x", partition=4).partition == 4
    assert theirs.partition(4).high_watermark == 2 * expected.count(4) + 1


def test_records_without_keys_reach_added_partitions(logs: tuple[Log, Log]) -> None:
    mine = logs[0].create_topic("t", durability="os")
    append = logs[1].topic("t").append
    append(b"x")
    mine.add_partitions(3)
    assert {append(bytes(2000)).partition for _ in range(100)} == {0, 1, 2}


@pytest.mark.parametrize("total", [0, 1, 3])
def test_partitions_are_never_taken_away(logs: tuple[Log, Log], total: int) -> None:
    topic = logs[0].create_topic("t", partitions=3)
    end = logs[0]._registry.metadata.log_end_offset
    error = InvalidPartitionsError if total else InvalidConfigurationError
    with pytest.raises(error) as caught:
        topic.add_partitions(total)
    if isinstance(caught.value, InvalidPartitionsError):
        assert (caught.value.partitions, caught.value.total) == (3, total)
    assert len(logs[1].topic("t")) == 3
    assert logs[0]._registry.metadata.log_end_offset == end


@pytest.mark.parametrize("total", [None, "5", 5.0, True, 10**7])
def test_a_number_that_no_topic_can_have_is_refused(logs: tuple[Log, Log], total: Any) -> None:
    topic = logs[0].create_topic("t")
    with pytest.raises(InvalidConfigurationError, match="partitions="):
        topic.add_partitions(total)


def test_a_handle_of_a_deleted_topic_adds_none_to_its_namesake(logs: tuple[Log, Log]) -> None:
    old = logs[0].create_topic("t")
    logs[1].delete_topic("t")
    logs[1].create_topic("t")
    with pytest.raises(UnknownTopicOrPartitionError):
        old.add_partitions(2)
    assert len(logs[0].topic("t")) == 1


def test_of_two_who_add_at_once_the_greater_total_stays(logs: tuple[Log, Log]) -> None:
    for log in logs:
        log.create_topic("t", if_exists="ok")
    refused = []

    def add(log: Log, totals: range) -> None:
        for total in totals:
            try:
                log.topic("t").add_partitions(total)
            except InvalidPartitionsError as error:
                refused.append(error)

    with tiny_switch_interval():
        run_threads(lambda: add(logs[0], range(2, 40, 2)), lambda: add(logs[1], range(3, 40, 2)))
    assert [len(log.topic("t")) for log in logs] == [39, 39]
    assert all(error.total <= error.partitions for error in refused)


def test_settings_and_added_partitions_do_not_undo_each_other(logs: tuple[Log, Log]) -> None:
    topic = logs[0].create_topic("t")
    with tiny_switch_interval():
        run_threads(
            lambda: [topic.add_partitions(total) for total in range(2, 20)],
            lambda: [logs[1].alter_topic("t", retention_ms=ms) for ms in range(20)],
        )
    for log in logs:
        assert (len(log.topic("t")), log.topic("t").config.retention_ms) == (19, 19)


def test_a_follower_reads_added_partitions(logs: tuple[Log, Log]) -> None:
    topic = logs[0].create_topic("t", durability="os")
    seen: list[tuple[int, bytes | None]] = []

    def follow() -> None:
        for record in logs[1].read("t", follow=True):
            seen.append((record.partition, record.value))
            if len(seen) == 3:
                return

    topic.append(b"first")
    follower = in_thread(follow)
    wait_until(lambda: len(seen) == 1)
    topic.add_partitions(3)
    topic.append(b"second", partition=2)
    wait_until(lambda: len(seen) == 2)
    topic.append(b"third", partition=1)
    follower.join()
    assert seen == [(0, b"first"), (2, b"second"), (1, b"third")]


def test_deleting_removes_added_partitions(logs: tuple[Log, Log], tmp_path: Path) -> None:
    topic = logs[0].create_topic("t", durability="os")
    logs[1].topic("t").add_partitions(3)
    for number in range(3):
        topic.append(b"x", partition=number)
    logs[0].delete_topic("t")
    assert list(tmp_path.glob("t-*")) == []


@pytest.mark.parametrize("is_placed", [True, False])
def test_who_is_killed_while_adding_adds_all_or_none(tmp_path: Path, is_placed: bool) -> None:
    with pylog.open(tmp_path) as log, children() as start:
        topic = log.create_topic("t", partitions=2, durability="os")
        topic.append(b"x", key=b"k")

        def add_and_die() -> None:
            with pylog.open(tmp_path) as mine:
                commit = mine._registry._commit

                def die(*how: Any) -> bool:
                    if is_placed:
                        commit(*how)
                    os.kill(os.getpid(), signal.SIGKILL)
                    return True

                mine._registry._commit = die  # type: ignore[method-assign]
                mine.topic("t").add_partitions(4)

        child = start(add_and_die)
        assert os.WTERMSIG(os.waitpid(child.pid, 0)[1]) == signal.SIGKILL
        child.pid = 0
        assert len(log.topic("t")) == len(topic) == (4 if is_placed else 2)
        topic.add_partitions(5)
        assert topic.append(b"x", partition=4).offset == 0


def test_a_child_that_was_forked_sees_what_its_parent_adds(tmp_path: Path) -> None:
    told = Numbers(2)
    with pylog.open(tmp_path) as log, children() as start:
        topic = log.create_topic("t", durability="os")
        topic.append(b"x")

        def child() -> None:
            topic.append(b"y")
            told[0] = 1
            wait_until(lambda: told[1] == 1)
            assert len(topic) == 3
            assert topic.append(b"z", partition=2).offset == 0

        running = start(child)
        wait_until(lambda: told[0] == 1)
        topic.add_partitions(3)
        told[1] = 1
        running.join()
        assert [record.value for record in topic.read(2)] == [b"z"]


@pytest.mark.parametrize("seed", range(5))
def test_random_additions_lose_no_record(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    expected: dict[bytes, list[bytes]] = {}
    partitions = 1
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        topics = [one.create_topic("t", durability="os"), other.topic("t")]
        for step in range(200):
            topic = source.choice(topics)
            if source.random() < 0.05:
                partitions += source.randrange(1, 4)
                topic.add_partitions(partitions)
            keys = [b"%d" % source.randrange(20) for _ in range(source.randrange(1, 9))]
            value = b"%d" % step
            for key in keys:
                expected.setdefault(key, []).append(value)
            if source.random() < 0.5:
                placed = [topic.append(value, key=key).partition for key in keys]
            else:
                rows = topic.append_many([value] * len(keys), keys=keys)
                placed = [row.partition for row in rows]
            assert placed == [partition_for(key, partitions) for key in keys]
        found: dict[bytes, list[bytes]] = {}
        for record in topics[0].read():
            assert record.key is not None
            assert record.value is not None
            found.setdefault(record.key, []).append(record.value)
    assert {key: sorted(values) for key, values in found.items()} == {
        key: sorted(values) for key, values in expected.items()
    }
