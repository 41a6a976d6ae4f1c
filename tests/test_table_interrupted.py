"""Tables with stores that fail, and with processes that are killed, at any point."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from processes import children
from stores import RESERVED, STORES, Committed, Recorder, Synced, cut
from tail_memory import wait_until

import pylog
from pylog import Log, Topic
from pylog.table import store as table_store


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path / "log") as log:
        yield log


@pytest.fixture
def topic(log: Log) -> Topic:
    return log.create_topic("t", durability="os", cleanup_policy="compact")


# ------------------------------------------------------------------ order, and interruptions


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Recorder, ["topic", "intent", "put", "put", "position"]),
        (Synced, ["topic", "sync", "intent", "sync", "put", "put", "sync", "position"]),
        (Committed, ["topic", "commit", "intent", "put", "put", "position", "commit"]),
    ],
)
def test_what_will_be_is_put_before_the_data_and_what_is_after_it(
    log: Log, topic: Topic, kind: type[Recorder], expected: list[str]
) -> None:
    topic.append_many([b"1", b"2", b"3"], keys=[b"a", b"b", b"a"])
    store = kind()
    table = log.table("t", store=store)
    table.refresh()
    assert store.done == expected
    table.refresh()
    assert store.done == expected


@pytest.mark.parametrize("kind", [Recorder, Synced, Committed])
def test_a_store_that_fails_anywhere_is_right_when_it_is_opened_again(
    log: Log, kind: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_store.StoreState, "read_bytes", 100)
    topic = log.create_topic("f", durability="os", segment_bytes=500)
    model: dict[bytes, bytes] = {}
    for turn in range(30):
        key, value = b"%d" % (turn % 4), None if turn % 3 == 2 else b"%d" % turn
        topic.append(value, key=key)
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
    failures = 0
    for step in range(1000):
        store = kind(fails_at=step)
        try:
            log.table("f", store=store).refresh()
        except RuntimeError:
            failures += 1
        else:
            break
        left: dict[bytes, bytes] = store.kept if isinstance(store, Committed) else dict(store)
        table = log.table("f", store=left)
        assert dict(table) == model
        assert table.offsets == {0: 30}
        table.check()
    assert failures > 20


def test_a_store_that_fails_once_is_right_when_it_is_asked_again(log: Log, topic: Topic) -> None:
    topic.append_many([b"1", b"2", b"3"], keys=[b"a", b"b", b"a"])
    for step in range(1, 5):
        store = Recorder(fails_at=step)
        table = log.table("t", store=store)
        with pytest.raises(RuntimeError, match="the store failed"):
            table[b"a"]
        store.fails_at = None
        assert dict(table) == {b"a": b"3", b"b": b"2"}
        table.check()


@pytest.mark.parametrize("kind", [Recorder, Synced, Committed])
def test_building_anew_can_be_interrupted_anywhere(
    tmp_path: Path, log: Log, topic: Topic, kind: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_store, "_CLEARED_AT_ONCE", 2)
    topic.append_many([b"old"] * 7, keys=[b"%d" % n for n in range(7)])
    filled: dict[bytes, bytes] = {}
    log.table("t", store=filled).refresh()
    log.delete_topic("t")
    log.create_topic("t", durability="os").append(b"new", key=b"0")
    failures = 0
    for step in range(100):
        store = kind()
        store.update(filled)
        if isinstance(store, Committed):
            store.kept = dict(filled)
        store.done.clear()
        store.fails_at = step
        try:
            log.table("t", store=store, if_stale="rebuild").refresh()
        except RuntimeError:
            failures += 1
        else:
            break
        left: MutableMapping[bytes, bytes] = (
            store.kept if isinstance(store, Committed) else dict(store)
        )
        # Whoever opens it next need not ask for it again, once it has begun.
        is_begun = b'"is_clearing": true' in left[RESERVED + b"topic"]
        if_stale: Any = "rebuild" if left == filled else "error"
        assert is_begun or if_stale == "rebuild" or len(left) < 4
        assert dict(log.table("t", store=left, if_stale=if_stale)) == {b"0": b"new"}
    assert failures > 9


# ------------------------------------------------------------------ killed


@pytest.mark.parametrize("kind", [Recorder, Synced])
def test_building_anew_that_failed_goes_on_with_the_next_look(
    tmp_path: Path, kind: type[Recorder]
) -> None:
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("t", durability="os")
        topic.append_many([b"old"] * 6, keys=[b"%d" % n for n in range(6)])
        filled: dict[bytes, bytes] = {}
        log.table("t", store=filled).refresh()
    cut(tmp_path, 0, [b"new"])
    with pylog.open(tmp_path / "log") as log:
        for step in range(20):
            store = kind()
            store.update(filled)
            store.fails_at = step
            table = log.table("t", store=store, if_stale="rebuild")
            try:
                table.refresh()
            except RuntimeError:
                store.fails_at = None
                assert dict(table) == {b"a": b"new"}
                assert len(table) == 1
                table.check()
            else:
                break
        assert step > 9


@pytest.mark.parametrize("kind", [Recorder, Synced, Committed])
def test_a_store_counts_right_after_it_failed(log: Log, topic: Topic, kind: type[Recorder]) -> None:
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    for step in range(2, 20):
        store = kind(fails_at=step)
        table = log.table("t", store=store, follow="never")
        try:
            table.refresh()
        except RuntimeError:
            state = table._replay.state
            assert len(state) == len(state.keys()) == len(state.copy())
        else:
            break
    assert step > 3


def put(topic: Topic, model: dict[bytes, bytes], pick: random.Random) -> None:
    """Append something, and to the model."""
    key, value = b"%d" % pick.randrange(40), pick.choice([None, b"", pick.randbytes(30)])
    topic.append(value, key=key)
    if value is None:
        model.pop(key, None)
    else:
        model[key] = value


def test_a_process_that_is_killed_while_it_fills_a_store_leaves_one_that_is_right(
    tmp_path: Path,
) -> None:
    pick = random.Random(5)
    model: dict[bytes, bytes] = {}
    topic_path = tmp_path / "log"
    with pylog.open(topic_path) as log:
        log.create_topic("t", durability="os", segment_bytes=1 << 16)

    def work() -> None:
        table_store.StoreState.read_bytes = 500  # many commits
        with pylog.open(topic_path) as log:
            table = log.table("t", store=STORES["sqlite3"](tmp_path))
            while True:
                table.refresh()

    def stored() -> int:
        store = STORES["sqlite3"](tmp_path)
        text = store.get(RESERVED + b"position 0")
        store.close()
        return 0 if text is None else int(json.loads(text)["reached"][0])

    with children() as start:
        for turn in range(8):
            before = stored()
            child = start(work)
            with pylog.open(topic_path) as log:
                for count in (1, pick.randrange(50, 200)):
                    for _ in range(count):
                        put(log.topic("t"), model, pick)
                    wait_until(lambda before=before: stored() > before)  # it is at work
            child.kill()
            store = STORES["sqlite3"](tmp_path)
            with pylog.open(topic_path) as log:
                table = log.table("t", store=store)
                if turn % 2:
                    assert dict(table) == model
                    table.check()
                else:
                    # As far as it says, and no farther.
                    assert table.refresh() == {0: log.topic("t").partition(0).high_watermark}
            store.close()
