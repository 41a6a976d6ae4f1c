"""Compaction of a partition: what stays, what is told, and when it is due."""

from __future__ import annotations

from pathlib import Path

import pytest
from compacting import contents_of, fold, limit_memory, make_compacted, manifest_of, update
from partitions import NOW, bases, make_partition

import pylog
from pylog import CompactionProgress, Log, Partition
from pylog.errors import InvalidConfigurationError
from pylog.storage import compaction
from pylog.storage.policy import CLOCK_PROBATION_MS

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR


def test_the_newest_record_of_each_key_stays_where_it_was(log: Log) -> None:
    partition = make_compacted(log)
    update(partition, 500, keys=20)
    newest = {record.key: contents_of(record) for record in partition.records()}

    report = partition.compact()

    kept = [contents_of(record) for record in partition.records()]
    assert kept == sorted(newest.values())
    assert len(kept) == report.records_kept
    assert (report.start, report.end, report.rounds) == (0, 500, 1)
    assert report.records_read == 500
    assert report.bytes_after < report.bytes_before
    assert partition.log_end_offset == 500
    assert partition.log_start_offset == 0
    partition.check()


def test_a_replay_comes_to_the_same_after_compaction_and_after_opening_again(
    tmp_path: Path,
) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_compacted(log)
        state = update(partition, 500, keys=20)
        partition.compact()
        assert fold(partition) == state
        state |= update(partition, 100, keys=3, seed=1)
        partition.compact()
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        fresh = fold(partition)
        expected = {key: value for key, value in state.items() if key in fresh}
        assert fresh == expected
        assert partition.append(b"more", key=b"key").offset == 600


def test_small_segments_become_one(log: Log, tmp_path: Path) -> None:
    partition = make_compacted(log)
    update(partition, 500, keys=5)
    count = len(bases(tmp_path))
    assert count > 10
    partition.compact()
    update(partition, 10, keys=5, seed=1)

    report = partition.compact()

    assert report.segments_before > report.segments_after == 1
    assert manifest_of(tmp_path).segments[0].base_offset == 0
    assert manifest_of(tmp_path).segments[0].end_offset == 510
    assert bases(tmp_path) == [0, 510]


def test_the_active_segment_is_sealed_first_unless_it_is_to_stay(log: Log, tmp_path: Path) -> None:
    partition = make_compacted(log, segment_bytes=1 << 20)
    update(partition, 100, keys=2)
    assert partition.compact(include_active=False).rounds == 0
    assert len(list(partition.records())) == 100
    partition.compact()
    assert len(list(partition.records())) == 2
    generation = manifest_of(tmp_path).generation
    assert partition.compact().rounds == 0
    assert manifest_of(tmp_path).generation == generation, "nothing to do, nothing written"


def test_more_keys_than_fit_take_more_rounds(log: Log) -> None:
    partition = make_compacted(log, segment_bytes=10_000)
    limit_memory(partition, 1 << 10)
    state = update(partition, 1000, keys=200)

    told: list[CompactionProgress] = []
    report = partition.compact(progress=told.append)

    assert report.rounds > 5
    assert {one.round for one in told} == set(range(1, report.rounds + 1))
    assert fold(partition) == state
    assert len(list(partition.records())) == report.records_kept <= 200
    assert report.records_read == 1000


def test_progress_is_told_in_bytes_of_each_phase(log: Log) -> None:
    partition = make_compacted(log)
    update(partition, 500, keys=5)
    told: list[CompactionProgress] = []
    partition.compact(progress=told.append)
    phases = [one.phase for one in told]
    assert phases == sorted(phases, key=["map", "filter"].index)
    for phase in ("map", "filter"):
        done = [one.done_bytes for one in told if one.phase == phase]
        (total,) = {one.total_bytes for one in told if one.phase == phase}
        assert done == sorted(done)
        assert done[-1] == total


def test_what_progress_raises_ends_the_compaction_and_leaves_no_files(
    log: Log, tmp_path: Path
) -> None:
    partition = make_compacted(log)
    state = update(partition, 500, keys=20)
    told = 0

    def stop(progress: CompactionProgress) -> None:
        nonlocal told
        told += progress.phase == "filter"
        if told == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partition.compact(progress=stop)

    assert not list((tmp_path / "t-0").glob("*.cleaned"))
    assert fold(partition) == state
    assert manifest_of(tmp_path).cleaned.offset == 0
    partition.compact()
    assert fold(partition) == state


