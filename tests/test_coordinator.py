"""Groups in a real log: members in threads and processes, and what was committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import pylog
from pylog import Log, OffsetAndMetadata, TopicPartition
from pylog.errors import (
    ClosedError,
    FencedInstanceIdError,
    InvalidAssignmentError,
    InvalidConfigurationError,
    InvalidGroupIdError,
    InvalidTopicError,
    NonEmptyGroupError,
    OffsetMetadataTooLargeError,
    PartitionFullError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from pylog.groups import membership
from pylog.groups.assignors import Subscriber
from pylog.groups.coordinator import Coordinator
from pylog.groups.group_log import OFFSETS_TOPIC
from pylog.groups.member import Membership
from pylog.groups.state import Group
from pylog.groups.view import View


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path / "log") as opened:
        opened.create_topic("orders", 6)
        yield opened


@pytest.fixture
def groups(log: Log) -> Coordinator:
    return log._coordinator


def numbers(places: frozenset[TopicPartition]) -> list[int]:
    return sorted(place.partition for place in places)


def settle(*members: Membership) -> None:
    """Let members act until nobody has anything to let go."""
    is_settled = False
    while not is_settled:
        is_settled = True
        for member in members:
            standing = member.look()
            if standing.to_revoke:
                member.let_go(standing.to_revoke)
                is_settled = False


ORDERS_0 = TopicPartition("orders", 0)


def at(number: int, offset: int) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return what is to be committed in one partition of orders."""
    return {TopicPartition("orders", number): OffsetAndMetadata(offset)}


# ---------------------------------------------------------------- membership


def test_members_share_the_partitions_and_let_go_before_others_get(groups: Coordinator) -> None:
    first = groups.join("g", ["orders"])
    assert numbers(first.look().assigned) == [0, 1, 2, 3, 4, 5]
    second = groups.join("g", ["orders"])
    assert second.look().assigned == frozenset()
    standing = first.look()
    assert (numbers(standing.assigned), numbers(standing.to_revoke)) == ([0, 1, 2], [3, 4, 5])
    assert first.look() is standing, "the same object until something changes"
    standing = first.let_go(standing.to_revoke)
    assert (numbers(standing.assigned), standing.to_revoke) == ([0, 1, 2], frozenset())
    assert numbers(second.look().assigned) == [3, 4, 5]
    first.leave()
    first.leave()
    assert numbers(second.look().assigned) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ClosedError):
        first.look()


def test_two_logs_of_one_directory_see_each_others_members(log: Log, groups: Coordinator) -> None:
    with pylog.open(log.path) as other:
        first, second = groups.join("g", ["orders"]), other._coordinator.join("g", ["orders"])
        settle(first, second)
        assert numbers(first.look().assigned | second.look().assigned) == [0, 1, 2, 3, 4, 5]
        assert len(first.look().assigned) == len(second.look().assigned) == 3


def test_a_static_member_comes_back_to_what_it_had(groups: Coordinator) -> None:
    members = [groups.join("g", ["orders"], instance_id=name) for name in ("w1", "w2")]
    settle(*members)
    had = members[0].look().assigned
    members[0].leave()
    stayed = members[1].look()
    again = groups.join("g", ["orders"], instance_id="w1")
    assert again.look().assigned == had
    assert members[1].look() is stayed, "nothing happened to it"


def test_a_second_member_with_the_same_instance_id_fences_the_first(groups: Coordinator) -> None:
    first = groups.join("g", ["orders"], instance_id="w1")
    first.look()
    second = groups.join("g", ["orders"], instance_id="w1")
    assert len(second.look().assigned) == 6
    for call in (first.look, lambda: first.commit(at(0, 1))):
        with pytest.raises(FencedInstanceIdError):
            call()
    with pytest.raises(FencedInstanceIdError):
        first.let_go([ORDERS_0])


def test_topics_that_are_made_or_grow_are_given_out(log: Log, groups: Coordinator) -> None:
    member = groups.join("g", ["orders", "later"], pattern=".*")
    assert len(member.look().assigned) == 6
    log.topic("orders").add_partitions(8)
    assert len(member.look().assigned) == 8
    log.create_topic("later", 2)
    assert len(member.look().assigned) == 10
    log.delete_topic("later")
    assert len(member.look().assigned) == 8
    standing = member.subscribe(["nothing"])
    assert standing.assigned == frozenset() and len(standing.to_revoke) == 8


