"""What the machine allows: copying memory, CRCs, the page cache, the disk, and a call from Python.

The report says how close each figure of pylog is to what it is made of; see bench/limits.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import stores
from bench.limits import GROUP
from bench.turns import DISK, KERNEL, MEMORY, Contestant, Race, timed
from pylog._native import crc32c

MIB = 1 << 20
PAGE = 4096
NAMES = ("memory-copy", "crc32c", "os.write", "fdatasync", "os.pread", "method-call")
ROUNDS = 15


@pytest.fixture(scope="module")
def hardware(directory: Path, size: Callable[..., int]) -> Iterator[Race]:
    total = size(6400, 6400) * MIB // 100
    calls, syncs = size(100_000, 1_000_000), max(size(100, 1000) // 10, 1)
    source = memoryview(os.urandom(MIB) * (total // MIB or 1))[:total]
    target = bytearray(MIB)
    blocks = [source[start : start + MIB] for start in range(0, total, MIB)]

    def copy() -> float:
        def run() -> None:
            for block in blocks:
                target[:] = block

        return timed(run)

    def check() -> float:
        # One block again and again: what pylog checks it has just copied.
        return timed(lambda: [crc32c(target) for _ in blocks])

    def write() -> float:
        with stores.fresh_file(directory, buffering=0) as file:
            descriptor = file.fileno()
            return timed(lambda: [os.write(descriptor, block) for block in blocks])

    def call_each() -> float:
        # A bound method of a C type with two arguments, as `append(value, key)` is.
        get = {b"": b""}.get
        value = b"value"

        def run() -> None:
            for _ in range(calls):
                get(value, value)

        return timed(run)

    with ExitStack() as stack:
        zeros = stack.enter_context(stores.zero_filled_descriptor(directory, PAGE * 256))
        page = bytes(PAGE)

        def sync() -> float:
            def run() -> None:
                for number in range(syncs):
                    os.pwrite(zeros, page, number % 256 * PAGE)
                    os.fdatasync(zeros)

            return timed(run)

        def pread() -> float:
            def run() -> None:
                for number in range(calls // 10):
                    os.pread(zeros, PAGE, number % 256 * PAGE)

            return timed(run)

        contestants = {
            "memory-copy": Contestant(copy, MEMORY, len(blocks), total),
            "crc32c": Contestant(check, MEMORY, len(blocks), total),
            "os.write": Contestant(write, KERNEL, len(blocks), total),
            "fdatasync": Contestant(sync, DISK, syncs, syncs * PAGE),
            "os.pread": Contestant(pread, KERNEL, calls // 10, calls // 10 * PAGE),
            "method-call": Contestant(call_each, MEMORY, calls, calls),
        }
        yield Race(GROUP, contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", NAMES)
def test_hardware(show: Callable[[Race, str], None], hardware: Race, name: str) -> None:
    show(hardware, name)
