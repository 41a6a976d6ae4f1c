"""Compaction over disks that fail, fill up or hold damage: nothing changed, nothing left behind."""

from __future__ import annotations

import copy
import errno
import functools
from pathlib import Path
from typing import Any

import pytest
from compacting import contents_of, fold, make_compacted, update
from crash_checks import Process
from crash_model import Disk
from memory_files import MemoryFiles
from partitions import logs_in

import pylog
from pylog import Partition, TopicConfig
from pylog.errors import (
    CorruptRangeError,
    PartitionFailedError,
    PartitionFullError,
    PylogError,
)


def memory_partition(files: MemoryFiles, **settings: Any) -> Partition:
    given = {"durability": "os", "segment_bytes": 600, "segment_index_bytes": 4096}
    config = TopicConfig(cleanup_policy="compact", **(given | settings))
    return Process(files).partition(config)


@functools.cache
def filled_disk() -> Disk:
    files = MemoryFiles(is_recording=True)
    partition = memory_partition(files)
    update(partition, 60, keys=4)
    partition.compact()
    update(partition, 30, keys=4, seed=1)
    partition.close()
    return files.disk_after()


def filled() -> tuple[MemoryFiles, Partition]:
    """Return a partition that was compacted and got more since, and its files."""
    files = MemoryFiles(copy.deepcopy(filled_disk()))
    partition = memory_partition(files)
    update(partition, 3, keys=4, seed=2)
    return files, partition


def left_in(files: MemoryFiles) -> list[str]:
    return [name for name in files.contents() if name.endswith(".cleaned")]


def count_calls() -> int:
    files, partition = filled()
    files.calls = []
    partition.compact()
    return len(files.calls)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("is_lasting", [False, True])
def test_a_call_that_fails_changes_nothing(code: int, is_lasting: bool) -> None:
    calls = count_calls()
    assert calls > 100
    failed = failed_partitions = 0
    for nth in range(calls):
        files, partition = filled()
        state, end = fold(partition), partition.log_end_offset
        files.fail(nth=nth, code=code, is_lasting=is_lasting)
        try:
            partition.compact()
        except (PylogError, OSError) as error:
            failed += 1
            assert repr(partition.compaction_error) == repr(error)
            assert code == errno.ENOSPC or not isinstance(error, PartitionFullError)
        files.heal()
        assert fold(partition) == state
        assert partition.log_end_offset == end
        partition.check()
        if partition.state == "failed":
            # It was a sync of what was appended; then nothing is written any more.
            failed_partitions += 1
            with pytest.raises(PartitionFailedError):
                partition.compact()
        else:
            partition.append(b"more", key=b"more")
            partition.compact()
            assert fold(partition) == state | {b"more": b"more"}
            assert partition.compaction_error is None
            assert not left_in(files)
    assert failed > calls / 3
    assert failed_partitions < calls / 5


def test_any_space_that_is_left_is_enough_or_is_asked_for() -> None:
    full = 0
    for free_bytes in range(0, 1 << 20, 12 << 10):
        files, partition = filled()
        state = fold(partition)
        files.free_bytes = free_bytes
        try:
            partition.compact()
        except PartitionFullError:
            full += 1
        assert fold(partition) == state
        assert not left_in(files)
        files.free_bytes = None
        partition.compact()
        assert fold(partition) == state
    assert 3 < full < 80


@pytest.mark.parametrize("phase", ["map", "filter"])
def test_a_damaged_segment_is_refused_and_nothing_is_deleted(tmp_path: Path, phase: str) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_compacted(log, segment_bytes=1500)
        update(partition, 200, keys=5)
        if phase == "filter":
            partition.compact()  # what is clean is not read again by the first pass
            update(partition, 100, keys=5, seed=1)
            partition.append(b"last", key=b"last")
        contents = {record.offset: contents_of(record) for record in partition.records()}
        path = next(path for path in logs_in(tmp_path) if path.stat().st_size)
        position = path.stat().st_size - 3
        with path.open("r+b") as file:
            file.seek(position)
            octet = file.read(1)
            file.seek(position)
            file.write(bytes([octet[0] ^ 1]))

        with pytest.raises(CorruptRangeError) as caught:
            partition.compact(include_active=phase == "filter")

        assert caught.value.path == str(path)
        kept = partition.compaction_error
        assert (type(kept), str(kept)) == (CorruptRangeError, str(caught.value))
        assert kept.__traceback__ is None, "its frames would keep the map and the buffers"
        assert not list((tmp_path / "t-0").glob("*.cleaned"))
        for first, last in ((0, caught.value.first), (caught.value.last + 1, max(contents))):
            for record in partition.records(first, last):
                assert contents_of(record) == contents[record.offset]
        # Once the damage is gone, compaction goes on.
        with path.open("r+b") as file:
            file.seek(position)
            file.write(octet)
        partition.compact()
        assert partition.compaction_error is None
        assert fold(partition).items() <= {c[2]: c[3] for c in contents.values()}.items()
