"""Tables whose keys and values outlive the process: resumed, or not of this topic any more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores import RESERVED, STORES, Committed, Recorder, Synced, cut
from tail_memory import wait_until

import pylog
from pylog import Log, Topic, errors


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path / "log") as log:
        yield log


@pytest.fixture
def topic(log: Log) -> Topic:
    return log.create_topic("t", durability="os", cleanup_policy="compact")


# ------------------------------------------------------------------ any store


@pytest.mark.parametrize("name", STORES)
def test_a_table_resumes_from_its_store_and_reads_only_what_is_new(
    tmp_path: Path, name: str
) -> None:
    reads: list[pylog.ReadEvent] = []
    for turn in range(3):
        with pylog.open(tmp_path / "log", on_read=reads.append) as log:
            topic = log.create_topic("t", durability="os", if_exists="ok")
            keys = [b"%d" % n for n in range(turn, turn + 5)]
            topic.append_many([b"%d" % turn] * 4 + [None], keys=keys)
            store = STORES[name](tmp_path)
            table = log.table("t", store=store)
            reads.clear()
            expected = {b"%d" % n: b"%d" % min(n, turn) for n in range(turn + 4)}
            assert dict(table) == expected
            # The last record that it has seen is looked at: it tells whether the topic was cut.
            looked = [(5 * turn - 1, 1)] if turn else []
            assert [(one.first_offset, one.records) for one in reads if one.topic == "t"] == [
                *looked,
                (5 * turn, 5),
            ]
            assert (len(table), table.offsets) == (turn + 4, {0: 5 * turn + 5})
            assert sorted(table) == sorted(expected)
            table.check()
            store.close()


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("seed", range(2))
def test_a_table_with_a_store_agrees_with_a_dict_through_anything(
    tmp_path: Path, name: str, seed: int
) -> None:
    pick = random.Random(seed)
    print(f"seed {seed}")
    model: dict[bytes, bytes] = {}
    store = STORES[name](tmp_path)
    log = pylog.open(tmp_path / "log")
    log.create_topic("t", partitions=2, durability="os", segment_bytes=2000)
    for _ in range(25):
        topic = log.topic("t")
        table = log.table("t", store=store, follow=pick.choice(["read", "never", "background"]))
        for _ in range(pick.randrange(4)):
            key = pick.choice([b"", RESERVED, RESERVED + b"topic"] + [b"%d" % n for n in range(9)])
            value = pick.choice([None, pick.randbytes(pick.randrange(90))])
            topic.append(value, key=key)
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
            table.refresh()
            assert table.get(key) == value
        assert dict(table) == model
        assert len(table) == len(model)
        table.check()
        table.close()
        if pick.randrange(3) == 0:
            log.close()
            store.close()
            store = STORES[name](tmp_path)
            log = pylog.open(tmp_path / "log")
    log.close()
    store.close()


def test_a_follower_in_the_background_fills_a_store(tmp_path: Path, log: Log, topic: Topic) -> None:
    store = STORES["sqlite3"](tmp_path)
    table = log.table("t", store=store, follow="background")
    assert len(table) == 0
    topic.append(b"1", key=b"a")
    wait_until(lambda: table.offsets == {0: 1})
    assert table[b"a"] == store[b"a"] == b"1"
    log.close()
    store.close()


def test_keys_that_look_like_the_positions_are_users_keys(log: Log, topic: Topic) -> None:
    keys = [RESERVED, RESERVED + b"topic", RESERVED + b"position 0", RESERVED + b"=x", b"x"]
    topic.append_many([b"%d" % n for n in range(5)], keys=keys)
    store: dict[bytes, bytes] = {}
    table = log.table("t", store=store)
    assert dict(table) == {key: b"%d" % n for n, key in enumerate(keys)}
    assert sorted(table) == sorted(keys)
    assert all(table[key] == b"%d" % n and key in table for n, key in enumerate(keys))
    topic.append_many([None] * 5, keys=keys)
    assert (dict(table), len(table)) == ({}, 0)
    assert set(store) == {RESERVED + b"topic", RESERVED + b"position 0"}


def test_what_is_no_key_is_not_in_the_table(log: Log, topic: Topic) -> None:
    topic.append(b"1", key=b"a")
    table = log.table("t", store={})
    assert "a" not in table
    with pytest.raises(KeyError):
        table["a"]  # type: ignore[index]


def test_a_key_that_is_missing_is_named_as_it_was_asked_for(log: Log, topic: Topic) -> None:
    with pytest.raises(KeyError) as caught:
        log.table("t", store={})[RESERVED]
    assert caught.value.args == (RESERVED,)


def test_changes_are_told_of_with_the_values_that_the_store_had(log: Log, topic: Topic) -> None:
    told: list[Any] = []
    store: dict[bytes, bytes] = {}
    topic.append(b"1", key=b"a")
    log.table("t", store=store).refresh()
    topic.append_many([b"2", None, b"3"], keys=[b"a", b"a", b"b"])
    log.table("t", store=store, on_change=told.append).refresh()
    assert [(change.key, change.old, change.new) for change in told] == [
        (b"a", b"1", b"2"),
        (b"a", b"2", None),
        (b"b", None, b"3"),
    ]


# ------------------------------------------------------------------ not the topic's


def test_a_store_that_holds_something_else_is_refused_and_left_alone(
    log: Log, topic: Topic
) -> None:
    store = {b"mine": b"precious"}
    for if_stale in ("error", "rebuild"):
        with pytest.raises(errors.InvalidConfigurationError, match="an empty mapping"):
            log.table("t", store=store, if_stale=if_stale)  # type: ignore[arg-type]
    assert store == {b"mine": b"precious"}


def test_a_store_of_another_topic_is_refused_and_left_alone(log: Log, topic: Topic) -> None:
    log.create_topic("other", durability="os").append(b"1", key=b"a")
    store: dict[bytes, bytes] = {}
    log.table("other", store=store).refresh()
    before = dict(store)
    for if_stale in ("error", "rebuild"):
        with pytest.raises(errors.InvalidConfigurationError, match="of topic 't', not of 'other'"):
            log.table("t", store=store, if_stale=if_stale)  # type: ignore[arg-type]
    assert store == before


@pytest.mark.parametrize(
    "change",
    [
        {RESERVED + b"topic": b"?"},
        {RESERVED + b"topic": b"[]"},
        {RESERVED + b"topic": b'{"version": 2}'},
        {RESERVED + b"position 0": b"{"},
        {RESERVED + b"position 0": b'{"version": 1, "reached": [1], "reaching": [1, null]}'},
        {RESERVED + b"position 0": b'{"version": 1, "reached": [true, null], "reaching": 1}'},
        {RESERVED + b"position 0": b'{"version": 2, "reached": [1, null], "reaching": [1, null]}'},
    ],
)
def test_a_store_that_cannot_be_understood_is_refused(
    log: Log, topic: Topic, change: dict[bytes, bytes]
) -> None:
    topic.append(b"1", key=b"a")
    store: dict[bytes, bytes] = {}
    log.table("t", store=store).refresh()
    store.update(change)
    before = dict(store)
    with pytest.raises(errors.CorruptionError):
        log.table("t", store=store, if_stale="rebuild").refresh()
    assert store == before


@pytest.mark.parametrize("kind", [dict, Synced, Committed])
def test_a_topic_that_was_made_anew_is_noticed(log: Log, topic: Topic, kind: Any) -> None:
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    store = kind()
    log.table("t", store=store).refresh()
    log.delete_topic("t")
    log.create_topic("t", durability="os").append_many([b"3", b"4", b"5"], keys=[b"b", b"c", b"d"])
    before = dict(store)
    with pytest.raises(errors.TopicRecreatedError) as caught:
        log.table("t", store=store)
    assert caught.value.topic_id == log.topic("t").topic_id.hex != caught.value.stored_id
    assert store == before
    table = log.table("t", store=store, if_stale="rebuild")
    assert dict(table) == {b"b": b"3", b"c": b"4", b"d": b"5"}
    assert dict(log.table("t", store=store)) == dict(table)


def test_records_that_were_deleted_unread_are_noticed(log: Log) -> None:
    topic = log.create_topic("d", durability="os", cleanup_policy="compact,delete")
    store: dict[bytes, bytes] = {}
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    log.table("d", store=store).refresh()
    topic.append_many([None, b"3"], keys=[b"a", b"c"])
    topic.delete_records({0: 3})
    before = dict(store)
    with pytest.raises(errors.RecordsMissedError):
        log.table("d", store=store).refresh()
    assert store == before
    assert dict(log.table("d", store=store, if_stale="rebuild")) == {b"c": b"3"}
    assert dict(log.table("d", store=store)) == {b"c": b"3"}


@pytest.mark.parametrize("others", [0, 1, 2, 3, 9])
def test_a_topic_that_was_cut_is_noticed_also_when_it_has_grown_again(
    tmp_path: Path, others: int
) -> None:
    store: dict[bytes, bytes] = {}
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("t", durability="os")
        for turn in range(6):
            topic.append(b"%d" % turn, key=b"%d" % turn)
        log.table("t", store=store).refresh()
    cut(tmp_path, 4, [b"other"] * others)
    before = dict(store)
    with pylog.open(tmp_path / "log") as log:
        with pytest.raises(errors.TopicTruncatedError) as caught:
            log.table("t", store=store).refresh()
        assert (caught.value.position, caught.value.log_end_offset) == (6, 4 + others)
        assert store == before
        table = log.table("t", store=store, if_stale="rebuild")
        expected = {b"%d" % n: b"%d" % n for n in range(4)} | ({b"a": b"other"} if others else {})
        assert dict(table) == expected


def test_a_topic_that_was_cut_to_where_the_table_stands_goes_on(tmp_path: Path) -> None:
    store: dict[bytes, bytes] = {}
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("t", durability="os")
        for turn in range(6):
            if turn == 4:
                log.table("t", store=store).refresh()
            topic.append(b"%d" % turn, key=b"%d" % turn)
    cut(tmp_path, 4, [b"other"])
    with pylog.open(tmp_path / "log") as log:
        expected = {b"%d" % n: b"%d" % n for n in range(4)} | {b"a": b"other"}
        assert dict(log.table("t", store=store)) == expected


def test_records_that_came_into_a_store_before_it_was_interrupted_and_were_cut_are_noticed(
    tmp_path: Path,
) -> None:
    store = Recorder()
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("t", durability="os")
        for turn in range(6):
            if turn == 4:
                log.table("t", store=store).refresh()
                store.fails_at = len(store.done) + 2  # the announcement and one key
            topic.append(b"%d" % turn, key=b"%d" % turn)
        with pytest.raises(RuntimeError):
            log.table("t", store=store).refresh()
    left = dict(store)
    assert b"4" in left and b"5" not in left
    cut(tmp_path, 4, [b"other", b"other"])
    with pylog.open(tmp_path / "log") as log, pytest.raises(errors.TopicTruncatedError):
        log.table("t", store=left).refresh()
