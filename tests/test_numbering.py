"""How a producer numbers its batches, in each partition and each process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import children

from pylog import Log
from pylog.errors import OutOfOrderSequenceError


def test_producer_numbers_its_batches(log: Log) -> None:
    log.create_topic("t", durability="os", partitions=2)
    with log.producer(linger_ms=60_000) as producer, log.producer(linger_ms=60_000) as other:
        for turn in range(3):
            for _ in range(turn + 1):
                producer.send("t", b"x", partition=0)
                producer.send("t", b"x", partition=1)
            producer.flush()
        other.send("t", b"y", partition=0)
    found = list(fields_of(log, 0))
    assert [(epoch, first, count) for _, epoch, first, count in found] == [
        (0, 0, 1), (0, 1, 2), (0, 3, 3), (0, 0, 1),
    ]  # fmt: skip
    ids = {producer_id for producer_id, *_ in found}
    assert len(ids) == 2
    assert all(0 <= producer_id < 2**63 for producer_id in ids)
    assert {producer_id for producer_id, *_ in fields_of(log, 1)} <= ids


def fields_of(log: Log, number: int) -> Iterator[tuple[int, int, int, int]]:
    partition = log.topic("t").partition(number)
    for fields in partition.read(0).producers():
        yield fields[:4]


def test_producer_without_idempotence_numbers_nothing(log: Log) -> None:
    log.create_topic("t", durability="os")
    with log.producer(enable_idempotence=False) as producer:
        producer.send("t", b"x")
    assert list(fields_of(log, 0)) == []
    assert log.topic("t").partition(0).log_end_offset == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_is_another_producer(log: Log) -> None:
    log.create_topic("t", durability="os")
    producer = log.producer(linger_ms=0)
    producer.send("t", b"parent").result()

    def work() -> None:
        producer.send("t", b"child").result()
        producer.close()

    with children() as start:
        start(work).join()
    producer.send("t", b"parent").result()
    producer.close()
    found = list(fields_of(log, 0))
    assert [first for _, _, first, _ in found] == [0, 0, 1]
    assert found[0][0] == found[2][0] != found[1][0]


def test_producer_goes_on_in_a_later_epoch_after_a_gap(log: Log) -> None:
    log.create_topic("t", durability="os")
    with log.producer(linger_ms=0) as producer:
        producer.send("t", b"first").result()
        [lane] = producer._accumulator._lanes.values()
        lane.sequence = 7
        with pytest.raises(OutOfOrderSequenceError):
            producer.send("t", b"refused").result()
        assert producer.send("t", b"second").result().offset == 1
    assert [fields[1:3] for fields in fields_of(log, 0)] == [(0, 0), (1, 0)]