def test_compacting_from_within_progress_is_refused(log: Log) -> None:
    partition = make_compacted(log)
    update(partition, 200, keys=5)
    with pytest.raises(RuntimeError, match="compacted by this thread"):
        partition.compact(progress=lambda _: partition.compact())
    partition.compact()


def test_a_partition_without_records_has_nothing_to_compact(log: Log) -> None:
    partition = make_compacted(log)
    assert partition.compact().rounds == 0
    partition.append(b"v", key=b"k")
    assert partition.compact().records_kept == 1


def test_records_that_were_deleted_are_not_read(log: Log) -> None:
    partition = make_compacted(log, cleanup_policy="compact,delete")
    update(partition, 500, keys=20)
    partition.delete_records(300)
    report = partition.compact()
    assert report.start == 300
    assert partition.log_start_offset == 300
    offsets = [record.offset for record in partition.records()]
    assert len(offsets) <= 20
    assert min(offsets) >= 300


def test_all_that_is_dirty_is_deleted_just_before_it_is_read(log: Log) -> None:
    partition = make_compacted(log, cleanup_policy="compact,delete")
    update(partition, 200, keys=5)

    def delete_first(size: int) -> bytes:
        partition.delete_records(-1)
        return bytes(size)

    object.__setattr__(partition._environment, "random_bytes", delete_first)
    report = partition.compact()
    assert (report.start, report.records_kept) == (0, 0)
    assert partition.log_start_offset == 200
    assert partition.append(b"v", key=b"k").offset == 200


def test_compaction_is_due_by_the_dirty_ratio(log: Log) -> None:
    partition = make_compacted(log, min_cleanable_dirty_ratio=0.5)
    assert partition.compact_if_due() is None
    update(partition, 200, keys=50)
    assert partition.is_compaction_due()
    report = partition.compact_if_due()
    assert report is not None
    assert report.rounds == 1
    assert report.end < 200, "the active segment stays"
    assert not partition.is_compaction_due()
    assert partition.compact_if_due() is None
    found = partition.dirty_range()
    assert found is not None
    assert found.start == found.end == report.end


def test_a_topic_that_is_only_deleted_from_is_not_compacted(log: Log) -> None:
    partition = make_partition(log, segment_bytes=500)
    update(partition, 100, keys=5)
    assert not partition.is_compaction_due()
    assert partition.compact_if_due() is None
    with pytest.raises(InvalidConfigurationError, match="compact"):
        partition.compact()


# ---------------------------------------------------------------- tombstones and the clock


def with_clock(partition: Partition, now: int) -> list[int]:
    """Let the partition's clock say what stands in the list that is returned."""
    times = [now]
    object.__setattr__(partition._environment, "clock", lambda: times[0])
    return times


def keys_of(partition: Partition) -> list[bytes | None]:
    return [record.key for record in partition.records()]


def test_tombstones_stay_for_their_time_after_they_were_compacted(log: Log) -> None:
    partition = make_compacted(log, delete_retention_ms=HOUR)
    times = with_clock(partition, NOW)
    partition.append(b"v", key=b"a", timestamp=NOW)
    partition.append(None, key=b"a", timestamp=NOW)
    partition.append(b"v", key=b"b", timestamp=NOW)
    times[0] += 10 * HOUR  # their time runs from the first compaction on
    partition.compact()
    assert keys_of(partition) == [b"a", b"b"]
    times[0] += HOUR - 1
    partition.append(b"v", key=b"c", timestamp=NOW)
    partition.compact()
    assert keys_of(partition) == [b"a", b"b", b"c"]
    times[0] += 1
    partition.append(b"v", key=b"d", timestamp=NOW)
    partition.compact()
    assert keys_of(partition) == [b"b", b"c", b"d"]
    assert partition.log_start_offset == 0


def test_tombstones_go_also_where_nothing_is_appended_any_more(log: Log) -> None:
    partition = make_compacted(log, delete_retention_ms=HOUR)
    times = with_clock(partition, NOW)
    partition.append(None, key=b"a", timestamp=NOW)
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    times[0] += HOUR - 1
    assert partition.compact().rounds == 0
    times[0] += 1
    assert partition.compact().records_kept == 1
    assert keys_of(partition) == [b"b"]
    assert partition.compact().rounds == 0, "not again for as long"


def test_while_the_clock_is_in_doubt_no_tombstone_grows_old(log: Log) -> None:
    partition = make_compacted(log, delete_retention_ms=HOUR)
    times = with_clock(partition, NOW)
    partition.append(None, key=b"a", timestamp=NOW)
    partition.compact()
    times[0] += YEAR
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    assert keys_of(partition) == [b"a", b"b"]
    assert not partition.is_compaction_due()
    times[0] += CLOCK_PROBATION_MS  # it still says so: it is believed
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    assert keys_of(partition) == [b"b"]


