"""LinkedIn's activity topic at one machine's size: keyed events into 1,400 partitions."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import pylog
from bench import activity
from bench.turns import DISK, KERNEL, Contestant, Race, timed

ROUNDS = 7
CALLS = 6  # of each process or thread in a round
PROCESSES = 2
WARM_BYTES = 512 << 20  # more than a round fills, zeros ahead included


class Producer:
    """A child process that appends when it is told to."""

    def __init__(self, directory: Path, partitions: int, count: int, seed: int, way: str) -> None:
        numbers = [str(partitions), str(count), str(seed)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.activity", str(directory), *numbers, way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, calls: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def end(self) -> None:
        self.process.communicate(timeout=300)


def warm(size: int) -> None:
    """Touch memory and give it back, so that the next pages are at hand.

    A virtual machine may have given its free memory to its host, and then waits for each page: five
    times the cost of everything else here (measured), and none of pylog's.
    """
    if size > 0:
        memory = bytearray(size)
        memory[::4096] = b"\1" * len(memory[::4096])


def race_processes(producers: list[Producer], calls: int) -> float:
    def run() -> None:
        for producer in producers:
            producer.say(calls)
        for producer in producers:
            producer.hear("done")

    return timed(run)


@contextlib.contextmanager
def producers_in(
    directory: Path, partitions: int, count: int, way: str
) -> Iterator[list[Producer]]:
    started: list[Producer] = []
    try:
        for seed in range(PROCESSES):
            started.append(Producer(directory, partitions, count, seed, way))
            started[-1].hear("open")  # one after the other: the first one makes the files
        yield started
    finally:
        for producer in started:
            producer.end()


@contextlib.contextmanager
def activity_log(path: Path, partitions: int, durability: str) -> Iterator[pylog.Topic]:
    with pylog.open(path) as log:
        yield log.create_topic(activity.TOPIC, partitions=partitions, durability=durability)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def tracked(directory: Path, size: Callable[..., int]) -> Iterator[Race]:
    partitions = size(activity.PARTITIONS, activity.PARTITIONS)
    count = size(activity.EVENTS, activity.EVENTS)
    warm_bytes = size(WARM_BYTES // 100 * 100, WARM_BYTES // 100 * 100)
    activity.allow_open_files(partitions)
    contestants: dict[str, Contestant] = {}
    with ExitStack() as stack:

        def enter(name: str, run: Callable[[], float], durability: str, calls: int) -> None:
            def warm_and_run() -> float:
                warm(warm_bytes)
                return run()

            records = PROCESSES * calls * count
            full = records * activity.RECORD_BYTES
            contestants[name] = Contestant(warm_and_run, durability, records, full)

        for durability, calls, survives in (("os", CALLS, KERNEL), ("fsync", 1, DISK)):
            path = directory / durability
            topic = stack.enter_context(activity_log(path, partitions, durability))
            workers = stack.enter_context(producers_in(path, partitions, count, "pylog"))
            enter(
                f"pylog-2-processes-{durability}",
                lambda workers=workers, calls=calls: race_processes(workers, calls),
                survives,
                calls,
            )
            jobs = [activity.appender(topic, count, 10 + n) for n in range(PROCESSES)]
            enter(
                f"pylog-2-threads-{durability}",
                lambda jobs=jobs, calls=calls: race_threads(jobs, calls),
                survives,
                calls,
            )
        files = directory / "files"
        files.mkdir()
        kernel = stack.enter_context(producers_in(files, partitions, count, "pwrite"))
        enter("os.pwrite-2-processes", lambda: race_processes(kernel, CALLS), KERNEL, CALLS)
        yield Race("activity", contestants, rounds=ROUNDS)


def race_threads(jobs: list[Callable[[], object]], calls: int) -> float:
    def run(job: Callable[[], object]) -> None:
        for _ in range(calls):
            job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        started = time.perf_counter()
        for future in [pool.submit(run, job) for job in jobs]:
            future.result()
        return time.perf_counter() - started


@pytest.mark.parametrize(
    "name",
    [
        "pylog-2-processes-os",
        "pylog-2-threads-os",
        "pylog-2-processes-fsync",
        "pylog-2-threads-fsync",
        "os.pwrite-2-processes",
    ],
)
def test_activity_of_1400_partitions(show: Callable[..., None], tracked: Race, name: str) -> None:
    show(tracked, name)
