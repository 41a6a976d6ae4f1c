"""A log of 100,000 partitions: creating and opening it, and what one idle partition holds.

The memory is in the result's extra information: bytes for each record, which is a partition here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pylog
from bench.activity import allow_open_files
from bench.turns import DISK, MEMORY, Contestant, Race, timed

ROUNDS = 7
# In a fresh process: opens partitions of a log, by appending a record, and tells what it grew by.
ATTACH = """
import sys
from concurrent.futures import ThreadPoolExecutor
import pylog
from bench.activity import allow_open_files

def resident(kind):
    with open("/proc/self/status") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith(kind))

count = int(sys.argv[2])
allow_open_files(count)
with pylog.open(sys.argv[1]) as log:
    topic = log.create_topic("idle", partitions=2 * count, durability="os")
    with ThreadPoolExecutor(16) as pool:
        def attach(number):
            topic.append(b"v", partition=number)
        list(pool.map(attach, range(count)))
        before = resident("RssAnon"), resident("RssFile"), resident("RssShmem")
        list(pool.map(attach, range(count, 2 * count)))
    after = resident("RssAnon"), resident("RssFile"), resident("RssShmem")
    print(after[0] - before[0], sum(after[1:]) - sum(before[1:]))
"""


def look_at(path: Path, partitions: int) -> float:
    """Return the seconds until the last partition of a log was looked at."""

    def look() -> None:
        opened.append(pylog.open(path, create=False))
        topic = opened[0].topic("many")
        assert len(topic) == partitions
        assert topic.partition(partitions - 1).log_end_offset == 0

    opened: list[pylog.Log] = []
    seconds = timed(look)
    opened[0].close()
    return seconds


@pytest.fixture(scope="module")
def many(directory: Path, size: Callable[..., int]) -> Iterator[Race]:
    count = size(100_000, 100_000)

    def create(name: str, partitions: int) -> Path:
        with pylog.open(directory / name) as log:
            log.create_topic("many", partitions=partitions)
        return directory / name

    def create_afresh() -> float:
        seconds = timed(create, "fresh", count)
        shutil.rmtree(directory / "fresh")
        return seconds

    large, small = create("large", count), create("small", 1)
    contestants = {
        "pylog-100000-partitions": Contestant(lambda: look_at(large, count), DISK, 1, 0),
        "pylog-1-partition": Contestant(lambda: look_at(small, 1), DISK, 1, 0),
        "pylog-create-100000": Contestant(create_afresh, DISK, count, 0),
    }
    yield Race("open many", contestants, rounds=ROUNDS)


@pytest.mark.parametrize(
    "name", ["pylog-100000-partitions", "pylog-1-partition", "pylog-create-100000"]
)
def test_many_partitions(show: Callable[..., None], many: Race, name: str) -> None:
    show(many, name)


@pytest.fixture(scope="module")
def idle(directory: Path, size: Callable[..., int]) -> Race:
    count = size(300, 1000)
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", ATTACH, str(directory / "idle"), str(count)],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    anonymous, mapped = map(int, done.stdout.split())
    allow_open_files(2 * count)

    def attach() -> float:
        with pylog.open(directory / "fresh") as log:
            topic = log.create_topic("idle", partitions=count, durability="os")
            seconds = timed(lambda: [one.append(b"v") for one in topic.partitions])
        shutil.rmtree(directory / "fresh")
        return seconds

    contestants = {
        "anonymous-memory": Contestant(attach, MEMORY, count, anonymous),
        "mapped-files": Contestant(attach, MEMORY, count, mapped),
    }
    return Race("idle partitions", contestants, rounds=1)


@pytest.mark.parametrize("name", ["anonymous-memory", "mapped-files"])
def test_idle_partitions(show: Callable[..., None], idle: Race, name: str) -> None:
    show(idle, name)
