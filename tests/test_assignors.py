"""Assignors: each partition one owner, loads as equal as can be, few moves, the same every time."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylog.errors import InvalidAssignmentError, InvalidConfigurationError
from pylog.groups.assignors import (
    ASSIGNORS,
    Assignment,
    Subscriber,
    assign,
    name_of,
    uniform_assignor,
)
from pylog.records import TopicPartition

NAMES = sorted(ASSIGNORS)


def subscriber(member_id: str, topics: str, owned: str = "", **more: str) -> Subscriber:
    """Return a subscriber; topics: one letter each; owned: like "a0 b1"."""
    places = frozenset(TopicPartition(text[0], int(text[1:])) for text in owned.split())
    return Subscriber(member_id, more.get("instance_id"), frozenset(topics), places)


def assigned(name: str, subscribers: Iterable[Subscriber], **partitions: int) -> dict[str, str]:
    """Return what an assignor says, in the notation of `subscriber`."""
    result = assign(name, ASSIGNORS[name], list(subscribers), partitions)
    return {
        member_id: " ".join(f"{topic}{number}" for topic, number in sorted(places))
        for member_id, places in result.items()
    }


# ---------------------------------------------------------------- what they say


def test_range_gives_neighbours_and_the_same_numbers_of_all_topics() -> None:
    members = [subscriber("m1", "ab"), subscriber("m2", "ab"), subscriber("m3", "ab")]
    assert assigned("range", members, a=7, b=7) == {
        "m1": "a0 a1 a2 b0 b1 b2",
        "m2": "a3 a4 b3 b4",
        "m3": "a5 a6 b5 b6",
    }


def test_round_robin_goes_on_in_turn_over_topics() -> None:
    members = [subscriber("m1", "ab"), subscriber("m2", "ab"), subscriber("m3", "ab")]
    assert assigned("round_robin", members, a=4, b=3) == {
        "m1": "a0 a3 b2",
        "m2": "a1 b0",
        "m3": "a2 b1",
    }


def test_round_robin_passes_over_who_did_not_subscribe() -> None:
    members = [subscriber("m1", "a"), subscriber("m2", "ab")]
    assert assigned("round_robin", members, a=2, b=2) == {"m1": "a0", "m2": "a1 b0 b1"}


def test_uniform_moves_only_what_a_new_member_needs() -> None:
    members = [subscriber("m1", "a", "a0 a1 a2"), subscriber("m2", "a", "a3 a4 a5")]
    members.append(subscriber("m3", "a"))
    assert assigned("uniform", members, a=6) == {"m1": "a0 a1", "m2": "a3 a4", "m3": "a2 a5"}


def test_uniform_gives_what_a_member_left_to_those_with_least() -> None:
    members = [subscriber("m1", "a", "a0 a1"), subscriber("m2", "a", "a2"), subscriber("m3", "a")]
    assert assigned("uniform", members, a=6) == {"m1": "a0 a1", "m2": "a2 a4", "m3": "a3 a5"}


def test_uniform_makes_room_through_a_chain_of_members() -> None:
    # m1 can give only a, which m3 does not take: m2 takes one and gives b on.
    members = [
        subscriber("m1", "a", "a0 a1 a2"),
        subscriber("m2", "ab", "b0"),
        subscriber("m3", "b"),
    ]
    loads = sorted(len(owned.split()) for owned in assigned("uniform", members, a=3, b=1).values())
    assert loads == [1, 1, 2]


def test_static_members_stand_by_what_outlives_a_restart() -> None:
    before = [
        subscriber("m9", "a", instance_id="w1"),
        subscriber("m1", "a", instance_id="w2"),
        subscriber("m0", "a"),
    ]
    after = [dataclasses.replace(before[0], member_id="m2"), *before[1:]]
    for name in ("range", "round_robin"):
        first, second = assigned(name, before, a=9), assigned(name, after, a=9)
        assert first["m9"] == second["m2"] and first["m1"] == second["m1"]


@pytest.mark.parametrize("name", NAMES)
def test_nobody_nothing_and_topics_that_are_not_there(name: str) -> None:
    assert assigned(name, [], a=3) == {}
    assert assigned(name, [subscriber("m1", "")], a=3) == {"m1": ""}
    assert assigned(name, [subscriber("m1", "xy")], a=3) == {"m1": ""}
    assert assigned(name, [subscriber("m1", "a")]) == {"m1": ""}
    assert assigned(name, [subscriber("m1", "a", "a5 x0")], a=1) == {"m1": "a0"}


# ---------------------------------------------------------------- properties


@st.composite
def groups(draw: st.DrawFn, *, equal: bool = False) -> tuple[list[Subscriber], dict[str, int]]:
    """Draw a group of members that own something already, and its topics."""
    topics = "abcd"[: draw(st.integers(1, 4))]
    partitions = {topic: draw(st.integers(0, 5)) for topic in topics}
    count = draw(st.integers(1, 6))
    subsets = st.frozensets(st.sampled_from(topics))
    common = draw(subsets)
    chosen = [common if equal else draw(subsets) for _ in range(count)]
    owned: list[set[TopicPartition]] = [set() for _ in range(count)]
    for topic in topics:
        for number in range(partitions[topic]):
            owner = draw(st.integers(-1, count - 1))
            if owner >= 0:
                owned[owner].add(TopicPartition(topic, number))
    members = [
        Subscriber(f"m{place}", None, chosen[place], frozenset(owned[place]))
        for place in range(count)
    ]
    return members, partitions


def check_owners(
    result: Assignment, members: Sequence[Subscriber], partitions: Mapping[str, int]
) -> None:
    """Assert that every partition somebody subscribed to has one owner, who subscribed to it."""
    owners = Counter(place for places in result.values() for place in places)
    wanted = {topic for member in members for topic in member.topics}
    assert owners == Counter(
        TopicPartition(topic, number)
        for topic, count in partitions.items()
        if topic in wanted
        for number in range(count)
    )
    for member in members:
        assert {place.topic for place in result[member.member_id]} <= member.topics


def moves(result: Assignment, members: Sequence[Subscriber]) -> int:
    """Return how many partitions are taken from who could keep them."""
    lost = 0
    for member in members:
        kept = {place for place in member.owned if place.topic in member.topics}
        lost += len(kept - result[member.member_id])
    return lost


@pytest.mark.parametrize("name", NAMES)
@given(group=groups(), seed=st.integers())
def test_each_partition_has_exactly_one_owner_whatever_the_order(
    name: str, group: tuple[list[Subscriber], dict[str, int]], seed: int
) -> None:
    members, partitions = group
    result = assign(name, ASSIGNORS[name], members, partitions)
    check_owners(result, members, partitions)
    shuffled = random.Random(seed).sample(members, len(members))
    turned = dict(reversed(partitions.items()))
    assert assign(name, ASSIGNORS[name], shuffled, turned) == result


@pytest.mark.parametrize("name", ["round_robin", "uniform"])
@given(group=groups(equal=True))
def test_equal_members_are_within_one_of_each_other(
    name: str, group: tuple[list[Subscriber], dict[str, int]]
) -> None:
    members, partitions = group
    result = assign(name, ASSIGNORS[name], members, partitions)
    loads = [len(places) for places in result.values()]
    assert max(loads) - min(loads) <= 1


@given(group=groups(equal=True))
def test_range_is_within_one_in_each_topic(
    group: tuple[list[Subscriber], dict[str, int]],
) -> None:
    members, partitions = group
    result = assign("range", ASSIGNORS["range"], members, partitions)
    for topic in members[0].topics & partitions.keys():
        loads = [sum(place.topic == topic for place in places) for places in result.values()]
        assert max(loads) - min(loads) <= 1


@given(group=groups(equal=True))
def test_uniform_moves_the_fewest_among_equal_members(
    group: tuple[list[Subscriber], dict[str, int]],
) -> None:
    members, partitions = group
    result = assign("uniform", uniform_assignor, members, partitions)
    total = sum(len(places) for places in result.values())
    least, rest = divmod(total, len(members))
    # As many as possible of those with more than the least share keep one more.
    owned = [sum(place.topic in member.topics for place in member.owned) for member in members]
    quotas = sorted(owned, reverse=True)
    kept = sum(min(had, least + (place < rest)) for place, had in enumerate(quotas))
    assert moves(result, members) == sum(owned) - kept


@given(group=groups())
def test_uniform_is_settled_where_it_is(group: tuple[list[Subscriber], dict[str, int]]) -> None:
    members, partitions = group
    result = assign("uniform", uniform_assignor, members, partitions)
    settled = [dataclasses.replace(member, owned=result[member.member_id]) for member in members]
    assert assign("uniform", uniform_assignor, settled, partitions) == result


def every_assignment(
    members: Sequence[Subscriber], partitions: Mapping[str, int]
) -> Iterable[Assignment]:
    """Yield all assignments of a small group."""
    places = [
        TopicPartition(topic, number)
        for topic, count in sorted(partitions.items())
        for number in range(count)
        if any(topic in member.topics for member in members)
    ]
    choices = [
        [member.member_id for member in members if place.topic in member.topics] for place in places
    ]
    for owners in itertools.product(*choices):
        result: dict[str, set[TopicPartition]] = {member.member_id: set() for member in members}
        for place, owner in zip(places, owners, strict=True):
            result[owner].add(place)
        yield {member_id: frozenset(own) for member_id, own in result.items()}


def small_group(source: random.Random) -> tuple[list[Subscriber], dict[str, int]]:
    """Return unequal members that own all partitions between them, few enough to try all."""
    topics = "abc"[: source.randint(1, 3)]
    partitions = {topic: source.randint(1, 2) for topic in topics}
    count = source.randint(2, 4)
    owned: list[set[TopicPartition]] = [set() for _ in range(count)]
    for topic, total in partitions.items():
        for number in range(total):
            source.choice(owned).add(TopicPartition(topic, number))
    members = []
    for place in range(count):
        chosen = source.sample(topics, source.randint(1, len(topics)))
        members.append(Subscriber(f"m{place}", None, frozenset(chosen), frozenset(owned[place])))
    return members, partitions


def loads_of(assignment: Assignment) -> list[int]:
    return sorted((len(places) for places in assignment.values()), reverse=True)


def test_uniform_is_as_equal_as_any_assignment_of_unequal_members() -> None:
    needless = 0
    for seed in range(150):
        members, partitions = small_group(random.Random(seed))
        result = assign("uniform", uniform_assignor, members, partitions)
        every = list(every_assignment(members, partitions))
        best = min(map(loads_of, every))
        assert loads_of(result) == best, f"seed {seed}"
        fewest = min(moves(other, members) for other in every if loads_of(other) == best)
        needless += moves(result, members) - fewest
    # None at all in these; in general few, for the cheapest chain now may cost another later.
    assert needless == 0


# ---------------------------------------------------------------- users' own


def everything_to_the_first(
    subscribers: Sequence[Subscriber], partitions: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    first = subscribers[0]
    return {
        first.member_id: [
            TopicPartition(topic, number)
            for topic in first.topics
            for number in range(partitions[topic])
        ]
    }


def test_a_users_function_assigns() -> None:
    members = [subscriber("m2", "a"), subscriber("m1", "a")]
    result = assign("mine", everything_to_the_first, members, {"a": 2})
    assert result == {
        "m1": frozenset({TopicPartition("a", 0), TopicPartition("a", 1)}),
        "m2": frozenset(),
    }


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"m9": []}, "no member 'm9'"),
        ({"m1": [TopicPartition("b", 0)]}, "did not subscribe to 'b'"),
        ({"m1": [TopicPartition("a", 2)]}, "no partition 'a'-2"),
        ({"m1": [TopicPartition("a", -1)]}, "no partition 'a'--1"),
        ({"m1": [TopicPartition("c", 0)]}, "no partition 'c'-0"),
        ({"m1": [TopicPartition("a", 0)], "m2": [TopicPartition("a", 0)]}, "given to two"),
    ],
)
def test_what_cannot_be_done_is_refused(
    result: dict[str, list[TopicPartition]], reason: str
) -> None:
    members = [subscriber("m1", "ac"), subscriber("m2", "a")]
    with pytest.raises(InvalidAssignmentError, match=reason):
        assign("mine", lambda *_: result, members, {"a": 2, "b": 2})


def test_an_assignor_is_known_by_its_name() -> None:
    class Named:
        name = "by-city"

        def __call__(
            self, subscribers: Sequence[Subscriber], partitions: Mapping[str, int]
        ) -> dict[str, list[TopicPartition]]:
            return {}

    assert name_of("range") == "range"
    assert name_of(everything_to_the_first) == "everything_to_the_first"
    assert name_of(Named()) == "by-city"
    for wrong in ("rang", 7, None, lambda *_: {}):
        with pytest.raises(InvalidConfigurationError):
            name_of(wrong)  # type: ignore[arg-type]
