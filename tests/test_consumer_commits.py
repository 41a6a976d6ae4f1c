"""What a consumer commits, by itself and when it is told to, and where the next one begins."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from consuming import append, make, member, next_offset, places, rest
from tail_memory import wait_until

from pylog import Consumer, ConsumerConfig, Log, OffsetAndMetadata
from pylog._native import system_clock
from pylog.consumer.group_part import GroupOffsets
from pylog.errors import (
    InvalidConfigurationError,
    InvalidGroupIdError,
    NonEmptyGroupError,
    NoOffsetForPartitionError,
    NotAssignedError,
    OffsetMetadataTooLargeError,
    PartitionFullError,
    UnknownTopicOrPartitionError,
)
from pylog.groups.member import Membership


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# ---------------------------------------------------------------- by itself


def test_a_loop_commits_what_it_moved_past_and_not_the_record_it_stopped_at(log: Log) -> None:
    make(log, "t", records=1000)
    with member(log) as consumer:
        for record in consumer:
            if record.offset == 700:
                break
    assert next_offset(log) == 700


def test_a_loop_that_failed_gets_the_record_again_at_which_it_did(log: Log) -> None:
    make(log, "t", records=1000)
    with pytest.raises(ZeroDivisionError), member(log) as consumer:
        for record in consumer:
            1 / (record.offset - 321)
    assert next_offset(log) == 321


def test_a_loop_that_failed_at_its_first_record_commits_nothing(log: Log) -> None:
    make(log, "t", records=10)
    with pytest.raises(KeyboardInterrupt), member(log) as consumer:
        for _ in consumer:
            raise KeyboardInterrupt
    assert member(log).committed(("t", 0)) == {("t", 0): None}


def test_a_loop_that_ended_commits_all_of_it(log: Log) -> None:
    make(log, "t", records=1000)
    with member(log) as consumer:
        assert len(list(consumer.records(timeout=0))) == 1000
    append(log.topic("t"), 0, 1)
    assert next_offset(log) == 1000


def test_what_poll_returned_is_committed_when_the_next_poll_asks_for_more(log: Log) -> None:
    make(log, "t", records=1000)
    with member(log) as consumer:
        assert len(consumer.poll(0, 10)) == 10
        assert len(consumer.poll(0, 20)) == 20
    assert next_offset(log) == 10


def test_commits_are_made_every_so_often_also_while_nothing_comes(log: Log) -> None:
    make(log, "t", records=100)
    clock = Clock()
    config = ConsumerConfig(group="g", auto_commit_interval_ms=5000)
    consumer = Consumer(log._registry, config, coordinator=log._coordinator, monotonic=clock)
    consumer.subscribe("t")
    clock.now = 100.0
    seen = []
    for seconds in (0.0, 1.0, 3.9, 0.2, 4.8, 0.3):
        clock.now += seconds
        consumer.poll(0, 10)
        committed = consumer.committed()["t", 0]
        seen.append(0 if committed is None else committed.offset)
    assert seen == [0, 0, 0, 30, 30, 50]
    consumer.seek_to_end()
    consumer.poll(0)
    clock.now += 6
    consumer.poll(0)
    assert consumer.committed()["t", 0] == OffsetAndMetadata(100)


def test_who_commits_by_hand_commits_nothing_else(log: Log) -> None:
    make(log, "t", records=100)
    with member(log, enable_auto_commit=False, auto_commit_interval_ms=0) as consumer:
        for _ in consumer.records(timeout=0):
            pass
        consumer.poll(0)
    assert member(log).committed(("t", 0)) == {("t", 0): None}


def test_a_commit_that_fails_by_itself_is_said_and_made_later(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", records=100)
    consumer = member(log, auto_commit_interval_ms=0)
    consumer.poll(0, 10)

    def full(*_: Any, **__: Any) -> None:
        raise PartitionFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(consumer._part._membership, "commit", full)  # type: ignore[union-attr]
        assert len(consumer.poll(0, 10)) == 10
    assert "not committed yet: [Errno 28] no space" in caplog.text
    consumer.poll(0, 1)
    assert consumer.committed() == {("t", 0): OffsetAndMetadata(20, "", 0)}


def test_nothing_is_committed_twice(log: Log) -> None:
    make(log, "t", records=100)
    with member(log, auto_commit_interval_ms=0) as consumer:
        consumer.commit(consumer.poll(0, 10)[-1])
        commits = log.topic("__consumer_offsets").partition(0)
        before = commits.log_end_offset
        consumer.seek_to_end()
        consumer.seek("t", 0, offset=10)
        consumer.pause()
        for _ in range(3):
            assert consumer.poll(0) == []
        assert commits.log_end_offset == before


# ---------------------------------------------------------------- by hand


def test_a_commit_is_of_all_that_was_given(log: Log) -> None:
    make(log, "t", records=1000)
    with member(log, enable_auto_commit=False) as consumer:
        consumer.poll(0, 10)
        consumer.commit()
        for record in consumer:
            if record.offset == 500:
                consumer.commit(metadata="half")
                break
        assert consumer.committed() == {("t", 0): OffsetAndMetadata(501, "half", 0)}
    assert next_offset(log) == 501


def test_commit_of_a_record_adds_one_itself(log: Log) -> None:
    make(log, "t", records=1000)
    with member(log) as consumer:
        for record in consumer:
            if record.offset == 42:
                consumer.commit(record, metadata="done")
                break
        assert consumer.committed() == {("t", 0): OffsetAndMetadata(43, "done", 0)}
    # Nor does the end of the consumer commit what lies before it.
    assert next_offset(log) == 43


def test_what_was_sought_is_committed_as_what_was_given(log: Log) -> None:
    make(log, "t", 2, records=100)
    consumer = member(log, enable_auto_commit=False)
    (record,) = consumer.poll(0, 1)
    consumer.seek("t", 1 - record.partition, offset=7)
    consumer.commit()
    assert sorted(one.offset for one in consumer.committed().values() if one) == [1, 7]


def test_who_seeks_back_to_what_is_committed_does_it_again(log: Log) -> None:
    make(log, "t", records=100)
    with member(log) as consumer:
        consumer.commit(consumer.poll(0, 10)[-1])
        for size in (40, 1):
            assert len(consumer.poll(0, size)) == size
        consumer.seek("t", 0, offset=10)
        consumer.poll(0, 1)
    assert next_offset(log) == 10


def test_a_loop_that_stops_after_a_seek_commits_nothing_before_it(log: Log) -> None:
    make(log, "t", records=100)
    with member(log) as consumer:
        for _ in consumer:
            consumer.seek("t", 0, offset=50)
            break
    assert member(log).committed(("t", 0)) == {("t", 0): None}


@pytest.mark.parametrize("is_by_record", [True, False])
def test_a_loop_that_committed_by_hand_goes_on_committing_by_itself(
    log: Log, *, is_by_record: bool
) -> None:
    make(log, "t", records=100)
    with member(log) as consumer:
        for record in consumer:
            if record.offset == 5:
                consumer.commit(record if is_by_record else None)
                assert consumer.committed()["t", 0].offset == 6
            if record.offset == 60:
                break
    assert next_offset(log) == 60


def test_commit_of_an_older_record_does_not_hide_what_a_loop_did_since(log: Log) -> None:
    make(log, "t", records=100)
    with member(log) as consumer:
        records = consumer.poll(0, 50)
        consumer.poll(0, 1)
        consumer.commit(records[10])
        assert consumer.committed()["t", 0].offset == 11
    assert next_offset(log) == 50


def test_offsets_of_several_partitions_are_committed_at_once(log: Log) -> None:
    make(log, "t", 3, records=10)
    consumer = member(log, enable_auto_commit=False)
    consumer.poll(0)
    consumer.commit(
        {("t", 0): 3, ("t", 2): OffsetAndMetadata(7, "seven", 4)}, metadata="by default"
    )
    assert consumer.committed() == {
        ("t", 0): OffsetAndMetadata(3, "by default"),
        ("t", 1): None,
        ("t", 2): OffsetAndMetadata(7, "seven", 4),
    }
    consumer.commit()
    assert {one.offset for one in consumer.committed().values() if one} == {10}
    consumer.commit({})
    consumer.close()
    assert rest(member(log)) == []


def test_a_commit_that_is_refused_changes_nothing(log: Log) -> None:
    make(log, "t", records=10)
    consumer = member(log, enable_auto_commit=False)
    (record,) = consumer.poll(0, 1)
    for what, metadata, error in (
        (record, "x" * 4097, OffsetMetadataTooLargeError),
        ({("t", 0): -1}, "", ValueError),
        ({("t", 0): "3"}, "", TypeError),
        ({"t": 3}, "", TypeError),
        (7, "", TypeError),
    ):
        with pytest.raises(error):
            consumer.commit(what, metadata=metadata)  # type: ignore[arg-type]
    assert consumer.committed() == {("t", 0): None}
    consumer.commit(record)
    assert consumer.committed()["t", 0].offset == 1


def test_without_a_group_there_is_nothing_to_commit_to(log: Log) -> None:
    make(log, "t", records=1)
    consumer = log.consumer("t")
    for use in (consumer.commit, consumer.committed):
        with pytest.raises(InvalidGroupIdError):
            use()
    with pytest.raises(InvalidConfigurationError, match="on_lost"):
        consumer.subscribe("t", on_lost=print)
    with pytest.raises(NotAssignedError):
        log.consumer(group="g").commit()


def test_who_reads_nothing_may_ask_and_say_what_is_committed(log: Log) -> None:
    make(log, "t", records=10)
    consumer = log.consumer(group="g")
    assert consumer.committed(("t", 0)) == {("t", 0): None}
    consumer.commit({("t", 0): 3}, metadata="by hand")
    assert consumer.committed(("t", 0)) == {("t", 0): OffsetAndMetadata(3, "by hand")}
    assert consumer.committed() == {}
    with member(log) as other:
        with pytest.raises(NonEmptyGroupError):
            consumer.commit({("t", 0): 4})
        other.unsubscribe()
        other.commit({("t", 0): 5})
    assert consumer.committed(("t", 0))["t", 0] == OffsetAndMetadata(5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group", ""),
        ("group", 7),
        ("instance_id", "worker"),
        ("enable_auto_commit", 1),
        ("auto_commit_interval_ms", -1),
        ("session_timeout_ms", None),
        ("max_poll_interval_ms", 0),
        ("assignor", "best"),
    ],
)
def test_a_wrong_setting_of_a_group_is_named(log: Log, name: str, value: Any) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        log.consumer(**{name: value})
    assert (caught.value.setting, caught.value.value) == (name, value)


# ---------------------------------------------------------------- where the next one begins


def test_a_committed_offset_is_where_reading_begins_whatever_the_policy(log: Log) -> None:
    make(log, "t", records=10)
    with member(log) as consumer:
        consumer.poll(0, 4)
        consumer.commit()
    for reset in ("earliest", "latest", "none", datetime.timedelta()):
        with member(log, auto_offset_reset=reset, enable_auto_commit=False) as consumer:
            assert places(consumer.poll(0, 1)) == [(0, 4)]


def test_a_committed_offset_that_is_gone_is_said_and_the_policy_counts(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    topic = make(log, "t", records=10)
    with member(log) as consumer:
        consumer.poll(0, 4)
        consumer.commit()
    topic.delete_records({0: 6})
    with member(log) as consumer:
        assert places(consumer.poll(0, 1)) == [(0, 6)]
    assert "offset 4 is outside [6, 10]" in caplog.text


def test_a_log_that_was_truncated_below_a_committed_offset_is_noticed(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    make(log, "t", records=10)
    with member(log) as consumer:
        consumer.poll(0, 1)
        consumer.commit({("t", 0): 11})
    with member(log) as consumer:
        assert places(consumer.poll(0, 1)) == [(0, 0)]
    assert "offset 11 is outside [0, 10]" in caplog.text


@pytest.mark.parametrize("is_automatic", [True, False])
def test_where_the_latest_was_is_committed_at_once_so_that_a_death_skips_nothing(
    log: Log, is_automatic: bool
) -> None:
    make(log, "t", records=10)
    consumer = member(log, auto_offset_reset="latest", enable_auto_commit=is_automatic)
    assert consumer.poll(0) == []
    append(log.topic("t"), 0, 3)
    assert len(consumer.poll(0)) == 3
    consumer.__del__()  # as if its process had died
    again = member(log, auto_offset_reset="latest")
    records: list[Any] = []
    wait_until(lambda: bool(records.extend(again.poll(0)) or records))
    assert places(records) == [(0, 10), (0, 11), (0, 12)]


def test_where_the_latest_was_is_committed_as_soon_as_it_can_be(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", records=10)
    consumer = member(
        log, auto_offset_reset="latest", enable_auto_commit=False, auto_commit_interval_ms=0
    )

    def full(*_: Any, **__: Any) -> None:
        raise PartitionFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Membership, "commit", full)
        assert consumer.poll(0) == []
    assert "not committed yet: [Errno 28] no space" in caplog.text
    append(log.topic("t"), 0, 3)
    assert len(consumer.poll(0)) == 3
    assert consumer.committed() == {("t", 0): OffsetAndMetadata(10, "", 0)}


def test_without_a_commit_and_a_policy_a_partition_has_to_be_sought(log: Log) -> None:
    make(log, "t", records=10)
    consumer = member(log, auto_offset_reset="none")
    with pytest.raises(NoOffsetForPartitionError):
        consumer.poll(0)
    consumer.seek("t", 0, offset=3)
    assert len(consumer.poll(0)) == 7


# ---------------------------------------------------------------- partitions of one's own choice


def test_who_assigns_itself_partitions_commits_while_the_group_has_no_members(log: Log) -> None:
    make(log, "t", 2, records=10)
    with log.consumer(group="g") as consumer:
        consumer.assign([("t", 1)])
        consumer.poll(0, 4)
        consumer.commit()
        consumer.poll(0, 2)
        consumer.poll(0, 1)
    consumer = log.consumer(group="g", enable_auto_commit=False)
    consumer.assign([("t", 1), ("t", 0)])
    assert rest(consumer)[10:] == [(1, offset) for offset in range(6, 10)]
    other = member(log)
    with pytest.raises(NonEmptyGroupError):
        consumer.commit()
    other.close()
    consumer.commit()
    assert {one.offset for one in consumer.committed().values() if one} == {10}


@pytest.mark.parametrize("reset", ["latest", "by_duration:PT0S"])
def test_where_an_own_choice_begins_is_committed_at_once(log: Log, reset: str) -> None:
    make(log, "t", records=10)
    wait_until(lambda: system_clock() > max(one.timestamp for one in log.read("t")))
    consumer = log.consumer(group="g", auto_offset_reset=reset, enable_auto_commit=False)
    consumer.assign([("t", 0)])
    append(log.topic("t"), 0, 3)
    assert len(consumer.poll(0)) == 3
    consumer.__del__()  # as if its process had died
    again = log.consumer(group="g", auto_offset_reset=reset)
    again.assign([("t", 0)])
    assert places(again.poll(0)) == [(0, 10), (0, 11), (0, 12)]


def test_an_own_choice_that_could_not_begin_does_so_with_the_next_look(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(log, "t", records=10)
    consumer = log.consumer(group="g", auto_offset_reset="latest")

    def fail(*_: Any) -> None:
        raise OSError("cannot read")

    with monkeypatch.context() as patch:
        patch.setattr(GroupOffsets, "committed", fail)
        with pytest.raises(OSError, match="cannot read"):
            consumer.assign([("t", 0)])
        assert consumer._part.is_due()  # type: ignore[union-attr]
    assert consumer.poll(0) == []
    assert consumer.committed() == {("t", 0): OffsetAndMetadata(10, "", 0)}


def test_an_own_choice_of_the_latest_goes_on_where_the_group_committed(log: Log) -> None:
    make(log, "t", 2, records=10)
    with log.consumer(group="g", auto_offset_reset="latest") as consumer:
        consumer.assign([("t", 0)])
        consumer.commit({("t", 0): 3})
    consumer = log.consumer(group="g", auto_offset_reset="latest")
    consumer.assign([("t", 0), ("t", 1)])
    append(log.topic("t"), 1, 1)
    assert rest(consumer) == [*((0, offset) for offset in range(3, 10)), (1, 10)]


def test_who_goes_on_to_other_partitions_commits_what_it_did_of_the_last(log: Log) -> None:
    make(log, "t", 2, records=10)
    with log.consumer(group="g") as consumer:
        consumer.assign([("t", 0)])
        consumer.poll(0, 4)
        consumer.poll(0, 1)
        consumer.assign([("t", 1)])
        assert consumer.committed(("t", 0))["t", 0] == OffsetAndMetadata(4, "", 0)


def test_a_topic_that_does_not_exist_leaves_an_own_choice_as_it_is(log: Log) -> None:
    make(log, "t", records=10)
    consumer = log.consumer(group="g")
    consumer.assign([("t", 0)])
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.subscribe("nowhere")
    assert len(consumer.poll(0)) == 10


def test_from_members_to_own_choice_and_back(log: Log) -> None:
    make(log, "t", 2, records=10)
    consumer = member(log)
    consumer.poll(0, 6)
    consumer.assign([("t", 0)])
    consumer.poll(0, 1)
    consumer.commit()
    consumer.subscribe("t")
    consumer.poll(0, 1)
    assert {number for _, number in consumer.assignment()} == {0, 1}
    consumer.close()
    assert len(rest(member(log))) >= 13
