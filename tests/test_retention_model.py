"""Retention and deletion against a plain list: two processes, any timestamps, rolls and reopenings.

The list says when each record was appended, by the clock.  What must be gone is computed from it,
from where segments begin and from how long their files are.
"""

from __future__ import annotations

import random

import pytest
from conftest import IS_EXHAUSTIVE
from crash_checks import Process
from crash_model import Disk
from memory_files import MemoryFiles

from pylog import Partition, TopicConfig
from pylog.errors import OffsetOutOfRangeError

STEPS = 5_000 if IS_EXHAUSTIVE else 150
HOUR = 3_600_000


class Model:
    """What was appended and deleted, and the handles that did it."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.config = TopicConfig(
            durability=rng.choice(("os", "fsync", "interval")),
            segment_bytes=rng.choice((400, 1500, 6000)),
            segment_ms=rng.choice((2 * HOUR, 2**62)),
            segment_jitter_ms=rng.choice((0, HOUR)),
            index_interval_bytes=rng.choice((0, 4096)),
            retention_ms=rng.choice((-1, 0, 3 * HOUR, 20 * HOUR)),
            retention_bytes=rng.choice((-1, 0, 1000, 5000)),
            cleanup_policy=rng.choice(("delete", "delete", "delete,compact", "")),
            file_delete_delay_ms=rng.choice((0, 60_000)),
            message_timestamp_after_max_ms=2**63 - 1,
        )
        self.files = MemoryFiles(Disk(), boot=1)
        self.processes = [Process(self.files), Process(self.files)]
        self.partitions = [one.partition(self.config) for one in self.processes]
        self.rows: list[tuple[bytes, int]] = []  # value, when it was appended
        self.start = 0
        self.done: dict[str, int] = {}

    @property
    def now(self) -> int:
        return self.processes[0].now

    def wait(self) -> None:
        passed = self.rng.choice((0, 1, 60_000, HOUR, 5 * HOUR))
        for process in self.processes:
            process.now += passed

    @property
    def partition(self) -> Partition:
        return self.rng.choice(self.partitions)

    def value(self) -> bytes:
        return b"%d " % len(self.rows) + self.rng.randbytes(self.rng.randrange(60))

    def append(self) -> None:
        timestamp = self.rng.choice((None, 0, self.now - 9 * HOUR, 2**60))
        value = self.value()
        # A key of its own: a compacted topic takes no record without one.
        key = b"%d" % len(self.rows)
        assert self.partition.append(value, key, timestamp=timestamp).offset == len(self.rows)
        self.rows.append((value, self.now))

    def append_many(self) -> None:
        values = [self.value() + b"%d" % number for number in range(self.rng.randrange(1, 20))]
        keys = [b"%d" % (len(self.rows) + number) for number in range(len(values))]
        self.partition.append_many(values, keys)
        self.rows += [(value, self.now) for value in values]

    def delete(self) -> None:
        before = self.rng.choice((-1, self.rng.randint(0, len(self.rows))))
        self.start = max(self.start, len(self.rows) if before == -1 else before)
        if self.config.cleanup_policy != "compact":
            assert self.partition.delete_records(before) == self.start

    def reopen(self) -> None:
        number = self.rng.randrange(2)
        self.partitions[number].close()
        self.partitions[number] = self.processes[number].partition(self.config)

    def suspend(self) -> None:
        self.partition.suspend()

    def spans(self) -> list[tuple[int, int, int]]:
        """Return (base, end offset, bytes) of each segment that counts."""
        marks = self.partition.marks()
        assert marks is not None
        bases = sorted(
            int(path.rpartition("/")[2].removesuffix(".log"))
            for path in self.files.contents()
            if path.endswith(".log")
        )
        sizes = {
            int(path.rpartition("/")[2].removesuffix(".log")): len(data)
            for path, data in self.files.contents().items()
            if path.endswith(".log")
        }
        sizes[marks.base_offset] = marks.position
        ends = [*bases[1:], marks.log_end_offset]
        return [(base, end, sizes[base]) for base, end in zip(bases, ends, strict=True)]

    def expected_start(self) -> int:
        """Return where the log must start after retention."""
        if "delete" not in self.config.cleanup_policy or not self.rows:
            return self.start
        spans = self.spans()
        total = sum(size for _, _, size in spans)
        by_time = by_size = self.start
        for base, end, _ in spans:
            last = max((when for _, when in self.rows[base:end]), default=None)
            if last is None or self.now - last <= self.config.retention_ms:
                break
            by_time = end
        for _, end, size in spans:
            if total - size < self.config.retention_bytes or size == 0:
                break
            total -= size
            by_size = end
        start = self.start
        if self.config.retention_ms >= 0:
            start = max(start, by_time)
        if self.config.retention_bytes >= 0:
            start = max(start, by_size)
        return start

    def retain(self) -> None:
        if self.rows:
            self.start = self.expected_start()
        assert self.partition.apply_retention().log_start_offset == self.start

    def check(self) -> None:
        for partition in self.partitions:
            partition.check()
            assert partition.log_start_offset == self.start
            assert partition.log_end_offset == len(self.rows)
            found = [record.value for record in partition.records()]
            assert found == [value for value, _ in self.rows[self.start :]]
            if self.start:
                with pytest.raises(OffsetOutOfRangeError):
                    partition.read(self.rng.randrange(self.start))

    ACTIONS = (
        (append, 12),
        (append_many, 4),
        (wait, 8),
        (retain, 5),
        (delete, 1),
        (reopen, 2),
        (suspend, 2),
    )

    def step(self) -> None:
        actions, weights = zip(*self.ACTIONS, strict=True)
        (action,) = self.rng.choices(actions, weights)
        action(self)
        self.done[action.__name__] = self.done.get(action.__name__, 0) + 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_what_goes_and_what_stays_agrees_with_a_list(number: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    model = Model(seed)
    print(model.config)
    # Chance leaves out a rare action now and then: then it goes on until all were done.
    steps = 0
    while steps < STEPS or len(model.done) < len(Model.ACTIONS) or len(model.rows) <= STEPS / 4:
        model.step()
        model.check()
        steps += 1
