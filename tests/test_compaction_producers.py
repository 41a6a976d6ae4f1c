"""Compaction leaves of a producer's last batch the header, so that no retry becomes a duplicate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compacting import make_compacted
from partitions import NOW, logs_in

import pylog
from pylog import Partition
from pylog._native import batch_headers, make_batch
from pylog.errors import OutOfOrderSequenceError
from pylog.storage.producer_state import EXPIRATION_MS

PRODUCER = 7


def send(partition: Partition, sequence: int, *, producer: int = PRODUCER, count: int = 1) -> range:
    """Append a batch of a producer, all of one key; return its offsets."""
    records = [(n, 0, b"key", b"%d %d" % (producer, sequence + n)) for n in range(count)]
    header: dict[str, Any] = {"base_timestamp": NOW, "max_timestamp": NOW, "leader_epoch": -1}
    header |= {"producer_id": producer, "producer_epoch": 0, "base_sequence": sequence}
    header |= {"last_offset_delta": count - 1}
    return partition.append_batches(make_batch(records, **header))[0]


def headers_in(path: Path) -> list[dict[str, int]]:
    return [header for log in logs_in(path) for header in batch_headers(log.read_bytes())]


def compacted(log: pylog.Log, **settings: Any) -> Partition:
    """Two producers wrote one key, again and again; the second wrote last."""
    partition = make_compacted(log, segment_bytes=600, **settings)
    for sequence in range(0, 30, 3):
        send(partition, sequence, count=3)
    for sequence in range(10):
        send(partition, sequence, producer=8)
    partition.append(b"last", key=b"other")
    partition.compact()
    return partition


def test_the_header_of_a_producers_last_batch_stays(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = compacted(log)
        assert [record.offset for record in partition.records()] == [39, 40]
        kept = [one for one in headers_in(tmp_path) if one["producer_id"] == PRODUCER]
        assert [(one["base_sequence"], one["count"]) for one in kept] == [(27, 0)]
        assert [one["base_offset"] for one in kept] == [27]
        # Offsets in it are read past, also by who asks for just them.
        assert partition.read(28).next_offset > 28
        partition.check()


@pytest.mark.parametrize("has_snapshots", [True, False])
def test_a_producer_goes_on_after_a_compaction_and_a_restart(
    tmp_path: Path, has_snapshots: bool
) -> None:
    with pylog.open(tmp_path) as log:
        compacted(log)
    snapshots = list((tmp_path / "t-0").glob("*.snapshot"))
    assert snapshots
    if not has_snapshots:
        for snapshot in snapshots:
            snapshot.unlink()
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert send(partition, 27, count=3) == range(27, 30), "a retry gets the offsets it has"
        with pytest.raises(OutOfOrderSequenceError):
            send(partition, 31)
        assert send(partition, 30) == range(41, 42)
        partition.compact()
        assert send(partition, 30) == range(41, 42)


def test_a_producer_that_is_forgotten_leaves_nothing(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = compacted(log)
        now = partition._environment.clock() + EXPIRATION_MS + 1
        object.__setattr__(partition._environment, "clock", lambda: now)
        partition.append(b"more", key=b"more")
        partition.compact()
        assert {one["producer_id"] for one in headers_in(tmp_path) if one["count"] == 0} == set()


def test_a_clock_that_is_in_doubt_lets_nobody_be_forgotten(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = compacted(log)
        now = partition._environment.clock() + 100 * EXPIRATION_MS
        object.__setattr__(partition._environment, "clock", lambda: now)
        partition.append(b"more", key=b"more")
        partition.compact()
        kept = [one["producer_id"] for one in headers_in(tmp_path) if one["count"] == 0]
        assert kept == [PRODUCER]


def test_the_time_of_a_batch_without_records_is_nobodys_latest(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_compacted(log, segment_bytes=10_000)
        header = {"base_timestamp": NOW + 5, "max_timestamp": NOW + 5, "leader_epoch": -1}
        header |= {"producer_id": PRODUCER, "producer_epoch": 0, "base_sequence": 0}
        partition.append_batches(make_batch([(0, 0, b"key", b"late")], **header))
        for number in range(20):
            partition.append(b"early", key=b"key", timestamp=NOW + number // 5)
        partition.compact()
        assert headers_in(tmp_path)[0]["max_timestamp"] == NOW + 5
        latest = partition.max_timestamp
        assert latest is not None
        assert (latest.offset, latest.timestamp) == (20, NOW + 3)
        found = partition.offset_for_time(NOW + 1)
        assert found is not None
        assert found.offset == 20
        assert partition.offset_for_time(NOW + 4) is None
        later = partition.append(b"later", key=b"other", timestamp=NOW + 4)
        assert partition.max_timestamp is not None
        assert partition.max_timestamp.offset == later.offset
