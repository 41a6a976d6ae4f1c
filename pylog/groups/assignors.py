"""Assignors: which member of a group is to have which partition.

    range         of each topic a run of neighbouring partitions; the same numbers of topics with
                  the same subscribers go to the same member (co-located)
    round_robin   one by one, in turn
    uniform       loads as equal as the subscriptions allow, with few moves; also called "sticky"

and whatever a user writes: see `Assignor`.  All are functions of their arguments alone, whoever
calls them and in whichever order the members are given.
Knows subscribers and counts of partitions.  Must not know records, epochs or who is alive.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NoReturn, Protocol, TypeAlias

from pylog.callbacks import Caught
from pylog.errors import InvalidAssignmentError, InvalidConfigurationError
from pylog.records import TopicPartition

DEFAULT_ASSIGNOR: Final = "uniform"  # Kafka's, of its new protocol


@dataclasses.dataclass(frozen=True, slots=True)
class Subscriber:
    """A member as an assignor sees it.

    topics: the names that it subscribed to; some may not exist.  owned: what it was to have last,
    of topics that still exist; no two subscribers own the same.
    """

    member_id: str
    instance_id: str | None
    topics: frozenset[str]
    owned: frozenset[TopicPartition]

    @property
    def order(self) -> tuple[bool, str]:
        """Where it stands among the others: static members first, by what outlives a restart."""
        if self.instance_id is None:
            return True, self.member_id
        return False, self.instance_id


class Assignor(Protocol):
    """What assigns partitions.  A function, or an object with a `name`.

    The name is written down with each member that asks for it, and every process that has a member
    of the group may be the one that assigns: give the same function the same name everywhere.
    """

    def __call__(
        self, subscribers: Sequence[Subscriber], partitions: Mapping[str, int], /
    ) -> Mapping[str, Iterable[TopicPartition]]:
        """Return the partitions of each member, by member id; who is left out gets none.

        subscribers: in their order.  partitions: how many each subscribed topic has.
        """


Assignment: TypeAlias = dict[str, frozenset[TopicPartition]]


def name_of(assignor: str | Assignor) -> str:
    """Return the name that an assignor is written down with.

    Raises InvalidConfigurationError for the name of none, or a function without one of its own.
    """
    if isinstance(assignor, str):
        if assignor not in ASSIGNORS:
            raise InvalidConfigurationError(
                "assignor", assignor, "one of " + ", ".join(ASSIGNORS) + ", or a function"
            )
        return assignor
    name = getattr(assignor, "name", None) or getattr(assignor, "__qualname__", None)
    has_name = isinstance(name, str) and name not in ASSIGNORS and "<lambda>" not in name
    if not callable(assignor) or not has_name:
        raise InvalidConfigurationError("assignor", assignor, "a function with a name of its own")
    return str(name)


def assign(
    name: str,
    assignor: Assignor,
    subscribers: Collection[Subscriber],
    partitions: Mapping[str, int],
) -> Assignment:
    """Return what an assignor says, one entry for each subscriber.

    Raises InvalidAssignmentError for what cannot be done, also when the assignor raises.
    """
    ordered = sorted(subscribers, key=lambda subscriber: subscriber.order)
    by_id = {subscriber.member_id: subscriber for subscriber in ordered}
    assignment: defaultdict[str, set[TopicPartition]] = defaultdict(set)

    def blame(error: Exception) -> NoReturn:
        if isinstance(error, InvalidAssignmentError):
            raise error
        raise InvalidAssignmentError(name, f"{type(error).__name__}: {error}") from error

    with Caught(blame):
        result = assignor(ordered, partitions)
        for place, member_id in _checked(name, result, by_id, partitions).items():
            assignment[member_id].add(place)
    return {member_id: frozenset(assignment[member_id]) for member_id in by_id}


def _checked(
    name: str,
    result: Mapping[str, Iterable[TopicPartition]],
    by_id: Mapping[str, Subscriber],
    partitions: Mapping[str, int],
) -> dict[TopicPartition, str]:
    """Return who is to have each partition.  Raises InvalidAssignmentError."""
    owners: dict[TopicPartition, str] = {}
    for member_id, places in result.items():
        if member_id not in by_id:
            raise InvalidAssignmentError(name, f"there is no member {member_id!r}")
        for place in places:
            if place.topic not in by_id[member_id].topics:
                reason = f"member {member_id!r} did not subscribe to {place.topic!r}"
                raise InvalidAssignmentError(name, reason)
            if not 0 <= place.partition < partitions.get(place.topic, 0):
                reason = f"there is no partition {place.topic!r}-{place.partition}"
                raise InvalidAssignmentError(name, reason)
            if owners.setdefault(place, member_id) != member_id:
                reason = f"{place.topic!r}-{place.partition} is given to two members"
                raise InvalidAssignmentError(name, reason)
    return owners


# ---------------------------------------------------------------- range and round robin


def range_assignor(
    subscribers: Sequence[Subscriber], partitions: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    """Give each subscriber of a topic a run of its partitions; the first ones get one more.

    Source: Kafka RangeAssignor.
    """
    assignment: dict[str, list[TopicPartition]] = {one.member_id: [] for one in subscribers}
    for topic in sorted(partitions):
        own = [one for one in subscribers if topic in one.topics]
        start = 0
        for place, subscriber in enumerate(own):
            size = partitions[topic] // len(own) + (place < partitions[topic] % len(own))
            run = range(start, start + size)
            assignment[subscriber.member_id] += [TopicPartition(topic, number) for number in run]
            start += size
    return assignment


def round_robin_assignor(
    subscribers: Sequence[Subscriber], partitions: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    """Give the partitions of all topics out in turn; who did not subscribe is passed over.

    Within one of each other where all subscribe to the same.  Source: Kafka RoundRobinAssignor.
    """
    assignment: dict[str, list[TopicPartition]] = {one.member_id: [] for one in subscribers}
    turn = 0
    for topic in sorted(partitions):
        if not any(topic in one.topics for one in subscribers):
            continue
        for number in range(partitions[topic]):
            while topic not in subscribers[turn % len(subscribers)].topics:
                turn += 1
            owner = subscribers[turn % len(subscribers)]
            assignment[owner.member_id].append(TopicPartition(topic, number))
            turn += 1
    return assignment


# ---------------------------------------------------------------- uniform


class _Balance:
    """An assignment that is made uniform; members are numbers here, in their order."""

    def __init__(self, subscribers: Sequence[Subscriber], partitions: Mapping[str, int]) -> None:
        self.loads = [0] * len(subscribers)
        self.takers = {
            topic: [place for place, one in enumerate(subscribers) if topic in one.topics]
            for topic in sorted(partitions)
        }
        # By member and topic: partitions that it had before, and those that are new to it.
        self.kept: list[dict[str, list[int]]] = [{} for _ in subscribers]
        self.gained: list[dict[str, list[int]]] = [{} for _ in subscribers]
        taken: dict[str, set[int]] = {topic: set() for topic in partitions}
        for member, subscriber in enumerate(subscribers):
            for topic, number in sorted(subscriber.owned):
                is_there = topic in subscriber.topics and number < partitions.get(topic, 0)
                if is_there and number not in taken[topic]:
                    taken[topic].add(number)
                    self.kept[member].setdefault(topic, []).append(number)
                    self.loads[member] += 1
        self._give_out(partitions, taken)

    def _give_out(self, partitions: Mapping[str, int], taken: Mapping[str, set[int]]) -> None:
        """Give what nobody has to those that have least; topics of few first."""
        for topic in sorted(self.takers, key=lambda topic: (len(self.takers[topic]), topic)):
            # Loads change only here, by this very heap, until the next topic.
            heap = [(self.loads[member], member) for member in self.takers[topic]]
            heapq.heapify(heap)
            for number in range(partitions[topic]) if heap else ():
                if number not in taken[topic]:
                    load, member = heap[0]
                    self.gained[member].setdefault(topic, []).append(number)
                    self.loads[member] = load + 1
                    heapq.heapreplace(heap, (load + 1, member))

    def level(self) -> None:
        """Move partitions until no move, nor chain of moves, makes loads more equal.

        The fewest moves where all subscribe to the same, few where they do not.
        Source: optimal semi-matchings by cost-reducing paths (Harvey, Ladner, Lovasz, Tamir).
        """
        while self.loads and max(self.loads) - min(self.loads) > 1:
            # What was reached in vain from a greater load need not be searched from a smaller one.
            reached: set[int] = set()
            order = sorted(range(len(self.loads)), key=lambda member: -self.loads[member])
            for member in order:
                if member not in reached and self._relieve(member, reached):
                    break
            else:
                return

    def _relieve(self, member: int, reached: set[int]) -> bool:
        """Give one partition on, through others if need be, to who has two less or fewer.

        The way of the fewest moves of kept partitions.  Members on ways in vain join `reached`.
        """
        ways: dict[int, tuple[int, str] | None] = {member: None}
        costs = {member: 0}
        topics: dict[str, int] = {}
        heap = [(0, self.loads[member], member)]
        while heap:
            cost, load, giver = heapq.heappop(heap)
            if cost > costs[giver]:
                continue
            if load <= self.loads[member] - 2:
                self._move_along(ways, giver)
                return True
            for topic in sorted(self.kept[giver].keys() | self.gained[giver].keys()):
                further = cost + (topic not in self.gained[giver])
                if further >= topics.get(topic, further + 1):
                    continue
                topics[topic] = further
                for taker in self.takers[topic]:
                    if further < costs.get(taker, further + 1):
                        costs[taker], ways[taker] = further, (giver, topic)
                        heapq.heappush(heap, (further, self.loads[taker], taker))
        reached |= costs.keys()
        return False

    def _move_along(self, ways: Mapping[int, tuple[int, str] | None], taker: int) -> None:
        """Move a partition along each step of the way that ends at `taker`."""
        self.loads[taker] += 1
        while (step := ways[taker]) is not None:
            giver, topic = step
            source = self.gained[giver] if topic in self.gained[giver] else self.kept[giver]
            number = source[topic].pop()
            if not source[topic]:
                del source[topic]
            self.gained[taker].setdefault(topic, []).append(number)
            taker = giver
        self.loads[taker] -= 1

    def partitions_of(self, member: int) -> list[TopicPartition]:
        """Return what a member has in the end."""
        return [
            TopicPartition(topic, number)
            for source in (self.kept[member], self.gained[member])
            for topic, numbers in source.items()
            for number in numbers
        ]


def uniform_assignor(
    subscribers: Sequence[Subscriber], partitions: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    """Give everybody as many as the subscriptions allow to be equal, and leave most where it is.

    Where all subscribe to the same, within one of each other and with the fewest moves there are.
    O(partitions log members), and for each move O(members and their topics).
    Source: Kafka UniformAssignor, KIP-54.
    """
    balance = _Balance(subscribers, partitions)
    balance.level()
    return {one.member_id: balance.partitions_of(place) for place, one in enumerate(subscribers)}


ASSIGNORS: Final[Mapping[str, Assignor]] = {
    "range": range_assignor,
    "round_robin": round_robin_assignor,
    "sticky": uniform_assignor,
    "uniform": uniform_assignor,
}
