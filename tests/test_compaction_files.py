"""Files that compaction leaves: their age, what verify says, how they are found and mended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from compacting import contents_of, fold, make_compacted, manifest_of, update
from partitions import bases, logs_in
from processes import children

import pylog
from pylog import CompactionProgress, Log
from pylog._native import batch_headers
from pylog.errors import CorruptRangeError
from pylog.topics.verification import verify

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR


def test_a_cleaned_segment_is_as_old_as_its_last_source(log: Log, tmp_path: Path) -> None:
    partition = make_compacted(log, segment_bytes=10_000)
    update(partition, 200, keys=3)
    partition.compact()
    update(partition, 20, keys=3, seed=1)
    partition.append(b"v", key=b"k")
    append_times: list[int] = []

    def make_old(progress: CompactionProgress) -> None:
        for number, path in enumerate(logs_in(tmp_path)):
            os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))
        segments = manifest_of(tmp_path).segments
        append_times[:] = [facts.append_time for facts in segments[:-1]] or append_times

    assert partition.compact(progress=make_old).segments_after == 1
    assert len(append_times) > 1
    assert logs_in(tmp_path)[0].stat().st_mtime == 1_600_000_000 + len(append_times) - 1
    assert manifest_of(tmp_path).segments[0].append_time == append_times[-1]


def test_verify_finds_nothing_wrong_after_compactions(log: Log, tmp_path: Path) -> None:
    partition = make_compacted(log)
    for seed in range(3):
        update(partition, 200, keys=30, seed=seed)
        partition.compact()
        assert damages(tmp_path) == []
    log.close()
    assert damages(tmp_path) == []


def test_a_log_without_its_manifest_is_found_from_cleaned_segments(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_compacted(log, segment_bytes=300)
        for key in b"abcdef":
            partition.append(bytes(80), key=bytes([key]))
        # The last record of the first segment, which leaves no gap that a batch shows.
        last = partition._attached().known_segments().bases[1] - 1  # type: ignore[union-attr]
        partition.append(b"new", key=bytes([b"abcdef"[last]]))
        partition.compact()
        expected = [contents_of(record) for record in partition.records()]
        assert last not in [offset for offset, *_ in expected]
        assert bases(tmp_path)[1] == last + 1
    (tmp_path / "t-0" / "manifest").unlink()
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert [contents_of(record) for record in partition.records()] == expected
        for offset in range(partition.log_end_offset):
            partition.read(offset)
        partition.append(b"newer", key=b"a")
        partition.compact()
        assert fold(partition) == {key: value for _, _, key, value, _ in expected} | {
            b"a": b"newer"
        }


@pytest.mark.parametrize("policy", ["compact", "delete"])
def test_without_its_manifest_a_log_loses_no_segment_to_a_flipped_bit(
    tmp_path: Path, policy: str
) -> None:
    """No CRC covers a batch's base offset; what it says costs that batch and nothing else."""
    with pylog.open(tmp_path) as log:
        partition = make_compacted(log, cleanup_policy=policy)
        for number in range(200):
            partition.append(b"%d" % number, key=b"%d" % number)
    paths = logs_in(tmp_path)
    assert len(paths) > 4
    for path in (paths[0], paths[2]):
        data = bytearray(path.read_bytes())
        last = batch_headers(data)[-1]["position"]
        data[last + 5] ^= 1  # 65,536 offsets later
        path.write_bytes(data)
    (tmp_path / "t-0" / "manifest").unlink()
    for _ in range(3):
        with pylog.open(tmp_path) as log:
            partition = log.topic("t").partition(0)
            found, offset = [], 0
            while offset < 200:
                try:
                    records = partition.read(offset)
                except CorruptRangeError as error:
                    assert error.first == error.last
                    offset = error.last + 1
                    continue
                found += [record.offset for record in records]
                offset = records.next_offset
            assert len(found) == 198
            assert partition.log_end_offset == 200
        assert logs_in(tmp_path) == paths


def test_recovery_mends_what_compaction_left_as_it_was_rolled(tmp_path: Path) -> None:
    """A roll of durability "os" leaves indexes unsynced, and zeros behind the last batch."""
    with children() as start:

        def work() -> None:
            log = pylog.open(tmp_path)
            partition = make_compacted(log, segment_bytes=20_000, index_interval_bytes=500)
            for number in range(150):
                partition.append(bytes(100), key=b"only once %d" % number)
            assert len(bases(tmp_path)) == 2
            while len(bases(tmp_path)) < 4:
                partition.append(bytes(100), key=b"key")
            partition.compact(include_active=False)
            os._exit(0)  # without a close

        start(work).join()
    first, second, *_ = manifest_of(tmp_path).segments
    assert first.revision == 0 < second.revision
    path = tmp_path / "t-0" / f"{0:020}"
    with path.with_suffix(".log").open("ab") as file:
        file.write(bytes(50_000))
    path.with_suffix(".index").write_bytes(b"")
    with pylog.open(tmp_path) as log:
        log.topic("t").append(b"more", key=b"more")
    assert path.with_suffix(".log").stat().st_size == first.size
    assert damages(tmp_path) == []


def damages(path: Path) -> list[str]:
    reports = verify(str(path))
    return [str(one) for report in reports for one in report.findings if one.is_damage]
