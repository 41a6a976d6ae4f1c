"""A table's keys and values in a user's mapping, with the position that they were read up to.

Knows how a store is kept consistent with the position in it, and whose store it is.  Must not know
when to read, nor who looks.

Locks: the store is only touched under the lock that this is given.
"""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Final

from pylog._native import Records
from pylog.errors import CorruptionError, InvalidConfigurationError, TopicRecreatedError
from pylog.storage.partition import Partition
from pylog.table.position import Point, Position, mark_of, parse_position
from pylog.table.state import TableState

Store = MutableMapping[bytes, bytes]

_STORE_READ_BYTES: Final = 4 << 20  # what is put between two commits of a store (guessed)
# What is not a user's key in a store begins with this; users' keys that do get it once more.
_RESERVED: Final = b"\x00pylog\x00"
_TOPIC: Final = _RESERVED + b"topic"
_POSITION: Final = _RESERVED + b"position "  # and the partition's number
_ESCAPED: Final = _RESERVED + b"="
_VERSION: Final = 1
_CLEARED_AT_ONCE: Final = 10_000  # keys that are held in memory while a store is cleared (guessed)


def _position_key(number: int) -> bytes:
    return _POSITION + b"%d" % number


def _stored_key(key: bytes) -> bytes:
    return _ESCAPED + key if key.startswith(_RESERVED) else key


def _is_users(stored_key: bytes) -> bool:
    return not stored_key.startswith(_RESERVED) or stored_key.startswith(_ESCAPED)


def _users_key(stored_key: bytes) -> bytes:
    return stored_key.removeprefix(_ESCAPED)


