"""Appends that survive power loss: one by one, and 16 threads that share their syncs."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import stores
from bench.conftest import Payload
from bench.stores import append_each, put_each
from bench.turns import DISK, Contestant, Race, timed

SYNCS = 10
THREADS = 16
TIMEOUT_SECONDS = 300


def sync_each(descriptor: int, values: list[bytes], position: int = 0) -> None:
    """The bare loop: write at the end of what was written, and sync the data."""
    for value in values:
        os.pwrite(descriptor, value, position)
        os.fdatasync(descriptor)
        position += len(value)


def in_threads(jobs: list[Callable[[], None]]) -> float:
    """Return the seconds from a common start until all jobs are done; raises what a job raised."""
    start = threading.Barrier(len(jobs) + 1)

    def run(job: Callable[[], None]) -> None:
        start.wait(TIMEOUT_SECONDS)
        job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        start.wait(TIMEOUT_SECONDS)
        return timed(lambda: [future.result(TIMEOUT_SECONDS) for future in futures])


@pytest.fixture(scope="module")
def synced(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    """Short rounds into stores that grow over all of them: a disk changes its pace all the time."""
    rounds = size(100, 500)
    values = payload.values(SYNCS)
    plain = SYNCS * Payload.VALUE_BYTES
    with ExitStack() as stack:
        partition = stack.enter_context(stores.fresh_partition(directory, "fsync"))
        environment = stack.enter_context(stores.fresh_lmdb(directory, is_synced=True))
        descriptor = stack.enter_context(
            stores.zero_filled_descriptor(directory, plain * (rounds + 1))
        )
        positions = itertools.count(0, plain)
        rows = itertools.count(0, SYNCS)

        def pylog() -> float:
            return timed(append_each, partition.append, values, b"k" * Payload.KEY_BYTES)

        def bare() -> float:
            return timed(sync_each, descriptor, values, next(positions))

        def lmdb() -> float:
            return timed(put_each, environment, payload.keys(next(rows), SYNCS), values)

        full = SYNCS * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
        contestants = {
            "pylog": Contestant(pylog, DISK, SYNCS, full),
            "fdatasync": Contestant(bare, DISK, SYNCS, plain),
            "lmdb": Contestant(lmdb, DISK, SYNCS, full),
        }
        yield Race("append fsync", contestants, rounds=rounds)


@pytest.mark.parametrize("name", ["pylog", "fdatasync", "lmdb"])
def test_append_synced(show: Callable[..., None], synced: Race, name: str) -> None:
    show(synced, name)


@pytest.fixture(scope="module")
def group_commit(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    count = max(size(100, 1000), 2)
    few = max(count // 5, 1)
    values, keys = payload.values(count), payload.keys(0, few * THREADS)

    def pylog(threads: int) -> float:
        with stores.fresh_partition(directory, "fsync") as partition:
            job = functools.partial(append_each, partition.append, values, keys[0])
            return in_threads([job] * threads)

    def bare() -> float:
        with ExitStack() as stack:
            descriptors = [
                stack.enter_context(
                    stores.zero_filled_descriptor(directory, count * Payload.VALUE_BYTES)
                )
                for _ in range(THREADS)
            ]
            return in_threads(
                [functools.partial(sync_each, opened, values) for opened in descriptors]
            )

    def lmdb() -> float:
        # Its writers wait for each other, so few records do; keys come in any order: no append.
        def put(thread: int) -> None:
            for key, value in zip(keys[thread::THREADS], values[:few], strict=True):
                with environment.begin(write=True) as transaction:
                    transaction.put(key, value)

        with stores.fresh_lmdb(directory, is_synced=True) as environment:
            return in_threads([functools.partial(put, thread) for thread in range(THREADS)])

    def contestant(run: Callable[[], float], threads: int, each: int = count) -> Contestant:
        records = each * threads
        return Contestant(run, DISK, records, records * (Payload.KEY_BYTES + Payload.VALUE_BYTES))

    contestants = {
        "pylog-16-threads": contestant(lambda: pylog(THREADS), THREADS),
        "pylog-1-thread": contestant(lambda: pylog(1), 1),
        "fdatasync-16-threads-and-files": contestant(bare, THREADS),
        "lmdb-16-threads": contestant(lmdb, THREADS, few),
    }
    return Race("group commit", contestants, rounds=7)


@pytest.mark.parametrize(
    "name",
    [
        "pylog-16-threads",
        "pylog-1-thread",
        "fdatasync-16-threads-and-files",
        "lmdb-16-threads",
    ],
)
def test_group_commit(show: Callable[..., None], group_commit: Race, name: str) -> None:
    show(group_commit, name)
