"""What writers of keyed records were told, and what readers may then see of a compacted topic.

Lives are made before any process is forked, in memory that all of them share: one writes, all look.
Each record tells in a header which life wrote it in which turn, so a tombstone does, too.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator

from processes import Numbers, value_of

from pylog import Partition, Record

KEYS = 40  # of each slot
_IDENTITY = struct.Struct(">II")
# (life, turn): of one slot, what is greater is newer.
Identity = tuple[int, int]


class Life:
    """One life of a writer: appends turns 0, 1, 2, ... to the keys of its slot, until killed."""

    def __init__(self, number: int, slot: int, turns: int) -> None:
        self.number = number
        self.slot = slot
        self._numbers = Numbers(2 + turns)

    @property
    def acknowledged(self) -> int:
        """How many turns were acknowledged."""
        return self._numbers[0]

    @property
    def started(self) -> int:
        """How many were begun: what lies between may or may not be there."""
        return self._numbers[1]

    @property
    def is_full(self) -> bool:
        """Whether there is hardly room to note more, so that its writer may have ended."""
        return self.started > len(self._numbers) - 200

    def offset(self, turn: int) -> int:
        return self._numbers[2 + turn]

    def key(self, turn: int) -> bytes:
        # Few keys get most of the turns, and no key is reached by a pattern of turns.
        mixed = zlib.crc32(_IDENTITY.pack(self.number, turn))
        return b"%d.%d" % (self.slot, min(mixed % KEYS, (mixed >> 8) % KEYS))

    def value(self, turn: int) -> bytes | None:
        is_tombstone = zlib.crc32(_IDENTITY.pack(turn, self.number)) % 6 == 0
        return None if is_tombstone else value_of(self.number, turn)

    def append_all(
        self, partition: Partition, *, many: int = 1, pace: Callable[[], object] = bool
    ) -> None:
        """Append turn after turn, each when `pace` returns, until there is no room to note them."""
        numbers = self._numbers
        for turn in range(0, len(numbers) - 2 - many, many):
            pace()
            turns = range(turn, turn + many)
            numbers[1] = turns.stop
            appended = partition.append_many(
                [self.value(one) for one in turns],
                keys=[self.key(one) for one in turns],
                headers=[[("by", _IDENTITY.pack(self.number, one))] for one in turns],
            )
            for one, metadata in zip(turns, appended, strict=True):
                numbers[2 + one] = metadata.offset
            numbers[0] = turns.stop


class Ledgers:
    """All lives there will be.  Slots take turns: the lives of one slot follow each other."""

    def __init__(self, *, lives: int, slots: int, turns: int, drops_tombstones: bool) -> None:
        """drops_tombstones: whether compaction may drop them while this is looked at."""
        self.lives = [Life(number, number % slots, turns) for number in range(lives)]
        self.slots = slots
        self._drops_tombstones = drops_tombstones

    @property
    def acknowledged(self) -> int:
        return sum(life.acknowledged for life in self.lives)

    def check_record(self, record: Record) -> Identity:
        """Assert that the record is one that was appended, where it was; return which."""
        ((_, identity),) = record.headers
        number, turn = _IDENTITY.unpack(identity or b"")
        life = self.lives[number]
        assert turn < life.started
        assert (record.key, record.value) == (life.key(turn), life.value(turn))
        if turn < life.acknowledged:
            assert record.offset == life.offset(turn)
        return number, turn

    def identities(self, slot: int, key: bytes, since: Identity) -> Iterator[Identity]:
        """Yield the appends to a key that were begun, from `since` on."""
        for number in range(since[0], len(self.lives), self.slots):
            life = self.lives[number]
            for turn in range(since[1] if number == since[0] else 0, life.started):
                if life.key(turn) == key:
                    yield number, turn

    def may_be_gone(self, key: bytes, since: Identity) -> bool:
        """Whether `since` and all that came later may be missing: one of them is a tombstone."""
        if not self._drops_tombstones:
            return False
        slot = int(key.partition(b".")[0])
        return any(
            self.lives[number].value(turn) is None
            for number, turn in self.identities(slot, key, since)
        )


class Replay:
    """What one reader knows: the newest acknowledged append of each key, kept up turn by turn."""

    def __init__(self, ledgers: Ledgers) -> None:
        self._ledgers = ledgers
        self._known = [0] * len(ledgers.lives)
        self.newest: dict[bytes, Identity] = {}
        self._found: dict[bytes, Identity] = {}

    def catch_up(self) -> None:
        for life, known in zip(self._ledgers.lives, self._known, strict=True):
            acknowledged = life.acknowledged
            for turn in range(known, acknowledged):
                key = life.key(turn)
                self.newest[key] = max(self.newest.get(key, (0, 0)), (life.number, turn))
            self._known[life.number] = acknowledged

    def check(self, partition: Partition) -> int:
        """Read all there is; assert that nothing is wrong, nor older than what was known before.

        What compaction takes away before the reader comes to it gave way to something newer, which
        may lie behind the end that there was when reading began.  So it goes on until it is there.
        """
        self.catch_up()
        self._found = {}
        position = count = 0
        for _ in range(100):
            end = partition.high_watermark
            count += self._read(partition, position, end)
            position = end
            behind = [key for key in self.newest if self._is_behind(key)]
            if not behind:
                return count
        known = {key: (self._found.get(key), self.newest[key]) for key in behind}
        raise AssertionError(f"read up to {end}: found and acknowledged before are {known}")

    def _is_behind(self, key: bytes) -> bool:
        newest = self.newest[key]
        # A reader that saw a value may come too late for its tombstone, if that may go at once.
        return self._found.get(key, (-1, -1)) < newest and not self._ledgers.may_be_gone(
            key, newest
        )

    def _read(self, partition: Partition, start: int, end: int) -> int:
        last_offset, count = start - 1, 0
        for record in partition.records(start, end):
            assert last_offset < record.offset < end
            last_offset, count = record.offset, count + 1
            assert record.key is not None
            identity = self._ledgers.check_record(record)
            assert identity > self._found.get(record.key, (-1, -1)), "a slot's appends are in order"
            self._found[record.key] = identity
        return count

    def check_somewhere(self, partition: Partition, rng: random.Random) -> None:
        """Read at a random offset and a little further."""
        start, end = partition.log_start_offset, partition.high_watermark
        offset = rng.randint(start, end)
        for _ in range(3):
            records = partition.read(offset, rng.choice((1, 1000, 100_000)))
            for record in records:
                assert record.offset >= offset
                self._ledgers.check_record(record)
            assert records.next_offset >= offset
            offset = records.next_offset
