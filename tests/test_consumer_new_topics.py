"""What a group committed for a topic that is deleted, and for the next one of its name."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from consuming import append, make, member, next_offset, places, rest
from tail_memory import wait_until

import pylog
from pylog import Consumer, Log, OffsetAndMetadata, TopicPartition
from pylog.errors import (
    CommitFailedError,
    GroupIdNotFoundError,
    NotAssignedError,
    StaleMemberEpochError,
    UnknownTopicOrPartitionError,
)
from pylog.groups.view import View


@pytest.mark.parametrize("is_member", [True, False])
def test_what_was_done_of_a_deleted_topic_is_not_done_of_one_made_anew(
    log: Log, is_member: bool
) -> None:
    make(log, "t", records=100)
    consumer = log.consumer(group="g", auto_commit_interval_ms=3_600_000)
    if is_member:
        consumer.subscribe("t")
    else:
        consumer.assign([("t", 0)])
    assert len(rest(consumer)) == 100  # all of it is done, and not committed yet
    log.delete_topic("t")
    make(log, "t", records=150)
    taken: list[Any] = []
    wait_until(lambda: bool(taken.extend(consumer.poll(0)) or taken))
    assert len(taken) == 150
    consumer.close()  # who reads on did nothing of the new topic
    assert next_offset(log) == 0


def use_nothing(consumer: Consumer) -> None:
    pass


def commit_by_hand(consumer: Consumer) -> None:
    with pytest.raises((StaleMemberEpochError, UnknownTopicOrPartitionError)):
        consumer.commit()


@pytest.mark.parametrize("use", [use_nothing, commit_by_hand, Consumer.poll, Consumer.unsubscribe])
@pytest.mark.parametrize("is_member", [True, False])
def test_nothing_that_is_due_is_committed_for_a_topic_made_anew(
    log: Log, is_member: bool, use: Callable[[Consumer], object]
) -> None:
    make(log, "t", records=100)
    make(log, "u", records=10)
    consumer = log.consumer(group="g", auto_commit_interval_ms=0)
    if is_member:
        consumer.subscribe("t", "u")
    else:
        consumer.assign([("t", 0), ("u", 0)])
    taken: list[Any] = []
    while len(taken) < 110:
        taken.extend(consumer.poll(0))
    log.delete_topic("t")
    make(log, "t", records=150)
    use(consumer)
    consumer.close()
    assert log._coordinator.committed("g", [TopicPartition("t", 0)]) == {("t", 0): None}
    assert next_offset(log) == 0


def test_the_work_on_other_topics_is_committed_when_one_was_deleted(log: Log) -> None:
    for is_member in (True, False):
        make(log, "t", records=10)
        make(log, f"u-{is_member}", records=10)
        consumer = log.consumer(group="g", auto_commit_interval_ms=3_600_000)
        if is_member:
            consumer.subscribe("t", f"u-{is_member}")
        else:
            consumer.assign([("t", 0), (f"u-{is_member}", 0)])
        assert len(rest(consumer)) == 20  # all of it is done, and not committed yet
        log.delete_topic("t")
        consumer.close()
        place = TopicPartition(f"u-{is_member}", 0)
        assert log._coordinator.committed("g", [place]) == {place: OffsetAndMetadata(10, "", 0)}


@pytest.mark.parametrize("name", ["orders", "o"])
@pytest.mark.parametrize("kind", ["member", "own choice", "nobody"])
def test_a_record_of_a_deleted_topic_is_not_committed_for_one_made_anew(
    log: Log, tmp_path: Path, kind: str, name: str
) -> None:
    make(log, name, records=10)
    consumer = log.consumer(group="g", enable_auto_commit=False)
    if kind == "member":
        consumer.subscribe(name)
    else:
        consumer.assign([(name, 0)])
    old = consumer.poll(0)
    log.delete_topic(name)
    if kind == "nobody":
        consumer.unsubscribe()
    make(log, name, records=8)
    for _ in range(2):
        for record in old:
            with pytest.raises((StaleMemberEpochError, UnknownTopicOrPartitionError)):
                consumer.commit(record)
        if kind == "nobody":
            consumer.assign([(name, 0)])
        assert len(consumer.poll(0, 4)) == 4
        consumer.seek(name, 0, offset=0)
    assert consumer.committed((name, 0)) == {(name, 0): None}
    with pylog.open(tmp_path) as other:
        consumer.commit([*other.read(name)][5])
    assert consumer.committed()[name, 0].offset == 6


def test_no_commit_slips_in_between_a_topics_end_and_the_next_one_of_its_name(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", records=100)
    consumer = log.consumer(group="g", enable_auto_commit=False)
    consumer.assign([("t", 0)])
    assert len(consumer.poll(0)) == 100
    log._coordinator.commit("other", {TopicPartition("u", 0): OffsetAndMetadata(1)})
    append_, is_made = View.append, []

    def append_late(view: View, *arguments: Any) -> Any:
        # What is appended was decided: the topic was there.
        if not is_made:
            is_made.append(True)
            with pylog.open(tmp_path) as other:
                other.delete_topic("t")
                make(other, "t", records=150)
        return append_(view, *arguments)

    monkeypatch.setattr(View, "append", append_late)
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.commit()
    assert is_made
    assert next_offset(log) == 0


def test_what_is_committed_for_a_topic_made_anew_outlasts_the_end_of_the_deletion(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", records=100)
    with member(log) as consumer:
        consumer.poll(0)
        consumer.commit()
    groups, places_ = log._coordinator.log, [TopicPartition("t", 0), TopicPartition("t", 1)]
    forget = groups.forget_topic

    def forget_late(topic: str) -> None:
        # The deletion is seen by all; another process is faster.
        with pylog.open(tmp_path) as other:
            make(other, "t", 2, records=5)
            assert set(other._coordinator.committed("g", places_).values()) == {None}
            other._coordinator.commit("g", {places_[1]: OffsetAndMetadata(3)})
        forget(topic)

    monkeypatch.setattr(groups, "forget_topic", forget_late)
    log.delete_topic("t")
    assert log._coordinator.committed("g", places_) == {
        places_[0]: None,
        places_[1]: OffsetAndMetadata(3),
    }


def test_offsets_that_were_brought_along_are_kept_when_their_topic_is_made(log: Log) -> None:
    log.groups.alter_offsets("g", {TopicPartition("t", 0): OffsetAndMetadata(7)})
    make(log, "t", records=10)
    assert places(member(log).poll(0, 1)) == [(0, 7)]


# ---------------------------------------------------------------- at random


LIVES = 50
DONE = ("deleted", "given", "refused", "committed")


class Life:
    """A group whose topics are deleted and made anew at any time, and what it was given of them."""

    def __init__(self, logs: list[Log], seed: int) -> None:
        self._logs = logs  # of one directory, as of several processes
        self._chance = random.Random(seed)
        self._is_alone = self._chance.random() < 0.5  # chooses its partitions itself
        self._consumers: list[Consumer] = []
        self._last: dict[Consumer, list[Any]] = {}
        self._given: dict[TopicPartition, set[int]] = {}  # of the topics that are there
        self.done: Counter[str] = Counter()
        self.make("a")

    def _log(self) -> Log:
        return self._chance.choice(self._logs)

    def make(self, name: str) -> None:
        count = self._chance.randint(1, 2)
        make(self._log(), name, count, records=self._chance.randint(0, 20))
        for number in range(count):
            self._given[TopicPartition(name, number)] = set()

    def topic(self) -> None:
        """Make, delete, or make anew a topic."""
        name = self._chance.choice("ab")
        is_there = name in self._log().topics()
        if is_there:
            self._log().delete_topic(name)
            self._given = {at: seen for at, seen in self._given.items() if at.topic != name}
            self.done["deleted"] += 1
        if not is_there or self._chance.random() < 0.7:
            self.make(name)

    def append(self) -> None:
        for name, number in self._given:
            append(self._log().topic(name), number, self._chance.randint(0, 5))

    def consumer(self) -> None:
        """Begin another consumer, or end one, orderly or not."""
        if self._consumers and (self._is_alone or self._chance.random() < 0.4):
            consumer = self._consumers.pop(self._chance.randrange(len(self._consumers)))
            end = self._chance.choice([Consumer.close, Consumer.unsubscribe, Consumer.__del__])
            end(consumer)
        elif self._given:
            consumer = self._log().consumer(
                group="g",
                enable_auto_commit=self._chance.random() < 0.7,
                auto_commit_interval_ms=self._chance.choice([0, 3_600_000]),
            )
            if self._is_alone:
                consumer.assign(self._given)
            else:
                consumer.subscribe(pattern="[ab]")
            self._consumers.append(consumer)
            self._last[consumer] = []

    def poll(self) -> None:
        for consumer in self._consumers:
            self._last[consumer] = []
            with contextlib.suppress(UnknownTopicOrPartitionError):
                self._last[consumer] = consumer.poll(0, self._chance.randint(1, 15))
                for record in self._last[consumer]:
                    self._given[TopicPartition(record.topic, record.partition)].add(record.offset)
                    self.done["given"] += 1

    def commit(self) -> None:
        for consumer in self._consumers:
            last = self._last[consumer]
            what = last[-1] if last and self._chance.random() < 0.5 else None
            try:
                consumer.commit(what)
            except (CommitFailedError, UnknownTopicOrPartitionError, NotAssignedError):
                self.done["refused"] += 1

    def check(self) -> None:
        """Assert that nothing was skipped: what lies below a committed offset was given."""
        committed = self._log()._coordinator.committed("g", list(self._given))
        for place, one in committed.items():
            if one is not None:
                assert set(range(one.offset)) <= self._given[place], place
                self.done["committed"] += 1

    def step(self) -> None:
        actions = [self.topic, self.append, self.consumer, self.poll, self.poll, self.commit]
        self._chance.choice(actions)()
        self.check()

    def end(self) -> None:
        for consumer in self._consumers:
            consumer.close()
            self.check()


def test_nothing_is_ever_skipped_of_topics_that_come_and_go(log: Log, tmp_path: Path) -> None:
    log.consumer(group="first", pattern="x").close()  # makes the topic of commits
    log.alter_topic("__consumer_offsets", durability="os")
    done: Counter[str] = Counter()
    lives = 0
    with pylog.open(tmp_path) as other:
        # Chance may leave one of them out for long: it goes on until all came often enough.
        while lives < LIVES or min(done[what] for what in DONE) < LIVES / 5:
            lives += 1
            seed = random.randrange(2**32)
            life = Life([log, other], seed)
            try:
                for _ in range(60):
                    life.step()
                life.end()
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
            done += life.done
            for name in log.topics():
                log.delete_topic(name)
            with contextlib.suppress(GroupIdNotFoundError):
                log.groups.delete("g")
    assert min(done[what] for what in DONE) >= LIVES / 5, done
