"""Compaction over disks that fail, fill up or hold damage: nothing changed, nothing left behind."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from compacting import contents_of, fold, make_compacted, update
from crash_checks import Process
from crash_model import Disk
from memory_files import MemoryFiles

import pylog
from pylog import Partition, TopicConfig
from pylog.errors import (
    CorruptRangeError,
    DurabilityUnknownError,
    NotAppendedError,
    PartitionFailedError,
    PartitionFullError,
    PylogError,
)


def memory_partition(files: MemoryFiles, **settings: Any) -> Partition:
    given = {"durability": "os", "segment_bytes": 600, "segment_index_bytes": 4096}
    config = TopicConfig(cleanup_policy="compact", **(given | settings))
    return Process(files).partition(config)


def filled(files: MemoryFiles) -> Partition:
    partition = memory_partition(files)
    update(partition, 60, keys=4)
    partition.compact()
    update(partition, 30, keys=4, seed=1)
    return partition


def left_in(files: MemoryFiles) -> list[str]:
    return [name for name in files.contents() if name.endswith(".cleaned")]


def count_calls() -> int:
    files = MemoryFiles(Disk())
    partition = filled(files)
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
        files = MemoryFiles(Disk())
        partition = filled(files)
        state, end = fold(partition), partition.log_end_offset
        files.fail(nth=nth, code=code, is_lasting=is_lasting)
        try:
            partition.compact()
        except (PylogError, OSError) as error:
            failed += 1
            assert partition.compaction_error is error
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
        again = memory_partition(MemoryFiles(files.disk_after(), boot=1)) if files.trace else None
        assert again is None or fold(again).items() >= state.items()
    assert failed > calls / 3
    assert failed_partitions < calls / 5
