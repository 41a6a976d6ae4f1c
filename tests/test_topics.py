"""Topics: creating, routing to their partitions, deleting, from several handles at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tail_memory import in_thread, run_threads, tiny_switch_interval, wait_until

import pylog
from pylog import Log, Topic
from pylog.errors import (
    ClosedError,
    InvalidConfigurationError,
    InvalidTopicError,
    TopicExistsError,
    UnknownSettingError,
    UnknownTopicOrPartitionError,
)
from pylog.storage.attachment import Attachment


def values(topic: Topic) -> list[bytes | None]:
    return [record.value for record in topic.read()]


# ---------------------------------------------------------------- topics


def test_topics_are_sorted_and_internal_ones_left_out(log: Log) -> None:
    for name in ("b", "a", "C"):
        log.create_topic(name)
    assert log.topics() == ["C", "a", "b"]


def test_settings_of_a_topic_are_kept(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", partitions=5, retention_ms=77, durability="os", segment_bytes=999)
    with pylog.open(tmp_path) as log:
        topic = log.topic("t")
        assert len(topic.partitions) == 5
        assert topic.config == pylog.TopicConfig(
            retention_ms=77, durability="os", segment_bytes=999
        )


def test_a_topic_that_exists_is_an_error_unless_that_is_ok(log: Log) -> None:
    first = log.create_topic("t", partitions=2, durability="os")
    first.append(b"x", partition=1)
    with pytest.raises(TopicExistsError, match="'t'"):
        log.create_topic("t")
    again = log.create_topic("t", partitions=9, if_exists="ok")
    assert len(again.partitions) == 2
    assert again.config.durability == "os"
    assert values(again) == [b"x"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        (".", "directory"),
        ("..", "directory"),
        ("a/b", "'/' at 1"),
        ("../a", "'/' at 2"),
        ("a\n", r"'\\n' at 1"),
        ("a\0", r"'\\x00' at 1"),
        ("ä", "'ä' at 0"),
        ("x" * 250, "250 characters"),
        ("__metadata", "internal"),
        ("__mine", "internal"),
    ],
)
def test_an_illegal_name_is_refused_with_the_reason(log: Log, name: str, reason: str) -> None:
    with pytest.raises(InvalidTopicError, match=reason):
        log.create_topic(name)
    assert log.topics() == []


def test_the_longest_name_works(log: Log) -> None:
    name = "x" * 249
    # With "-10000" the name of the directory has 255 bytes, which is what a file system takes.
    log.create_topic(name, partitions=10_001).append(b"v", partition=10_000)
    assert values(log.topic(name)) == [b"v"]


@pytest.mark.parametrize("name", [None, 1, b"t", ["t"]])
def test_a_name_that_is_no_text_is_a_type_error(log: Log, name: Any) -> None:
    for call in (log.create_topic, log.topic, log.delete_topic):
        with pytest.raises((TypeError, UnknownTopicOrPartitionError)):
            call(name)
    with pytest.raises(TypeError):
        log.create_topic(name)
    assert log.topics() == []


def test_names_that_kafka_could_not_tell_apart_collide(log: Log) -> None:
    log.create_topic("a.b")
    with pytest.raises(InvalidTopicError, match=r"collides with 'a\.b'"):
        log.create_topic("a_b")
    log.create_topic("a-b")
    assert log.topics() == ["a-b", "a.b"]


def test_an_unknown_setting_names_the_nearest(log: Log) -> None:
    with pytest.raises(UnknownSettingError, match="retention_ms") as caught:
        log.create_topic("t", retention_msec=5)
    assert (caught.value.setting, caught.value.value) == ("retention_msec", 5)
    assert caught.value.nearest == "retention_ms"
    assert log.topics() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"partitions": 0},
        {"partitions": -1},
        {"partitions": 1_000_001},
        {"partitions": "3"},
        {"partitions": 2.0},
        {"partitions": True},
        {"durability": "maybe"},
        {"segment_bytes": 13},
        {"segment_bytes": "1000"},
        {"max_message_bytes": 60},
        {"flush_ms": 0},
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(
    log: Log, settings: dict[str, Any]
) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(InvalidConfigurationError) as caught:
        log.create_topic("t", **settings)
    assert (caught.value.setting, caught.value.value) == (name, value)
    assert log.topics() == []


def test_if_exists_takes_two_words(log: Log) -> None:
    with pytest.raises(ValueError, match="replace"):
        log.create_topic("t", if_exists="replace")  # type: ignore[arg-type]
    assert log.topics() == []


def test_an_unknown_topic_is_a_lookup_error(log: Log) -> None:
    calls: list[Callable[[], object]] = [
        lambda: log.topic("t"),
        lambda: log.delete_topic("t"),
        lambda: list(log.read("t")),
        lambda: log.topic("__metadata_"),
    ]
    for call in calls:
        with pytest.raises(LookupError) as caught:
            call()
        assert isinstance(caught.value, UnknownTopicOrPartitionError)


@pytest.mark.parametrize("number", [-1, 3, 2**31, 2**64])
def test_an_unknown_partition_is_a_lookup_error(log: Log, number: int) -> None:
    topic = log.create_topic("t", partitions=3)
    calls: list[Callable[[], object]] = [
        lambda: topic.partition(number),
        lambda: topic.append(b"x", partition=number),
        lambda: topic.append_many([b"x"], partition=number),
        lambda: list(topic.read(number)),
        lambda: list(log.read("t", partition=number)),
    ]
    for call in calls:
        with pytest.raises(UnknownTopicOrPartitionError) as caught:
            call()
        assert (caught.value.topic, caught.value.partition) == ("t", number)


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_a_partition_that_is_no_number_is_named(log: Log, durability: str) -> None:
    topic: Any = log.create_topic("t", durability=durability)
    with pytest.raises(TypeError, match="partition must be an int, not str"):
        topic.append(b"x", partition="0")
    with pytest.raises(TypeError, match="partition must be an int, not str"):
        topic.partition("0")
    assert values(topic) == []


def test_one_of_two_handles_that_create_the_same_topic_wins(tmp_path: Path) -> None:
    logs = [pylog.open(tmp_path) for _ in range(4)]
    errors = []

    def create(log: Log) -> None:
        for name in "abcdefgh":
            try:
                log.create_topic(name)
            except TopicExistsError:
                errors.append(name)
            log.topic(name).append(b"x")

    with tiny_switch_interval():
        run_threads(*(lambda log=log: create(log) for log in logs))

    assert len(errors) == 3 * 8
    for log in logs:
        assert [values(log.topic(name)) for name in log.topics()] == [[b"x"] * 4] * 8
        log.close()


# ---------------------------------------------------------------- routing


def test_a_key_goes_where_kafkas_java_client_puts_it(log: Log) -> None:
    from reference import murmur2

    topic = log.create_topic("t", partitions=7, durability="os")
    keys = [b"customer-%d" % n for n in range(50)] + [b""]
    one_by_one = [topic.append(b"", key=key).partition for key in keys]
    at_once = topic.append_many([b""] * len(keys), keys=keys).partitions.tolist()
    assert one_by_one == at_once == [(murmur2(key) & 0x7FFFFFFF) % 7 for key in keys]


def test_records_without_a_key_reach_all_partitions(log: Log) -> None:
    topic = log.create_topic("t", partitions=4, durability="os")
    used = {topic.append(bytes(1000)).partition for _ in range(500)}
    assert used == {0, 1, 2, 3}


def test_appended_rows_are_in_the_order_given(log: Log) -> None:
    topic = log.create_topic("t", partitions=3)
    keys = [b"%d" % (n % 11) for n in range(100)]
    headers = [[("n", b"%d" % n)] for n in range(100)]
    appended = topic.append_many(
        [b"%d" % n for n in range(100)], keys, headers, [1000 + n for n in range(100)]
    )

    assert len(appended) == 100
    for n, metadata in enumerate(appended):
        record = next(iter(topic.partition(metadata.partition).read(metadata.offset)))
        assert (record.value, record.key, record.headers) == (
            b"%d" % n,
            keys[n],
            (("n", b"%d" % n),),
        )
        assert record.timestamp == metadata.timestamp == 1000 + n


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": [b"a"] * 20 + ["text"], "keys": [b"%d" % n for n in range(21)]},
        {"values": [b"a"] * 21, "keys": [b"%d" % n for n in range(20)] + ["text"]},
        {"values": [b"a"] * 20, "keys": [b"1"] * 19},
        {"values": [b"a"] * 20, "keys": [b"%d" % n for n in range(20)], "headers": [None]},
        {"values": [b"a"] * 20, "keys": [b"%d" % n for n in range(20)], "timestamps": [1]},
        {"values": [b"a"] * 20, "keys": [b"%d" % n for n in range(20)], "timestamps": -1},
        {"values": [b"a", bytes(2 << 20)], "keys": [b"1", b"2"]},
    ],
)
def test_a_wrong_argument_leaves_all_partitions_unchanged(
    log: Log, arguments: dict[str, Any]
) -> None:
    topic = log.create_topic("t", partitions=4)
    with pytest.raises((TypeError, ValueError)):
        topic.append_many(**arguments)
    assert [partition.log_end_offset for partition in topic.partitions] == [0] * 4


def test_reading_all_partitions_needs_no_partition_and_takes_no_offsets(log: Log) -> None:
    topic = log.create_topic("t", partitions=3)
    for number in (2, 0, 2):
        topic.append(b"%d" % number, partition=number)
    assert values(topic) == [b"0", b"2", b"2"]
    assert [record.value for record in topic.read(2, 1)] == [b"2"]
    assert [record.value for record in log.read("t", partition=2, start=0, end=1)] == [b"2"]
    with pytest.raises(ValueError, match="partition"):
        list(topic.read(start=1))


# ---------------------------------------------------------------- deleting


def test_a_deleted_topic_is_unknown_and_its_files_are_gone(log: Log, tmp_path: Path) -> None:
    topic = log.create_topic("t", partitions=3)
    topic.append(b"x", partition=1)
    log.delete_topic("t")

    assert log.topics() == []
    assert not list(tmp_path.glob("t-*"))
    for call in (lambda: log.topic("t"), lambda: log.delete_topic("t")):
        with pytest.raises(UnknownTopicOrPartitionError):
            call()
    with pytest.raises((UnknownTopicOrPartitionError, ClosedError)):
        topic.append(b"x", partition=1)
    assert not list(tmp_path.glob("t-*"))


@pytest.mark.parametrize("is_attached", [True, False])
@pytest.mark.parametrize("is_created_again", [True, False])
def test_a_topic_deleted_elsewhere_is_unknown_here(
    tmp_path: Path, is_attached: bool, is_created_again: bool
) -> None:
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        one.create_topic("t").append(b"old")
        topic = other.topic("t")
        if is_attached:
            topic.append(b"older")
        one.delete_topic("t")
        if is_created_again:
            one.create_topic("t").append(b"new")

        for call in (
            lambda: topic.append(b"x"),
            lambda: topic.append_many([b"x"] * 2_000),
            lambda: topic.append_many([bytes(100_000)]),
        ):
            with pytest.raises(UnknownTopicOrPartitionError):
                call()
        if is_created_again:
            assert values(other.topic("t")) == [b"new"]
            assert other.topic("t").append(b"newer").offset == 1
        else:
            assert other.topics() == []
            with pytest.raises(UnknownTopicOrPartitionError):
                other.topic("t")
            assert not (tmp_path / "t-0").exists()


def test_a_handle_deletes_what_it_never_opened(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        one.create_topic("t", partitions=2).append(b"x", partition=0)
        other.delete_topic("t")
        assert one.topics() == []
        assert not list(tmp_path.glob("t-*"))


def test_a_follower_of_a_deleted_topic_does_not_wait_for_ever(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        one.create_topic("t").append(b"x")
        followed, ended = threading.Event(), threading.Event()

        def follow() -> None:
            records = other.topic("t").read(follow=True)
            assert next(records).value == b"x"
            followed.set()
            with pytest.raises(UnknownTopicOrPartitionError):
                next(records)
            ended.set()

        thread = in_thread(follow)
        followed.wait()
        one.delete_topic("t")
        thread.join()
        assert ended.is_set()


def test_creating_again_gives_an_empty_topic_with_an_id_of_its_own(
    log: Log, tmp_path: Path
) -> None:
    log.create_topic("t", durability="os").append(b"old")
    before = (tmp_path / "t-0" / "partition.metadata").read_text()
    log.delete_topic("t")
    topic = log.create_topic("t", partitions=2)

    assert topic.append(b"new", partition=0).offset == 0
    assert topic.config.durability == "fsync"
    assert (tmp_path / "t-0" / "partition.metadata").read_text() != before


@pytest.mark.parametrize("step", range(6))
def test_an_interrupted_deletion_is_finished_by_who_creates_the_name_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    class Interruption(BaseException):
        pass

    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", partitions=3)
        for number in range(3):
            topic.append(b"old", partition=number)

        engine = log._engine
        deleted, delete = [], engine.delete_partition

        def die_at_step(partition: Any, **how: Any) -> None:
            if len(deleted) == step:
                raise Interruption
            deleted.append(partition)
            delete(partition, **how)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "delete_partition", die_at_step)
            if step < 3:
                with pytest.raises(Interruption):
                    log.delete_topic("t")
                assert len(list(tmp_path.glob("t-*"))) == 3 - step
            else:
                log.delete_topic("t")
        assert log.topics() == []

    with pylog.open(tmp_path) as log:
        assert log.topics() == []
        with pytest.raises(UnknownTopicOrPartitionError):
            log.topic("t")
        topic = log.create_topic("t")
        assert topic.append(b"new").offset == 0
        assert values(topic) == [b"new"]
        assert [path.name for path in tmp_path.glob("t-*")] == ["t-0"]


def test_topics_come_and_go_while_others_append(tmp_path: Path) -> None:
    logs = [pylog.open(tmp_path) for _ in range(3)]
    stop = threading.Event()
    appended = [0, 0]

    def append(slot: int) -> None:
        while not stop.is_set():
            with contextlib.suppress(UnknownTopicOrPartitionError, ClosedError):
                logs[slot].topic("t").append(b"%d" % slot)
                appended[slot] += 1

    def come_and_go() -> None:
        try:
            for _ in range(30):
                topic = logs[2].create_topic("t", durability="os")
                topic.append(b"2")
                goal = sum(appended) + 5
                wait_until(lambda goal=goal: sum(appended) >= goal)
                logs[2].delete_topic("t")
        finally:
            stop.set()

    with tiny_switch_interval():
        run_threads(lambda: append(0), lambda: append(1), come_and_go)
    for log in logs:
        assert log.topics() == []
        log.close()
    assert sum(appended) >= 150


def test_a_topic_made_anew_while_its_old_handle_attaches_is_unknown_to_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Story: the old handle said that the new topic's files were corrupt.
    with pylog.open(tmp_path) as log, pylog.open(tmp_path) as other:
        log.create_topic("t").append(b"old")
        partition = other.topic("t").partition(0)

        def attach_late(attach: Callable[[], Attachment] = partition._attach) -> Attachment:
            log.delete_topic("t")
            log.create_topic("t").append(b"new")
            return attach()

        monkeypatch.setattr(partition, "_attach", attach_late)
        with pytest.raises(UnknownTopicOrPartitionError):
            partition.append(b"x")
        assert values(log.topic("t")) == [b"new"]


def test_a_topic_deleted_while_its_files_are_opened_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Story: who appended just then was told that a directory of the log was not there.
    with pylog.open(tmp_path) as log, pylog.open(tmp_path) as other:
        log.create_topic("t").append(b"old")
        partition = other.topic("t").partition(0)
        open_files = Attachment.open

        def open_late(attachment: Attachment) -> None:
            monkeypatch.setattr(Attachment, "open", open_files)
            log.delete_topic("t")
            attachment.open()

        monkeypatch.setattr(Attachment, "open", open_late)
        with pytest.raises(UnknownTopicOrPartitionError):
            partition.append(b"x")
        assert log.topics() == []


@pytest.mark.parametrize("is_created_again", [True, False])
def test_files_of_a_topic_deleted_elsewhere_are_let_go_and_their_space_is_free(
    tmp_path: Path, is_created_again: bool
) -> None:
    # Story: who had it open kept its files and maps, and the space on disk, until the log's end.
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        for _ in range(3):
            one.create_topic("t", partitions=2, durability="os").append(b"x", partition=1)
            assert values(one.topic("t")) == [b"x"]
            other.delete_topic("t")
            if is_created_again:
                other.create_topic("t")
            assert ("t" in one.topics()) == is_created_again
            wait_until(lambda: [p.topic for p in one._engine.attached] == ["__metadata"])
            assert one._engine.open_descriptors == 1
            if is_created_again:
                other.delete_topic("t")
