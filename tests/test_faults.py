"""Faults: every call of the file system fails once, or from then on, with every error that can be.

Whatever fails, an operation says truly whether its records are there: returned means kept,
NotAppendedError means certainly not, DurabilityUnknownError means perhaps.  Afterwards the
partition opens again and holds exactly that, after a kill as after a power cut.

In the everyday run each call fails with one of seven errors, with PYLOG_EXHAUSTIVE=1 with each of
them; PYLOG_FAULT_SEED changes which.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import os
import random
from collections.abc import Iterator

import pytest
from conftest import IS_EXHAUSTIVE
from crash_checks import (
    FAILURES,
    Process,
    ViolationError,
    check_nothing_deleted,
    quiet,
    read_all,
)
from crash_model import DAMAGES, ROOT, Disk, Sync, SyncFailed, keep_all, lose_all
from memory_files import MemoryFiles
from planted import FAULT_PLANTS, Plant

from pylog.config import TopicConfig
from pylog.errors import (
    DurabilityUnknownError,
    NotAppendedError,
    PartitionFailedError,
    PartitionFullError,
)
from pylog.storage.partition import Partition

SEED = int(os.environ.get("PYLOG_FAULT_SEED", "0"))
CODES = (
    errno.EIO,
    errno.ENOSPC,
    errno.EMFILE,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EINTR,
)
FSYNC = TopicConfig(segment_bytes=2048, segment_index_bytes=96, index_interval_bytes=512)
LARGE = TopicConfig(segment_bytes=1 << 20, segment_index_bytes=4096)
Failed = pytest.fail.Exception  # what `pytest.raises` raises when nothing was raised
READ_CALLS = set(
    "open pread size names exists map identity drop_cache lock unlock make directory_sync".split()
)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


class Ledger:
    """What a workload was told about each of its values."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.never: set[bytes] = set()
        self.perhaps: set[bytes] = set()

    def append(self, partition: Partition, value: bytes) -> None:
        try:
            self.kept[partition.append(value).offset] = value
        except DurabilityUnknownError:
            self.perhaps.add(value)
        except (NotAppendedError, OSError):
            self.never.add(value)

    def append_many(self, partition: Partition, values: list[bytes]) -> None:
        try:
            appended = partition.append_many(values)
        except DurabilityUnknownError:
            self.perhaps.update(values)
        except NotAppendedError as error:
            # Those before the failure are in the log, but nobody waited for their sync.
            self.perhaps.update(values[: len(error.appended)])
            self.never.update(values[len(error.appended) :])
        except OSError:
            self.never.update(values)
        else:
            self.kept.update((one.offset, v) for one, v in zip(appended, values, strict=True))

    def check(self, partition: Partition) -> None:
        """Raise ViolationError unless the partition holds what the workload was told."""
        found = read_all(partition)
        for offset, value in self.kept.items():
            if offset >= len(found) or found[offset] != value:
                raise ViolationError(f"record {offset} of {len(self.kept)} kept ones is not there")
        values = [value for value in found if value is not None]
        if len(set(values)) != len(values):
            raise ViolationError("a record is there twice")
        for value in values:
            if value in self.never:
                raise ViolationError(f"{value[:10]!r} is there, certainly not appended")
        if not set(values) <= self.perhaps | set(self.kept.values()):
            raise ViolationError("a record is there that nobody appended")
        partition.check()


def workload(files: MemoryFiles, config: TopicConfig, ledger: Ledger) -> None:
    """Open, append, roll, flush, close, open again, append; errors are noted, not raised."""
    process = Process(files)
    for life in range(2):
        partition = process.partition(config)
        for number in range(8):
            ledger.append(partition, b"%d.%d." % (life, number) + bytes(100 + 60 * number))
        ledger.append_many(partition, [b"%d.many.%d" % (life, n) + bytes(150) for n in range(12)])
        for end in (partition.flush, partition.close):
            with contextlib.suppress(DurabilityUnknownError, OSError):
                end()


@functools.cache
def base() -> tuple[Disk, Ledger]:
    """Return a disk with an earlier life that ended without warning, a torn tail at its end."""
    ledger = Ledger()
    files = MemoryFiles(is_recording=True)
    partition = Process(files).partition(FSYNC)
    for number in range(10):
        ledger.append(partition, b"base.%d." % number + b"x" * 90)
    log = max(name for name in files.contents() if name.endswith(".log"))
    file = files.root().directory("topic-0").open(log.removeprefix("topic-0/"), writable=True)
    end = len(files.contents()[log].rstrip(b"\0")) + 64
    file.pwrite(b"torn" * 20, min(end, 2048 - 80))
    return files.disk_after().crash(keep_all, random.Random(0)), ledger


