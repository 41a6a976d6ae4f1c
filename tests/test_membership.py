"""Membership: what each event does, and thousands of random lives of a group."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from group_model import World

from pylog.errors import (
    FencedInstanceIdError,
    InvalidAssignmentError,
    UnknownMemberIdError,
)
from pylog.groups import membership
from pylog.groups.assignors import ASSIGNORS, Assignor, Subscriber
from pylog.groups.facts import CurrentValue, MemberValue, Place, TopicShape
from pylog.groups.state import (
    STABLE,
    UNRELEASED,
    UNREVOKED,
    Change,
    Group,
    changes_between,
)
from pylog.records import TopicPartition

SEEDS = 200
EXHAUSTIVE_SEEDS = 20_000
STEPS = 60


def live(seed: int) -> World:
    """Return a world after a random life, checked at each step and at its end."""
    world = World(seed)
    try:
        for _ in range(STEPS):
            world.step()
        world.check_compacted()
        world.converge()
        world.check_compacted()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return world


def check_work(done: Counter[str]) -> None:
    """Assert that the lives were full of what they are meant to try."""
    for what in ("joined", "killed", "left", "refused", "appended", "commits", "unknown"):
        assert done[what] > 50, (what, done)
    for what in ("fenced", "commits refused", "topics deleted", "leaps", "dropped in time"):
        assert done[what] > 10, (what, done)


def test_random_lives_keep_one_owner_and_reach_their_target() -> None:
    done: Counter[str] = Counter()
    for seed in range(SEEDS):
        done.update(live(seed).done)
    check_work(done)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("PYLOG_EXHAUSTIVE"), reason="hours")
def test_many_more_random_lives() -> None:
    done: Counter[str] = Counter()
    for seed in range(SEEDS, EXHAUSTIVE_SEEDS):
        done.update(live(seed).done)
    check_work(done)


# ---------------------------------------------------------------- what each event does

ORDERS = TopicShape(bytes(15) + b"1", "orders", 4)
PAYMENTS = TopicShape(bytes(15) + b"2", "payments", 2)


class Story:
    """A group to which one thing happens after the other; the clock stands unless it is moved."""

    def __init__(self, *shapes: TopicShape) -> None:
        self.group = Group("g")
        self.now = 1_000_000
        self.topics = {shape.name: shape for shape in shapes or (ORDERS,)}
        self.assignors: dict[str, Assignor] = dict(ASSIGNORS)

    def happens(self, event: Callable[[Group], bool | None]) -> list[Change]:
        draft = self.group.draft()
        is_changed = bool(event(draft))
        membership.settle(draft, self.topics, self.assignors, is_changed=is_changed)
        changes = changes_between(self.group, draft)
        for key, value in changes:
            self.group.fold(key, value, self.now)
        assert membership_is_settled(self)
        return changes

    def join(self, member_id: str, *topics: str, **said: Any) -> list[Change]:
        value = MemberValue(topics=topics or ("orders",), **said)
        return self.happens(lambda draft: membership.join(draft, member_id, value, now=self.now))

    def leave(self, member_id: str, *, is_final: bool = False) -> list[Change]:
        return self.happens(
            lambda draft: membership.leave(draft, member_id, now=self.now, is_final=is_final)
        )

    def let_go(self, member_id: str, *numbers: int) -> list[Change]:
        places = [(ORDERS.topic_id, number) for number in numbers]
        return self.happens(lambda draft: membership.let_go(draft, member_id, places))

    def nothing(self) -> list[Change]:
        return self.happens(lambda draft: False)

    def has(self, member_id: str) -> tuple[list[int], list[int]]:
        """Return the numbers of the partitions that a member may read, and has to let go."""
        current = self.group.members[member_id].current
        return numbers_of(current.assigned), numbers_of(current.pending)


def numbers_of(places: Mapping[Place, int]) -> list[int]:
    return sorted(number for _, number in places)


def membership_is_settled(story: Story) -> bool:
    draft = story.group.draft()
    membership.settle(draft, story.topics, story.assignors, is_changed=False)
    return changes_between(story.group, draft) == []


def test_the_first_member_gets_everything_at_once() -> None:
    story = Story()
    story.join("m1")
    assert story.has("m1") == ([0, 1, 2, 3], [])
    assert story.group.epoch == story.group.target_epoch == 1
    assert story.group.members["m1"].current.state == STABLE


def test_a_partition_is_given_on_only_when_its_owner_let_it_go() -> None:
    story = Story()
    story.join("m1")
    story.join("m2")
    assert story.has("m1") == ([0, 1], [2, 3])
    assert story.has("m2") == ([], [])
    assert story.group.members["m1"].current.state == UNREVOKED
    assert story.group.members["m2"].current.state == UNRELEASED
    story.let_go("m1", 2)
    assert (story.has("m1"), story.has("m2")) == (([0, 1], [3]), ([2], []))
    story.let_go("m1", 2, 3)  # again, and late: what is another's already is not touched
    assert (story.has("m1"), story.has("m2")) == (([0, 1], []), ([2, 3], []))
    assert story.let_go("m1", 0, 2, 3) == [], "only what has to be let go can be"


def test_what_a_dead_member_had_is_given_on_at_once() -> None:
    story = Story()
    story.join("m1")
    story.join("m2")
    story.leave("m1")
    assert story.has("m2") == ([0, 1, 2, 3], [])
    story.leave("m2")
    assert story.group.members == {}
    assert story.group.epoch == 4, "it never falls"


def test_a_restart_of_a_static_member_moves_nothing() -> None:
    story = Story()
    for name in ("w1", "w2"):
        story.join(f"{name}-a", instance_id=name)
    story.let_go("w1-a", 2, 3)
    before = dict(story.group.members)
    epoch = story.group.epoch
    for name in ("w1", "w2"):
        story.leave(f"{name}-a")
        assert story.group.members[f"{name}-a"].is_away
        story.now += 44_999
        assert membership.overdue(story.group, now=story.now) == []
        story.join(f"{name}-b", instance_id=name)
        after = story.group.members[f"{name}-b"]
        assert after.target == before[f"{name}-a"].target
        assert set(after.current.assigned) == after.target
    assert (story.group.epoch, story.group.target_epoch) == (epoch, epoch)
    assert set(story.group.members) == {"w1-b", "w2-b"}


def test_a_static_member_that_stays_away_loses_its_place() -> None:
    story = Story()
    story.join("a", instance_id="w1", session_timeout_ms=10)
    story.join("b", instance_id="w2", session_timeout_ms=10)
    story.leave("a")
    assert story.has("b") == ([2, 3], []), "the dead one reads no more: that is free at once"
    story.now += 10
    assert membership.overdue(story.group, now=story.now) == ["a"]
    story.leave("a", is_final=True)
    assert story.has("b") == ([0, 1, 2, 3], [])


def test_a_second_live_member_with_the_same_instance_id_fences_the_first() -> None:
    story = Story()
    story.join("a", instance_id="w1")
    story.join("b", instance_id="w1")
    assert story.has("b") == ([0, 1, 2, 3], [])
    with pytest.raises(FencedInstanceIdError):
        membership.member_of(story.group, "a", "w1")
    assert membership.member_of(story.group, "b", "w1") is story.group.members["b"]
    with pytest.raises(UnknownMemberIdError):
        membership.member_of(story.group, "c", "w2")


def test_a_member_that_is_taken_for_away_is_a_member_no_more() -> None:
    story = Story()
    story.join("a", instance_id="w1")
    story.leave("a")
    with pytest.raises(UnknownMemberIdError):
        membership.member_of(story.group, "a", "w1")


def test_a_member_that_did_not_poll_for_too_long_is_overdue() -> None:
    story = Story()
    story.join("a", rebalance_timeout_ms=1000)
    story.join("b")
    story.now += 999
    assert membership.overdue(story.group, now=story.now) == []
    story.now += 1
    assert membership.overdue(story.group, now=story.now) == ["a"]


def committable(story: Story, member_id: str, epoch: int) -> list[int]:
    """Return the partitions of orders that a member may commit in that read in an epoch."""
    return sorted(
        number for _, number in membership.kept_since(story.group.members[member_id], epoch)
    )


def test_only_an_owner_commits_also_what_it_has_to_let_go() -> None:
    story = Story()
    story.join("m1")
    story.join("m2")
    assert committable(story, "m1", 1) == [0, 1, 2, 3]
    assert committable(story, "m2", 9) == []
    story.let_go("m1", 2, 3)
    assert committable(story, "m1", 9) == [0, 1]
    assert committable(story, "m2", 9) == [2, 3]


def test_a_partition_that_came_back_is_not_committed_with_what_was_read_before() -> None:
    story = Story()
    story.join("m1")
    epoch = story.group.members["m1"].current.epoch
    story.join("m2")
    story.let_go("m1", 2, 3)
    story.leave("m2")
    assert story.has("m1") == ([0, 1, 2, 3], [])
    assert committable(story, "m1", epoch) == [0, 1]
    assert committable(story, "m1", story.group.members["m1"].current.epoch) == [0, 1, 2, 3]


def test_added_partitions_and_topics_that_appear_are_given_out() -> None:
    story = Story()
    story.join("m1", "orders", "payments")
    story.topics["orders"] = dataclasses.replace(ORDERS, partitions=6)
    story.nothing()
    assert story.has("m1") == ([0, 1, 2, 3, 4, 5], [])
    story.topics["payments"] = PAYMENTS
    story.nothing()
    assert len(story.group.members["m1"].current.assigned) == 8


def test_what_was_of_a_deleted_topic_need_not_be_let_go() -> None:
    story = Story(ORDERS, PAYMENTS)
    story.join("m1", "orders", "payments")
    del story.topics["orders"]
    story.nothing()
    assert story.has("m1") == ([0, 1], [])
    made_anew = TopicShape(bytes(15) + b"9", "orders", 1)
    story.topics["orders"] = made_anew
    story.nothing()
    assert (made_anew.topic_id, 0) in story.group.members["m1"].current.assigned
    named = story.group.named(story.group.members["m1"].current.assigned)
    assert TopicPartition("orders", 0) in named


def test_partitions_of_a_topic_that_is_not_wanted_any_more_have_to_be_let_go() -> None:
    story = Story(ORDERS, PAYMENTS)
    story.join("m1", "orders", "payments")
    story.happens(
        lambda draft: membership.subscribe(
            draft, "m1", MemberValue(topics=("payments",)), now=story.now
        )
    )
    assert story.has("m1") == ([0, 1], [0, 1, 2, 3])
    member = story.group.members["m1"]
    _, assigned, to_revoke, _ = membership.standing_of(story.group, member)
    assert {place.topic for place in assigned} == {"payments"}
    assert {place.topic for place in to_revoke} == {"orders"}
    story.let_go("m1", 0, 1, 2, 3)
    assert story.group.shapes.keys() == {PAYMENTS.topic_id}


def test_who_does_not_know_the_assignor_leaves_the_target_as_it_is() -> None:
    def mine(
        subscribers: Sequence[Subscriber], partitions: Mapping[str, int]
    ) -> dict[str, list[TopicPartition]]:
        return {subscribers[-1].member_id: [TopicPartition("orders", 0)]}

    story = Story()
    story.join("m1", assignor="mine")
    assert (story.group.epoch, story.group.target_epoch) == (1, 0)
    assert story.has("m1") == ([], [])
    story.assignors["mine"] = mine
    story.nothing()
    assert story.has("m1") == ([0], [])
    story.assignors["mine"] = lambda *_: {"m1": [TopicPartition("orders", 99)]}
    before = story.group.epoch
    with pytest.raises(InvalidAssignmentError):
        story.join("m2", assignor="mine")
    assert story.group.epoch == before and "m2" not in story.group.members


def test_most_members_choose_the_assignor() -> None:
    story = Story()
    story.join("m1", assignor="range")
    assert membership.chosen_assignor(story.group.members.values()) == "range"
    story.join("m2")
    assert membership.chosen_assignor(story.group.members.values()) == "range"
    story.join("m3")
    assert membership.chosen_assignor(story.group.members.values()) == "uniform"


def test_a_join_writes_nothing_of_members_that_keep_what_they_have() -> None:
    story = Story(dataclasses.replace(ORDERS, partitions=100))
    for number in range(50):
        story.join(f"m{number}")
        for member_id in list(story.group.members):
            story.let_go(member_id, *story.has(member_id)[1])
    changes = story.join("new")
    members = {getattr(key, "member_id", "new") for key, _ in changes}
    assert len(members) == 2, "who joins, and the one that gives it a partition"


def test_what_is_left_of_a_forgotten_member_goes() -> None:
    story = Story()
    story.join("m1")
    story.join("m2")
    gone = dataclasses.replace(story.group.members["m1"], said=None)
    story.group.members["m1"] = gone
    story.nothing()
    assert story.has("m2") == ([0, 1, 2, 3], [])


def test_what_is_got_while_something_has_to_be_let_go_may_be_committed() -> None:
    story = Story()
    story.join("m1")
    story.join("m2")
    story.leave("m2")
    assert story.has("m1") == ([0, 1], [2, 3])
    story.let_go("m1", 2)
    assert story.has("m1") == ([0, 1, 2], [3])
    assert committable(story, "m1", story.group.members["m1"].current.epoch) == [0, 1, 2, 3]


def test_targets_that_overlap_make_no_second_owner() -> None:
    story = Story()
    story.join("m1")
    story.join("m2")
    for member_id in ("m1", "m2"):
        target = frozenset({(ORDERS.topic_id, number) for number in (2, 3)})
        story.group.members[member_id] = dataclasses.replace(
            story.group.members[member_id], target=target, current=CurrentValue(1, 0, 0, {}, {})
        )
    story.nothing()
    owners = [place for place, _ in story.group.owners()]
    assert len(owners) == len(set(owners)) == 2
