"""A log as a user holds it: open and close, topics and their ends, many partitions, few files."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_files import CountingFiles
from tail_memory import in_thread, run_threads, tiny_switch_interval, wait_until

import pylog
from pylog import Log, Topic
from pylog.engine import LOCK_NAME, Engine
from pylog.errors import (
    ClosedError,
    CorruptFileError,
    IncompatibleFormatError,
    InvalidConfigurationError,
    InvalidTopicError,
    NetworkFileSystemError,
    TopicExistsError,
    UnknownSettingError,
    UnknownTopicOrPartitionError,
)
from pylog.storage.files import OsFiles

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path) as log:
        yield log


def log_on(path: Path, **how: Any) -> Log:
    engine = Engine(str(path), **how)
    engine.open(create=True)
    return Log(engine)


def values(topic: Topic) -> list[bytes | None]:
    return [record.value for record in topic.read()]


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- open and close


def test_open_makes_the_directory_and_its_parents(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "a" / "b") as log:
        assert log.path == str(tmp_path / "a" / "b")
        assert log.topics() == []
    assert (tmp_path / "a" / "b" / "meta.properties").exists()


def test_open_takes_a_string_or_a_path(tmp_path: Path) -> None:
    for path in (tmp_path, str(tmp_path)):
        with pylog.open(path) as log:
            assert log.path == str(tmp_path)


def test_without_create_a_missing_log_is_an_error_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pylog.open(tmp_path / "none", create=False)
    with pytest.raises(FileNotFoundError) as caught:
        pylog.open(tmp_path, create=False)
    assert caught.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_there_after_a_reopening(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t").append(b"x")
    with pylog.open(tmp_path, create=False) as log:
        assert log.topics() == ["t"]
        assert values(log.topic("t")) == [b"x"]


def test_close_is_idempotent(tmp_path: Path) -> None:
    log = pylog.open(tmp_path)
    log.close()
    log.close()
    with log:
        assert "closed" in repr(log)


def test_what_a_log_handed_out_keeps_it_open(tmp_path: Path) -> None:
    topic = pylog.open(tmp_path).create_topic("t")
    gc.collect()
    assert topic.append(b"x").offset == 0
    partition = pylog.open(tmp_path).topic("t").partition(0)
    gc.collect()
    assert partition.append(b"y").offset == 1
    assert [record.value for record in pylog.open(tmp_path).read("t")] == [b"x", b"y"]


def test_the_end_of_the_interpreter_closes_the_log(tmp_path: Path) -> None:
    code = "import sys, pylog; t = pylog.open(sys.argv[1]).create_topic('t', durability='interval')"
    subprocess.run(
        [sys.executable, "-c", code + "; t.append(b'x')", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=30,
    )
    assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()


def test_an_error_in_the_with_block_passes_through_and_closes(tmp_path: Path) -> None:
    with pytest.raises(KeyError), pylog.open(tmp_path) as log:
        topic = log.create_topic("t")
        raise KeyError
    with pytest.raises(ClosedError):
        topic.append(b"x")


def test_a_log_may_be_open_twice_in_one_process(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as one:
        with pylog.open(tmp_path) as other:
            mine, theirs = one.create_topic("t"), other.topic("t")
            for turn in range(10):
                (mine if turn % 2 else theirs).append(b"%d" % turn)
            assert values(mine) == values(theirs) == [b"%d" % turn for turn in range(10)]
        assert mine.append(b"10").offset == 10
    assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()


def test_a_later_format_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    pylog.open(tmp_path).close()
    properties = tmp_path / "meta.properties"
    properties.write_text(properties.read_text().replace("format=1", "format=2"))
    before = tree(tmp_path)
    with pytest.raises(IncompatibleFormatError) as caught:
        pylog.open(tmp_path)
    assert (caught.value.found, caught.value.supported) == (2, 1)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["", "garbage", "pylog.format=1\n"])
def test_damaged_properties_are_refused_and_nothing_changed(tmp_path: Path, text: str) -> None:
    pylog.open(tmp_path).close()
    (tmp_path / "meta.properties").write_text(text)
    before = tree(tmp_path)
    with pytest.raises(CorruptFileError, match=r"meta\.properties"):
        pylog.open(tmp_path)
    assert tree(tmp_path) == before


def test_a_network_file_system_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    class Nfs(OsFiles):
        def file_system_type(self, path: str) -> str:
            return "nfs4"

    with pytest.raises(NetworkFileSystemError, match="nfs4") as caught:
        Engine(str(tmp_path / "d"), file_system=Nfs()).open(create=True)
    assert caught.value.errno == errno.ENOTSUP
    assert caught.value.filename == str(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_the_file_system_of_a_directory_is_found_in_the_mount_table(tmp_path: Path) -> None:
    assert OsFiles().file_system_type("/proc/self") == "proc"
    assert OsFiles().file_system_type(str(tmp_path)) not in ("proc", "unknown")


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    def descriptors() -> set[str]:
        gc.collect()
        return {
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        }

    before = descriptors()
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", partitions=3, segment_bytes=100)
        for _ in range(30):
            topic.append(bytes(30))
        values(topic)
        log.delete_topic("t")
    del log, topic
    assert descriptors() <= before


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
    log.create_topic(name, partitions=100_000).append(b"v", partition=99_999)
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
        assert followed.wait(10)
        one.delete_topic("t")
        thread.join(10)
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
            try:
                logs[slot].topic("t").append(b"%d" % slot)
                appended[slot] += 1
            except (UnknownTopicOrPartitionError, ClosedError):
                pass

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


# ---------------------------------------------------------------- many partitions, few files


def test_a_topic_of_100_000_partitions_makes_directories_when_they_are_used(
    tmp_path: Path,
) -> None:
    files = CountingFiles(OsFiles())
    with log_on(tmp_path, file_system=files) as log:
        log.create_topic("big", partitions=100_000)
        files.made = 0
        assert log.topic("big").append(b"x", partition=77_777).partition == 77_777
        log.topic("big").append(b"y", key=b"k")
        assert files.made == 2
    assert len(list(tmp_path.glob("big-*"))) == 2
    with pylog.open(tmp_path) as log:
        assert log.topic("big").partition(77_777).log_end_offset == 1
        assert log.topic("big").partition(99_999).log_end_offset == 0
    assert len(list(tmp_path.glob("big-*"))) == 2


def test_partitions_open_lazily(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", partitions=50)
        for number in range(50):
            topic.append(b"x", partition=number)
    with pylog.open(tmp_path) as log:
        topic = log.topic("t")
        assert not any(partition.is_attached for partition in topic.partitions)
        topic.append(b"y", partition=3)
        assert [p.number for p in topic.partitions if p.is_attached] == [3]


@pytest.mark.parametrize("durability", ["os", "fsync", "interval"])
def test_few_open_partitions_serve_many_from_several_threads(
    tmp_path: Path, durability: str
) -> None:
    partitions, each, threads = 20, 3, 4
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with log_on(tmp_path, max_open_partitions=4) as log:
        topic = log.create_topic(
            "t", partitions=partitions, durability=durability, segment_bytes=400, flush_ms=5
        )
        taken: list[dict[tuple[int, int], bytes]] = [{} for _ in range(threads)]

        def work(slot: int) -> None:
            order = random.Random(seed + slot)
            for turn in range(each * partitions):
                number = turn % partitions if slot else order.randrange(partitions)
                partition = topic.partition(number)
                value = b"%d %d" % (slot, turn)
                offset = topic.append(value, partition=number).offset
                assert (number, offset) not in taken[slot]
                taken[slot][number, offset] = value
                if durability == "fsync":
                    assert partition.high_watermark > offset
                assert next(iter(partition.read(offset))).value == value
                partition.flush()
                assert partition.durable_offset > offset
                assert partition.wait(offset, timeout=10)

        with tiny_switch_interval():
            run_threads(*(lambda slot=slot: work(slot) for slot in range(threads)))
        wait_until(lambda: sum(p.is_attached for p in topic.partitions) <= 4)

        expected = {place: value for mine in taken for place, value in mine.items()}
        assert len(expected) == threads * each * partitions
        stored = {(r.partition, r.offset): r.value for r in topic.read()}
        assert stored == expected
        for partition in topic.partitions:
            partition.check()
    with pylog.open(tmp_path) as log:
        stored = {(r.partition, r.offset): r.value for r in log.topic("t").read()}
    assert stored == expected


def test_a_sleeping_reader_wakes_after_its_partition_was_suspended(tmp_path: Path) -> None:
    with log_on(tmp_path, max_open_partitions=2) as log:
        topic = log.create_topic("t", partitions=12)
        topic.append(b"0", partition=0)
        seen: list[bytes | None] = []
        thread = in_thread(
            lambda: seen.extend(
                record.value for record in itertools.islice(topic.read(0, follow=True), 2)
            )
        )
        wait_until(lambda: seen == [b"0"])
        for _ in range(3):
            for number in range(1, 12):
                topic.append(b"x", partition=number)
        wait_until(lambda: not topic.partition(0)._attachment or topic.partition(0).suspend())
        topic.append(b"1", partition=0)
        thread.join(10)
        assert seen == [b"0", b"1"]


def test_suspended_partitions_are_ended_cleanly(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="os").partition(0)
        partition.append(b"x")
        assert partition.suspend()
        assert not partition.is_attached
        assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()
        assert partition.append(b"y").offset == 1
        assert partition.is_attached


# ---------------------------------------------------------------- interval


def test_interval_syncs_in_the_background(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="interval", flush_ms=1).partition(0)
        for turn in range(5):
            partition.append(b"x")
            assert partition.high_watermark == turn + 1
            wait_until(lambda turn=turn: partition.durable_offset == turn + 1)


def test_interval_does_not_sync_before_its_time(tmp_path: Path) -> None:
    files = CountingFiles(OsFiles())
    with log_on(tmp_path, file_system=files) as log:
        partition = log.create_topic("t", durability="interval", flush_ms=3_600_000).partition(0)
        partition.append(b"x")
        files.data_syncs = 0
        for _ in range(100):
            partition.append(b"x")
        assert files.data_syncs == 0
        assert partition.durable_offset == 0
        assert partition.flush() == 101
        assert partition.durable_offset == 101


def test_rolled_segments_of_durability_os_are_synced_soon(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="os", segment_bytes=200).partition(0)
        for _ in range(10):
            partition.append(bytes(50))
        marks = partition.marks()
        assert marks is not None and marks.base_offset > 0
        wait_until(lambda: partition.durable_offset >= marks.base_offset)


def test_no_thread_runs_before_there_is_work_for_it(tmp_path: Path) -> None:
    before = threading.active_count()
    with pylog.open(tmp_path) as log:
        log.create_topic("t").append(b"x")
        assert threading.active_count() == before
        log.create_topic("u", durability="interval").append(b"x")
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_the_lock_file_is_a_page_and_private(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "d"):
        pass
    assert (tmp_path / "d" / LOCK_NAME).stat().st_size == 4096
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "d" / LOCK_NAME).stat().st_mode & 0o777 == 0o600
