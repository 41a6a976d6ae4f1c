"""After a crash: the scan that recovery makes, and the whole open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import crc32c
import pytest

import pylog
from bench.conftest import Payload
from bench.turns import DISK, MEMORY, Contestant, Race, timed
from pylog._native import Scanner
from pylog.storage.files import OsFiles
from pylog.storage.scan import NOT_KNOWN, walk_log

ROUNDS = 15
BLOCK = 1 << 20
NEARLY_A_SEGMENT = 60 << 20
END = 1 << 62


def crashed_copy(log: pylog.Log, target: Path) -> None:
    """Copy the directory of an open log: that is what a crash of all processes leaves."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(log.path, target)


def scan(directory: Path, topic: str, *, records: int) -> float:
    """Time what recovery does to an active segment of whole batches and zeros after them."""
    root = OsFiles().root(str(directory), create=False)
    file = root.directory(f"{topic}-0").open(f"{0:020}.log")
    scanner = Scanner(base_offset=0, next_offset=0)
    try:
        end = file.size()
        return timed(lambda: walk_log(file, scanner, end=end, maximum_offset=END, known=NOT_KNOWN))
    finally:
        assert scanner.next_offset == records
        file.close()
        root.close()


def checksum(data: memoryview) -> None:
    value = 0
    for start in range(0, len(data), BLOCK):
        value = crc32c.crc32c(data[start : start + BLOCK], value)


def read_and_checksum(path: Path, size: int) -> None:
    value = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for start in range(0, size, BLOCK):
            value = crc32c.crc32c(os.pread(descriptor, BLOCK, start), value)
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def recoveries(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    total = size(100, 100) * NEARLY_A_SEGMENT // 100
    values, keys = payload.values(Payload.BATCH), payload.keys(0, Payload.BATCH)
    with ExitStack() as stack:
        log = stack.enter_context(pylog.open(directory / "log"))
        batches = log.create_topic("batches", durability="os").partition(0)
        singles = log.create_topic("singles", durability="os").partition(0)
        for _ in range(max(total // 130_000, 1)):
            batches.append_many(values, keys)
        for row in range(max(total // 200, 1)):
            singles.append(values[row % len(values)], keys[0])
        crashed = directory / "crashed"
        crashed_copy(log, crashed)
        path = crashed / "batches-0" / f"{0:020}.log"
        marks = batches.marks()
        assert marks is not None
        position = marks.position
        data = memoryview(path.read_bytes())[:position]

        def open_crashed() -> float:
            def look() -> None:
                opened.append(pylog.open(target, create=False))
                assert opened[0].topic("batches").partition(0).log_end_offset == records

            target = directory / "again"
            crashed_copy(log, target)
            opened: list[pylog.Log] = []
            seconds = timed(look)
            opened[0].close()
            return seconds

        records, single_records = batches.log_end_offset, singles.log_end_offset
        single_marks = singles.marks()
        assert single_marks is not None
        contestants = {
            "pylog": Contestant(
                lambda: scan(crashed, "batches", records=records), DISK, records, position
            ),
            "pylog-single-batches": Contestant(
                lambda: scan(crashed, "singles", records=single_records),
                DISK,
                single_records,
                single_marks.position,
            ),
            "pylog-whole-open": Contestant(open_crashed, DISK, records, position),
            "crc32c": Contestant(lambda: timed(checksum, data), MEMORY, records, position),
            "crc32c-and-pread": Contestant(
                lambda: timed(read_and_checksum, path, position), DISK, records, position
            ),
        }
        yield Race("recover", contestants, rounds=ROUNDS)
        data.release()


@pytest.mark.parametrize(
    "name",
    ["pylog", "pylog-single-batches", "pylog-whole-open", "crc32c", "crc32c-and-pread"],
)
def test_recover(show: Callable[..., None], recoveries: Race, name: str) -> None:
    show(recoveries, name)