def test_a_clock_that_was_in_doubt_does_not_put_off_the_next_look_at_tombstones(log: Log) -> None:
    partition = make_compacted(log, delete_retention_ms=HOUR)
    times = with_clock(partition, NOW)
    partition.append(None, key=b"a", timestamp=NOW)
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    times[0] += YEAR
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    times[0] = NOW + HOUR
    assert partition.compact().rounds == 1
    assert keys_of(partition) == [b"b"]


def test_times_of_tombstones_are_left_out_where_a_segment_would_outgrow_its_index(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = make_compacted(log, segment_bytes=1 << 20, delete_retention_ms=HOUR)
    times = with_clock(partition, NOW)
    partition.append_many([None] * 1000, keys=[b"%d" % n for n in range(1000)], timestamps=NOW)
    size = partition._attached().page.marks().position  # type: ignore[union-attr]
    monkeypatch.setattr(compaction, "_LONGEST_LOG", size)
    assert partition.compact().bytes_after == size
    assert len(keys_of(partition)) == 1000
    monkeypatch.undo()
    times[0] += HOUR
    assert partition.compact().bytes_after > size
    times[0] += HOUR
    assert partition.compact().records_kept == 0


def test_a_clock_that_is_set_back_lets_no_tombstone_go_early(log: Log) -> None:
    partition = make_compacted(log, delete_retention_ms=HOUR)
    times = with_clock(partition, NOW)
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    times[0] -= YEAR
    partition.append(None, key=b"a", timestamp=NOW - YEAR)
    partition.compact()
    times[0] = NOW + HOUR - 1
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    assert keys_of(partition) == [b"a", b"b"]
    times[0] += 1
    partition.append(b"v", key=b"b", timestamp=NOW)
    partition.compact()
    assert keys_of(partition) == [b"b"]


def test_what_was_appended_lately_is_not_compacted(log: Log) -> None:
    partition = make_compacted(log, min_compaction_lag_ms=HOUR)
    times = with_clock(partition, NOW)
    update(partition, 100, keys=3)
    assert partition.compact().rounds == 0
    assert len(keys_of(partition)) == 100
    times[0] += HOUR
    assert partition.compact().rounds == 1
    assert len(keys_of(partition)) == 3


def test_what_is_old_is_compacted_whatever_the_ratio(log: Log) -> None:
    partition = make_compacted(
        log, max_compaction_lag_ms=HOUR, min_cleanable_dirty_ratio=1.0, segment_bytes=600
    )
    times = with_clock(partition, NOW)
    for number in range(30):
        partition.append(b"v%d" % number, key=b"%d" % (number % 3), timestamp=NOW)
    times[0] += HOUR
    assert not partition.is_compaction_due()
    times[0] += 1
    assert partition.is_compaction_due()
    assert partition.compact_if_due() is not None
    assert not partition.is_compaction_due()


def test_records_without_keys_stay_that_a_topic_takes_since_it_is_no_longer_compacted(
    log: Log,
) -> None:
    partition = make_compacted(log)
    limit_memory(partition, 1 << 10)
    update(partition, 500, keys=200)

    def alter(progress: CompactionProgress) -> None:
        if partition.log_end_offset == 500:
            log.alter_topic("t", cleanup_policy="delete")
            partition.append_many([b"no key"] * 500)

    assert partition.compact(progress=alter).rounds == 1
    assert len(list(partition.records(500))) == 500


def test_a_policy_that_is_changed_when_compaction_begins_ends_it(log: Log) -> None:
    partition = make_compacted(log)
    update(partition, 100, keys=5)
    seal = partition._seal_active

    def alter_first() -> None:
        log.alter_topic("t", cleanup_policy="delete")
        partition.append(b"no key")
        seal()

    partition._seal_active = alter_first  # type: ignore[method-assign]
    assert partition.compact().rounds == 0
    assert len(list(partition.records())) == 101


def test_settings_that_are_changed_between_two_rounds_end_it(log: Log) -> None:
    partition = make_compacted(log)
    limit_memory(partition, 1 << 10)
    update(partition, 500, keys=200)

    def forbid(progress: CompactionProgress) -> None:
        if progress.round == 1:
            log.alter_topic("t", min_compaction_lag_ms=HOUR)

    report = partition.compact(progress=forbid)
    assert report.rounds == 1
    assert 0 < report.end < 500
    assert [r.offset for r in partition.records(report.end)] == list(range(report.end, 500))
