"""What replicas do with a partition: epochs, batches handed over unchanged, and truncation."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from partitions import bases, make_partition
from replicas import FSYNC, OS, Host, all_records, follower, leader, values

import pylog
from pylog import Record
from pylog._native import crc32c
from pylog.config import TopicConfig
from pylog.errors import (
    DivergedReplicaError,
    FencedLeaderEpochError,
    InvalidRecordError,
    NotLeaderError,
    OffsetMismatchError,
    OffsetOutOfRangeError,
)
from pylog.storage import truncation
from pylog.storage.partition import Partition
from pylog.storage.sync import advance_durable_locked
from pylog.topics.verification import verify

CONFIGS = pytest.mark.parametrize("config", [OS, FSYNC], ids=["os", "fsync"])
SMALL = TopicConfig(durability="os", segment_bytes=2048, max_message_bytes=1024)


def copy(source: Partition, target: Partition, *, max_bytes: int = 4096) -> None:
    """Bring a replica up to another, as a leader does."""
    while target.log_end_offset < source.log_end_offset:
        batches = source.read_batches(target.log_end_offset, max_bytes)
        target.append_replica(batches.data, end_offset=batches.end)


def facts(partition: Partition) -> list[tuple[int, int | None, bytes | None]]:
    return [(one.offset, one.leader_epoch, one.value) for one in all_records(partition)]


def batch_at(partition: Partition, offset: int) -> bytes:
    return bytes(partition.read_batches(offset, 1).data)


# ---------------------------------------------------------------- epochs


def test_an_epoch_begins_at_the_end_of_the_log_and_is_on_disk_at_once() -> None:
    host = Host(leader(1))
    partition = host.partition(FSYNC)
    partition.append_many([b"x"] * 3)
    assert partition.leader_epochs.entries == ((1, 0),)
    assert partition.begin_epoch(4) == 3
    assert partition.begin_epoch(4) == 3
    partition.append(b"y")
    partition.begin_epoch(7)
    with pytest.raises(FencedLeaderEpochError):
        partition.begin_epoch(6)

    assert partition.leader_epochs.entries == ((1, 0), (4, 3), (7, 4))
    assert partition.end_offset_for_epoch(4) == (4, 4)
    assert partition.end_offset_for_epoch(9) is None
    again = host.cut_off(leader(7)).partition(FSYNC)
    again.append(b"z")
    assert again.leader_epochs.entries == ((1, 0), (4, 3), (7, 4))
    assert [record.leader_epoch for record in all_records(again)] == [1, 1, 1, 4, 7]


def test_a_leader_that_was_cut_off_begins_its_epoch_again_before_it_appends() -> None:
    host = Host(leader(3))
    partition = host.partition(OS)
    partition.append(b"lost")
    again = host.cut_off().partition(OS)
    again.append(b"x")
    assert [record.leader_epoch for record in all_records(again)] == [3]
    assert again.leader_epochs.latest_epoch == 3


# ---------------------------------------------------------------- replica appends


@CONFIGS
def test_a_follower_holds_its_leaders_bytes(config: TopicConfig) -> None:
    one, other = Host(leader(2)).partition(config), Host(follower(2)).partition(config)
    one.append_many([b"%d" % n * 500 for n in range(100)])
    one.begin_epoch(5)
    one.append(b"last", key=b"k", headers=[("h", b"v")])
    copy(one, other)

    assert facts(other) == facts(one)
    assert other.leader_epochs == one.leader_epochs
    assert other.read_batches(0, 1 << 20) == one.read_batches(0, 1 << 20)
    assert (other.high_watermark, values(other)) == (0, [])
    assert other.durable_offset == (101 if config is FSYNC else 0)
    assert other.advance_high_watermark(50) == 50
    assert other.advance_high_watermark(7) == 50
    assert other.advance_high_watermark(10**6) == 101
    assert len(values(other)) == 101
    other.check()


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_high_watermark_that_is_kept_survives_a_power_cut(is_kept: bool) -> None:
    host = Host(follower())
    source, target = Host(leader()).partition(FSYNC), host.partition(FSYNC)
    target.keep_high_watermark()  # there are no files yet
    source.append_many([b"v"] * 9)
    copy(source, target)
    target.advance_high_watermark(7)
    if is_kept:
        target.keep_high_watermark()
    again = host.cut_off().partition(FSYNC)
    assert (again.log_end_offset, again.high_watermark) == (9, 7 if is_kept else 0)
    again.check()


def test_what_a_follower_opened_for_its_leader_is_closed_to_others() -> None:
    one, other = Host(leader()).partition(OS), Host(follower()).partition(OS)
    one.append(b"x")
    copy(one, other)
    with pytest.raises(NotLeaderError):
        other.append(b"y")
    with pytest.raises(NotLeaderError):
        other.append_many([b"y"])
    assert other.log_end_offset == 1


def test_replica_appends_roll_as_others_do() -> None:
    one, other = Host(leader()).partition(SMALL), Host(follower()).partition(SMALL)
    one.append_many([b"%d" % n * 100 for n in range(100)])
    copy(one, other, max_bytes=1 << 20)

    assert facts(other) == facts(one)
    other.check()
    numbers = other.metrics()
    assert numbers is not None
    assert isinstance(numbers["segments"], int)
    assert numbers["segments"] > 3


@pytest.mark.parametrize("ends", ["clean", "killed", "cut"])
def test_gaps_stay_where_compaction_left_them(ends: str) -> None:
    source = Host().partition(TopicConfig(durability="fsync", cleanup_policy="compact"))
    for round_ in range(3):
        for key in range(10):
            source.append(b"%d" % round_, key=b"%d" % key)
        source.append(None, key=b"%d" % round_)
        source.compact()
    host = Host(follower())
    config = TopicConfig(durability="fsync", cleanup_policy="compact")
    target = host.partition(config)
    copy(source, target)
    assert facts(target) == facts(source)
    assert target.log_end_offset == source.log_end_offset
    end = target.log_end_offset
    if ends == "clean":
        target.close()
    again = (host.cut_off() if ends == "cut" else host.killed()).partition(config)

    assert facts(again) == facts(source)
    assert again.log_end_offset == end
    again.check()


def test_a_gap_at_the_end_is_taken_over() -> None:
    host = Host(follower())
    partition = host.partition(FSYNC)
    one = Host(leader()).partition(FSYNC)
    one.append_many([b"x"] * 5)
    partition.append_replica(one.read_batches(0).data, end_offset=9)
    assert partition.log_end_offset == 9
    assert partition.read_batches(5) == (b"", 5, 9)
    partition.append_replica(b"", end_offset=12)
    again = host.cut_off().partition(FSYNC)
    assert again.log_end_offset == 12
    assert len(all_records(again)) == 5
    again.check()


def test_what_does_not_follow_is_refused_and_changes_nothing() -> None:
    one, other = Host(leader(3)).partition(OS), Host(follower(3)).partition(OS)
    one.append(b"a")
    one.append(b"b")
    data = bytes(one.read_batches(0).data)
    first = batch_at(one, 0)
    other.append_replica(data)
    before = facts(other)
    with pytest.raises(OffsetMismatchError):
        other.append_replica(data)
    with pytest.raises(OffsetMismatchError):
        other.append_replica(b"", expected_offset=1)
    stale = bytearray(first)
    struct.pack_into(">q", stale, 0, 2)
    struct.pack_into(">i", stale, 12, 2)
    with pytest.raises(FencedLeaderEpochError):
        other.append_replica(stale)
    for wrong in (first[:-1], first + b"x", b"\0" * 61, first[:20] + b"\xff" + first[21:]):
        with pytest.raises(InvalidRecordError):
            other.append_replica(wrong)
    assert facts(other) == before
    assert other.leader_epochs.entries == ((3, 0),)


def test_without_a_role_replica_appends_are_visible_when_the_topic_says() -> None:
    source = Host().partition(OS)
    source.append_many([b"x"] * 5)
    partition = Host().partition(FSYNC)
    assert partition.append_replica(source.read_batches(0).data) == (0, 5)
    assert partition.high_watermark == 5


def test_a_read_at_the_end_or_outside_gives_no_batches() -> None:
    partition = Host(leader()).partition(OS)
    assert partition.read_batches(0) == (b"", 0, 0)
    partition.append(b"x")
    assert partition.read_batches(1) == (b"", 1, 1)
    with pytest.raises(OffsetOutOfRangeError):
        partition.read_batches(2)


# ---------------------------------------------------------------- truncation


def filled(config: TopicConfig, host: Host) -> Partition:
    """Return a partition of several segments with records of 4 epochs, one in a batch."""
    partition = host.partition(config)
    for epoch in range(1, 5):
        partition.begin_epoch(epoch)
        for n in range(12):
            partition.append(b"%d.%d" % (epoch, n) * 20)
    return partition


@pytest.mark.parametrize("end", [0, 11, 24, 30, 48])
@pytest.mark.parametrize("ends", ["open", "clean", "killed", "cut"])
def test_what_is_truncated_is_gone_for_good(end: int, ends: str) -> None:
    host = Host(leader())
    partition = filled(SMALL, host)
    reader = host.partition(SMALL)
    before = facts(reader)
    partition.flush()

    assert partition.truncate(end) == end
    assert facts(reader) == before[:end] == facts(partition)
    assert all(start < end for _, start in partition.leader_epochs.entries)
    with pytest.raises(OffsetOutOfRangeError):
        reader.read_placed(49)
    if ends == "clean":
        reader.close()
        partition.close()
    if ends != "open":
        host = host.cut_off() if ends == "cut" else host.killed()
        partition = host.partition(SMALL)
    partition.check()
    assert facts(partition) == before[:end]
    partition.begin_epoch(9)
    partition.append_many([b"new"] * 40)
    partition.flush()
    again = host.cut_off().partition(SMALL)
    assert [one[2] for one in facts(again)[end:]] == [b"new"] * 40
    assert facts(again)[:end] == before[:end]
    again.check()


def test_a_batch_that_reaches_over_the_offset_goes_whole() -> None:
    partition = Host(leader()).partition(OS)
    partition.append_many([b"x"] * 10)
    partition.append_many([b"y"] * 10)
    assert partition.truncate(15) == 10
    assert partition.log_end_offset == 10
    partition.append(b"z")
    assert [record.value for record in all_records(partition)][10:] == [b"z"]


def test_a_log_that_begins_inside_a_batch_never_ends_before_its_start() -> None:
    host = Host()
    partition = host.partition(OS)
    partition.append_many([b"x"] * 10)
    partition.delete_records(5)
    assert partition.truncate(7, force=True) == 5
    assert (partition.log_start_offset, partition.log_end_offset) == (5, 5)
    assert partition.append(b"y").offset == 5
    assert values(host.killed().partition(OS)) == [b"y"]


def test_nothing_below_the_high_watermark_is_truncated_unless_forced() -> None:
    partition = filled(SMALL, Host(leader()))
    partition.advance_high_watermark(20)
    with pytest.raises(DivergedReplicaError):
        partition.truncate(19)
    assert partition.log_end_offset == 48
    assert partition.truncate(20) == 20
    assert partition.truncate(5, force=True) == 5
    assert (partition.high_watermark, partition.log_end_offset) == (5, 5)
    with pytest.raises(OffsetOutOfRangeError):
        partition.truncate(-1, force=True)


def test_an_epoch_that_wrote_nothing_is_forgotten_with_the_records_it_had_not() -> None:
    partition = filled(SMALL, Host(leader()))
    partition.begin_epoch(8)
    assert partition.truncate(48) == 48
    assert partition.leader_epochs.latest_epoch == 4


def test_a_log_begins_anew_where_it_is_told() -> None:
    host = Host(follower())
    partition = host.partition(SMALL)
    source = filled(SMALL, Host(leader()))
    copy(source, partition)
    partition.start_anew(1000)
    assert (partition.log_start_offset, partition.high_watermark) == (1000, 1000)
    assert (partition.log_end_offset, partition.leader_epochs.entries) == (1000, ())
    again = host.cut_off().partition(SMALL)
    assert (again.log_start_offset, again.log_end_offset) == (1000, 1000)
    again.start_anew(7)
    assert (again.log_start_offset, again.log_end_offset) == (7, 7)
    again.start_anew(0)
    copy(source, again)
    assert facts(again) == facts(source)
    again.check()


def test_an_appender_that_was_there_before_appends_behind_the_new_end() -> None:
    host = Host()
    one, other = host.partition(FSYNC), host.partition(FSYNC)
    for _ in range(5):
        one.append(b"x")
        other.append(b"x")
    one.truncate(3, force=True)
    assert other.append(b"z").offset == 3
    # Not by what was durable before it was truncated.
    assert host.cut_off().partition(FSYNC).log_end_offset == 4
    assert values(one) == [b"x"] * 3 + [b"z"]


def test_a_reader_that_goes_on_reads_what_took_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    # As long as it is not cut, the old bytes are there to be taken for the new ones.
    monkeypatch.setattr(truncation, "cut_behind", lambda *_: None)
    host = Host()
    partition, reader = host.partition(SMALL), host.partition(SMALL)
    for n in range(40):
        partition.append(b"%d" % n * 40)
    records = iter(reader.records(end=20))
    assert next(records).value == b"0" * 40
    place = reader.read(0, 700)
    partition.truncate(place.next_offset, force=True)
    for n in range(30):
        partition.append(b"new %d" % n)
    found: list[Record] = list(reader.read(place.next_offset))
    assert found[0].value == b"new 0"


def numbered(sequence: int) -> bytes:
    """Return a batch of one record that a producer numbered."""
    source = Host().partition(OS)
    source.append(b"x")
    data = bytearray(batch_at(source, 0))
    struct.pack_into(">qhi", data, 43, 77, 0, sequence)
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    return bytes(data)


def test_producers_are_judged_by_what_is_left() -> None:
    host = Host()
    one, other = host.partition(OS), host.partition(OS)
    for sequence in range(4):
        one.append_batches(numbered(sequence))
    other.append_batches(numbered(4))
    one.truncate(2, force=True)
    assert other.append_batches(numbered(2)) == [range(2, 3)]
    assert other.log_end_offset == 3
    assert one.append_batches(numbered(3)) == [range(3, 4)]
    assert one.append_batches(numbered(2)) == [range(2, 3)]


def test_nobody_writes_down_what_producers_sent_before_a_truncation() -> None:
    host = Host()
    one, other = host.partition(OS), host.partition(OS)
    for sequence in range(5):
        one.append_batches(numbered(sequence))
    other.truncate(2, force=True)
    one.close()
    other.append_many([b"x"] * 10)
    other.close()
    assert not [name for name in host.files.contents() if name.endswith("05.snapshot")]
    assert host.partition(OS).append_batches(numbered(2)) == [range(12, 13)]


def test_a_sync_that_a_truncation_overtook_proves_nothing() -> None:
    host = Host()
    one, other = host.partition(FSYNC), host.partition(FSYNC)
    for _ in range(5):
        one.append(b"x")
    attachment = one._attachment
    assert attachment is not None
    synced = attachment.page.marks()
    other.truncate(1, force=True)
    for _ in range(6):
        other.place(other.encode_chunks([b"y"], None, None, None).chunks[0])
    with attachment.page:
        assert advance_durable_locked(attachment.page, synced, synced.log_end_offset) == 1
    assert one.durable_offset == 1


def test_truncations_are_counted() -> None:
    host = Host()
    one, other = host.partition(OS), host.partition(OS)
    one.append_many([b"x"] * 5)
    seen = other.truncations
    assert seen == 0
    one.append(b"y")
    one.truncate(3, force=True)
    assert other.truncations > seen


def test_readers_and_truncation_agree_in_any_order() -> None:
    """Model: a list.  Appends, replica appends, truncations and rolls by two processes."""
    for seed in range(3):
        rng = random.Random(seed)
        host = Host(leader())
        parts = [host.partition(SMALL), host.partition(SMALL)]
        model: list[bytes | None] = []
        epoch = 1
        for step in range(50):
            part = rng.choice(parts)
            match rng.randrange(4):
                case 0 | 1:
                    new = [b"%d.%d" % (step, n) * 9 for n in range(rng.randint(1, 12))]
                    part.append_many(new)
                    model += new
                case 2:
                    end = part.truncate(rng.randint(0, len(model)))
                    del model[end:]
                case 3:
                    epoch += 1
                    part.begin_epoch(epoch)
            found = [record.value for record in all_records(rng.choice(parts))]
            assert found == model, (seed, step)
            part.check()
        assert len(model) > 5 or seed, "the last state is worth a look"


def test_verify_finds_nothing_in_a_truncated_log(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_partition(log, segment_bytes=1 << 14)
        for n in range(400):
            partition.append(b"%d" % n * 60)
        partition.truncate(123, force=True)
        partition.append_many([b"x" * 100] * 300)
        assert [record.offset for record in partition.records()] == list(range(423))
        assert not damages(tmp_path)
    assert not damages(tmp_path)
    assert bases(tmp_path)[0] == 0
    with pylog.open(tmp_path) as log:
        assert log.topic("t").partition(0).log_end_offset == 423


def damages(path: Path) -> list[object]:
    return [found for report in verify(str(path)) for found in report.findings if found.is_damage]
