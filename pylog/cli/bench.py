"""`bench`: what this machine and this disk make of the most common operations, in a few seconds.

The benchmarks that are compared with other programs, and from run to run, are in `bench/` of the
source tree: `python -m pytest bench`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from pylog._native import crc32c
from pylog.cli import progress, show
from pylog.log import Log
from pylog.log import open as open_log
from pylog.topics.topic import Topic

_KEY_BYTES: Final = 16
_BATCH: Final = 1000
_SYNCS: Final = 10  # in a round: each takes as long as a thousand appends without
_MOST_BYTES: Final = 128 << 20  # of a line: enough to measure, and little of a disk
_CHECKED_BYTES: Final = 1 << 20
_NONE: Final = "none"  # the durability of what is not stored

# Does some work; returns how many records and bytes of values and keys it handled.
_Round = Callable[[], tuple[int, int]]


@click.command(short_help="Measure this machine and disk for a few seconds.")
@click.option(
    "--where",
    type=click.Path(exists=True, file_okay=False, writable=True),
    default=".",
    show_default=True,
    help="Measure in a new directory here, which is removed.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01),
    default=0.5,
    show_default=True,
    metavar="S",
    help="How long each operation is measured.",
)
@click.option(
    "--value-bytes",
    type=click.IntRange(0, 1 << 20),
    default=100,
    show_default=True,
    metavar="N",
    help="How long each value is; keys are 16 bytes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(*, where: str, seconds: float, value_bytes: int, as_json: bool) -> None:
    """Measure appending, reading and consuming, beside what they are made of.

    Compare only lines of one durability.  Other programs that run meanwhile slow it down.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="pylog-bench-", dir=where) as directory:
        names = _measurements(directory, os.urandom(value_bytes))
        with progress.shown("measuring") as advance:
            for done, (name, durability, run) in enumerate(names):
                advance(done, None)
                rows.append({"operation": name, "durability": durability} | _rates(run, seconds))
    if as_json:
        show.print_json(rows)
        return
    columns = ("OPERATION", "DURABILITY", "RECORDS/S", "NS/RECORD", "MB/S")
    show.print_table(columns, [tuple(row.values()) for row in rows])


def _rates(run: _Round, seconds: float) -> dict[str, Any]:
    """Run rounds for so long, after one to warm up; return what came of them in a second."""
    run()
    records = size = 0
    start = now = time.perf_counter()
    while now - start < seconds and size < _MOST_BYTES:
        more_records, more_bytes = run()
        records, size = records + more_records, size + more_bytes
        now = time.perf_counter()
    taken = now - start
    return {
        "records_per_second": round(records / taken),
        "nanoseconds_per_record": round(taken / records * 1e9),
        "megabytes_per_second": round(size / taken / 1e6),
    }


def _measurements(directory: str, value: bytes) -> Iterator[tuple[str, str, _Round]]:
    """Yield names, durabilities and rounds; all that is read was appended by the ones before."""
    key = bytes(_KEY_BYTES)
    size = len(value) + len(key)
    block = os.urandom(_CHECKED_BYTES)

    def check() -> tuple[int, int]:
        crc32c(block)
        return 1, len(block)

    yield "crc32c of 1 MiB", _NONE, check
    with open(os.path.join(directory, "file"), "wb") as file:

        def write() -> tuple[int, int]:
            for _ in range(_BATCH):
                file.write(value)
            return _BATCH, _BATCH * len(value)

        def sync() -> tuple[int, int]:
            os.pwrite(file.fileno(), value, 0)
            os.fdatasync(file.fileno())
            return 1, len(value)

        yield "file.write, one by one", _NONE, write
        yield "pwrite and fdatasync", "fsync", sync
    with open_log(os.path.join(directory, "log")) as log:
        for durability in ("fsync", "os"):
            topic = log.create_topic(f"bench-{durability}", durability=durability)
            for name, count, append in _appends(topic, value, key):
                repeats = _SYNCS if durability == "fsync" else _BATCH // count
                yield name, durability, _appending(append, repeats, count, size)
        yield from _reads(log, topic, size)


def _appends(
    topic: Topic, value: bytes, key: bytes
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    one = topic.append
    yield "append, one by one", 1, lambda: one(value, key)
    values, keys = [value] * _BATCH, [key] * _BATCH
    yield f"append_many of {_BATCH:,}", _BATCH, lambda: topic.append_many(values, keys)


def _appending(append: Callable[[], object], repeats: int, count: int, size: int) -> _Round:
    """Return a round of several calls, so that the clock is not what is measured."""
    times = range(repeats)

    def run() -> tuple[int, int]:
        for _ in times:
            append()
        return repeats * count, repeats * count * size

    return run


def _reads(log: Log, topic: Topic, size: int) -> Iterator[tuple[str, str, _Round]]:
    """Yield what is measured of reading all that was appended to a topic."""
    partition = topic.partition(0)
    records = partition.log_end_offset

    def iterate() -> tuple[int, int]:
        for _ in partition.records():
            pass
        return records, records * size

    def columns() -> tuple[int, int]:
        offset = 0
        while offset < records:
            offset = partition.read_columns(offset).next_offset
        return records, records * size

    def consume() -> tuple[int, int]:
        with log.consumer(topic.name) as consumer:
            for _ in consumer.records(timeout=0):
                pass
        return records, records * size

    yield "read, record by record", _NONE, iterate
    yield "read_columns", _NONE, columns
    yield "consume, record by record", _NONE, consume


COMMANDS: Final = (bench,)