def check_after(files: MemoryFiles, ledger: Ledger, config: TopicConfig, seed: int) -> None:
    """Check the ledger after a kill and after cuts of the power, and that appends go on."""
    disk = files.disk_after()
    rng = random.Random(seed)
    damaged = disk.crash(DAMAGES[seed % len(DAMAGES)], rng)
    for state, boot in ((disk, 2), (damaged, 3)):
        again = MemoryFiles(state, boot=boot, is_recording=True)
        partition = Process(again).partition(config)
        ledger.check(partition)
        shown = read_all(partition)
        offset = partition.append(b"after").offset
        assert offset == len(shown)
        partition.flush()
        # What recovery showed is on disk, whatever a failed sync left behind.
        cut = MemoryFiles(again.disk_after().crash(lose_all, rng), boot=9)
        assert read_all(Process(cut).partition(config)) == [*shown, b"after"]


def run_with_fault(nth: int, code: int, *, is_lasting: bool, short_bytes: int = 0) -> bool:
    """Run the workload with one fault and check; return whether the fault was reached."""
    disk, ledger = copy.deepcopy(base())
    files = MemoryFiles(disk, boot=2, is_recording=True)
    # The directory of the log is open already: what fails is the partition's.
    files.root().open("pylog.lock", writable=True, create=True)
    files.calls = []
    files.fail(nth=nth, code=code, is_lasting=is_lasting, short_bytes=short_bytes)
    with contextlib.suppress(OSError):  # the log's own lock file could not be opened
        workload(files, FSYNC, ledger)
    is_reached = len(files.calls) > nth
    files.heal()
    files.calls = None
    check_after(files, ledger, FSYNC, seed=nth + code)
    return is_reached


def explore_faults(
    codes: tuple[int, ...], *, step: int, first: int, most: int = 5
) -> tuple[int, list[str]]:
    """Let every `step`-th call fail with every code, once and for ever; count and violations.

    most: violations that are enough.
    """
    count, violations = 0, []
    for code in codes:
        for is_lasting in (False, True):
            nth, is_reached = first, True
            while is_reached:
                try:
                    is_reached = run_with_fault(
                        nth, code, is_lasting=is_lasting, short_bytes=nth * 37 % 200
                    )
                except FAILURES as error:
                    how = "for ever" if is_lasting else "once"
                    violations.append(
                        f"call {nth} {errno.errorcode[code]} {how}: {type(error).__name__}: {error}"
                    )
                    if len(violations) >= most:
                        return count, violations
                nth += step
                count += 1
    return count, violations


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
def test_every_failing_call_tells_the_truth_and_loses_nothing(code: int) -> None:
    step = 1 if IS_EXHAUSTIVE else len(CODES)
    first = (SEED + CODES.index(code)) % step
    count, violations = explore_faults((code,), step=step, first=first)
    print(f"seed {SEED}: {errno.errorcode[code]}: {count} faults, {len(violations)} violations")

    assert not violations, "\n".join(violations)
    assert count > 50


# ---------------------------------------------------------------- failed syncs


def opened(files: MemoryFiles, config: TopicConfig = FSYNC) -> tuple[Process, Partition]:
    process = Process(files)
    return process, process.partition(config)


def recording() -> MemoryFiles:
    return MemoryFiles(is_recording=True)


def test_failed_sync_fails_the_partition_in_every_process_and_is_never_retried() -> None:
    files = recording()
    _, one = opened(files)
    _, other = opened(files)
    one.append(b"kept")
    assert [record.value for record in other.records()] == [b"kept"]

    files.fail("sync_data", code=errno.EIO)
    with pytest.raises(DurabilityUnknownError) as caught:
        one.append(b"perhaps")
    assert caught.value.errno == errno.EIO
    failed_at = files.note()
    for partition in (one, other):
        assert partition.state == "failed"
        with pytest.raises(PartitionFailedError):
            partition.append(b"never")
        with pytest.raises(PartitionFailedError):
            partition.append_many([b"never"] * 3)
        with pytest.raises(DurabilityUnknownError):
            partition.flush()
        assert [record.value for record in partition.records()] == [b"kept"]
        partition.close()

    assert files.trace is not None
    assert any(isinstance(operation, SyncFailed) for operation in files.trace)
    entries = files.directories[files.directories[ROOT]["topic-0"]]
    log_files = {number for name, number in entries.items() if name.endswith(".log")}
    synced = [o for o in files.trace[failed_at:] if isinstance(o, Sync) and o.file in log_files]
    assert not synced


def test_partition_opens_again_after_a_failed_sync_with_what_the_disk_really_holds() -> None:
    files = recording()
    _, partition = opened(files)
    partition.append(b"kept")
    files.fail("sync_data")
    with pytest.raises(DurabilityUnknownError):
        partition.append(b"perhaps")
    partition.close()

    _, again = opened(files)
    shown = read_all(again)

    assert shown[0] == b"kept"
    assert shown[1:] in ([], [b"perhaps"])
    cut = MemoryFiles(files.disk_after().crash(lose_all, random.Random(0)), boot=2)
    assert read_all(opened(cut)[1]) == shown
    assert again.append(b"after").offset == len(shown)


