"""Groups as an administrator sees and changes them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Numbers, children
from tail_memory import wait_until

import pylog
from pylog import Log, OffsetAndMetadata, TopicPartition
from pylog.errors import (
    CorruptionError,
    GroupIdNotFoundError,
    InconsistentGroupProtocolError,
    NonEmptyGroupError,
    NoOffsetForPartitionError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)
from pylog.groups.administration import Groups
from pylog.groups.coordinator import Coordinator
from pylog.groups.descriptions import GroupListing, GroupOffset, OffsetReset
from pylog.groups.facts import ClassicGroupKey, OffsetKey
from pylog.groups.group_log import OFFSETS_CONFIG, OFFSETS_TOPIC
from pylog.groups.schemas import encode_key
from pylog.groups.view import View

ZERO, ONE = TopicPartition("orders", 0), TopicPartition("orders", 1)
T = 1_700_000_000_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Return a log whose topic has ten records in partition 0, three of them deleted."""
    with pylog.open(tmp_path / "log") as opened:
        topic = opened.create_topic("orders", 2)
        times = [T + 1000 * number for number in range(10)]
        topic.append_many([b"x"] * 10, timestamps=times, partition=0)
        topic.delete_records({0: 3})
        yield opened


@pytest.fixture
def coordinator(log: Log) -> Coordinator:
    return log._coordinator


@pytest.fixture
def groups(coordinator: Coordinator) -> Groups:
    return coordinator.groups


def at(offset: int) -> OffsetAndMetadata:
    return OffsetAndMetadata(offset)


# ---------------------------------------------------------------- looking


def test_nothing_is_told_of_groups_that_are_not_there(groups: Groups) -> None:
    assert groups.list() == []
    with pytest.raises(GroupIdNotFoundError):
        groups.describe("g")


def test_a_group_is_told_with_members_assignment_and_lag(
    coordinator: Coordinator, groups: Groups
) -> None:
    first = coordinator.join("g", ["orders"], instance_id="w1", client_id="c")
    first.look()
    first.commit({ZERO: OffsetAndMetadata(4, "m", 0)})
    second = coordinator.join("g", ["orders"], assignor="range")
    coordinator.commit("other", {ZERO: at(10), TopicPartition("gone", 0): at(1)})
    assert groups.list() == [
        GroupListing("g", "reconciling", 2),
        GroupListing("other", "empty", 0),
    ]
    told = groups.describe("g")
    assert (told.state, told.assignor, told.epoch) == ("reconciling", "range", 2)
    one, two = sorted(told.members, key=lambda member: member.instance_id is None)
    assert (one.member_id, one.instance_id, one.client_id) == (first.member_id, "w1", "c")
    assert (one.topics, one.is_away) == (("orders",), False)
    assert (len(one.assigned), len(one.to_revoke), len(one.target)) == (1, 1, 1)
    assert (two.member_id, two.assigned) == (second.member_id, frozenset())
    assert told.offsets == {
        ZERO: GroupOffset(OffsetAndMetadata(4, "m", 0), 10, 6, first.member_id),
        ONE: GroupOffset(None, 0, None, first.member_id),
    }
    assert told.lag == 6
    first.let_go(first.look().to_revoke)
    assert groups.describe("g").state == "stable"
    first.leave()
    assert [member.is_away for member in groups.describe("g").members].count(True) == 1
    other = groups.describe("other")
    assert (other.state, other.assignor, other.lag) == ("empty", "", 0)
    assert other.offsets[TopicPartition("gone", 0)] == GroupOffset(at(1), None, None, None)


def test_the_dead_are_not_told_of(tmp_path: Path) -> None:
    is_there = Numbers(1)
    with pylog.open(tmp_path / "log") as log:
        log.create_topic("orders")

    def live() -> None:
        own = pylog.open(tmp_path / "log")
        own._coordinator.join("g", ["orders"])
        is_there[0] = 1
        wait_until(lambda: False)

    with children() as start:
        child = start(live)
        wait_until(lambda: is_there[0] == 1)
        with pylog.open(tmp_path / "log") as log:
            groups = log._coordinator.groups
            assert len(groups.describe("g").members) == 1
            with pytest.raises(NonEmptyGroupError):
                groups.delete("g")
            child.kill()
            assert groups.list() == [GroupListing("g", "empty", 0)]
            assert groups.describe("g").members == ()
            groups.delete("g")
            assert groups.list() == []


# ---------------------------------------------------------------- deleting


def test_a_deleted_group_leaves_nothing(log: Log, coordinator: Coordinator, groups: Groups) -> None:
    member = coordinator.join("g", ["orders"])
    member.look()
    member.commit({ZERO: at(4)})
    with pytest.raises(NonEmptyGroupError):
        groups.delete("g")
    member.leave()
    groups.delete("g")
    assert groups.list() == []
    assert coordinator.committed("g", [ZERO]) == {ZERO: None}
    view = View(log.topic(OFFSETS_TOPIC).partition(0))
    view.refresh()
    assert view.groups == {}
    with pytest.raises(GroupIdNotFoundError):
        groups.delete("g")
    again = coordinator.join("g", ["orders"])
    assert len(again.look().assigned) == 2


def test_a_group_that_cannot_be_read_can_be_deleted(
    log: Log, coordinator: Coordinator, groups: Groups
) -> None:
    coordinator.commit("g", {ZERO: at(4)})
    log.topic(OFFSETS_TOPIC).append(b"\0\7", encode_key(OffsetKey("g", "orders", 1)))
    with pytest.raises(CorruptionError):
        groups.describe("g")
    assert groups.list() == [GroupListing("g", "empty", 0)]
    groups.delete("g")
    assert groups.list() == []


