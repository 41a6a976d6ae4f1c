"""A log that lost its end, or may have: its leader epoch rises, and who read that end notices."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from crash_model import keep_all
from replicas import FSYNC, OS, Host, all_records, follower, leader

import pylog
from pylog import TopicPartition
from pylog.storage.role import NO_ROLE, Role
from pylog.storage.shared_page import STATE_NAME


def test_each_power_cut_that_may_have_taken_something_has_an_epoch_of_its_own() -> None:
    host = Host()
    host.partition(OS).append(b"lost")
    for epoch in range(1, 4):
        host = host.cut_off()
        partition = host.partition(OS)
        assert partition.leader_epochs.entries == ((epoch, 0),)
        if epoch < 3:
            partition.append(b"lost")
    partition.append(b"kept")
    partition.flush()
    partition.append(b"lost")
    host = host.cut_off()
    partition = host.partition(OS)
    partition.append(b"new")
    assert [record.leader_epoch for record in all_records(partition)] == [3, 4]
    assert partition.end_offset_for_epoch(3) == (3, 1)


def test_an_epoch_that_wrote_nothing_yet_survives_a_kill() -> None:
    host = Host()
    host.partition(OS).append(b"lost")
    host = host.cut_off()
    host.partition(OS).append_replica(b"")  # which is ready to append, and no more
    host = host.killed()
    host.partition(OS).append(b"x")
    assert [one.leader_epoch for one in all_records(host.partition(OS))] == [1]


@pytest.mark.parametrize(
    "role", [NO_ROLE, leader(), follower()], ids=["alone", "leader", "follower"]
)
def test_nothing_is_lost_by_a_kill_or_by_what_was_synced(role: Role) -> None:
    for config, is_kill in ((OS, True), (FSYNC, True), (FSYNC, False)):
        host = Host()
        partition = host.partition(config)
        partition.append_many([b"x"] * 5)
        host.become(role)
        again = host.killed() if is_kill else host.cut_off()
        assert len(all_records(again.partition(config))) == 5
        assert again.partition(config).leader_epochs.latest_epoch == 0
        assert again.lost == []


@pytest.mark.parametrize("role", [leader(), follower()], ids=["leader", "follower"])
def test_a_replica_that_may_have_lost_records_is_told_before_it_is_repaired(role: Role) -> None:
    host = Host(role)
    partition = host.partition(OS)
    source = Host(leader()).partition(OS)
    source.append(b"x")
    partition.append_replica(source.read_batches(0).data)
    again = host.cut_off(damage=keep_all)
    partition = again.partition(OS)
    again.refuses = True
    with pytest.raises(OSError, match="not noted"):
        partition.flush()
    again.refuses = False
    assert partition.log_end_offset == 1
    assert again.lost == [partition]
    assert partition.leader_epochs.latest_epoch == 1
    other = again.killed()
    other.partition(OS).flush()
    assert other.lost == []


def test_a_group_goes_on_where_the_log_ended_when_it_lost_what_was_committed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partition = tmp_path / "log" / "t-0"
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("t", durability="os")
        for n in range(50):
            topic.append(b"%d" % n)
        shutil.copytree(partition, tmp_path / "survives")
        topic.append_many([b"lost"] * 50)
        with log.consumer("t", group="g") as consumer:
            while consumer.poll(timeout=0.2):
                pass
    shutil.rmtree(partition)
    shutil.copytree(tmp_path / "survives", partition)
    (partition / STATE_NAME).unlink()  # another boot
    with pylog.open(tmp_path / "log") as log:
        for n in range(60):
            log.topic("t").append(b"new %d" % n)
        with caplog.at_level(logging.WARNING), log.consumer("t", group="g") as consumer:
            first = consumer.poll()[0]
            assert (first.offset, first.value, first.leader_epoch) == (50, b"new 0", 1)
        assert "the log lost its end" in caplog.text
        assert log.groups.describe("g").offsets[TopicPartition("t", 0)] is not None


def test_where_a_group_began_is_known_to_be_lost_too(tmp_path: Path) -> None:
    partition = tmp_path / "log" / "t-0"
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("t", durability="os")
        topic.append_many([b"kept"] * 50)
        shutil.copytree(partition, tmp_path / "survives")
        topic.append_many([b"lost"] * 50)
        with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
            assert consumer.poll(0) == []
    shutil.rmtree(partition)
    shutil.copytree(tmp_path / "survives", partition)
    (partition / STATE_NAME).unlink()  # another boot
    with pylog.open(tmp_path / "log") as log:
        log.topic("t").append_many([b"new"] * 60)
        with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
            assert consumer.poll(10.0)[0].offset == 50