def test_failed_sync_of_a_roll_certainly_appends_nothing() -> None:
    files = recording()
    _, partition = opened(files)
    ledger = Ledger()
    for number in range(100):
        if number == 10:
            files.fail("sync_data", is_lasting=True)
        ledger.append(partition, b"%d " % number + bytes(150))
    files.heal()

    assert partition.state == "failed"
    assert len(ledger.perhaps) == 1
    check_after(files, ledger, FSYNC, seed=1)


# ---------------------------------------------------------------- full disks


@pytest.mark.parametrize("durability", ["fsync", "interval", "os"])
@pytest.mark.parametrize("size", [100, 1500, 70_000])
def test_full_disk_refuses_appends_until_space_is_freed(durability: str, size: int) -> None:
    files = recording()
    config = TopicConfig(segment_bytes=100_000, segment_index_bytes=4096, durability=durability)
    _, partition = opened(files, config)
    ledger = Ledger()
    ledger.append(partition, b"first")
    files.free_bytes = 40_000
    refused = 0
    for number in range(1000):
        value = b"%d " % number + bytes(size)
        try:
            ledger.kept[partition.append(value).offset] = value
        except PartitionFullError as error:
            assert error.errno == errno.ENOSPC
            ledger.never.add(value)
            refused += 1
            if refused == 3:
                break
    assert refused == 3
    assert partition.state == "full"
    ledger.check(partition)

    files.free_bytes = 1 << 20
    fits = b"fits" + bytes(size)
    assert partition.append(fits).offset == len(ledger.kept)
    assert partition.state == "open"
    ledger.kept[len(ledger.kept)] = fits
    partition.flush()
    check_after(files, ledger, config, seed=2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_large_write_that_stops_half_way_leaves_nothing_behind(code: int) -> None:
    files = recording()
    _, partition = opened(files, LARGE)
    partition.append(b"small")
    ledger = Ledger()
    ledger.kept[0] = b"small"
    for nth in range(3):
        files.fail("pwrite", nth=nth, code=code, short_bytes=50_000)
        ledger.append_many(partition, [b"%d.%d" % (nth, n) + bytes(5000) for n in range(20)])
        files.heal()
        ledger.append(partition, b"after %d" % nth)

    assert partition.state == "open"
    assert ledger.never
    ledger.check(partition)
    check_after(files, ledger, LARGE, seed=3)


def test_torn_partition_opens_and_reads_with_no_space_left() -> None:
    disk, ledger = copy.deepcopy(base())
    files = MemoryFiles(disk, boot=2, is_recording=True)
    files.free_bytes = 0
    _, partition = opened(files)

    ledger.check(partition)
    with pytest.raises(PartitionFullError):
        partition.append(b"refused")
    ledger.never.add(b"refused")
    ledger.check(partition)
    files.free_bytes = 1 << 20
    ledger.append(partition, b"fits")
    ledger.check(partition)
    check_after(files, ledger, FSYNC, seed=4)


# ---------------------------------------------------------------- errors while opening


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_error_while_opening_changes_not_one_byte(code: int) -> None:
    disk, ledger = copy.deepcopy(base())
    reading = 0
    for nth in range(200):
        files = MemoryFiles(disk, boot=2, is_recording=True)
        process = Process(files)
        before = files.contents()
        files.calls = []
        files.fail(nth=nth, code=code)
        caught = None
        try:
            process.partition(FSYNC).marks()
        except OSError as error:
            caught = error
        if len(files.calls) <= nth:
            break
        if set(files.calls[: nth + 1]) <= READ_CALLS:
            reading += 1
            assert caught is not None, f"call {nth} of {files.calls}"
            assert caught.errno == code
            after = files.contents()
            after["topic-0/state"] = before["topic-0/state"]
            assert after == before, f"call {nth} of {files.calls}"
        check_nothing_deleted(before, files.contents())
        ledger.check(process.partition(FSYNC))
    assert reading > 10, "most of opening is reading"


# ---------------------------------------------------------------- planted bugs


def find_any_violation() -> list[str]:
    """Run a selection of the tests above until one of them finds something."""
    checks = (
        test_failed_sync_fails_the_partition_in_every_process_and_is_never_retried,
        test_partition_opens_again_after_a_failed_sync_with_what_the_disk_really_holds,
        test_torn_partition_opens_and_reads_with_no_space_left,
        lambda: test_full_disk_refuses_appends_until_space_is_freed("fsync", 100),
        lambda: test_error_while_opening_changes_not_one_byte(errno.EIO),
    )
    for check in checks:
        try:
            check()
        except (*FAILURES, Failed) as error:
            return [f"{type(error).__name__}: {error}"]
    return explore_faults((errno.EIO,), step=7, first=0, most=1)[1]


def test_faults_find_nothing_without_a_plant() -> None:
    assert not find_any_violation()


@pytest.mark.parametrize("plant", FAULT_PLANTS, ids=lambda plant: plant.__name__)
def test_faults_find_a_planted_bug(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = find_any_violation()
    print(f"{plant.__name__}: {found[:1]}")

    assert found
    assert not found[0].startswith(("TypeError", "AttributeError")), "the plant is out of date"
