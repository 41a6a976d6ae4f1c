"""A process that dies in the middle of a roll, while others go on with the partition."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest
from crash_checks import Process, read_all
from crash_model import keep_all
from memory_files import MemoryFiles

from pylog.config import TopicConfig
from pylog.storage import lifecycle
from pylog.storage.partition import Partition


class KilledError(BaseException):
    """Stands for kill -9: nothing that belongs to the roll runs after it."""


def die_in_roll(monkeypatch: pytest.MonkeyPatch, partition: Partition, *, commits: bool) -> None:
    """Let `partition` die in a roll, before or after the manifest that commits it."""
    write_manifest = lifecycle.write_manifest

    def killed(*arguments: Any) -> None:
        if commits:
            write_manifest(*arguments)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "write_manifest", killed)
        with pytest.raises(KilledError):
            for number in range(100):
                partition.append(b"first %d" % number + bytes(300))


@pytest.mark.parametrize("commits", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_who_dies_in_a_roll_loses_nothing_of_the_others(
    monkeypatch: pytest.MonkeyPatch, durability: Literal["fsync", "os"], commits: bool
) -> None:
    config = TopicConfig(segment_bytes=1024, index_interval_bytes=256, durability=durability)
    files = MemoryFiles(is_recording=True)
    one, other = Process(files), Process(files)
    rolling, going_on = one.partition(config), other.partition(config)
    going_on.append(b"small")
    die_in_roll(monkeypatch, rolling, commits=commits)
    placed = read_all(going_on)
    # Small enough for the room that is left in the segment whose roll was committed or not.
    later = [going_on.append(b"later %d" % number) for number in range(2)]
    going_on.check()

    disk = files.disk_after().crash(keep_all, random.Random(0))
    reopened = Process(MemoryFiles(disk, boot=2)).partition(config)
    found = read_all(reopened)

    assert found[: len(placed)] == placed
    for number, metadata in enumerate(later):
        assert found[metadata.offset] == b"later %d" % number
    assert len(found) == later[-1].offset + 1
