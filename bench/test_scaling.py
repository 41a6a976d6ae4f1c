"""Curves: what an operation costs with more records, partitions, threads, processes, and bytes.

Measured with --scaling, to the end with --full; each point is a race of the lines of its curve.
Without measuring only the first points are run, so that the code does not rot.
"""

from __future__ import annotations

import functools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pylog
from bench import stores
from bench.conftest import CLOCK, Payload
from bench.stores import append_each
from bench.test_durable import in_threads
from bench.turns import DISK, KERNEL, Contestant, Race, timed

ROUNDS = 5
TAIL = 1000  # operations that are timed at a point
PARTITIONS_OF_CURVE = 100
MANY_PARTITIONS = 1000  # with more, each of the keys of an append_many has one for itself

# (what is usual with --scaling, and what only with --full); each point ten, four or two times more.
RECORDS = ((10**3, 10**4, 10**5, 10**6), (10**7, 10**8))
PARTITIONS = ((1, 10, 100, 1000, 10_000), (100_000,))
WORKERS = ((1, 2, 4, 8, 16), ())
VALUE_BYTES = ((10, 100, 1 << 10, 10 << 10, 100 << 10, 1 << 20), ())

APPENDER = """
import sys, pylog
number = int(sys.argv[2])
with pylog.open(sys.argv[1], create=False) as log:
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        topic = log.topic(name)
        append = topic.partition(number % len(topic)).append
        value, key = bytes(100), b"%016d" % number
        for _ in range(int(count)):
            append(value, key)
        print("done", flush=True)
"""


