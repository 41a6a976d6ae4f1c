"""The high watermark of a log that is one of several replicas: who moves it, and who does not."""

from __future__ import annotations

import pytest
from replicas import FSYNC, OS, Host, all_records, follower, leader, values

from pylog.config import TopicConfig
from pylog.errors import NotLeaderError
from pylog.storage.role import NO_ROLE

CONFIGS = pytest.mark.parametrize("config", [OS, FSYNC], ids=["os", "fsync"])


@CONFIGS
def test_a_leaders_appends_and_syncs_do_not_move_the_high_watermark(config: TopicConfig) -> None:
    partition = Host(leader()).partition(config)
    partition.append(b"a")
    partition.append_many([b"b" * 10_000] * 20)
    partition.flush()

    assert (partition.high_watermark, partition.log_end_offset) == (0, 21)
    assert partition.durable_offset == 21
    assert values(partition) == []
    assert len(all_records(partition)) == 21


@CONFIGS
def test_a_role_is_obeyed_by_processes_that_have_the_partition_open(config: TopicConfig) -> None:
    host = Host()
    one, other = host.partition(config), host.partition(config)
    one.append(b"alone")
    other.append(b"alone")
    host.become(leader(7))
    one.append(b"x")
    other.append(b"y")
    other.flush()

    assert (one.high_watermark, one.log_end_offset) == (2, 4)
    assert [record.leader_epoch for record in all_records(one)] == [0, 0, 7, 7]


def test_who_has_not_heard_of_the_role_does_not_let_go_of_the_high_watermark() -> None:
    host = Host()
    late, other = host.partition(OS), host.partition(OS)
    late.append(b"x")
    host.become(leader())
    other.append(b"y")
    attachment = late._attachment
    assert attachment is not None
    with attachment.page:
        attachment._obey_role_locked()
    assert other.high_watermark == 1


@CONFIGS
def test_a_log_that_is_alone_again_shows_what_its_durability_allows(config: TopicConfig) -> None:
    host = Host(leader())
    one, other = host.partition(config), host.partition(config)
    one.append(b"x")
    host.become(NO_ROLE)
    seen = host.log_events.value
    other.append(b"y")

    assert values(one) == [b"x", b"y"]
    assert host.log_events.value != seen


@CONFIGS
def test_a_follower_refuses_appends_of_every_process(config: TopicConfig) -> None:
    host = Host()
    one, other = host.partition(config), host.partition(config)
    one.append(b"x")
    host.become(follower())
    for partition in (one, other):
        with pytest.raises(NotLeaderError):
            partition.append(b"y")
        with pytest.raises(NotLeaderError):
            partition.append_many([b"y"])
        (chunk,) = partition.encode_chunks([b"y"], None, None, None).chunks
        with pytest.raises(NotLeaderError):
            partition.place_decided(lambda _, chunk=chunk: chunk)
    assert values(other) == [b"x"]
    host.become(NO_ROLE)
    one.append(b"y")
    assert values(other) == [b"x", b"y"]


@CONFIGS
def test_appends_of_a_leader_are_news_for_who_brings_them_to_replicas(config: TopicConfig) -> None:
    host = Host(leader())
    partition = host.partition(config)
    partition.append(b"x")
    seen = host.log_events.value
    partition.append(b"y")
    assert host.log_events.value != seen
    seen = host.log_events.value
    partition.append_many([b"z" * 100_000] * 3)
    assert host.log_events.value != seen


@CONFIGS
@pytest.mark.parametrize("ends", ["clean", "killed"])
def test_opening_again_shows_what_was_visible_and_no_more(config: TopicConfig, ends: str) -> None:
    host = Host()
    partition = host.partition(config)
    partition.append_many([b"x"] * 5)
    host.become(leader())
    partition.append_many([b"y"] * 5)
    partition.flush()
    if ends == "clean":
        partition.close()
    again = host.killed().partition(config)

    assert (again.high_watermark, again.log_end_offset) == (5, 10)


def test_after_a_power_cut_the_high_watermark_is_what_the_manifest_says() -> None:
    host = Host()
    partition = host.partition(FSYNC)
    partition.append_many([b"x"] * 5)
    host.become(leader())
    partition.append_many([b"y"] * 5)
    again = host.cut_off().partition(FSYNC)

    assert (again.high_watermark, again.log_end_offset) == (0, 10)