def test_members_of_another_protocol_are_left_alone(log: Log, groups: Groups) -> None:
    populated = bytes.fromhex(
        "00030008636f6e73756d657200000001000572616e67650003632d310000018bcfe56800000000010003632d31"
        "ffff000163000a2f3132372e302e302e31000493e00000afc80000000201020000000103"
    )
    log._registry.internal(OFFSETS_TOPIC, OFFSETS_CONFIG)
    log.topic(OFFSETS_TOPIC).append(populated, encode_key(ClassicGroupKey("g")))
    assert groups.list() == [GroupListing("g", "classic", 1)]
    assert groups.describe("g").state == "classic"
    calls: list[Callable[[], Any]] = [
        lambda: groups.delete("g"),
        lambda: groups.delete_offsets("g", [ZERO]),
        lambda: groups.alter_offsets("g", {ZERO: at(1)}),
        lambda: groups.reset_offsets("g", ["orders"], to="latest"),
    ]
    for call in calls:
        with pytest.raises(InconsistentGroupProtocolError):
            call()


def test_members_are_removed_by_either_id(coordinator: Coordinator, groups: Groups) -> None:
    static = coordinator.join("g", ["orders"], instance_id="w1")
    other = coordinator.join("g", ["orders"])
    with pytest.raises(LookupError, match="w2"):
        groups.remove_members("g", ["w1", "w2"])
    assert len(groups.describe("g").members) == 2
    groups.remove_members("g", ["w1"])
    assert len(other.look().assigned) == 2
    groups.remove_members("g", [other.member_id])
    for member in (static, other):
        with pytest.raises(UnknownMemberIdError):
            member.look()
    assert groups.describe("g").members == ()


# ---------------------------------------------------------------- offsets


def test_offsets_are_altered_and_deleted(coordinator: Coordinator, groups: Groups) -> None:
    groups.alter_offsets("g", {ZERO: OffsetAndMetadata(4, "m", 2), ONE: at(1)})
    assert coordinator.committed("g", [ZERO]) == {ZERO: OffsetAndMetadata(4, "m", 2)}
    groups.delete_offsets("g", [ZERO, TopicPartition("gone", 9)])
    assert coordinator.committed("g", [ZERO, ONE]) == {ZERO: None, ONE: at(1)}
    groups.delete_offsets("g", [ONE])
    assert groups.list() == [], "of a group that was never more nothing is left"
    with pytest.raises(GroupIdNotFoundError):
        groups.delete_offsets("g", [ONE])


@pytest.mark.parametrize(
    ("target", "after"),
    [
        ({"to": "earliest"}, 3),
        ({"to": "latest"}, 10),
        ({"to": 7}, 7),
        ({"to": 0}, 3),
        ({"to": 99}, 10),
        ({"to": datetime.datetime.fromtimestamp(T / 1000 + 4.5, datetime.UTC)}, 5),
        ({"to": datetime.datetime.fromtimestamp(T / 1000 + 60, datetime.UTC)}, 10),
        ({"shift": 2}, 8),
        ({"shift": -1}, 5),
        ({"shift": -5}, 3),
        ({"shift": 100}, 10),
    ],
)
def test_offsets_are_reset(
    coordinator: Coordinator, groups: Groups, target: dict[str, Any], after: int
) -> None:
    coordinator.commit("g", {ZERO: at(6)})
    expected = {ZERO: OffsetReset(6, after)}
    assert groups.reset_offsets("g", **target, dry_run=True) == expected
    assert coordinator.committed("g", [ZERO]) == {ZERO: at(6)}
    assert groups.reset_offsets("g", **target) == expected
    assert coordinator.committed("g", [ZERO]) == {ZERO: at(after)}


def test_a_group_that_never_committed_can_begin_anywhere(
    coordinator: Coordinator, groups: Groups
) -> None:
    result = groups.reset_offsets("new", ["orders", ZERO], to="latest")
    assert result == {ZERO: OffsetReset(None, 10), ONE: OffsetReset(None, 0)}
    assert coordinator.committed("new", [ZERO, ONE]) == {ZERO: at(10), ONE: at(0)}


def test_a_reset_that_cannot_be_changes_nothing(coordinator: Coordinator, groups: Groups) -> None:
    coordinator.commit("g", {ZERO: at(6)})
    for arguments, error in (
        ({}, ValueError),
        ({"to": "latest", "shift": 1}, ValueError),
        ({"to": "end"}, ValueError),
        ({"to": -1}, ValueError),
        ({"to": datetime.datetime(2026, 1, 1)}, ValueError),
        ({"partitions": ["orders"], "shift": 1}, NoOffsetForPartitionError),
        ({"partitions": ["gone"], "to": 1}, UnknownTopicOrPartitionError),
        ({"partitions": [TopicPartition("orders", 2)], "to": 1}, UnknownTopicOrPartitionError),
    ):
        with pytest.raises(error):
            groups.reset_offsets("g", **arguments)  # type: ignore[arg-type]
    with pytest.raises(GroupIdNotFoundError):
        groups.reset_offsets("unknown", to=1)
    member = coordinator.join("g", ["orders"])
    for dry_run in (True, False):
        with pytest.raises(NonEmptyGroupError):
            groups.reset_offsets("g", to=7, dry_run=dry_run)
    assert coordinator.committed("g", [ZERO, ONE]) == {ZERO: at(6), ONE: None}
    member.leave()
    groups.reset_offsets("g", to=7)
