"""Compaction: its throughput beside `cp`, what appends feel of it, and the memory it takes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pylog
from bench.conftest import Payload
from bench.turns import KERNEL, Contestant, Race, timed
from pylog import CleanerConfig, Partition, Topic

ROUNDS = 9
UPDATES = 20  # of each key: what compaction keeps is a twentieth, as in Netflix's published case
QUIET = CleanerConfig(cleaner_enable=False)
KEY_BYTES = 24  # of the map, and a tenth to spare
IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def cached(directory: Path) -> Iterator[Path]:
    """A directory whose files are the page cache's only: `cp` syncs nothing, compaction does."""
    if not os.access(IN_MEMORY, os.W_OK):
        yield directory
        return
    path = Path(tempfile.mkdtemp(prefix="pylog-bench-", dir=IN_MEMORY))
    yield path
    shutil.rmtree(path)


def fill(topic: Topic, payload: Payload, *, records: int, keys: int, value_bytes: int) -> None:
    """Append updates of random keys, in batches."""
    pick = random.Random(20261122)
    values = payload.values(Payload.BATCH, value_bytes=value_bytes)
    for _ in range(records // Payload.BATCH):
        topic.append_many(values, [b"%016d" % pick.randrange(keys) for _ in values])


def prepared(path: Path, payload: Payload, *, records: int, value_bytes: int) -> Path:
    """Return the directory of a closed log whose only topic waits for its compaction."""
    with pylog.open(path, cleaner=QUIET) as log:
        topic = log.create_topic("t", cleanup_policy="compact", durability="os")
        fill(topic, payload, records=records, keys=records // UPDATES, value_bytes=value_bytes)
    return path


def segments(path: Path) -> list[str]:
    return sorted(str(file) for file in (path / "t-0").glob("*.log"))


def copy(path: Path) -> float:
    target = path.with_name("copied")
    target.mkdir()
    command = ["cp", *segments(path), str(target)]
    try:
        return timed(lambda: subprocess.run(command, check=True))
    finally:
        shutil.rmtree(target)


def compact(path: Path, records: int) -> float:
    target = path.with_name("compacted")
    shutil.copytree(path, target)
    try:
        with pylog.open(target, cleaner=QUIET) as log:
            partition = log.topic("t").partition(0)
            assert partition.log_end_offset == records
            reports = []
            seconds = timed(lambda: reports.append(partition.compact()))
            assert reports[0].records_read == records
            assert reports[0].records_kept <= records // UPDATES
            return seconds
    finally:
        shutil.rmtree(target)


def race(path: Path, payload: Payload, group: str, *, records: int, value_bytes: int) -> Race:
    log = prepared(
        path / group.replace(" ", "-"), payload, records=records, value_bytes=value_bytes
    )
    total = sum(os.path.getsize(file) for file in segments(log))
    contestants = {
        "pylog": Contestant(lambda: compact(log, records), KERNEL, records, total),
        "cp": Contestant(lambda: copy(log), KERNEL, records, total),
    }
    return Race(group, contestants, rounds=ROUNDS)


@pytest.fixture(scope="module")
def small(cached: Path, payload: Payload, size: Callable[..., int]) -> Race:
    count = size(1_000_000, 10_000_000)
    return race(cached, payload, "compact 130 bytes", records=count, value_bytes=100)


@pytest.fixture(scope="module")
def large(cached: Path, payload: Payload, size: Callable[..., int]) -> Race:
    count = size(200_000, 2_000_000)
    return race(cached, payload, "compact 1 KiB", records=count, value_bytes=1000)


@pytest.mark.parametrize("name", ["pylog", "cp"])
def test_compact_records_of_130_bytes(show: Callable[..., None], small: Race, name: str) -> None:
    show(small, name)


@pytest.mark.parametrize("name", ["pylog", "cp"])
def test_compact_records_of_1_kib(show: Callable[..., None], large: Race, name: str) -> None:
    show(large, name)


# ------------------------------------------------------------------ what appends feel of it


def append_while(partition: Partition, is_going: Callable[[], bool], at_least: int) -> list[int]:
    """Append one by one; return how many nanoseconds each took, the shortest first."""
    times = []
    value, clock = bytes(100), time.perf_counter_ns
    while is_going() or len(times) < at_least:
        start = clock()
        partition.append(value, b"key")
        times.append(clock() - start)
    return sorted(times)


def p99(times: list[int]) -> float:
    return times[len(times) * 99 // 100] / 1e9


def longest(times: list[int]) -> float:
    return times[-1] / 1e9


@pytest.fixture(scope="module")
def appends(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    records = size(500_000, 5_000_000)
    path = prepared(directory / "appends", payload, records=records, value_bytes=100)

    def while_(is_compacting: bool) -> list[int]:
        target = path.with_name("appended")
        shutil.copytree(path, target)
        try:
            with pylog.open(target, cleaner=QUIET) as log:
                partition = log.topic("t").partition(0)
                partition.append(b"", b"key")
                if not is_compacting:
                    return append_while(partition, lambda: False, records // 10)
                thread = threading.Thread(target=partition.compact)
                thread.start()
                try:
                    return append_while(partition, thread.is_alive, 1)
                finally:
                    thread.join()
                    assert log.metrics()["partitions"]["t-0"]["compacted_at"] is not None
        finally:
            shutil.rmtree(target)

    contestants = {
        "compacting": Contestant(lambda: p99(while_(True)), KERNEL, 1, 116),
        "idle": Contestant(lambda: p99(while_(False)), KERNEL, 1, 116),
        # The pause while a segment takes the place of others is among them.
        "compacting-longest": Contestant(lambda: longest(while_(True)), KERNEL, 1, 116),
        "idle-longest": Contestant(lambda: longest(while_(False)), KERNEL, 1, 116),
    }
    return Race("append while compacting", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["compacting", "idle", "compacting-longest", "idle-longest"])
def test_append_while_compacting(show: Callable[..., None], appends: Race, name: str) -> None:
    show(appends, name)


# ------------------------------------------------------------------ memory

MEMORY_PROGRAM = """
import json, sys, pylog
path, keys = sys.argv[1], int(sys.argv[2])
config = pylog.CleanerConfig(dedupe_buffer_bytes=int(sys.argv[3]), cleaner_enable=False)

def peak():  # not of getrusage, which begins with the peak of the process that started this one
    with open("/proc/self/status") as status:
        return 1024 * int(status.read().partition("VmHWM:")[2].split()[0])

with pylog.open(path, cleaner=config) as log:
    partition = log.topic("t").partition(0)
    assert partition.log_end_offset == keys
    before = peak()
    report = partition.compact()
    assert report.records_kept == keys
    print(json.dumps({"before": before, "peak": peak(), "rounds": report.rounds}))
"""


def test_memory_for_many_keys(
    benchmark: BenchmarkFixture, directory: Path, payload: Payload, size: Callable[..., int]
) -> None:
    """Report the peak memory of a process that compacts so many distinct keys in one round."""
    keys = size(1_000_000, 10_000_000)
    path = directory / "memory"
    with pylog.open(path, cleaner=QUIET) as log:
        topic = log.create_topic("t", cleanup_policy="compact", durability="os")
        values = payload.values(Payload.BATCH, value_bytes=20)
        for start in range(0, keys, Payload.BATCH):
            topic.append_many(values, payload.keys(start, Payload.BATCH))
    budget = keys * KEY_BYTES * 6 // 5 + (1 << 20)
    command = [sys.executable, "-c", MEMORY_PROGRAM, str(path), str(keys), str(budget)]

    def run() -> None:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        assert found["rounds"] == 1
        benchmark.extra_info.update(found, keys=keys)
        whole, more = found["peak"] / 1e6, (found["peak"] - found["before"]) / 1e6
        print(f"{keys:,} keys: {whole:.0f} MB at the peak, {more:.0f} MB more than before")

    benchmark.group = "memory of compaction"
    benchmark.pedantic(run, rounds=1)
