"""Retention on full disks: what frees space must not need any."""

from __future__ import annotations

from pathlib import Path

import pytest
from disks import Filler
from test_full_disk import Told, check_verified, disk, leave_nothing

import pylog

__all__ = ["disk"]
pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("is_reopened", [False, True])
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_retention_gives_space_back_although_none_is_left(
    disk: Path, durability: str, is_reopened: bool
) -> None:
    filler, told = Filler(disk), Told("t")
    log = pylog.open(disk / "log")
    topic = log.create_topic(
        "t",
        segment_bytes=1 << 20,
        retention_bytes=2 << 20,
        file_delete_delay_ms=0,
        durability=durability,
    )
    told.append_until_full(topic, 100_000)
    leave_nothing(filler)
    if is_reopened:
        log.close()
        leave_nothing(filler)
        log = pylog.open(disk / "log")
        topic = log.topic("t")
    with log:
        partition = topic.partition(0)
        assert len(list(log.read("t"))) == len(told.kept)
        freed = partition.apply_retention()
        assert freed.segments >= 8
        assert freed.size > 8 << 20
        start = freed.log_start_offset
        kept = [record.value for record in log.read("t")]
        assert kept == told.kept[start:]
        partition.check()
        # The space is there without reopening.
        for _ in range(20):
            told.append(topic, 100_000)
        assert [record.value for record in log.read("t")] == told.kept[start:]
    check_verified(disk / "log")


def test_deleting_records_on_a_full_disk_is_refused_or_done(disk: Path) -> None:
    filler, told = Filler(disk), Told("t")
    with pylog.open(disk / "log") as log:
        topic = log.create_topic("t", segment_bytes=1 << 20, file_delete_delay_ms=0)
        told.append_until_full(topic, 100_000)
        leave_nothing(filler)
        partition = topic.partition(0)
        assert partition.delete_records(-1) == len(told.kept)
        assert list(log.read("t")) == []
        for _ in range(20):
            told.append(topic, 100_000)
    check_verified(disk / "log")
