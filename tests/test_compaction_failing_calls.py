"""Compaction while calls of the file system fail: each one, once or from then on, with any error.

Whatever fails, nothing is lost, nothing else stops, and what was written in vain is taken away.
"""

from __future__ import annotations

import copy
import errno
import functools
import os
import random
from collections.abc import Iterator

import pytest
from compacted import check_rows, read_rows
from conftest import IS_EXHAUSTIVE
from crash_checks import FAILURES, Contents, Process, Promise, ViolationError, quiet
from crash_model import DAMAGES, Disk, keep_all, lose_all
from memory_files import MemoryFiles
from planted_compaction import CALL_PLANTS, Plant

from pylog.config import TopicConfig
from pylog.errors import PylogError
from pylog.storage.inspect import inspect_partition
from pylog.storage.partition import Partition

# Which calls fail in an everyday run; the exhaustive one takes all.
SEED = int(os.environ.get("PYLOG_FAULT_SEED") or random.randrange(7))
CODES = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES, errno.EINTR)
CONFIG = TopicConfig(
    durability="os",
    cleanup_policy="compact",
    segment_bytes=900,
    segment_index_bytes=240,
    index_interval_bytes=200,
    file_delete_delay_ms=0,
)
MAP_BYTES = 12 << 10


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


@functools.cache
def base() -> tuple[Disk, Contents]:
    """Return a disk with a topic of some segments, the first compacted before, and its rows."""
    files = MemoryFiles(is_recording=True, map_bytes=MAP_BYTES)
    partition = Process(files).partition(CONFIG)
    rng = random.Random(0)
    rows: Contents = []
    for number in range(60):
        # Some keys come once, so that something is left of each segment.
        key = b"k%d" % rng.choice((number, number, *range(9), *range(9)))
        value = b"%d " % number + rng.randbytes(40)
        rows.append((key, None if rng.random() < 0.2 else value))
        partition.append(rows[-1][1], key=key)
        if number == 20:
            partition.compact()
    partition.flush()
    return files.disk_after().crash(keep_all, random.Random(0)), rows


def check_whole(partition: Partition, rows: Contents) -> None:
    partition.check()
    found = read_rows(partition)
    check_rows(found, Promise(0, 0, len(rows), rows))


def leftovers(files: MemoryFiles) -> list[str]:
    return [name for name in files.contents() if name.endswith(".cleaned")]


def check_after(files: MemoryFiles, seed: int, rows: Contents) -> None:
    """Check what a kill or a power cut would leave now."""
    rng = random.Random(seed)
    disk = files.disk_after()
    cuts = [disk.crash(damage, rng) for damage in (lose_all, DAMAGES[seed % len(DAMAGES)])]
    for state, boot in ((disk, 2), *((cut, 3) for cut in cuts)):
        again = MemoryFiles(state, boot=boot, is_recording=True, map_bytes=MAP_BYTES)
        partition = Process(again).partition(CONFIG)
        found = read_rows(partition)
        if boot == 2 and len(found) < len(rows):
            raise ViolationError(f"{len(found)} of {len(rows)} rows after a kill")
        check_rows(found, Promise(0, 0, min(60, len(rows)), rows))
        assert not leftovers(again)


def run_with_fault(nth: int, code: int, *, is_lasting: bool, short_bytes: int) -> bool:
    """Compact with one fault and check; return whether the fault was reached."""
    disk, rows = copy.deepcopy(base())
    files = MemoryFiles(disk, boot=2, is_recording=True, map_bytes=MAP_BYTES)
    process = Process(files)
    one, other = process.partition(CONFIG), Process(files).partition(CONFIG)
    check_whole(one, rows)
    check_whole(other, rows)
    files.calls = []
    files.fail(nth=nth, code=code, is_lasting=is_lasting, short_bytes=short_bytes)
    error = None
    try:
        one.compact()
    except (OSError, PylogError) as caught:
        error = caught
    calls, files.calls = files.calls, None
    files.heal()
    is_reached = len(calls) > nth
    if error is not None and not is_reached:
        raise ViolationError(f"no call failed, but {error!r}") from error
    check_after(files, nth, rows)
    for partition in (one, other):
        check_whole(partition, rows)
    if one.state == "failed":
        if calls[nth] not in ("sync", "sync_data", "directory_sync"):
            raise ViolationError(f"{calls[nth]} failed, and so did the partition")
        return is_reached
    for partition in (one, other):
        rows.append((b"k1", b"after"))
        assert partition.append(b"after", key=b"k1").offset == len(rows) - 1
    check_compacts(files, other, rows)
    check_whole(one, rows)
    report = inspect_partition(files.root().directory("topic-0"), process.lock_file)
    assert not report.is_damaged, report.findings
    return is_reached


def check_compacts(files: MemoryFiles, partition: Partition, rows: Contents) -> None:
    """Assert that a compaction now succeeds and leaves nothing beside."""
    partition.compact()
    check_whole(partition, rows)
    found = [row for row in read_rows(partition) if isinstance(row, tuple)]
    assert len({key for key, _ in found}) == len(found), "one row of each key is left"
    assert not leftovers(files)


def explore_calls(code: int, *, step: int, most: int = 5) -> tuple[int, list[str]]:
    """Let every `step`-th call fail, once and for ever; return how many, and `most` violations."""
    count, violations = 0, []
    for is_lasting in (False, True):
        nth, is_reached = SEED % step, True
        while is_reached and len(violations) < most:
            try:
                is_reached = run_with_fault(
                    nth, code, is_lasting=is_lasting, short_bytes=nth * 37 % 200
                )
            except FAILURES as error:
                how = "for ever" if is_lasting else "once"
                violations.append(f"call {nth} {how}: {type(error).__name__}: {error}")
            nth += step
            count += 1
    return count, violations


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
def test_every_failing_call_leaves_the_old_or_the_new_segments(code: int) -> None:
    count, violations = explore_calls(code, step=1 if IS_EXHAUSTIVE else 7)
    print(f"seed {SEED}: {errno.errorcode[code]}: {count} faults, {len(violations)} violations")

    assert not violations, "\n".join(violations)
    assert count > 30


@pytest.mark.slow
@pytest.mark.parametrize("plant", CALL_PLANTS, ids=lambda plant: plant.__name__)
def test_failing_calls_find_a_bug_planted_into_compaction(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    violations = explore_calls(errno.EIO, step=3, most=1)[1]
    print(f"{plant.__name__}: {violations[:1]}")

    assert violations
    assert "TypeError" not in violations[0]
    assert "AttributeError" not in violations[0]


@pytest.mark.parametrize("free_pages", range(8))
def test_a_disk_that_fills_up_stops_compaction_and_nothing_else(free_pages: int) -> None:
    disk, rows = copy.deepcopy(base())
    files = MemoryFiles(disk, boot=2, is_recording=True, map_bytes=MAP_BYTES)
    partition = Process(files).partition(CONFIG)
    check_whole(partition, rows)
    files.free_bytes = free_pages * 4096
    is_refused = False
    try:
        partition.compact()
    except OSError as error:
        assert error.errno == errno.ENOSPC
        is_refused = True
    assert is_refused or free_pages > 0
    check_whole(partition, rows)
    if is_refused:
        assert not leftovers(files)

    files.free_bytes = 1 << 20
    assert partition.append(b"fits", key=b"k2").offset == len(rows)
    rows.append((b"k2", b"fits"))
    check_compacts(files, partition, rows)
    check_after(files, free_pages, rows)
