"""A log as a user holds it: opened, let go and closed."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

import pylog
from pylog import Topic
from pylog.engine.engine import Engine
from pylog.errors import (
    ClosedError,
    CorruptFileError,
    IncompatibleFormatError,
    NetworkFileSystemError,
)
from pylog.storage.files import OsFiles

ROOT = Path(__file__).resolve().parent.parent


def values(topic: Topic) -> list[bytes | None]:
    return [record.value for record in topic.read()]


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- open and close


def test_open_makes_the_directory_and_its_parents(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "a" / "b") as log:
        assert log.path == str(tmp_path / "a" / "b")
        assert log.topics() == []
    assert (tmp_path / "a" / "b" / "meta.properties").exists()


def test_open_takes_a_string_or_a_path(tmp_path: Path) -> None:
    for path in (tmp_path, str(tmp_path)):
        with pylog.open(path) as log:
            assert log.path == str(tmp_path)


def test_without_create_a_missing_log_is_an_error_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pylog.open(tmp_path / "none", create=False)
    with pytest.raises(FileNotFoundError) as caught:
        pylog.open(tmp_path, create=False)
    assert caught.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_there_after_a_reopening(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t").append(b"x")
    with pylog.open(tmp_path, create=False) as log:
        assert log.topics() == ["t"]
        assert values(log.topic("t")) == [b"x"]


def test_close_is_idempotent(tmp_path: Path) -> None:
    log = pylog.open(tmp_path)
    log.close()
    log.close()
    with log:
        assert "closed" in repr(log)


def test_a_log_that_is_let_go_is_closed(tmp_path: Path) -> None:
    log = pylog.open(tmp_path)
    log.create_topic("t", durability="os").append(b"x")
    gone = weakref.ref(log)
    del log
    gc.collect()

    assert gone() is None
    assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()


def test_what_a_log_handed_out_keeps_it_open(tmp_path: Path) -> None:
    topic = pylog.open(tmp_path).create_topic("t")
    gc.collect()
    assert topic.append(b"x").offset == 0
    partition = pylog.open(tmp_path).topic("t").partition(0)
    gc.collect()
    assert partition.append(b"y").offset == 1
    assert [record.value for record in pylog.open(tmp_path).read("t")] == [b"x", b"y"]


def test_the_end_of_the_interpreter_closes_the_log(tmp_path: Path) -> None:
    code = "import sys, pylog; t = pylog.open(sys.argv[1]).create_topic('t', durability='interval')"
    subprocess.run(
        [sys.executable, "-c", code + "; t.append(b'x')", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()


def test_an_error_in_the_with_block_passes_through_and_closes(tmp_path: Path) -> None:
    with pytest.raises(KeyError), pylog.open(tmp_path) as log:
        topic = log.create_topic("t")
        raise KeyError
    with pytest.raises(ClosedError):
        topic.append(b"x")


def test_a_log_may_be_open_twice_in_one_process(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as one:
        with pylog.open(tmp_path) as other:
            mine, theirs = one.create_topic("t"), other.topic("t")
            for turn in range(10):
                (mine if turn % 2 else theirs).append(b"%d" % turn)
            assert values(mine) == values(theirs) == [b"%d" % turn for turn in range(10)]
        assert mine.append(b"10").offset == 10
    assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()


def test_a_later_format_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    pylog.open(tmp_path).close()
    properties = tmp_path / "meta.properties"
    properties.write_text(properties.read_text().replace("format=1", "format=2"))
    before = tree(tmp_path)
    with pytest.raises(IncompatibleFormatError) as caught:
        pylog.open(tmp_path)
    assert (caught.value.found, caught.value.supported) == (2, 1)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["", "garbage", "pylog.format=1\n"])
def test_damaged_properties_are_refused_and_nothing_changed(tmp_path: Path, text: str) -> None:
    pylog.open(tmp_path).close()
    (tmp_path / "meta.properties").write_text(text)
    before = tree(tmp_path)
    with pytest.raises(CorruptFileError, match=r"meta\.properties"):
        pylog.open(tmp_path)
    assert tree(tmp_path) == before


def test_a_network_file_system_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    class Nfs(OsFiles):
        def file_system_type(self, path: str) -> str:
            return "nfs4"

    with pytest.raises(NetworkFileSystemError, match="nfs4") as caught:
        Engine(str(tmp_path / "d"), file_system=Nfs()).open(create=True)
    assert caught.value.errno == errno.ENOTSUP
    assert caught.value.filename == str(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_the_file_system_of_a_directory_is_found_in_the_mount_table(tmp_path: Path) -> None:
    assert OsFiles().file_system_type("/proc/self") == "proc"
    assert OsFiles().file_system_type(str(tmp_path)) not in ("proc", "unknown")


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    def descriptors() -> set[str]:
        gc.collect()
        return {
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        }

    before = descriptors()
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", partitions=3, segment_bytes=100)
        for _ in range(30):
            topic.append(bytes(30))
        values(topic)
        log.delete_topic("t")
    del log, topic
    assert descriptors() <= before
