"""Consumers of one group: how they share partitions, and who is told when those move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consuming import Told, append, make, member, numbers, places, rest, told_when_waiting
from tail_memory import in_thread, wait_until

import pylog
from pylog import Consumer, Log, TopicPartition
from pylog.consumer import consumer as consumer_module
from pylog.errors import (
    ConcurrentUseError,
    FencedInstanceIdError,
    PartitionFullError,
    StaleMemberEpochError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)
from pylog.groups.member import Membership


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    # Whoever is not woken sleeps past the end of the test.
    monkeypatch.setattr(consumer_module, "LOOK_AGAIN_SECONDS", 3600.0)
    with pylog.open(tmp_path) as log:
        yield log


# ---------------------------------------------------------------- sharing


def test_a_single_member_reads_everything(log: Log) -> None:
    make(log, "t", 3, records=5)
    told = Told()
    consumer = member(log, told)
    assert consumer.assignment() == set()
    assert len(rest(consumer)) == 15
    assert numbers(consumer) == [0, 1, 2]
    consumer.close()
    assert told.take() == [("assigned", [0, 1, 2]), ("revoked", [0, 1, 2])]


def test_a_second_member_takes_half_and_the_first_keeps_the_rest_undisturbed(log: Log) -> None:
    make(log, "t", 4, records=100)
    told, told_too = Told(), Told()
    first = member(log, told)
    assert len(first.poll(0, 40)) == 40
    cursors = {cursor.partition.number: cursor for cursor in first._cursors}
    told.take()

    second = member(log, told_too)
    assert second.poll(0) == []
    assert len(first.poll(0, 20)) == 20
    assert [name for name, _ in told.calls] == ["revoked"]
    ((_, given),) = told.take()
    second.poll(0, 1)
    assert told_too.take() == [("assigned", given)]
    assert len(given) == 2
    # What it kept it never let go of, not even of what was read already.
    kept = {cursor.partition.number: cursor for cursor in first._cursors}
    assert sorted([*kept, *given]) == [0, 1, 2, 3]
    assert all(cursors[number] is cursor for number, cursor in kept.items())
    assert numbers(second) == given


def test_who_goes_gives_back_to_the_others(log: Log) -> None:
    make(log, "t", 4, records=10)
    first, second = member(log), member(log)
    for _ in range(3):
        first.poll(0)
        second.poll(0)
    assert len(numbers(first)) == len(numbers(second)) == 2
    second.unsubscribe()
    assert second.assignment() == set()
    first.poll(0)
    assert numbers(first) == [0, 1, 2, 3]
    second.subscribe("t")
    first.poll(0)
    second.poll(0)
    assert len(numbers(second)) == 2


def test_a_member_that_waits_is_woken_to_give_and_to_take(log: Log) -> None:
    make(log, "t", 2)
    told = Told()
    first = member(log, told)
    first.poll(0)
    is_waiting = told_when_waiting(first)
    records: list[Any] = []
    thread = in_thread(lambda: records.extend(first.poll()))
    is_waiting.wait()
    second = member(log)
    wait_until(lambda: ("revoked", [1]) in told.calls or ("revoked", [0]) in told.calls)
    second.poll(0)
    assert len(numbers(second)) == 1
    second.close()
    wait_until(lambda: [name for name, _ in told.calls].count("assigned") == 2)
    log.topic("t").append(b"x", partition=0)
    thread.join()
    assert len(records) == 1


def test_groups_do_not_share(log: Log) -> None:
    make(log, "t", 2, records=5)
    consumers = [log.consumer("t", group=name) for name in ("g", "h")]
    assert [len(rest(consumer)) for consumer in consumers] == [10, 10]


def test_members_may_want_different_topics(log: Log) -> None:
    make(log, "a", 2, records=1)
    make(log, "b", 2, records=1)
    both = log.consumer("a", "b", group="g")
    one = log.consumer("b", group="g")
    for _ in range(3):
        both.poll(0)
        one.poll(0)
    assert one.assignment() == {("b", 0), ("b", 1)}
    assert both.assignment() == {("a", 0), ("a", 1)}


def test_topics_that_match_and_partitions_that_are_added_are_given_to_members(log: Log) -> None:
    topic = make(log, "t1", records=1)
    for reset in ("earliest", "latest"):
        consumer = log.consumer(pattern="t.*", group=reset, auto_offset_reset=reset)
        rest(consumer)
        count = len(topic)
        topic.add_partitions(count + 1)
        append(topic, count, 2)
        make(log, f"t-{reset}", records=3)
        assert len(rest(consumer)) == 5
        assert (f"t-{reset}", 0) in consumer.assignment()
        assert ("t1", count) in consumer.assignment()


def test_a_topic_that_is_deleted_is_read_no_more(log: Log) -> None:
    make(log, "t1", records=1)
    make(log, "t2", records=1)
    told = Told()
    consumer = log.consumer(pattern="t.*", group="g", **told.listeners())
    named = log.consumer("t1", group="h")
    assert (len(rest(consumer)), len(rest(named))) == (2, 1)
    log.delete_topic("t1")
    append(log.topic("t2"), 0, 1)
    assert places(consumer.poll(0)) == [(0, 1)]
    assert consumer.assignment() == {("t2", 0)}
    assert told.take() == [("assigned", [0, 0]), ("lost", [0])]
    with pytest.raises(UnknownTopicOrPartitionError):
        named.poll(0)


def test_a_topic_that_is_deleted_while_its_turn_comes_is_read_no_more(log: Log) -> None:
    make(log, "t1", records=10)
    make(log, "t2")
    consumer = log.consumer(pattern="t.*", group="g")
    consumer.poll(0)
    look = consumer._part.look  # type: ignore[union-attr]

    def look_and_lose() -> None:
        look()
        if "t1" in log.topics():
            log.delete_topic("t1")

    consumer._part.look = look_and_lose  # type: ignore[union-attr, method-assign]
    consumer.seek("t1", 0, offset=0)
    assert consumer.poll(0) == []


def test_a_topic_that_matches_is_wanted_as_soon_as_that_can_be_said(
    log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(log, "t1", records=5)
    consumer = log.consumer(pattern="t.*", group="g", enable_auto_commit=False)
    consumer.poll(0, 2)
    commits = log.topic("__consumer_offsets").partition(0)

    def full(*_: Any) -> None:
        raise PartitionFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(commits, "place", full)
        make(log, "t2", records=5)
        # Who only asks what it reads says nothing; and reading needs no space.
        assert consumer.assignment() == {("t1", 0)}
        assert places(consumer.poll(0)) == [(0, 2), (0, 3), (0, 4)]
    assert "has to wait" in caplog.text
    end = commits.log_end_offset
    assert consumer.assignment() == {("t1", 0)}
    assert commits.log_end_offset == end
    assert consumer._part.is_due()  # type: ignore[union-attr]
    assert len(consumer.poll(0)) == 5
    assert consumer.assignment() == {("t1", 0), ("t2", 0)}


def test_an_own_assignor_decides(log: Log) -> None:
    def first_takes_all(subscribers: Any, partitions: Any) -> Any:
        everything = [TopicPartition(topic, n) for topic in partitions for n in range(4)]
        return {min(one.member_id for one in subscribers): everything}

    first_takes_all.name = "first-takes-all"  # type: ignore[attr-defined]
    make(log, "t", 4)
    consumers = [member(log, assignor=first_takes_all) for _ in range(3)]
    for _ in range(3):
        for consumer in consumers:
            consumer.poll(0)
    assert sorted(len(numbers(consumer)) for consumer in consumers) == [0, 0, 4]


# ---------------------------------------------------------------- listeners


def member_id_of(consumer: Consumer) -> str:
    return consumer._part._membership.member_id  # type: ignore[union-attr, return-value]


def test_a_listener_may_commit_what_is_taken_from_it(log: Log) -> None:
    make(log, "t", 2, records=10)
    done: list[dict[Any, Any]] = []

    def on_revoked(partitions: set[TopicPartition]) -> None:
        first.commit({one: first.position(*one) + 100 for one in partitions})
        done.append(first.committed(*partitions))

    first = log.consumer("t", group="g", on_revoked=on_revoked, enable_auto_commit=False)
    first.poll(0, 6)
    second = member(log)
    first.poll(0, 1)
    second.poll(0)
    ((((topic, number), committed),),) = [list(one.items()) for one in done]
    assert committed.offset == 103
    assert second.committed((topic, number)) == {(topic, number): committed}
    with pytest.raises(StaleMemberEpochError):
        first.commit({(topic, number): 0})


@pytest.mark.parametrize("end", [Consumer.close, Consumer.unsubscribe])
def test_a_listener_may_commit_at_the_end(log: Log, end: Callable[[Consumer], None]) -> None:
    make(log, "t", records=10)

    def on_revoked(partitions: set[TopicPartition]) -> None:
        assert consumer.assignment() == partitions
        consumer.commit()
        assert [one.offset for one in consumer.committed().values() if one] == [4]

    consumer = log.consumer("t", group="g", on_revoked=on_revoked, enable_auto_commit=False)
    consumer.poll(0, 4)
    end(consumer)
    assert places(member(log).poll(0)) == [(0, offset) for offset in range(4, 10)]


def test_what_is_lost_does_not_keep_what_is_given_back_from_being_committed(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    make(log, "t", 2, records=10)
    make(log, "u", 1, records=10)
    first = log.consumer("t", "u", group="g", auto_commit_interval_ms=3_600_000)
    assert len(rest(first)) == 30  # all of it is done, and not committed yet
    log.delete_topic("u")
    second = member(log)
    with pytest.raises(UnknownTopicOrPartitionError):
        first.poll(0)
    second.poll(0)
    assert len(numbers(second)) == 1
    assert rest(second) == []
    assert "not committed" not in caplog.text


def test_when_a_listener_fails_the_next_owner_reads_again_what_was_not_committed(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    make(log, "t", 2, records=10)

    def on_revoked(partitions: set[TopicPartition]) -> None:
        raise RuntimeError("cannot flush")

    first = log.consumer("t", group="g", on_revoked=on_revoked, auto_commit_interval_ms=0)
    assert len(first.poll(0, 6)) == 6
    first._commits._due = float("inf")  # type: ignore[union-attr]
    second = member(log)
    with pytest.raises(RuntimeError, match="cannot flush"):
        first.poll(0)
    (kept,) = numbers(first)
    assert len(rest(second)) == 10
    assert numbers(second) == [1 - kept]
    assert places(first.poll(0)) == [(kept, offset) for offset in range(3, 10)]
    # Nor does it try to commit later what is not its own any more.
    first._commits._due = 0  # type: ignore[union-attr]
    first.poll(0)
    assert "not committed" not in caplog.text


def test_what_a_listener_sought_before_it_is_taken_is_not_committed_later(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    make(log, "t", 2, records=10)

    def on_revoked(partitions: set[TopicPartition]) -> None:
        for topic, number in partitions:
            first.seek(topic, number, offset=1)

    first = log.consumer("t", group="g", on_revoked=on_revoked, auto_commit_interval_ms=0)
    first.poll(0, 6)
    second = member(log)
    for _ in range(3):
        first.poll(0, 1)
        second.poll(0, 1)
    assert len(numbers(second)) == 1
    assert "not committed" not in caplog.text


def test_a_listener_may_seek_where_it_keeps_offsets_itself(log: Log) -> None:
    make(log, "t", 2, records=10)

    def on_assigned(partitions: set[TopicPartition]) -> None:
        for topic, number in partitions:
            consumer.seek(topic, number, offset=8)

    consumer = log.consumer("t", group="g", on_assigned=on_assigned)
    assert rest(consumer) == [(0, 8), (0, 9), (1, 8), (1, 9)]


def test_a_partition_is_pinned_and_a_listener_told_when_the_first_look_at_it_failed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", 2, records=10)
    told = Told()
    consumer = member(log, told, auto_offset_reset="latest")

    def fail(*_: Any) -> None:
        raise OSError("cannot read")

    with monkeypatch.context() as patch:
        patch.setattr(Membership, "committed", fail)
        with pytest.raises(OSError, match="cannot read"):
            consumer.poll(0)
        log._coordinator.log.end_member("g", member_id_of(consumer), is_final=True)
        with pytest.raises(OSError, match="cannot read"):
            consumer.poll(0)
    # What it was never told of it is not told that it lost, either.
    assert told.take() == []
    consumer.poll(0)
    assert told.take() == [("assigned", [0, 1])]
    assert [one.offset for one in consumer.committed().values() if one] == [10, 10]


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_a_topic_made_anew_is_lost_and_assigned_and_read_from_its_beginning(
    log: Log, reset: str
) -> None:
    make(log, "t", records=10)
    told = Told()
    consumer = member(log, told, auto_offset_reset=reset, auto_commit_interval_ms=0)
    consumer.poll(0)
    log.delete_topic("t")
    make(log, "t", records=3)
    assert told.take() == [("assigned", [0])]
    assert rest(consumer) == [(0, 0), (0, 1), (0, 2)]
    assert told.take() == [("lost", [0]), ("assigned", [0])]


def test_of_a_topic_made_anew_nobody_reads_what_the_group_gave_to_another(log: Log) -> None:
    make(log, "t", 2, records=10)
    members = [member(log), member(log)]
    for consumer in [*members, *members]:
        consumer.poll(0)
    log.delete_topic("t")
    topic = make(log, "t", 2)
    for consumer in members:
        # Between its look at the group and its look at the topics.
        consumer._part.refresh()  # type: ignore[union-attr]
        assert numbers(consumer) == []
    append(topic, 0, 3)
    append(topic, 1, 3)
    seen = [place for _ in range(3) for one in members for place in places(one.poll(0))]
    assert sorted(seen) == [(number, offset) for number in range(2) for offset in range(3)]


def test_a_listener_asks_for_no_records_and_does_not_leave(log: Log) -> None:
    make(log, "t", 2, records=10)
    raised: list[type[Exception]] = []

    def on_assigned(partitions: set[TopicPartition]) -> None:
        for use in (
            lambda: consumer.poll(0),
            lambda: next(iter(consumer)),
            lambda: consumer.subscribe("t"),
            lambda: consumer.assign([("t", 0)]),
            consumer.unsubscribe,
            consumer.close,
        ):
            with pytest.raises(ConcurrentUseError, match="listener") as caught:
                use()
            raised.append(caught.type)

    consumer = log.consumer("t", group="g", on_assigned=on_assigned)
    assert len(rest(consumer)) == 20
    assert len(raised) == 6
    consumer.close()


def test_who_was_removed_is_told_and_joins_again(log: Log) -> None:
    make(log, "t", 2, records=10)
    told = Told()
    consumer = member(log, told)
    consumer.poll(0, 4)
    consumer.commit()
    consumer.poll(0, 2)
    old = member_id_of(consumer)
    log._coordinator.log.end_member("g", old, is_final=True)
    with pytest.raises(UnknownMemberIdError):
        consumer.commit()
    told.take()
    assert rest(consumer) == [(number, offset) for number in range(2) for offset in range(2, 10)]
    assert told.take() == [("lost", [0, 1]), ("assigned", [0, 1])]
    assert member_id_of(consumer) != old


def test_who_was_removed_may_want_other_topics_before_it_knows(log: Log) -> None:
    make(log, "t", records=1)
    make(log, "u", records=1)
    consumer = member(log)
    consumer.poll(0)
    old = member_id_of(consumer)
    log._coordinator.log.end_member("g", old, is_final=True)
    consumer.subscribe("t", "u")
    consumer.poll(0)
    assert consumer.assignment() == {("t", 0), ("u", 0)}


# ---------------------------------------------------------------- static members


def test_a_static_member_that_comes_back_has_what_it_had_and_nobody_is_disturbed(log: Log) -> None:
    make(log, "t", 4, records=10)
    told = Told()
    workers = [member(log, instance_id=f"worker-{n}") for n in range(2)]
    for _ in range(3):
        for worker in workers:
            worker.poll(0)
    had = numbers(workers[0])
    workers[1].subscribe("t", **told.listeners())
    workers[0].close()
    workers[1].poll(0)
    again = member(log, instance_id="worker-0")
    again.poll(0)
    workers[1].poll(0)
    assert numbers(again) == had
    assert told.take() == []


def test_a_second_member_with_an_instance_id_fences_the_first(log: Log) -> None:
    make(log, "t", 2, records=10)
    told = Told()
    first = member(log, told, instance_id="worker")
    records = first.poll(0)
    second = member(log, instance_id="worker")
    assert len(rest(second)) == 20
    with pytest.raises(FencedInstanceIdError):
        first.commit(records[-1])
    told.take()
    for _ in range(2):
        with pytest.raises(FencedInstanceIdError):
            first.poll(0)
    assert told.take() == [("lost", [0, 1])]
    first.close()
    second.poll(0)
    assert numbers(second) == [0, 1]
