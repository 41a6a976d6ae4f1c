"""The view of `__consumer_offsets`: compaction behind its back, records that cannot be read."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pylog
from pylog import Log, OffsetAndMetadata, TopicPartition
from pylog._native import Records, make_batch
from pylog.errors import CorruptionError, InconsistentGroupProtocolError, OffsetOutOfRangeError
from pylog.groups.facts import ClassicGroupKey, GroupKey, OffsetKey, OffsetValue
from pylog.groups.group_log import OFFSETS_CONFIG, OFFSETS_TOPIC
from pylog.groups.schemas import encode_key, encode_value
from pylog.groups.view import View

ORDERS = TopicPartition("orders", 0)


def committed(group: str, offset: int | None, number: int = 0) -> tuple[bytes, bytes | None]:
    value = None if offset is None else encode_value(OffsetValue(offset, None, "", 1))
    return encode_key(OffsetKey(group, "orders", number)), value


class Compactable:
    """Stands for a partition: records at offsets, of which some can be taken out."""

    def __init__(self) -> None:
        self.records: dict[int, tuple[bytes, bytes | None]] = {}
        self.log_start_offset = 0
        self.log_end_offset = 0
        self.truncations = 0

    def put(self, *records: tuple[bytes, bytes | None]) -> None:
        for record in records:
            self.records[self.log_end_offset] = record
            self.log_end_offset += 1

    def read_placed(self, offset: int) -> Any:
        if offset < self.log_start_offset:
            raise OffsetOutOfRangeError(offset, self.log_start_offset, self.log_end_offset)
        found = next((at for at in sorted(self.records) if at >= offset), None)
        if found is None:
            return Records(b"", next_offset=self.log_end_offset)
        key, value = self.records[found]
        return Records(make_batch([(0, 0, key, value)], base_offset=found), end_offset=found + 1)


def offsets_of(view: View) -> dict[str, dict[int, int]]:
    return {
        name: {partition.partition: value.offset for partition, value in group.offsets.items()}
        for name, group in view.groups.items()
    }


def test_gaps_that_compaction_left_are_read_over() -> None:
    partition = Compactable()
    partition.put(committed("g", 1), committed("g", 2), committed("h", 5), committed("g", 3))
    for removed in (0, 1):
        del partition.records[removed]
    view = View(partition)  # type: ignore[arg-type]
    view.refresh()
    assert offsets_of(view) == {"g": {0: 3}, "h": {0: 5}}
    assert view.offset == 4


@pytest.mark.parametrize("is_at_the_end", [True, False])
def test_what_was_forgotten_and_compacted_away_unseen_is_forgotten(is_at_the_end: bool) -> None:
    partition = Compactable()
    partition.put(committed("g", 1), committed("h", 1))
    view = View(partition)  # type: ignore[arg-type]
    view.refresh()
    partition.put(committed("g", None))
    if not is_at_the_end:
        partition.put(committed("h", 2))
    del partition.records[0], partition.records[2]  # the tombstone too
    view.refresh()
    assert offsets_of(view) == {"h": {0: 1 if is_at_the_end else 2}}
    assert view.offset == partition.log_end_offset


def test_a_log_that_starts_later_is_read_from_there() -> None:
    partition = Compactable()
    partition.put(committed("g", 1), committed("g", 2), committed("g", 3), committed("h", 4))
    view = View(partition)  # type: ignore[arg-type]
    view.refresh()
    partition.put(committed("h", 5))
    partition.log_start_offset = 5
    partition.put(committed("i", 6))
    for removed in range(5):
        del partition.records[removed]
    view.offset = 3
    view.refresh()
    assert offsets_of(view) == {"i": {0: 6}}


# ---------------------------------------------------------------- in a log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path / "log") as opened:
        opened.create_topic("orders", 2)
        opened._registry.internal(OFFSETS_TOPIC, OFFSETS_CONFIG)
        yield opened


def test_a_record_that_cannot_be_read_concerns_its_group_alone(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    groups, partition = log._coordinator, log.topic(OFFSETS_TOPIC).partition(0)
    groups.commit("well", {ORDERS: OffsetAndMetadata(1)})
    key, _ = committed("ill", 1)
    with caplog.at_level(logging.ERROR, "pylog"):
        partition.append(b"\0\7", key)
        for call in (
            lambda: groups.committed("ill", [ORDERS]),
            lambda: groups.commit("ill", {ORDERS: OffsetAndMetadata(1)}),
            lambda: groups.join("ill", ["orders"]),
        ):
            with pytest.raises(CorruptionError, match="version 7"):
                call()
    assert "ill" in caplog.text
    assert groups.committed("well", [ORDERS]) == {ORDERS: OffsetAndMetadata(1)}
    partition.append(None, key)
    assert groups.committed("ill", [ORDERS]) == {ORDERS: None}
    groups.commit("ill", {ORDERS: OffsetAndMetadata(2)})
    assert groups.committed("ill", [ORDERS]) == {ORDERS: OffsetAndMetadata(2)}


def test_keys_of_a_later_kafka_and_of_nobody_are_left_alone(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    groups, partition = log._coordinator, log.topic(OFFSETS_TOPIC).partition(0)
    partition.append(b"\0\0", b"\0\x09\0\1g")
    with caplog.at_level(logging.ERROR, "pylog"):
        partition.append(b"\0\0", b"\0\3\0\x09g")
        assert groups.log.names() == []
    assert "cannot be read" in caplog.text


def test_a_group_of_the_classic_protocol_is_left_to_its_members(log: Log) -> None:
    groups, partition = log._coordinator, log.topic(OFFSETS_TOPIC).partition(0)
    populated = bytes.fromhex(
        "00030008636f6e73756d657200000001000572616e67650003632d310000018bcfe56800000000010003632d31"
        "ffff000163000a2f3132372e302e302e31000493e00000afc80000000201020000000103"
    )
    empty = bytes.fromhex("0003000000000000ffffffff0000018bcfe5680000000000")
    partition.append(populated, encode_key(ClassicGroupKey("g")))
    for call in (
        lambda: groups.join("g", ["orders"]),
        lambda: groups.commit("g", {ORDERS: OffsetAndMetadata(1)}),
    ):
        with pytest.raises(InconsistentGroupProtocolError, match="consumer"):
            call()
    partition.append(empty, encode_key(ClassicGroupKey("g")))
    groups.commit("g", {ORDERS: OffsetAndMetadata(1)})
    groups.join("g", ["orders"]).leave()


def test_an_epoch_that_an_enemy_wrote_ends_no_process(log: Log) -> None:
    groups, partition = log._coordinator, log.topic(OFFSETS_TOPIC).partition(0)
    partition.append(b"\0\0\x7f\xff\xff\xff\0", encode_key(GroupKey("g")))
    with pytest.raises(CorruptionError, match="epoch"):
        groups.join("g", ["orders"])


def test_a_compacted_log_says_the_same_to_who_opens_it_and_to_who_was_behind(log: Log) -> None:
    groups = log._coordinator
    with pylog.open(log.path) as behind:
        assert behind._coordinator.groups.list() == []
        gone = groups.join("gone", ["orders"])
        assert [one.group for one in behind._coordinator.groups.list()] == ["gone"]
        gone.leave()
        groups.groups.delete("gone")
        member = groups.join("g", ["orders"])
        member.look()
        for offset in range(100):
            member.commit({TopicPartition("orders", offset % 2): OffsetAndMetadata(offset)})
        log.alter_topic(OFFSETS_TOPIC, delete_retention_ms=0)
        partition = log.topic(OFFSETS_TOPIC).partition(0)
        for _ in range(2):  # tombstones go with the second
            partition.compact()
        assert len(list(partition.records())) < 10
        told = groups.groups.describe("g")
        assert behind._coordinator.groups.describe("g") == told
        assert [one.group for one in behind._coordinator.groups.list()] == ["g"]
        member.commit({TopicPartition("orders", 0): OffsetAndMetadata(100)})
        assert behind._coordinator.committed("g", [ORDERS]) == {ORDERS: OffsetAndMetadata(100)}
    with pylog.open(log.path) as again:
        assert again._coordinator.committed("g", [ORDERS]) == {ORDERS: OffsetAndMetadata(100)}
        assert again._coordinator.groups.describe("g").members == told.members


# ---------------------------------------------------------------- what the partition does for it


def test_what_is_placed_is_read_before_it_is_durable(log: Log) -> None:
    partition = log.topic("orders").partition(0)
    chunk = partition.encode_chunks([b"a", b"b"], None, None, None).chunks[0]
    assert partition.place(chunk, 0) == (0, 2)
    assert list(partition.read(0)) == []
    assert [record.value for record in partition.read_placed(0)] == [b"a", b"b"]
    assert [record.value for record in partition.read_placed(1)] == [b"b"]
    assert list(partition.read_placed(2)) == []
    partition.wait_durable(0, 2)
    assert [record.value for record in partition.read(0)] == [b"a", b"b"]


def test_nobody_appends_between_what_is_decided_and_its_append(log: Log) -> None:
    partition = log.topic("orders").partition(0)
    partition.append(b"first")
    seen = []

    def decide(end: int) -> Any:
        seen.append((end, [record.value for record in partition.read_placed(0)]))
        return partition.encode_chunks([b"second"], None, None, None).chunks[0]

    assert partition.place_decided(decide) == (1, 2)
    assert seen == [(1, [b"first"])]
    assert partition.place_decided(lambda end: None) is None
    with pytest.raises(ZeroDivisionError):
        partition.place_decided(lambda end: 1 // 0)  # type: ignore[arg-type, return-value]
    assert partition.append(b"third").offset == 2


def test_groups_have_ids_of_any_text(log: Log) -> None:
    groups = log._coordinator
    name = f"группа {uuid.UUID(int=7)} \0"
    groups.commit(name, {ORDERS: OffsetAndMetadata(1)})
    assert groups.log.names() == [name]
