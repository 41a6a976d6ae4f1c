"""Groups when the world is unkind: topics deleted under them, full disks, clocks that jump."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import pylog
from pylog import Log, OffsetAndMetadata, TopicPartition
from pylog.errors import (
    CorruptionError,
    InvalidAssignmentError,
    NotAppendedError,
    NotLeaderError,
    PartitionFullError,
    RecordTooLargeError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from pylog.groups import group_log
from pylog.groups.assignors import Subscriber, uniform_assignor
from pylog.groups.coordinator import Coordinator
from pylog.groups.facts import EpochValue, GroupKey, TargetEpochKey
from pylog.groups.group_log import OFFSETS_TOPIC
from pylog.groups.schemas import encode_key, encode_value
from pylog.groups.view import View

ORDERS_0 = TopicPartition("orders", 0)
OFFSET = OffsetAndMetadata(2)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path / "log") as opened:
        opened.create_topic("orders", 2)
        yield opened


@pytest.fixture
def groups(log: Log) -> Coordinator:
    return log._coordinator


@pytest.mark.parametrize("is_one", [True, False])
def test_a_late_commit_is_not_of_the_topic_that_was_made_anew(
    log: Log, groups: Coordinator, is_one: bool
) -> None:
    orders_1 = TopicPartition("orders", 1)
    member, idle = groups.join("g", ["orders"]), groups.join("h", ["orders", "others"])
    assert member.look().assigned == {ORDERS_0, TopicPartition("orders", 1)}
    member.commit({ORDERS_0: OffsetAndMetadata(50)})
    log.delete_topic("orders")
    log.create_topic("orders", 2)
    with pytest.raises(StaleMemberEpochError):
        offset = OffsetAndMetadata(100)
        member.commit({ORDERS_0: offset} if is_one else {ORDERS_0: offset, orders_1: offset})
    assert groups.committed("g", [ORDERS_0]) == {ORDERS_0: None}
    # What it gets now is the new one.
    assert member.look().assigned == {ORDERS_0, TopicPartition("orders", 1)}
    member.commit({ORDERS_0: OffsetAndMetadata(1)})
    assert groups.committed("g", [ORDERS_0]) == {ORDERS_0: OffsetAndMetadata(1)}
    assert len(idle.look().assigned) == 2
    assert groups.groups.describe("h").state == "stable"


def test_a_topic_that_is_deleted_for_good_leaves_groups_stable(
    log: Log, groups: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_log, "_MAX_FORGOTTEN_BYTES", 1)  # so in many batches
    log.create_topic("others")
    members = [groups.join(name, ["orders", "others"]) for name in ("g", "h")]
    for member in members:
        member.look()
        member.commit({ORDERS_0: OffsetAndMetadata(1), TopicPartition("orders", 1): OFFSET})
    log.delete_topic("orders")
    for member in members:
        assert member.look().assigned == {TopicPartition("others", 0)}
        assert groups.groups.describe(member.group).state == "stable"
        assert groups.groups.describe(member.group).offsets.keys() == {TopicPartition("others", 0)}
    # A group that has nothing of a topic is left alone when one of its name is made.
    epochs = [groups.groups.describe(member.group).epoch for member in members]
    groups.log.forget_topic("orders")
    groups.log.forget_topic("others")
    assert [groups.groups.describe(member.group).epoch for member in members] == epochs


@pytest.mark.parametrize("segment_bytes", [64 << 10, 1 << 20])
def test_a_commit_too_large_for_one_batch_is_refused_whole(
    log: Log, groups: Coordinator, segment_bytes: int
) -> None:
    log.create_topic("wide", 40)
    member = groups.join("g", ["wide"])
    wide = member.look().assigned
    member.commit({TopicPartition("wide", 0): OffsetAndMetadata(1)})
    log.alter_topic(OFFSETS_TOPIC, segment_bytes=segment_bytes, max_message_bytes=16 << 10)
    end = log.topic(OFFSETS_TOPIC).partition(0).log_end_offset
    with pytest.raises(RecordTooLargeError, match="max_message_bytes of __consumer_offsets is"):
        member.commit({one: OffsetAndMetadata(2, "x" * 4096) for one in wide})
    assert log.topic(OFFSETS_TOPIC).partition(0).log_end_offset == end
    found = groups.committed("g", wide)
    assert [one for one, offset in found.items() if offset] == [TopicPartition("wide", 0)]
    member.commit(dict.fromkeys(wide, OFFSET))
    assert set(groups.committed("g", wide).values()) == {OFFSET}


@pytest.mark.parametrize("error", [PartitionFullError("no space"), OSError(28, "no space")])
def test_who_cannot_bury_the_dead_as_the_disk_is_full_still_reads(
    log: Log,
    groups: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError,
) -> None:
    now = [10**12]
    groups.log.clock = lambda: now[0]
    lives = groups.join("g", ["orders"], max_poll_interval_ms=3000)
    dies = groups.join("g", ["orders"])
    lives.let_go(lives.look().to_revoke)
    standing = lives.look()
    assert len(standing.assigned) == len(dies.look().assigned) == 1
    dies.abandon()

    def fail(*arguments: object) -> object:
        raise error

    caplog.set_level(logging.WARNING)
    with monkeypatch.context() as patched:
        patched.setattr(View, "append", fail)
        for late in (0, 2000, 9000):  # it cannot even say that it lives
            now[0] += late
            groups.log.monotonic = lambda: 10.0**9 + now[0]
            assert lives.look() is standing
        with pytest.raises(type(error)):
            lives.commit(dict.fromkeys(standing.assigned, OFFSET))
    assert len(caplog.records) == 1
    now[0] += 2000
    assert len(lives.look().assigned) == 2


def test_an_assignor_that_begins_to_fail_stops_nobody_who_reads(
    log: Log, groups: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    is_broken = False

    def moody(subscribers: Sequence[Subscriber], partitions: Mapping[str, int]) -> Any:
        return {}[0] if is_broken else uniform_assignor(subscribers, partitions)

    member, other = (groups.join("g", ["orders"], assignor=moody) for _ in range(2))
    member.let_go(member.look().to_revoke)
    assert len(other.look().assigned) == 1
    is_broken = True
    log.topic("orders").add_partitions(4)
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        assert len(member.look().assigned) == 1
        member.commit(dict.fromkeys(member.look().assigned, OFFSET))
    assert ["KeyError" in text for text in caplog.messages] == [True]
    with pytest.raises(InvalidAssignmentError):
        groups.join("g", ["orders"], assignor=moody)
    is_broken = False
    groups.log.monotonic = lambda: 10.0**9
    assert len(member.look().assigned) + len(other.look().assigned) == 4


def test_a_clock_that_leaps_drops_nobody_and_who_hangs_is_dropped_when_its_time_is_over(
    groups: Coordinator,
) -> None:
    wall, passed = [10**12], [1000.0]
    groups.log.clock = lambda: wall[0]
    groups.log.monotonic = lambda: passed[0]

    def let_pass(seconds: float) -> None:
        passed[0] += seconds
        wall[0] += int(seconds * 1000)

    away = groups.join("g", ["orders"], instance_id="w1", session_timeout_ms=60_000)
    lives, hangs = (groups.join("g", ["orders"], max_poll_interval_ms=60_000) for _ in range(2))
    lives.look()
    away.leave()
    let_pass(30)
    lives.look()
    wall[0] += 3_600_000  # the machine slept for an hour, or somebody set the clock
    for _ in range(2):
        lives.look()
        assert len(groups.groups.describe("g").members) == 3
        let_pass(29)
    hangs.look()  # it was slow, and missed by nobody
    let_pass(2)
    lives.look()
    assert len(groups.groups.describe("g").members) == 2
    let_pass(59)
    lives.look()
    assert [one.member_id for one in groups.groups.describe("g").members] == [lives.member_id]
    with pytest.raises(UnknownMemberIdError):
        hangs.look()


def test_who_asks_about_a_group_drops_no_member_that_lives(groups: Coordinator) -> None:
    slow = groups.join("g", ["orders"], max_poll_interval_ms=10)
    away = groups.join("g", ["orders"], instance_id="w1", session_timeout_ms=10)
    away.leave()
    wall = groups.log.clock() + 1_000_000
    groups.log.clock = lambda: wall
    groups.log._leaps = groups.log._new_leaps()  # as a process that begins now
    assert [one.member_id for one in groups.groups.describe("g").members] == [slow.member_id]


def test_a_look_asks_for_few_of_many_processes_and_finds_all_that_died(
    groups: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = itertools.count(1)
    monkeypatch.setattr("pylog.groups.member.os.getpid", lambda: next(hosts))
    members = [groups.join("g", ["orders"]) for _ in range(60)]
    now, asked = [1000.0], []
    groups.log.monotonic = lambda: now[0]
    is_alive = groups.log.liveness.is_alive
    members[0].look()

    def noted(group: str, member_id: str) -> bool:
        asked.append(member_id)
        return is_alive(group, member_id)

    monkeypatch.setattr(groups.log.liveness, "is_alive", noted)
    seen: Counter[str] = Counter()
    for _ in range(15):
        asked.clear()
        now[0] += 1
        members[0].look()
        assert len(asked) == 8
        seen.update(asked)
    assert set(seen.values()) == {2}, "each in its turn"
    for member in members[20:]:
        member.abandon()
    for _ in range(8):  # by then each had its turn
        now[0] += 1
        members[0].look()
    group = groups.log.read("g")
    assert group is not None and group.members.keys() == {one.member_id for one in members[:20]}


@pytest.mark.parametrize("error", [PartitionFullError("no space"), NotLeaderError("it follows")])
def test_a_group_is_described_with_its_dead_where_nothing_can_be_appended(
    log: Log,
    groups: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: NotAppendedError,
) -> None:
    member = groups.join("g", ["orders"])
    member.abandon()

    def full(*_: object) -> object:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(log.topic(OFFSETS_TOPIC).partition(0), "place", full)
        described = groups.groups.describe("g")
        assert [one.member_id for one in described.members] == [member.member_id]
        assert str(error) in caplog.text
        assert [one.members for one in groups.groups.list()] == [1]
        with pytest.raises(type(error)):
            groups.groups.reset_offsets("g", ["orders"], to="latest")
    assert groups.groups.describe("g").members == ()


LAST_EPOCH = EpochValue(2**31 - 1)


def test_a_group_in_the_last_epoch_whose_members_are_dead_can_be_deleted(
    log: Log, groups: Coordinator
) -> None:
    member = groups.join("g", ["orders"])
    key, value = encode_key(GroupKey("g")), encode_value(LAST_EPOCH)
    log.topic(OFFSETS_TOPIC).partition(0).append(value, key)
    with pytest.raises(CorruptionError):
        groups.join("g", ["orders"])
    member.abandon()
    groups.groups.delete("g")
    assert groups.log.names() == []
    assert len(groups.join("g", ["orders"]).look().assigned) == 2


def test_a_target_of_a_later_epoch_than_the_groups_is_made_anew(
    log: Log, groups: Coordinator
) -> None:
    groups.commit("g", {ORDERS_0: OFFSET})
    key, value = encode_key(TargetEpochKey("g")), encode_value(LAST_EPOCH)
    log.topic(OFFSETS_TOPIC).partition(0).append(value, key)
    member = groups.join("g", ["orders"])
    assert len(member.look().assigned) == 2
    member.commit({ORDERS_0: OffsetAndMetadata(1)})
