"""A consumer without a group: what a loop and what poll get, in which order."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from consuming import append, make, places, rest
from tail_memory import in_thread

import pylog
from pylog import Log, TopicPartition
from pylog.consumer import consumer as consumer_module
from pylog.errors import (
    ClosedError,
)

# ---------------------------------------------------------------- iterate


def test_all_partitions_are_iterated_each_in_its_order(log: Log) -> None:
    make(log, "a", 3, records=1000)
    make(log, "b", 1, records=10)
    seen: dict[tuple[str, int], int] = {}
    for record in log.consumer("a", "b").records(timeout=0):
        name = (record.topic, record.partition)
        assert record.offset == seen.get(name, 0)
        assert record.value == b"%s-%d-%d" % (name[0].encode(), name[1], record.offset)
        seen[name] = record.offset + 1
    assert seen == {("a", 0): 1000, ("a", 1): 1000, ("a", 2): 1000, ("b", 0): 10}


def test_iteration_waits_for_records_that_others_append(log: Log, tmp_path: Path) -> None:
    make(log, "t", 2, records=1)
    with pylog.open(tmp_path) as other, log.consumer("t") as consumer:
        records = iter(consumer)
        assert sorted(places(itertools.islice(records, 2))) == [(0, 0), (1, 0)]
        for turn in range(1, 50):
            thread = in_thread(lambda: append(other.topic("t"), 1, 1))
            assert places([next(records)]) == [(1, turn)]
            thread.join()


def test_iteration_goes_on_where_the_last_one_stopped(log: Log) -> None:
    topic = make(log, "t", records=100)
    consumer = log.consumer("t")
    assert places(itertools.islice(consumer, 7)) == [(0, offset) for offset in range(7)]
    assert consumer.position("t", 0) == 7
    assert places(consumer.records(timeout=0)) == [(0, offset) for offset in range(7, 100)]
    append(topic, 0, 3)
    assert places(consumer.poll(0)) == [(0, 100), (0, 101), (0, 102)]


def test_the_position_is_known_at_every_record(log: Log) -> None:
    make(log, "t", 2, records=500)
    consumer = log.consumer("t")
    for record in consumer.records(timeout=0):
        assert consumer.position("t", record.partition) == record.offset + 1
        lag = consumer.lag()[TopicPartition("t", record.partition)]
        assert lag == 499 - record.offset


def test_partitions_take_turns_while_a_loop_is_slow(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", 4, records=5000)
    monkeypatch.setattr(consumer_module, "_PIECE_SECONDS", 0.0)
    first = itertools.islice(log.consumer("t"), 8)
    assert Counter(record.partition for record in first) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_a_loop_that_becomes_slow_looks_at_all_else_at_every_record(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", records=5000)
    consumer = log.consumer("t")
    looks = []
    look = consumer._look

    def noted(*arguments: Any) -> None:
        looks.append(len(seen))
        look(*arguments)

    monkeypatch.setattr(consumer, "_look", noted)
    seen: list[int] = []
    for record in consumer:
        seen.append(record.offset)
        if len(seen) > 3000:
            until = time.monotonic() + 1.3 * consumer_module._PIECE_SECONDS
            while time.monotonic() < until:
                pass
        if len(seen) == 3005:
            break
    assert looks[-4:] == [3001, 3002, 3003, 3004]
    assert len(looks) < 1000  # as long as it was fast, it need not look often


# ---------------------------------------------------------------- poll


def test_poll_returns_what_is_there_and_nothing_after_its_timeout(log: Log) -> None:
    topic = make(log, "t", 2)
    consumer = log.consumer("t")
    assert consumer.poll(0) == []
    assert consumer.poll(0.01) == []
    append(topic, 1, 3)
    assert places(consumer.poll(0)) == [(1, 0), (1, 1), (1, 2)]
    assert consumer.poll(0) == []


def test_poll_waits_for_the_first_record(log: Log, tmp_path: Path) -> None:
    make(log, "t")
    with pylog.open(tmp_path) as other, log.consumer("t") as consumer:
        for turn in range(20):
            thread = in_thread(lambda: append(other.topic("t"), 0, 1))
            assert places(consumer.poll()) == [(0, turn)]
            thread.join()


def test_partitions_with_enough_records_share_a_poll_evenly(log: Log) -> None:
    make(log, "t", 3, records=100)
    make(log, "few", 1, records=2)
    consumer = log.consumer("t", "few")
    first = Counter((record.topic, record.partition) for record in consumer.poll(0, 40))
    assert first.pop(("few", 0)) == 2
    assert sum(first.values()) == 38
    assert sorted(first.values())[0] >= 10
    total = 40
    for batch in consumer.batches(40, timeout=0):
        total += len(batch)
        assert len(batch) == 40 or total == 302
    assert total == 302


def test_a_poll_of_fewer_records_than_partitions_starves_none(log: Log) -> None:
    make(log, "t", 5, records=10)
    consumer = log.consumer("t")
    polled = [places(consumer.poll(0, 1)) for _ in range(5)]
    assert sorted(itertools.chain(*polled)) == [(number, 0) for number in range(5)]


def test_batches_are_never_empty_and_end_after_the_timeout(log: Log) -> None:
    make(log, "t", 2, records=700)
    batches = list(log.consumer("t", max_poll_records=300).batches(timeout=0))
    assert [len(batch) for batch in batches] == [300, 300, 300, 300, 200]
    assert sorted(places(list(itertools.chain(*batches)))) == [
        (number, offset) for number in range(2) for offset in range(700)
    ]


def test_small_fetches_read_everything_too(log: Log) -> None:
    make(log, "t", 3, records=300)
    consumer = log.consumer("t", fetch_max_bytes=1, max_partition_fetch_bytes=1)
    assert len(rest(consumer)) == 900


@pytest.mark.parametrize("limit", [0, -1])
def test_a_poll_of_no_records_is_refused(log: Log, limit: int) -> None:
    make(log, "t", records=1)
    with pytest.raises(ValueError, match="at least 1"):
        log.consumer("t").poll(0, limit)


def test_records_that_an_interrupted_poll_had_taken_are_given_again(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", 2, records=5)
    consumer = log.consumer("t")
    assert len(consumer.poll(0, 3)) == 3

    before = {number: consumer.position("t", number) for number in range(2)}
    with monkeypatch.context() as patch:
        original = consumer._take

        def take(*arguments: Any) -> None:
            original(*arguments)
            raise KeyboardInterrupt

        patch.setattr(consumer, "_take", take)
        with pytest.raises(KeyboardInterrupt):
            consumer.poll(0)
    assert {number: consumer.position("t", number) for number in range(2)} == before
    assert len(rest(consumer)) == 7


# ---------------------------------------------------------------- end


def test_a_closed_consumer_says_so(log: Log) -> None:
    make(log, "t", records=3000)
    with log.consumer("t") as consumer:
        records = iter(consumer)
        next(records)
    consumer.close()
    assert "closed" in repr(consumer)
    for use in (lambda: consumer.poll(0), lambda: next(records), consumer.lag):
        with pytest.raises(ClosedError):
            use()
