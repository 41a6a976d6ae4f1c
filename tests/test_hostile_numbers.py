"""Numbers that pylog never writes, in files whose checksums are right: an enemy can compute those.

Each is refused or believed; none leads to another error than those that are documented, to memory
for what is not there, or to a wait without an end.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_checks import quiet

import pylog
from pylog import Log
from pylog._native import crc32c, make_batch
from pylog.errors import PylogError
from pylog.storage import layout
from pylog.storage.encoding import Chunk
from pylog.topics.registry import TopicRegistry
from pylog.topics.verification import dump, verify

CONTROL = 0x20
SMALL = {"segment_bytes": 1024, "index_interval_bytes": 100, "durability": "os"}


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A closed log of a partition with two segments."""
    with pylog.open(tmp_path / "small") as log:
        partition = log.create_topic("t", **SMALL).partition(0)
        for number in range(14):
            partition.append(b"value %d" % number, key=b"key")
    return tmp_path / "small"


def with_checksum(body: bytes) -> bytes:
    return body + b"crc32c %08x\n" % crc32c(body)


def use(path: Path) -> None:
    """Verify, open, read and append; raises what is not one of pylog's errors or of the system."""
    list(verify(str(path)))
    with contextlib.suppress(PylogError, OSError), pylog.open(path) as log:
        partition = log.topic("t").partition(0)
        for act in (lambda: list(partition.records()), lambda: partition.append(b"new", b"key")):
            with contextlib.suppress(PylogError, OSError):
                act()


@pytest.mark.parametrize(("number", "is_clean"), [(2**60, b"1"), (2**63 - 1, b"0")])
def test_a_manifest_may_hold_any_numbers(small: Path, number: int, is_clean: bytes) -> None:
    manifest = small / "t-0" / "manifest"
    body = (
        manifest.read_bytes()
        .rpartition(b"crc32c")[0]
        .replace(b"is_clean 1", b"is_clean " + is_clean)
    )
    places = list(re.finditer(rb"(?<![0-9])[0-9]+", body))
    assert len(places) > 20
    for place in places:
        copy = small.with_name("copy")
        shutil.copytree(small, copy)
        changed = body[: place.start()] + b"%d" % number + body[place.end() :]
        (copy / "t-0" / "manifest").write_bytes(with_checksum(changed))
        use(copy)
        shutil.rmtree(copy)


def test_a_segment_may_have_the_last_of_all_offsets_for_a_name(small: Path) -> None:
    last = layout.log_name(2**63 - 1)
    data = bytearray((small / "t-0" / layout.log_name(0)).read_bytes())
    data[30] ^= 1
    (small / "t-0" / last).write_bytes(data)

    assert list(dump(str(small / "t-0" / last), with_records=True))
    use(small)


def test_topics_may_end_with_a_batch_that_holds_no_record_for_readers(log: Log) -> None:
    log.create_topic("a")
    control = make_batch([(0, 0, b"\0\0\0\0", b"")], attributes=CONTROL)
    TopicRegistry(log._engine).metadata.place(Chunk(bytearray(control), 1, 0))

    log.create_topic("b")

    assert log.topics() == ["a", "b"]