def points(usual: tuple[int, ...], full: tuple[int, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("x", [*usual, *full], ids=str)


class Curves:
    """Reports the lines of a point, or skips what was not asked for."""

    def __init__(self, request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> None:
        option = request.config.getoption
        self._benchmark = benchmark
        self.is_measured = not option("--benchmark-disable")
        self._is_asked = option("--scaling")
        self._is_full = option("--full")

    def check(self, x: int, points: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        """Skip a point that this run is not about."""
        usual, full = points
        if not self.is_measured:
            if x > usual[1]:
                pytest.skip("only the first points are run when nothing is measured")
        elif not self._is_asked:
            pytest.skip("--scaling measures it")
        elif x in full and not self._is_full:
            pytest.skip("--full measures it")

    def show(self, curve: str, unit: str, x: int, race: Race) -> None:
        """Report all lines of one point as one benchmark; the first one is its time."""
        rounds = ROUNDS if self.is_measured else 1
        benchmark = self._benchmark
        benchmark.group = f"scaling: {curve}"
        seconds = {name: race.seconds(name, rounds=rounds) for name in race.contestants}
        benchmark.extra_info["x"] = x
        benchmark.extra_info["unit"] = unit
        benchmark.extra_info["lines"] = {
            name: {
                "seconds": sorted(times)[len(times) // 2],
                "records": race.contestants[name].records,
                "bytes": race.contestants[name].bytes,
                "durability": race.contestants[name].durability,
            }
            for name, times in seconds.items()
        }
        first = next(iter(seconds.values()))
        pedantic: Callable[..., None] = benchmark.pedantic
        pedantic(CLOCK.advance, args=(iter(first),), rounds=len(first))


@pytest.fixture
def curves(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Curves:
    return Curves(request, benchmark)


def race_of(runs: dict[str, tuple[Callable[[], float], str, int, int]]) -> Race:
    return Race("scaling", {name: Contestant(*run) for name, run in runs.items()}, rounds=ROUNDS)


# ------------------------------------------------------------------ records


@pytest.fixture(scope="module")
def growing(directory: Path) -> Iterator[pylog.Log]:
    """A log that grows from point to point."""
    with pylog.open(directory / "growing") as log:
        log.create_topic("events", durability="os", retention_ms=-1)
        yield log


@points(*RECORDS)
def test_scaling_records(growing: pylog.Log, payload: Payload, curves: Curves, x: int) -> None:
    curves.check(x, RECORDS)
    topic = growing.topic("events")
    partition = topic.partition(0)
    values = payload.values(Payload.BATCH)
    while (missing := x - partition.log_end_offset) > 0:
        count = min(missing, Payload.BATCH)
        partition.append_many(values[:count], payload.keys(partition.log_end_offset, count))
    keys = payload.keys(0, TAIL)

    def append() -> float:
        return timed(append_each, partition.append, values, keys[0])

    def append_many() -> float:
        return timed(partition.append_many, values, keys)

    def get() -> float:
        rows = payload.rows(x, TAIL)

        def run() -> None:
            for row in rows:
                for _record in partition.read(row, 1):
                    break

        return timed(run)

    def reopen() -> float:
        with pylog.open(growing.path) as again:
            return timed(lambda: again.topic("events").partition(0).log_end_offset)

    size = TAIL * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
    runs = {
        "append": (append, KERNEL, TAIL, size),
        "append_many": (append_many, KERNEL, TAIL, size),
        "random read": (get, KERNEL, TAIL, size),
        "open another time": (reopen, KERNEL, 1, 0),
    }
    curves.show("records", "records in the partition", x, race_of(runs))


# ------------------------------------------------------------------ partitions


@points(*PARTITIONS)
def test_scaling_partitions(directory: Path, payload: Payload, curves: Curves, x: int) -> None:
    curves.check(x, PARTITIONS)
    values, keys = payload.values(TAIL), payload.keys(0, TAIL)
    path = directory / f"partitions-{x}"

    def open_log() -> float:
        def run() -> None:
            opened.append(pylog.open(path))
            len(opened[0].topic("events"))

        opened: list[pylog.Log] = []
        seconds = timed(run)
        opened[0].close()
        return seconds

    with pylog.open(path) as log:
        topic = log.create_topic("events", partitions=x, durability="os")
        # Those that the records go to, at most: the others are only known.
        hot = random.Random(x).sample(range(x), min(x, PARTITIONS_OF_CURVE))
        for number in hot:
            topic.append(b"first", partition=number)

        def append() -> float:
            def run() -> None:
                for value, number in zip(values, targets, strict=True):
                    topic.append(value, partition=number)

            targets = [hot[row] for row in payload.rows(len(hot), TAIL)]
            return timed(run)

        def append_many() -> float:
            return timed(topic.append_many, values, keys)

        size = TAIL * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
        runs = {
            "append to 100 of them": (append, KERNEL, TAIL, size),
            "open the log": (open_log, KERNEL, 1, 0),
        }
        if x <= MANY_PARTITIONS:
            runs["append_many to all"] = (append_many, KERNEL, TAIL, size)
        race = race_of(runs)
        curves.show("partitions", "partitions of the topic", x, race)


# ------------------------------------------------------------------ threads and processes


@points(*WORKERS)
def test_scaling_threads(directory: Path, payload: Payload, curves: Curves, x: int) -> None:
    curves.check(x, WORKERS)
    values, key = payload.values(2000 if curves.is_measured else 10), payload.keys(0, 1)[0]

    def appending(durability: str, count: int) -> Callable[[], float]:
        def run() -> float:
            with stores.fresh_partition(directory, durability) as partition:
                job = functools.partial(append_each, partition.append, values[:count], key)
                return in_threads([job] * x)

        return run

    few, many = 20, len(values)
    size = Payload.KEY_BYTES + Payload.VALUE_BYTES
    runs = {
        "append, os": (appending("os", many), KERNEL, many * x, many * x * size),
        "append, fsync": (appending("fsync", few), DISK, few * x, few * x * size),
    }
    curves.show("threads", "threads that append to one partition", x, race_of(runs))


class Appenders:
    """Processes that append to the topic that they are told, each to a partition of its own."""

    def __init__(self, stack: ExitStack, path: str, workers: int) -> None:
        command = [sys.executable, "-c", APPENDER, path]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._processes = [
            stack.enter_context(subprocess.Popen([*command, str(number)], **pipes))
            for number in range(workers)
        ]
        self._expect(b"ready\n")

    def append(self, topic: str, count: int) -> None:
        """Let each of them append so many records, and wait until they have."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{topic} {count}\n".encode())
            process.stdin.flush()
        self._expect(b"done\n")

    def _expect(self, line: bytes) -> None:
        for process in self._processes:
            assert process.stdout is not None and process.stdout.readline() == line


@points(*WORKERS)
def test_scaling_processes(directory: Path, curves: Curves, x: int) -> None:
    curves.check(x, WORKERS)
    few, many = (20, 20_000) if curves.is_measured else (2, 10)
    size = Payload.KEY_BYTES + Payload.VALUE_BYTES
    with ExitStack() as stack:
        log = stack.enter_context(stores.fresh_log(directory, "os"))
        log.create_topic("each", partitions=x, durability="os")
        log.create_topic("one", durability="os")
        log.create_topic("synced", durability="fsync")
        workers = Appenders(stack, log.path, x)
        workers.append("each", 1)
        workers.append("synced", 1)

        def appending(topic: str, count: int) -> Callable[[], float]:
            return functools.partial(timed, workers.append, topic, count)

        runs = {
            name: (appending(topic, count), durability, count * x, count * x * size)
            for name, topic, count, durability in (
                ("append, os, a partition each", "each", many, KERNEL),
                ("append, os, one partition", "one", many, KERNEL),
                ("append, fsync, one partition", "synced", few, DISK),
            )
        }
        curves.show("processes", "processes that append", x, race_of(runs))


# ------------------------------------------------------------------ value sizes


@points(*VALUE_BYTES)
def test_scaling_value_bytes(directory: Path, payload: Payload, curves: Curves, x: int) -> None:
    curves.check(x, VALUE_BYTES)
    count = max(min((32 << 20) // x, 20_000), 16) if curves.is_measured else 2
    values = payload.values(count, value_bytes=x)
    key = payload.keys(0, 1)[0]
    keys = [key] * count

    def append() -> float:
        with stores.fresh_partition(directory, "os", max_message_bytes=2 << 20) as partition:
            return timed(append_each, partition.append, values, key)

    def append_many() -> float:
        with stores.fresh_partition(directory, "os", max_message_bytes=2 << 20) as partition:
            return timed(partition.append_many, values, keys)

    with stores.fresh_partition(directory, "os", max_message_bytes=2 << 20) as filled:
        filled.append_many(values, keys)

        def read() -> float:
            def run() -> None:
                for record in filled.records():
                    record.value  # noqa: B018

            return timed(run)

        size = count * (x + Payload.KEY_BYTES)
        runs = {
            "append": (append, KERNEL, count, size),
            "append_many": (append_many, KERNEL, count, size),
            "read": (read, KERNEL, count, size),
        }
        curves.show("value bytes", "bytes of a value", x, race_of(runs))
