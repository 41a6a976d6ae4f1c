"""Appends that survive kill -9: one by one, in batches, and many bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import stores
from bench.conftest import Payload
from bench.stores import append_each, put_batches, put_each, write_each
from bench.turns import KERNEL, MEMORY, Contestant, Race, timed

MIB = 1 << 20
ROUNDS = 15


@pytest.fixture(scope="module")
def one_by_one(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    count = size(30_000, 2_000_000)
    values, keys = payload.values(count), payload.keys(0, count)

    def pylog() -> float:
        with stores.fresh_partition(directory, "os") as partition:
            return timed(append_each, partition.append, values, keys[0])

    def file(buffering: int) -> float:
        with stores.fresh_file(directory, buffering=buffering) as opened:
            return timed(write_each, opened.write, values)

    def lmdb_round() -> float:
        with stores.fresh_lmdb(directory, is_synced=False, writes_through_map=True) as environment:
            return timed(put_each, environment, keys, values)

    full = count * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
    plain = count * Payload.VALUE_BYTES
    contestants = {
        "pylog": Contestant(pylog, KERNEL, count, full),
        "file.write": Contestant(lambda: file(-1), MEMORY, count, plain),
        "file.write-1-MiB-buffer": Contestant(lambda: file(MIB), MEMORY, count, plain),
        "lmdb": Contestant(lmdb_round, KERNEL, count, full),
    }
    return Race("append one by one", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "file.write", "file.write-1-MiB-buffer", "lmdb"])
def test_append_one_by_one(show: Callable[..., None], one_by_one: Race, name: str) -> None:
    show(one_by_one, name)


@pytest.fixture(scope="module")
def batches(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    count = size(100_000, 10_000_000)
    batch = min(Payload.BATCH, count)
    values, keys = payload.values(count), payload.keys(0, count)
    # Cut beforehand, for the bare loop has nothing to cut either.
    pairs = [
        (values[start : start + batch], keys[start : start + batch])
        for start in range(0, count, batch)
    ]

    def pylog() -> float:
        def append_all() -> None:
            for some_values, some_keys in pairs:
                append_many(some_values, some_keys)

        with stores.fresh_partition(directory, "os") as partition:
            append_many = partition.append_many
            return timed(append_all)

    def file() -> float:
        with stores.fresh_file(directory) as opened:
            return timed(write_each, opened.write, values)

    def lmdb_round() -> float:
        with stores.fresh_lmdb(directory, is_synced=False) as environment:
            return timed(lambda: put_batches(environment, keys, values, batch=batch))

    full = count * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
    contestants = {
        "pylog": Contestant(pylog, KERNEL, count, full),
        "file.write": Contestant(file, MEMORY, count, count * Payload.VALUE_BYTES),
        "lmdb": Contestant(lmdb_round, KERNEL, count, full),
    }
    return Race("append batches", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "file.write", "lmdb"])
def test_append_batches_of_1000(show: Callable[..., None], batches: Race, name: str) -> None:
    show(batches, name)


@pytest.fixture(scope="module")
def many_bytes(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    """64 MiB in values of 1 KiB (a hundredth of it when nothing is measured)."""
    total = size(6400, 6400) * MIB // 100
    count = total // 1024
    batch = min(Payload.BATCH, count)
    values, keys = payload.values(count, value_bytes=1024), payload.keys(0, count)
    block = bytes(values[0] * 1024)

    def pylog(batch: int) -> float:
        pieces = [values[start : start + batch] for start in range(0, count, batch)]

        def append_all() -> None:
            for piece in pieces:
                append_many(piece)

        with stores.fresh_partition(directory, "os") as partition:
            append_many = partition.append_many
            return timed(append_all)

    def write() -> float:
        def write_all() -> None:
            for _ in range(total // MIB):
                os.write(descriptor, block)

        with stores.fresh_file(directory, buffering=0) as opened:
            descriptor = opened.fileno()
            return timed(write_all)

    def lmdb_round() -> float:
        with stores.fresh_lmdb(directory, is_synced=False) as environment:
            return timed(lambda: put_batches(environment, keys, values, batch=batch))

    contestants = {
        "pylog": Contestant(lambda: pylog(batch), KERNEL, count, total),
        "pylog-one-call": Contestant(lambda: pylog(count), KERNEL, count, total),
        "os.write": Contestant(write, KERNEL, count, total // MIB * MIB),
        "lmdb": Contestant(lmdb_round, KERNEL, count, total),
    }
    return Race("append bytes", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "pylog-one-call", "os.write", "lmdb"])
def test_append_64_mib(show: Callable[..., None], many_bytes: Race, name: str) -> None:
    show(many_bytes, name)
