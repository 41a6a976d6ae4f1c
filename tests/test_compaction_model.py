"""Compaction against a plain list of all that was ever appended: two processes, any clock, rolls.

What may be gone follows from the list: what a newer record of the key replaced, and tombstones
whose time has passed.  What must be gone: all of that, below where compaction says that it came.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest
from compacted import (
    GONE,
    check_files,
    check_rows,
    is_row,
    newest_of_keys,
    read_rows,
)
from conftest import IS_EXHAUSTIVE
from crash_checks import DELETED, FAILURES, Contents, Process, Promise, quiet
from crash_model import Disk
from memory_files import MemoryFiles
from planted_compaction import MODEL_PLANTS, Plant

from pylog import Partition, TopicConfig
from pylog.records import OffsetAndTimestamp
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.inspect import inspect_partition

pytestmark = pytest.mark.usefixtures("quick_checksums")

STEPS = 5_000 if IS_EXHAUSTIVE else 150
HOUR = 3_600_000
SEEDS_TO_FIND_A_PLANT = 60


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


class Model:
    """What was appended, when, and the handles that did it."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.config = TopicConfig(
            durability=rng.choice(("os", "fsync", "interval")),
            segment_bytes=rng.choice((500, 1500, 6000)),
            segment_ms=rng.choice((2 * HOUR, 2**62)),
            segment_index_bytes=rng.choice((96, 10_000)),
            index_interval_bytes=rng.choice((0, 300, 4096)),
            cleanup_policy=rng.choice(("compact", "compact", "compact,delete")),
            compression_type=rng.choice(("producer", "producer", "gzip", "lz4", "zstd", "snappy")),
            retention_ms=-1,
            retention_bytes=rng.choice((-1, 3000)),
            delete_retention_ms=rng.choice((0, HOUR, 4 * HOUR)),
            min_compaction_lag_ms=rng.choice((0, 0, HOUR)),
            file_delete_delay_ms=rng.choice((0, 60_000)),
            message_timestamp_type=rng.choice(("CreateTime", "CreateTime", "LogAppendTime")),
            message_timestamp_after_max_ms=2**63 - 1,
        )
        # As many as the smallest map holds, or far more, which takes rounds.
        self.keys = rng.choice((3, 30, 300))
        self.files = MemoryFiles(Disk(), boot=1)
        self.processes = [Process(self.files), Process(self.files, CleanerConfig())]
        self.partitions = [one.partition(self.config) for one in self.processes]
        self.rows: Contents = []
        self.times: list[int] = []  # timestamps of the rows
        self.compacted_end = 0  # no offset at or above it may be gone
        # When compaction may first have gone over a row, when it certainly did, and how often it
        # did since the time of the tombstone passed.
        self.first_seen: dict[int, int] = {}
        self.first_passed: dict[int, int] = {}
        self.passes: dict[int, int] = {}
        self.start = 0
        self.gone = 0
        self.done: dict[str, int] = {}

    @property
    def now(self) -> int:
        return self.processes[0].now

    @property
    def partition(self) -> Partition:
        return self.rng.choice(self.partitions)

    def wait(self) -> None:
        passed = self.rng.choice((0, 1, 60_000, HOUR, 5 * HOUR))
        for process in self.processes:
            process.now += passed

    def row(self) -> tuple[bytes, bytes | None, int]:
        """Return the next row and its timestamp."""
        rng = self.rng
        key = b"" if rng.random() < 0.02 else b"k%d" % min(rng.randrange(self.keys) for _ in "12")
        value = b"%d " % len(self.rows) + rng.randbytes(rng.choice((0, 10, 60, 200)))
        self.rows.append((key, None if rng.random() < 0.2 else value))
        time = rng.choice((self.now, self.now, 0, self.now - 9 * HOUR, self.now + HOUR))
        is_stamped = self.config.message_timestamp_type == "LogAppendTime"
        self.times.append(self.now if is_stamped else time)
        return *self.rows[-1], time

    def append(self) -> None:
        offset = len(self.rows)
        key, value, time = self.row()
        assert self.partition.append(value, key=key, timestamp=time).offset == offset

    def append_many(self) -> None:
        rows = [self.row() for _ in range(self.rng.randrange(1, 30))]
        keys, values, times = zip(*rows, strict=True)
        self.partition.append_many(values, keys=keys, timestamps=times)

    def find_time(self) -> None:
        """Look for a time, which the indexes of cleaned segments help with."""
        partition, rng = self.partition, self.rng
        rows = [(n, self.times[n]) for n, row in enumerate(read_rows(partition)) if is_row(row)]
        for time in rng.choices([0, self.now, *self.times], k=5):
            for wanted in (time, time + 1):
                first = next((one for one in rows if one[1] >= wanted), None)
                assert place(partition.offset_for_time(wanted)) == first
        assert place(partition.max_timestamp) == max(rows, key=lambda one: one[1], default=None)

    def reopen(self) -> None:
        number = self.rng.randrange(2)
        self.partitions[number].close()
        self.partitions[number] = self.processes[number].partition(self.config)

    def suspend(self) -> None:
        self.partition.suspend()

    def retain(self) -> None:
        if "delete" in self.config.cleanup_policy:
            self.partition.apply_retention()

    def compact(self) -> None:
        report = self.partition.compact()
        end = report.end
        self.compacted_end = max(self.compacted_end, end)
        found = read_rows(self.partition)
        if self.config.min_compaction_lag_ms == 0:
            assert end == len(self.rows), "all is compacted, the active segment too"
        if report.rounds:
            self.check_progress(found, end)

    def stop_compacting(self) -> None:
        """Compact and stop in the middle, a few times: some groups are clean then, others not."""
        left = 0

        def stop(_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError

        self.compacted_end = len(self.rows)
        for _ in range(self.rng.randrange(1, 4)):
            left = self.rng.randrange(12)
            with contextlib.suppress(InterruptedError):
                self.partition.compact(progress=stop)
        for offset in range(len(self.rows)):
            self.first_seen.setdefault(offset, self.now)

    def check_progress(self, found: Contents, end: int) -> None:
        """Assert that below `end` one row of each key is left, and no tombstone for too long."""
        newest = newest_of_keys(self.rows[:end])
        for offset in range(self.start, end):
            row = self.rows[offset]
            if offset != newest[row[0]]:
                assert found[offset] in (GONE, DELETED), f"{offset} was replaced"
            elif row[1] is None:
                self.check_tombstone(offset, is_there=found[offset] == row)

    def check_tombstone(self, offset: int, *, is_there: bool) -> None:
        self.first_seen.setdefault(offset, self.now)
        is_past = (
            self.now - self.first_passed.setdefault(offset, self.now)
            >= self.config.delete_retention_ms
        )
        if not is_there:
            return
        self.passes[offset] = self.passes.get(offset, 0) + is_past
        assert self.passes[offset] <= 2, f"tombstone {offset} is still there"

    def check(self) -> None:
        for partition in self.partitions:
            partition.check()
            found = read_rows(partition)
            start = partition.log_start_offset
            assert start >= self.start
            self.start = start
            check_rows(found, Promise(start, start, len(self.rows), self.rows))
            assert len(found) == len(self.rows)
            self.check_gone(found)
        self.gone = found.count(GONE)

    def check_gone(self, found: Contents) -> None:
        """Assert that nothing is gone that had to stay."""
        newest = newest_of_keys(self.rows)
        for offset, row in enumerate(found):
            if row is not GONE:
                continue
            assert offset < self.compacted_end
            key, value = self.rows[offset]
            if newest[key] == offset:
                assert value is None
                seen = self.first_seen.get(offset, self.now)
                assert self.now - seen >= self.config.delete_retention_ms, f"tombstone {offset}"

    def check_files(self) -> None:
        """Assert that others, too, can read what is there, and that `verify` finds it sound."""
        if self.partition.marks() is None:
            return
        files = {
            path.removeprefix("topic-0/"): data
            for path, data in self.files.contents().items()
            if path.startswith("topic-0/")
        }
        check_files(files, read_rows(self.partition))
        directory = self.files.root().directory("topic-0")
        report = inspect_partition(directory, self.processes[0].lock_file)
        assert not report.is_damaged, report.findings

    ACTIONS = (
        (append, 12),
        (append_many, 6),
        (wait, 8),
        (compact, 4),
        (stop_compacting, 2),
        (retain, 1),
        (reopen, 2),
        (suspend, 2),
        (check_files, 2),
        (find_time, 4),
    )

    def step(self) -> None:
        actions, weights = zip(*self.ACTIONS, strict=True)
        (action,) = self.rng.choices(actions, weights)
        action(self)
        self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
        self.check()


def place(found: OffsetAndTimestamp | None) -> tuple[int, int] | None:
    return None if found is None else (found.offset, found.timestamp)


def run(seed: int) -> Model:
    model = Model(seed)
    print(f"seed {seed}: {model.config}")
    for _ in range(STEPS):
        model.step()
    model.check_files()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_what_is_left_means_what_was_appended(number: int) -> None:
    seed = random.randrange(2**32)
    models = [run(seed + more) for more in range(6)]
    assert sum(len(model.rows) for model in models) > 3 * STEPS
    assert sum(model.gone for model in models) > STEPS
    assert len(set().union(*(model.done for model in models))) == len(Model.ACTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("plant", MODEL_PLANTS, ids=lambda plant: plant.__name__)
def test_the_model_finds_a_bug_planted_into_compaction(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = None
    for seed in range(SEEDS_TO_FIND_A_PLANT):
        try:
            run(seed)
        except FAILURES as error:
            found = error
            break
    print(f"{plant.__name__}: {found!r:.200}")

    assert found is not None
    assert not isinstance(found, (TypeError, AttributeError)), "the plant is out of date"
