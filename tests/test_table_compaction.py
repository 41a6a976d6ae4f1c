"""Tables of topics that are compacted meanwhile: right, or an error, and never silently wrong."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from stores import Recorder
from tail_memory import run_threads, tiny_switch_interval

import pylog
from pylog import Log, Topic, errors
from pylog.table import state as table_state

AT_ONCE = 0  # a delete_retention_ms: the second compaction drops a tombstone


@pytest.fixture
def topic(log: Log) -> Topic:
    return log.create_topic(
        "t", durability="os", cleanup_policy="compact", delete_retention_ms=AT_ONCE
    )


def compact(topic: Topic) -> None:
    for partition in topic.partitions:
        partition.compact()


def drop_tombstones(topic: Topic) -> None:
    """Compact twice, with something to do each time."""
    for _ in range(2):
        topic.append(b"", key=b"other")
        compact(topic)


def put(topic: Topic, model: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    topic.append(value, key=key)
    if value is None:
        model.pop(key, None)
    else:
        model[key] = value


def test_a_table_of_a_compacted_topic_holds_what_it_held_before(log: Log, topic: Topic) -> None:
    for turn in range(200):
        topic.append(b"%d" % turn if turn % 7 else None, key=b"%d" % (turn % 30))
    before = dict(log.table("t"))
    compact(topic)
    table = log.table("t")
    assert dict(table) == before
    assert table.offsets == {0: 200}
    assert sum(1 for _ in topic.read()) < 40


def test_a_deletion_that_was_dropped_unread_is_noticed(log: Log, topic: Topic) -> None:
    topic.append(b"1", key=b"a")
    table = log.table("t", follow="never")
    store: dict[bytes, bytes] = {}
    log.table("t", store=store).refresh()
    assert table[b"a"] == b"1"
    topic.append(None, key=b"a")
    drop_tombstones(topic)
    assert topic.partition(0).dropped_tombstones_end == 2
    before = dict(store)
    for one in (table, log.table("t", store=store)):
        with pytest.raises(errors.TombstonesDroppedError) as caught:
            one.refresh()
        assert (caught.value.position, caught.value.dropped_end) == (1, 2)
        assert one.offsets == {0: 1}
    assert store == before
    for given in ({}, {"store": store}):
        rebuilt = log.table("t", if_stale="rebuild", **given)  # type: ignore[arg-type]
        assert dict(rebuilt) == {b"other": b""}
    assert dict(log.table("t", store=store)) == {b"other": b""}


def test_deletions_that_were_dropped_before_a_table_began_are_no_loss(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(100):
        topic.append(b"%d" % turn, key=b"%d" % turn)
    topic.append(None, key=b"7")
    drop_tombstones(topic)
    monkeypatch.setattr("pylog.table.store.StoreState.read_bytes", 100)
    monkeypatch.setattr("pylog.table.state.MemoryState.read_bytes", 100)
    assert len(log.table("t")) == len(log.table("t", store={})) == 100
    assert topic.partition(0).dropped_tombstones_end == 101


def test_a_table_in_the_middle_of_its_first_replay_can_be_resumed_where_nothing_was_dropped_since(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(100):
        topic.append(b"%d" % turn, key=b"%d" % turn)
    topic.append(None, key=b"7")
    drop_tombstones(topic)
    monkeypatch.setattr("pylog.table.store.StoreState.read_bytes", 100)
    read, reads = pylog.Partition.read, 0

    def failing(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 5:
            raise OSError(5, "no luck")
        return read(*arguments)

    monkeypatch.setattr(pylog.Partition, "read", failing)
    store: dict[bytes, bytes] = {}
    with pytest.raises(OSError, match="no luck"):
        log.table("t", store=store).refresh()
    resumed = log.table("t", store=store)
    assert 0 < resumed.refresh()[0] == 103
    assert len(resumed) == 100


def test_deletions_that_are_dropped_during_the_first_read_are_no_loss(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic.append(b"1", key=b"a")
    topic.append(b"2", key=b"b")
    read = pylog.Partition.read
    is_dropped = False

    def reading(partition: pylog.Partition, *arguments: Any) -> Any:
        nonlocal is_dropped
        records = read(partition, *arguments)
        if not is_dropped:
            is_dropped = True
            topic.append(None, key=b"a")
            drop_tombstones(topic)
        return records

    monkeypatch.setattr(pylog.Partition, "read", reading)
    table = log.table("t", follow="never")
    assert table.refresh() == {0: 2}
    assert dict(table) == {b"b": b"2"}
    table.refresh()
    assert dict(table) == {b"b": b"2", b"other": b""}


@pytest.mark.parametrize("kind", ["memory", "store"])
def test_keys_that_came_in_before_the_first_read_failed_are_not_kept_when_they_are_gone(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    take = table_state.MemoryState._take

    def failing(*arguments: Any) -> int:
        take(*arguments)
        raise RuntimeError("the store failed")

    monkeypatch.setattr(table_state.MemoryState, "_take", failing)
    store = Recorder(fails_at=3)  # after the topic, the announcement and one key
    table = log.table("t", store=store if kind == "store" else None, follow="never")
    with pytest.raises(RuntimeError, match="the store failed"):
        table.refresh()
    assert kind == "memory" or b"a" in store
    monkeypatch.setattr(table_state.MemoryState, "_take", take)
    store.fails_at = None
    topic.append(None, key=b"a")
    drop_tombstones(topic)
    with pytest.raises(errors.TombstonesDroppedError):
        table.refresh()
    assert table.offsets == {0: 0}


@pytest.mark.parametrize("kind", ["memory", "store"])
@pytest.mark.parametrize("seed", range(3))
def test_a_table_is_right_or_says_that_it_is_not(
    tmp_path: Path, seed: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = random.Random(seed)
    print(f"seed {seed}")
    monkeypatch.setattr("pylog.table.store.StoreState.read_bytes", 150)
    monkeypatch.setattr("pylog.table.state.MemoryState.read_bytes", 150)
    model: dict[bytes, bytes] = {}
    right = stale = 0
    with pylog.open(tmp_path) as log:
        topic = log.create_topic(
            "t",
            durability="os",
            cleanup_policy="compact",
            segment_bytes=pick.choice([300, 1000, 1 << 20]),
            delete_retention_ms=AT_ONCE,
            compression_type=pick.choice(["producer", "gzip"]),
        )

        def new_table(store: Any) -> pylog.Table:
            return log.table("t", follow="never", store=store)

        # One looks often, one seldom; and one that begins anew each time.
        stores: list[Any] = [{}, {}] if kind == "store" else [None, None]
        tables = [new_table(store) for store in stores]
        for _ in range(80):
            for _ in range(pick.randrange(8)):
                value = pick.choice([None, pick.randbytes(pick.randrange(40))])
                put(topic, model, b"%d" % pick.randrange(12), value)
            if pick.randrange(4) == 0:
                compact(topic)
            assert dict(log.table("t")) == model
            for place, often in enumerate((2, 12)):
                if pick.randrange(often):
                    continue
                try:
                    tables[place].refresh()
                except errors.TombstonesDroppedError:
                    stale += 1
                    if kind == "store":
                        stores[place] = {}
                    tables[place] = new_table(stores[place])
                    tables[place].refresh()
                assert dict(tables[place]) == model
                tables[place].check()
                right += 1
                if pick.randrange(3) == 0 and kind == "store":
                    tables[place] = new_table(stores[place])
    assert right > 20
    assert stale > 0


@pytest.mark.parametrize("follow", ["read", "background"])
def test_a_table_follows_while_its_topic_is_compacted(
    log: Log, monkeypatch: pytest.MonkeyPatch, follow: Any
) -> None:
    topic = log.create_topic(
        "t", durability="os", cleanup_policy="compact", segment_bytes=4000, delete_retention_ms=0
    )
    monkeypatch.setattr("pylog.table.state.MemoryState.read_bytes", 300)
    table = log.table("t", follow=follow, if_stale="rebuild")
    model: dict[bytes, bytes] = {}
    turns, turn, looks, compactions = 150, 0, 0, 0
    is_done = False

    def append() -> None:
        nonlocal is_done, turn
        try:
            while not is_done and (turn < turns or min(compactions, looks) < 2):
                turn += 1
                put(topic, model, b"%d" % (turn % 13), b"%d" % turn if turn % 3 else None)
        finally:
            is_done = True

    def clean() -> None:
        nonlocal is_done, compactions
        try:
            while not is_done:
                compact(topic)
                compactions += 1
        finally:
            is_done = True

    def look() -> None:
        nonlocal is_done, looks
        try:
            while not is_done:
                looks += len(table) >= 0
        finally:
            is_done = True

    with tiny_switch_interval():
        run_threads(append, clean, look)
    assert table.wait_for(turn - 1)
    assert dict(table) == model == dict(log.table("t"))
    table.check()