class StoreState(TableState):
    """A user's mapping, which also keeps the topic's id and the position in each partition.

    What is put is first announced: a position says from where to where.  Then comes the data, then
    a position that says that it is there.  A store that has `commit` makes all three durable at
    once, when that is called at the end; one that has `sync` is told to between any two of them; of
    one that has neither it is believed that it keeps the order.
    """

    read_bytes = _STORE_READ_BYTES

    def __init__(
        self, store: Store, *, topic: str, topic_id: uuid.UUID, lock: threading.RLock
    ) -> None:
        if not (hasattr(store, "get") and hasattr(store, "__setitem__")):
            raise TypeError(f"store must be a mutable mapping, not {type(store).__name__}")
        super().__init__()
        self._store = store
        self._topic = topic
        self._topic_id = topic_id.hex
        self._lock = lock
        self._positions: dict[int, Position] = {}
        self._own_keys: set[bytes] = set()  # of those in the store that are not users'
        self._is_clearing = False
        self._commit: Callable[[], object] | None = getattr(store, "commit", None)
        self._sync: Callable[[], object] | None = getattr(store, "sync", None)

    def open(self) -> None:
        """Look whose store it is, and make an empty one this topic's.

        Raises InvalidConfigurationError for one that holds something else, CorruptionError for one
        that cannot be understood, TopicRecreatedError, and what the store raises.
        """
        with self._lock:
            text = self._store.get(_TOPIC)
            if text is None:
                if next(iter(self._store), None) is not None:
                    raise self._refused("an empty mapping, or one that a table filled")
                self._put_topic(is_clearing=False)
                return
            topic, topic_id, self._is_clearing = _parse_topic(text)
            if topic != self._topic:
                raise self._refused(f"a mapping of topic {self._topic!r}, not of {topic!r}")
            self._own_keys.add(_TOPIC)
            if self._is_clearing:
                self._clear()  # somebody asked for it, and died
            elif topic_id != self._topic_id:
                raise TopicRecreatedError(self._topic, topic_id, self._topic_id)

    def _refused(self, allowed: str) -> InvalidConfigurationError:
        # By its type: how it shows itself may be by what is in it.
        return InvalidConfigurationError("store", type(self._store).__name__, allowed)

    def _put_topic(self, *, is_clearing: bool) -> None:
        fields = {
            "version": _VERSION,
            "topic": self._topic,
            "id": self._topic_id,
            "is_clearing": is_clearing,
        }
        self._put_own(_TOPIC, json.dumps(fields).encode())
        self._sync_order()
        self._end_transaction()

    def _put_own(self, key: bytes, value: bytes) -> None:
        self._store[key] = value
        self._own_keys.add(key)

    def _sync_order(self) -> None:
        """Keep what was put apart from what is put next, if only a sync does."""
        if self._commit is None and self._sync is not None:
            self._sync()

    def _end_transaction(self) -> None:
        if self._commit is not None:
            self._commit()

    def begin(self, partition: Partition) -> int:
        """Return the offset to read from next; see TableState.begin."""
        if self._is_clearing:
            with self._lock:
                self._clear()  # the last try failed
        return super().begin(partition)

    def _resume(self, partition: Partition) -> int:
        key = _position_key(partition.number)
        text = self._store.get(key)
        if text is None:
            return super()._resume(partition)
        self._own_keys.add(key)
        position = parse_position(text)
        position.check(partition)
        self._positions[partition.number] = position
        self._dropped_ends[partition.number] = position.dropped_end
        return position.reached.offset

    def _take(self, number: int, records: Records) -> int:
        """Put what the records change, and then the position behind them."""
        changes: dict[bytes, bytes | None] = {}
        _, keyless, last = records.fold(changes, True)
        known = self._positions.get(number)
        before = Point(self.offsets[number], None) if known is None else known.reached
        mark = before.last if last is None else mark_of(last)
        after = Point(records.next_offset, mark)
        dropped_end = self._dropped_ends[number]
        with self._lock:
            if changes:
                self._put_position(number, Position(before, after, dropped_end))
                self._sync_order()
                self._put(changes)
                self._sync_order()
            position = Position(after, after, dropped_end)
            self._put_position(number, position)
            self._end_transaction()
            self._positions[number] = position
        return keyless

    def _put(self, changes: dict[bytes, bytes | None]) -> None:
        store = self._store
        for key, value in changes.items():
            stored_key = _stored_key(key)
            if value is not None:
                store[stored_key] = value
            elif stored_key in store:
                del store[stored_key]

    def _put_position(self, number: int, position: Position) -> None:
        self._put_own(_position_key(number), position.encode())

    def restarted(self) -> StoreState:
        """Empty the store; who looks waits until it is full again."""
        with self._lock:
            self._put_topic(is_clearing=True)
            self._is_clearing = True
            self._clear()
        return self

    def _clear(self) -> None:
        """Remove all but the name of the topic, which goes on saying so until it is done."""
        while True:
            others = (key for key in self._store if key != _TOPIC)
            keys = list(itertools.islice(others, _CLEARED_AT_ONCE))
            if not keys:
                break
            for key in keys:
                del self._store[key]
            self._end_transaction()
        self._sync_order()
        self._put_topic(is_clearing=False)
        self._is_clearing = False
        self._own_keys = {_TOPIC}
        self._positions.clear()
        self._untouched.clear()
        self._dropped_ends.clear()
        self.offsets = {}

    def value(self, key: bytes) -> bytes:
        """Return the value of a key.  Raises KeyError, and what the store raises."""
        if not isinstance(key, bytes):
            raise KeyError(key)
        with self._lock:
            try:
                return self._store[_stored_key(key)]
            except KeyError:
                raise KeyError(key) from None  # not as it is called in the store

    def _stored_keys(self) -> Iterator[bytes]:
        return (key for key in self._store if _is_users(key))

    def keys(self) -> list[bytes]:
        """Return all keys of one moment; raises what the store raises."""
        with self._lock:
            return [_users_key(key) for key in self._stored_keys()]

    def copy(self) -> dict[bytes, bytes]:
        """Return all keys and values of one moment; raises what the store raises."""
        with self._lock:
            return {_users_key(key): self._store[key] for key in list(self._stored_keys())}

    def __len__(self) -> int:
        with self._lock:
            return len(self._store) - len(self._own_keys)

    def check(self) -> None:
        """Assert every invariant; reads all of the store's keys."""
        super().check()
        for number, position in self._positions.items():
            assert position.reached.offset == self.offsets[number], (position, self.offsets)

    def after_fork(self, lock: threading.RLock) -> None:
        """In a forked child: use this lock."""
        self._lock = lock


def _parse_topic(text: bytes) -> tuple[str, str, bool]:
    """Return (topic, id, whether the store is being cleared).  Raises CorruptionError."""
    try:
        fields: dict[str, Any] = json.loads(text)
        if fields["version"] != _VERSION:
            raise ValueError(f"version {fields['version']!r}")
        return str(fields["topic"]), str(fields["id"]), fields["is_clearing"] is True
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptionError(f"a table's topic in its store: {error}") from error
