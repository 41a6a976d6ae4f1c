"""Mapping: memory maps of files as buffers."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylog import _native
from pylog.errors import ClosedError


@pytest.fixture
def file_of_two_pages(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"a" * mmap.PAGESIZE + b"b" * mmap.PAGESIZE, 0)
    yield fd
    os.close(fd)


def test_a_mapping_reads_and_writes_the_file(file_of_two_pages: int) -> None:
    mapping = _native.Mapping(
        file_of_two_pages, mmap.PAGESIZE, position=mmap.PAGESIZE, writable=True
    )
    view = memoryview(mapping)

    assert (len(mapping), view[0], view.readonly) == (mmap.PAGESIZE, ord("b"), False)
    view[:3] = b"new"

    assert os.pread(file_of_two_pages, 4, mmap.PAGESIZE) == b"newb"


def test_a_mapping_is_read_only_unless_asked(file_of_two_pages: int) -> None:
    view = memoryview(_native.Mapping(file_of_two_pages, 10))

    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(TypeError):
        _native.SharedPage(_native.Mapping(file_of_two_pages, _native.PAGE_BYTES))


def test_a_mapping_outlives_its_descriptor_and_may_exceed_the_file(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as file:
        mapping = _native.Mapping(file.fileno(), 1 << 30)

    assert bytes(memoryview(mapping)[:100]) == b"x" * 100
    assert len(mapping) == 1 << 30


def test_closing_a_mapping_waits_for_its_buffers(file_of_two_pages: int) -> None:
    mapping = _native.Mapping(file_of_two_pages, mmap.PAGESIZE)
    view = memoryview(mapping)

    mapping.close()
    mapping.close()

    assert view[0] == ord("a")
    for call in (lambda: memoryview(mapping), lambda: len(mapping)):
        with pytest.raises(ClosedError):
            call()
    view.release()
    with pytest.raises(ClosedError):
        len(mapping)


def test_what_cannot_be_mapped_is_refused(file_of_two_pages: int) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            _native.Mapping(file_of_two_pages, size)
    for position in (1, -mmap.PAGESIZE):
        with pytest.raises(OSError):
            _native.Mapping(file_of_two_pages, 10, position=position)
    with pytest.raises(OSError):
        _native.Mapping(-1, 10)


def test_mappings_do_not_leak(file_of_two_pages: int) -> None:
    def maps() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    before = maps()
    for _ in range(500):
        mapping = _native.Mapping(file_of_two_pages, mmap.PAGESIZE, writable=True)
        page = _native.SharedPage(mapping)
        mapping.close()
        page.release()
    assert maps() < before + 50
