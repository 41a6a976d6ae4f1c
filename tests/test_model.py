"""A partition against a plain list: random actions through several handles, checked after each one.

The list is the specification: what was appended, in order.  Everything that can happen between two
calls (a roll, a suspension, a reopening, another handle) must not be seen in it.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import IS_EXHAUSTIVE
from reference import index_segment

import pylog
from pylog import Log, Partition, TopicConfig
from pylog.errors import OffsetMismatchError, OffsetOutOfRangeError, RecordTooLargeError
from pylog.topics.verification import verify

STEPS = 20_000 if IS_EXHAUSTIVE else 250
NOW = 1_700_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One record as it was given."""

    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int


class Model:
    """The list, and the handles that act on the partition it describes."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.rows: list[Row] = []
        self.durable = 0
        self.done: dict[str, int] = {}
        pick = self.random.choice
        self.settings = {
            "durability": pick(("os", "fsync", "interval")),
            "segment_bytes": pick((300, 3_000, 100_000, 64 << 20)),
            "segment_ms": pick((5_000, 2**62)),
            "segment_index_bytes": pick((24, 200, 10 << 20)),
            "index_interval_bytes": pick((0, 100, 4096)),
            "max_message_bytes": pick((1_000, 200_000)),
            "compression_type": pick(("producer", "producer", "gzip", "lz4", "snappy")),
            "flush_ms": pick((1, 1_000)),
        }
        self.logs: list[Log] = []
        self.open_handle()
        self.partition.check()

    # ------------------------------------------------------------------ handles

    def open_handle(self) -> None:
        log = pylog.open(self.path)
        log.create_topic("t", if_exists="ok", **self.settings)
        self.logs.append(log)

    @property
    def partition(self) -> Partition:
        return self.random.choice(self.logs).topic("t").partition(0)

    def join(self) -> None:
        if len(self.logs) < 3:
            self.open_handle()

    def leave(self) -> None:
        if len(self.logs) > 1:
            self.logs.pop(self.random.randrange(len(self.logs))).close()

    def reopen(self) -> None:
        for log in self.logs:
            log.close()
        self.logs.clear()
        self.durable = len(self.rows)
        self.open_handle()

    def suspend(self) -> None:
        # Not while the background syncs: what is due, or the segments that a roll sealed.
        assert self.partition.suspend() or self.settings["durability"] != "fsync"

    # ------------------------------------------------------------------ writing

    def some_bytes(self) -> bytes | None:
        size = self.random.choice((None, 0, 1, 20, 20, 100, 300))
        return None if size is None else self.random.randbytes(size)

    def row(self) -> Row:
        headers = tuple(
            (self.random.choice(("", "a", "é" * 30)), self.some_bytes())
            for _ in range(self.random.choice((0, 0, 0, 1, 3)))
        )
        value = self.some_bytes()
        if self.settings["max_message_bytes"] == 200_000 and self.random.random() < 0.02:
            value = self.random.randbytes(self.random.choice((65_300, 65_536, 150_000)))
        return Row(value, self.some_bytes(), headers, NOW + self.random.randrange(10_000))

    def is_too_large(self, row: Row) -> bool:
        size = len(row.value or b"") + len(row.key or b"")
        size += sum(len(name.encode()) + len(value or b"") for name, value in row.headers)
        return size > int(str(self.settings["max_message_bytes"])) - 200

    def append(self) -> None:
        row, expected = self.row(), self.random.choice((None, None, len(self.rows)))
        try:
            metadata = self.partition.append(
                row.value, row.key, row.headers, row.timestamp, expected
            )
        except RecordTooLargeError:
            assert self.is_too_large(row)
            return
        assert (metadata.offset, metadata.timestamp) == (len(self.rows), row.timestamp)
        self.added([row])

    def append_stale(self) -> None:
        expected = self.random.choice((len(self.rows) + 1, max(len(self.rows) - 1, 0), 2**40))
        if expected == len(self.rows):
            return
        with pytest.raises(OffsetMismatchError) as caught:
            self.partition.append(b"stale", expected_offset=expected)
        assert (caught.value.expected, caught.value.actual) == (expected, len(self.rows))

    def append_many(self) -> None:
        rows = [self.row() for _ in range(self.random.choice((0, 1, 2, 10, 60)))]
        try:
            appended = self.partition.append_many(
                [row.value for row in rows],
                [row.key for row in rows],
                [row.headers for row in rows],
                [row.timestamp for row in rows],
            )
        except RecordTooLargeError:
            assert any(map(self.is_too_large, rows))
            return
        start = len(self.rows)
        assert appended.offsets.tolist() == list(range(start, start + len(rows)))
        self.added(rows)

    def added(self, rows: list[Row]) -> None:
        self.rows += rows
        if self.settings["durability"] == "fsync":
            self.durable = len(self.rows)

    def flush(self) -> None:
        assert self.partition.flush() == len(self.rows)
        self.durable = len(self.rows)

    # ------------------------------------------------------------------ reading

    def read(self) -> None:
        start = self.random.randint(0, len(self.rows))
        records = self.partition.read(start, self.random.choice((1, 500, 1 << 20)))
        got = list(records)
        assert [record.offset for record in got] == list(range(start, records.next_offset))
        assert records.next_offset > start or start == len(self.rows)
        self.compare(start, got)

    def iterate(self) -> None:
        start = self.random.randint(max(len(self.rows) - 300, 0), len(self.rows))
        end = self.random.choice((None, self.random.randint(start, len(self.rows))))
        got = list(self.partition.records(start, end, max_bytes=self.random.choice((1, 1 << 20))))
        assert len(got) == (len(self.rows) if end is None else end) - start
        self.compare(start, got)

    def compare(self, start: int, records: list[pylog.Record]) -> None:
        for offset, record in enumerate(records, start):
            row = self.rows[offset]
            assert record.offset == offset
            assert (record.value, record.key, record.timestamp) == (
                row.value,
                row.key,
                row.timestamp,
            )
            assert record.headers == row.headers

    def read_columns(self) -> None:
        start = self.random.randint(0, len(self.rows))
        columns = self.partition.read_columns(start, self.random.choice((1, 2_000)))
        for place, offset in enumerate(columns.offsets.tolist()):
            assert offset == start + place
            assert columns.value(place) == self.rows[offset].value
            assert columns.key(place) == self.rows[offset].key

    def read_outside(self) -> None:
        for offset in (-1, len(self.rows) + 1):
            with pytest.raises(OffsetOutOfRangeError) as caught:
                self.partition.read(offset)
            assert (caught.value.start, caught.value.end) == (0, len(self.rows))

    def wait(self) -> None:
        assert self.partition.wait(len(self.rows), timeout=0) is False
        if self.rows:
            assert self.partition.wait(len(self.rows) - 1, timeout=0) is True

    def verify(self) -> None:
        findings = [finding for report in verify(str(self.path)) for finding in report.findings]
        assert [finding for finding in findings if finding.is_damage] == []

    # ------------------------------------------------------------------ all of it

    ACTIONS: tuple[tuple[Callable[[Model], None], int], ...] = (
        (append, 40),
        (append_many, 10),
        (append_stale, 3),
        (flush, 3),
        (read, 20),
        (iterate, 5),
        (read_columns, 5),
        (read_outside, 2),
        (wait, 3),
        (verify, 2),
        (join, 3),
        (leave, 3),
        (reopen, 2),
        (suspend, 4),
    )

    def step(self) -> None:
        actions, weights = zip(*self.ACTIONS, strict=True)
        (action,) = self.random.choices(actions, weights)
        action(self)
        self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
        self.check()

    def check(self) -> None:
        for log in self.logs:
            partition = log.topic("t").partition(0)
            partition.check()
            marks = partition.marks()
            if marks is not None:
                assert marks.log_end_offset == marks.high_watermark == len(self.rows)
                assert self.durable <= marks.durable_offset <= len(self.rows)
                self.durable = marks.durable_offset

    def check_files(self) -> None:
        """With everything closed: the files are what the rules say, and nothing is found wrong."""
        for log in self.logs:
            log.close()
        interval = int(str(self.settings["index_interval_bytes"]))
        for path in (self.path / "t-0").glob("*.log"):
            rules = index_segment(
                path.read_bytes(), base_offset=int(path.stem), interval_bytes=interval
            )
            assert path.with_suffix(".index").read_bytes() == rules.index_bytes()
        self.verify()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_random_actions_agree_with_a_list(tmp_path: Path, number: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    run_and_check(tmp_path, seed, STEPS)


def run_and_check(path: Path, seed: int, steps: int) -> None:
    model = Model(path, seed)
    print(model.settings)
    try:
        for _ in range(steps):
            model.step()
        model.check_files()
    finally:
        for log in model.logs:
            log.close()
    assert len(model.rows) > steps / 4
    assert len(model.done) >= len(Model.ACTIONS) - 2


def test_settings_of_the_model_are_settings() -> None:
    """So that a name that changes does not turn the model into a test of the defaults."""
    model_settings = {"durability", "segment_bytes", "segment_ms", "segment_index_bytes"}
    assert model_settings <= {field.name for field in dataclasses.fields(TopicConfig)}