def test_a_users_assignor_is_asked(groups: Coordinator) -> None:
    def everything_to_the_last(
        subscribers: Sequence[Subscriber], partitions: Mapping[str, int]
    ) -> dict[str, list[TopicPartition]]:
        places = [
            TopicPartition(topic, number)
            for topic in partitions
            for number in range(partitions[topic])
        ]
        return {max(one.member_id for one in subscribers): places}

    first = groups.join("g", ["orders"], assignor=everything_to_the_last)
    second = groups.join("g", ["orders"], assignor=everything_to_the_last)
    settle(first, second)
    last, other = sorted((first, second), key=lambda member: member.member_id, reverse=True)
    assert (len(last.look().assigned), len(other.look().assigned)) == (6, 0)


def test_a_member_that_does_not_look_for_too_long_is_dropped(log: Log) -> None:
    groups = log._coordinator
    now = [1_000_000_000_000]
    groups.log.clock = lambda: now[0]
    groups.log.monotonic = lambda: float(now[0])
    slow = groups.join("g", ["orders"], max_poll_interval_ms=3000)
    other = groups.join("g", ["orders"])
    settle(slow, other)
    for _ in range(5):  # who looks is not slow
        now[0] += 2000
        slow.look()
        assert len(other.look().assigned) == 3
    now[0] += 9000
    slow.look()  # late, but nobody missed it
    slow.commit(dict.fromkeys(slow.look().assigned, OffsetAndMetadata(1)))
    now[0] += 3000
    assert len(other.look().assigned) == 6
    with pytest.raises(UnknownMemberIdError):
        slow.commit(at(0, 1))
    with pytest.raises(UnknownMemberIdError):
        slow.look()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"group": ""}, InvalidGroupIdError),
        ({"group": "g" * 40_000}, InvalidGroupIdError),
        ({"assignor": "unifrom"}, InvalidConfigurationError),
        ({"session_timeout_ms": -1}, InvalidConfigurationError),
        ({"max_poll_interval_ms": 2.5}, InvalidConfigurationError),
        ({"topics": "orders"}, TypeError),
    ],
)
def test_what_no_member_can_be_is_refused(
    groups: Coordinator, arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        groups.join(**({"group": "g", "topics": ["orders"]} | arguments))  # type: ignore[arg-type]
    assert groups.log.names() == []


# ---------------------------------------------------------------- committed offsets


@pytest.fixture(params=["fsync", "os"])
def member(request: pytest.FixtureRequest, log: Log, groups: Coordinator) -> Membership:
    joined = groups.join("g", ["orders"])
    log.alter_topic(OFFSETS_TOPIC, durability=request.param)
    joined.look()
    return joined


def test_what_is_committed_is_known_to_all_and_after_a_restart(
    member: Membership, log: Log, groups: Coordinator
) -> None:
    offsets = {
        ORDERS_0: OffsetAndMetadata(42, "höher", 5),
        TopicPartition("orders", 1): OffsetAndMetadata(7),
    }
    member.commit(offsets)
    member.commit({TopicPartition("orders", 2): OffsetAndMetadata(9, "m", 1)})
    member.commit(at(2, 10))
    member.commit({})
    expected = offsets | {
        TopicPartition("orders", 2): OffsetAndMetadata(10),
        TopicPartition("orders", 3): None,
    }
    assert member.committed(expected) == expected
    with pylog.open(log.path) as other:
        assert other._coordinator.committed("g", expected) == expected
    member.leave()
    path = log.path
    log.close()
    with pylog.open(path) as again:
        assert again._coordinator.committed("g", expected) == expected


def test_what_is_not_a_members_is_not_committed_and_nothing_with_it(
    member: Membership, groups: Coordinator
) -> None:
    other = groups.join("g", ["orders"])
    to_revoke = member.look().to_revoke
    member.commit(at(5, 1))  # it has to let it go, and has it still
    member.let_go(to_revoke)
    both = {ORDERS_0: OffsetAndMetadata(1), TopicPartition("orders", 5): OffsetAndMetadata(2)}
    for call in (lambda: member.commit(both), lambda: member.commit(at(5, 2))):
        with pytest.raises(StaleMemberEpochError) as caught:
            call()
        assert (caught.value.topic, caught.value.partition) == ("orders", 5)
    assert groups.committed("g", both) == {
        ORDERS_0: None,
        TopicPartition("orders", 5): OffsetAndMetadata(1),
    }
    other.look()
    other.commit(at(5, 2))


def test_what_was_read_before_a_partition_went_and_came_back_is_not_committed(
    member: Membership, groups: Coordinator
) -> None:
    other = groups.join("g", ["orders"])
    let_go_unseen(member)
    other.leave()
    with pytest.raises(StaleMemberEpochError):
        member.commit(at(5, 1))
    member.commit(at(0, 1))
    member.look()
    member.commit(at(5, 1))


def let_go_unseen(member: Membership) -> None:
    """Let go of what has to be, without the member's looking before or afterwards."""

    def event(draft: Group) -> bool:
        places = set(draft.members[member.member_id].current.pending)
        assert places
        membership.let_go(draft, member.member_id, places)
        return False

    member._log.change(member.group, event)


@pytest.mark.parametrize(
    ("offset", "error"),
    [
        (OffsetAndMetadata(-1), ValueError),
        (OffsetAndMetadata(2**63), ValueError),
        (OffsetAndMetadata(1, leader_epoch=-1), ValueError),
        (OffsetAndMetadata(1, "x" * 4097), OffsetMetadataTooLargeError),
        (OffsetAndMetadata(1, "ü" * 2049), OffsetMetadataTooLargeError),
        (OffsetAndMetadata(1.5), TypeError),  # type: ignore[arg-type]
    ],
)
def test_an_offset_that_cannot_be_is_refused(
    groups: Coordinator, offset: OffsetAndMetadata, error: type[Exception]
) -> None:
    member = groups.join("g", ["orders"])
    member.look()
    with pytest.raises(error):
        member.commit({ORDERS_0: offset})
    with pytest.raises(error):
        member.commit({ORDERS_0: offset} | at(1, 1))
    with pytest.raises(error):
        groups.commit("other", {ORDERS_0: offset})
    member.commit({ORDERS_0: OffsetAndMetadata(2**63 - 1, "ü" * 2048, 2**31 - 1)})


def test_who_is_no_member_commits_only_where_nobody_is(groups: Coordinator) -> None:
    groups.commit("alone", {ORDERS_0: OffsetAndMetadata(3)})
    groups.commit("alone", {})
    assert groups.committed("alone", [ORDERS_0]) == {ORDERS_0: OffsetAndMetadata(3)}
    member = groups.join("alone", ["orders"])
    with pytest.raises(NonEmptyGroupError):
        groups.commit("alone", {ORDERS_0: OffsetAndMetadata(4)})
    member.leave()
    groups.commit("alone", {ORDERS_0: OffsetAndMetadata(4)})
    assert groups.committed("alone", [ORDERS_0]) == {ORDERS_0: OffsetAndMetadata(4)}


def test_asking_makes_nothing(log: Log, groups: Coordinator) -> None:
    assert groups.committed("g", [ORDERS_0]) == {ORDERS_0: None}
    assert groups.log.names() == []
    assert not (Path(log.path) / f"{OFFSETS_TOPIC}-0").exists()


def test_the_topic_of_offsets_is_internal_and_its_settings_can_be_altered(
    log: Log, groups: Coordinator
) -> None:
    groups.join("g", ["orders"])
    assert log.topics() == ["orders"]
    assert log.topic(OFFSETS_TOPIC).config.cleanup_policy == "compact"
    log.alter_topic(OFFSETS_TOPIC, durability="os")
    assert log.topic(OFFSETS_TOPIC).config.durability == "os"
    assert len(list(log.read(OFFSETS_TOPIC))) > 0
    for change in (
        lambda: log.delete_topic(OFFSETS_TOPIC),
        lambda: log.topic(OFFSETS_TOPIC).add_partitions(2),
    ):
        with pytest.raises(InvalidTopicError):
            change()


def test_what_was_committed_for_a_topic_goes_with_it(log: Log, groups: Coordinator) -> None:
    other = TopicPartition("others", 0)
    groups.commit("g", {ORDERS_0: OffsetAndMetadata(3), other: OffsetAndMetadata(4)})
    groups.commit("h", {ORDERS_0: OffsetAndMetadata(5)})
    log.delete_topic("orders")
    assert groups.committed("g", [ORDERS_0, other]) == {
        ORDERS_0: None,
        other: OffsetAndMetadata(4),
    }
    assert groups.log.names() == ["g"]
    # Killed before it was forgotten: who makes the topic anew forgets it first.
    groups.commit("g", {ORDERS_0: OffsetAndMetadata(3)})
    log.create_topic("orders")
    assert groups.committed("g", [ORDERS_0]) == {ORDERS_0: None}
    groups.commit("g", {ORDERS_0: OffsetAndMetadata(1)})
    log.create_topic("orders", if_exists="ok")
    assert groups.committed("g", [ORDERS_0]) == {ORDERS_0: OffsetAndMetadata(1)}


@pytest.mark.parametrize("is_faster", [True, False])
def test_who_is_always_too_late_keeps_the_others_out(
    log: Log, groups: Coordinator, monkeypatch: pytest.MonkeyPatch, is_faster: bool
) -> None:
    groups.commit("g", {ORDERS_0: OffsetAndMetadata(1)})
    with pylog.open(log.path) as elsewhere:
        place = View.append
        tried = 0

        def append(view: View, *arguments: object) -> object:
            nonlocal tried
            if view.partition is not log.topic(OFFSETS_TOPIC).partition(0):
                return place(view, *arguments)  # type: ignore[arg-type]
            tried += 1
            if is_faster:  # somebody else appends, each time
                elsewhere._coordinator.commit("other", {ORDERS_0: OffsetAndMetadata(tried)})
            return place(view, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(View, "append", append)
        member = groups.join("g", ["orders"])
        assert tried == (3 if is_faster else 1)
        assert len(member.look().assigned) == 6
        assert groups.committed("other", [ORDERS_0])[ORDERS_0] == (
            OffsetAndMetadata(3) if is_faster else None
        )


# ---------------------------------------------------------------- what fails


class Failing:
    """Fails the n-th of the calls that place records."""

    def __init__(self, log: Log, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.partition = log.topic(OFFSETS_TOPIC).partition(0)
        self._place = self.partition.place
        self._error = error
        monkeypatch.setattr(self.partition, "place", self._fail)

    def _fail(self, *arguments: object) -> object:
        raise self._error


def test_a_join_that_fails_leaves_nothing(
    log: Log, groups: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = groups.join("g", ["orders"])
    standing = stays.look()
    with monkeypatch.context() as patched:
        Failing(log, patched, PartitionFullError("no space"))
        for call in (
            lambda: groups.join("g", ["orders"]),
            lambda: stays.commit(at(0, 1)),
            lambda: groups.groups.remove_members("g", [stays.member_id]),
        ):
            with pytest.raises(PartitionFullError):
                call()
        assert len(groups.log.liveness._own) == 1
        assert stays.look() is standing
    second = groups.join("g", ["orders"])
    settle(stays, second)
    assert len(second.look().assigned) == 3
    stays.commit(dict.fromkeys(stays.look().assigned, OffsetAndMetadata(1)))


def test_a_leave_that_fails_is_noticed_by_others(
    log: Log, groups: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = groups.join("g", ["orders"]), groups.join("g", ["orders"])
    settle(first, second)
    with monkeypatch.context() as patched:
        Failing(log, patched, PartitionFullError("no space"))
        with pytest.raises(PartitionFullError):
            first.leave()
    groups.log.monotonic = lambda: 10.0**9
    assert len(second.look().assigned) == 6


def test_an_assignor_that_fails_is_told_and_leaves_the_group_as_it_was(
    groups: Coordinator,
) -> None:
    def broken(*_: object) -> dict[str, list[TopicPartition]]:
        raise ZeroDivisionError

    member = groups.join("g", ["orders"])
    with pytest.raises(InvalidAssignmentError, match="ZeroDivisionError") as caught:
        groups.join("h", ["orders"], assignor=broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert groups.log.names() == ["g"]
    assert len(member.look().assigned) == 6


# ---------------------------------------------------------------- threads


def run_all(calls: Sequence[Callable[[], object]]) -> None:
    """Run calls in threads at once; the first error is raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        try:
            barrier.wait()
            call()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_that_join_at_once_all_get_their_share(groups: Coordinator) -> None:
    members: list[Membership] = []
    run_all([lambda: members.append(groups.join("g", ["orders"]))] * 6)
    settle(*members)
    assert [len(member.look().assigned) for member in members] == [1] * 6


def test_threads_commit_side_by_side(member: Membership, groups: Coordinator) -> None:
    def work(number: int) -> None:
        for offset in range(200):
            member.commit(at(number, offset))

    run_all([lambda number=number: work(number) for number in range(6)])  # type: ignore[misc]
    partitions = [TopicPartition("orders", number) for number in range(6)]
    assert set(groups.committed("g", partitions).values()) == {OffsetAndMetadata(199)}
