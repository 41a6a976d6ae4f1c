"""What a disk may hold after a power cut: the weakest file system that POSIX allows.

Pure: operations in, possible contents out.  A `Disk` follows the trace that `MemoryFiles` records.
For everything that was not synced it keeps the old contents and each later version, and `crash`
chooses among them, independently for

    each 512-byte sector of a file     old, any version in between, or new: torn, lost, reordered
    the size of each file              fsync makes it durable; fdatasync only when the file grew
    each change of a directory         create, rename (atomic), unlink: until its fsync

A file is found again only if a directory entry that names it survives, however often it was synced.
Real file systems are kinder: ext4 and XFS hide a missing directory fsync, this model does not.
Source: RELIABILITY sections 1 (ALICE, BOB) and 4 (T1).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

SECTOR = 512  # what a disk writes atomically at the least
ROOT = 1  # number of the root directory, which always survives


class Write(NamedTuple):
    """Bytes stored at a position, by a write or through a map; grows the file if need be."""

    file: int
    position: int
    data: bytes


class Truncate(NamedTuple):
    """A new size; bytes cut off are zeros when the file grows again."""

    file: int
    size: int


class Sync(NamedTuple):
    """fsync, or fdatasync when not `is_full`."""

    file: int
    is_full: bool


class SyncFailed(NamedTuple):
    """A sync that failed: the kernel calls the pages clean although the disk refused them."""

    file: int


class CacheDropped(NamedTuple):
    """Clean pages are read from the disk again, which shows what a failed sync left there."""

    file: int


class Entry(NamedTuple):
    """One atomic change of a directory: names to file numbers, None for a name that goes."""

    directory: int
    changes: dict[str, int | None]
    new_file: int = 0  # a file made by this change; 0: none
    new_directory: int = 0


class DirectorySync(NamedTuple):
    """fsync of a directory."""

    directory: int


Operation: TypeAlias = Write | Truncate | Sync | SyncFailed | CacheDropped | Entry | DirectorySync


class DiskFile:
    """Contents of one file: on disk, in the page cache, and everything in between."""

    __slots__ = ("current", "durable", "sizes", "stuck", "versions")

    def __init__(self, contents: bytes = b"") -> None:
        self.durable = contents
        self.current: bytes | bytearray = contents
        self.sizes: list[int] = []  # every size since the last sync of the size
        self.versions: dict[int, list[bytes]] = {}  # of a sector, since its last sync
        self.stuck: dict[int, list[bytes]] = {}  # of a sector, refused by a failed sync

    def copy(self) -> DiskFile:
        copied = DiskFile(self.durable)
        copied.current = bytes(self.current)
        copied.sizes = self.sizes.copy()
        copied.versions = {sector: versions.copy() for sector, versions in self.versions.items()}
        copied.stuck = {sector: versions.copy() for sector, versions in self.stuck.items()}
        return copied

    def write(self, position: int, data: bytes) -> None:
        current = self._writable()
        end = position + len(data)
        before = bytes(current[position // SECTOR * SECTOR : -(-end // SECTOR) * SECTOR])
        if end > len(current):
            before = self._grow(current, end, before)
        current[position:end] = data
        self._note_versions(position, end, before)

    def truncate(self, size: int) -> None:
        current = self._writable()
        old_size = len(current)
        if size == old_size:
            return
        if size > old_size:
            self._grow(current, size, b"")
            return
        self.sizes.append(size)
        before = bytes(current[size // SECTOR * SECTOR :])
        current[size:] = bytes(old_size - size)
        self._note_versions(size, old_size, before)
        del current[size:]

    def _grow(self, current: bytearray, size: int, before: bytes) -> bytes:
        """Grow by zeros; returns `before` as it is with them."""
        old_size = len(current)
        current.extend(bytes(size - old_size))
        self.sizes.append(size)
        if old_size < len(self.durable):
            # A tail that was cut may still be on the disk: these zeros are news to it.
            self._note_versions(old_size, min(size, len(self.durable)), b"")
        return before.ljust(size, b"\0")

    def _writable(self) -> bytearray:
        if not isinstance(self.current, bytearray):
            self.current = bytearray(self.current)
        return self.current

    def _note_versions(self, start: int, end: int, before: bytes) -> None:
        """Remember the sectors of [start, end) that differ from `before`."""
        first = start // SECTOR
        for sector in range(first, -(-end // SECTOR)):
            after = bytes(self.current[sector * SECTOR : (sector + 1) * SECTOR])
            offset = (sector - first) * SECTOR
            if after != before[offset : offset + SECTOR] or sector in self.stuck:
                self.versions.setdefault(sector, []).append(after)

    def sync(self, *, is_full: bool) -> None:
        durable_size = len(self.durable)
        cut_tail = b""
        if not is_full and len(self.current) < durable_size:
            # fdatasync need not make a smaller size durable: the tail that was cut may come back.
            cut_tail = self.durable[len(self.current) :]
            self.sizes = [len(self.current)]
        else:
            self.sizes = []
        old = self.durable
        for sector in self.versions:
            self.stuck.pop(sector, None)
        self.versions = {}
        self.durable = bytes(self.current) + cut_tail
        if self.stuck:
            self.durable = bytes(_with_sectors(self.durable, dict.fromkeys(self.stuck), old))

    def fail_sync(self) -> None:
        for sector, versions in self.versions.items():
            self.stuck.setdefault(sector, []).extend(versions)
        self.versions = {}

    def drop_cache(self) -> None:
        clean = [sector for sector in self.stuck if sector not in self.versions]
        for sector in clean:
            del self.stuck[sector]
        if clean:
            size = len(self.current)
            self.current = _with_sectors(bytes(self.current), dict.fromkeys(clean), self.durable)
            del self.current[size:]

    @property
    def is_durable(self) -> bool:
        return not (self.versions or self.sizes or self.stuck)


def _with_sectors(contents: bytes, sectors: dict[int, None], source: bytes) -> bytearray:
    """Return `contents` with some sectors taken from `source`, zeros where that has none."""
    result = bytearray(contents)
    for sector in sectors:
        start, end = sector * SECTOR, min((sector + 1) * SECTOR, len(contents))
        result[start:end] = source[start:end].ljust(max(end - start, 0), b"\0")
    return result


class DiskDirectory:
    """Entries of one directory: on disk, now, and the changes in between."""

    __slots__ = ("current", "durable", "pending")

    def __init__(self, entries: dict[str, int] | None = None) -> None:
        self.durable = entries or {}
        self.current = self.durable.copy()
        self.pending: list[dict[str, int | None]] = []

    def copy(self) -> DiskDirectory:
        copied = DiskDirectory(self.durable.copy())
        copied.current = self.current.copy()
        copied.pending = self.pending.copy()
        return copied

    def change(self, changes: dict[str, int | None]) -> None:
        apply_changes(self.current, changes)
        self.pending.append(changes)

    def sync(self) -> None:
        self.durable = self.current.copy()
        self.pending = []


def apply_changes(entries: dict[str, int], changes: dict[str, int | None]) -> None:
    for name, number in changes.items():
        if number is None:
            entries.pop(name, None)
        else:
            entries[name] = number


class Slot(NamedTuple):
    """One independent choice: `count` is how many versions there are besides the old one."""

    owner: int  # number of the file or directory
    what: int  # a sector, SIZE, or ENTRY
    index: int  # of a change among its directory's; else 0
    count: int


SIZE = -1
ENTRY = -2
# Chooses a version, in [0, count], for each slot: 0 is the old contents, count the newest.
Damage: TypeAlias = Callable[[list[Slot], random.Random], list[int]]


class Disk:
    """All files and directories, followed operation by operation."""

    def __init__(self) -> None:
        self.files: dict[int, DiskFile] = {}
        self.directories: dict[int, DiskDirectory] = {ROOT: DiskDirectory()}

    def copy(self) -> Disk:
        copied = Disk()
        copied.files = {number: file.copy() for number, file in self.files.items()}
        copied.directories = {number: one.copy() for number, one in self.directories.items()}
        return copied

    def apply(self, operation: Operation) -> None:
        match operation:
            case Write(number, position, data):
                self.files[number].write(position, data)
            case Truncate(number, size):
                self.files[number].truncate(size)
            case Sync(number, is_full):
                self.files[number].sync(is_full=is_full)
            case SyncFailed(number):
                self.files[number].fail_sync()
            case CacheDropped(number):
                self.files[number].drop_cache()
            case Entry(number, changes, new_file, new_directory):
                if new_file:
                    self.files[new_file] = DiskFile()
                if new_directory:
                    self.directories[new_directory] = DiskDirectory()
                self.directories[number].change(changes)
            case DirectorySync(number):
                self.directories[number].sync()

    def apply_all(self, operations: Iterable[Operation]) -> Disk:
        for operation in operations:
            self.apply(operation)
        return self

    def slots(self) -> list[Slot]:
        """Return everything that a power cut now may keep or lose."""
        found: list[Slot] = []
        for number, file in self.files.items():
            if file.is_durable:
                continue
            for sector in file.stuck.keys() | file.versions.keys():
                found.append(Slot(number, sector, 0, len(_versions(file, sector))))
            if file.sizes:
                found.append(Slot(number, SIZE, 0, len(file.sizes)))
        for number, directory in self.directories.items():
            for index in range(len(directory.pending)):
                found.append(Slot(number, ENTRY, index, 1))
        return found

    def crash(self, damage: Damage, rng: random.Random) -> Disk:
        """Return the disk after a power cut: what `damage` kept, all of it durable now."""
        slots = self.slots()
        choices: dict[int, list[tuple[Slot, int]]] = {}
        for slot, choice in zip(slots, damage(slots, rng), strict=True):
            choices.setdefault(slot.owner, []).append((slot, choice))
        crashed = Disk()
        for number, directory in self.directories.items():
            entries = directory.durable.copy()
            for slot, choice in choices.get(number, ()):
                if choice:
                    apply_changes(entries, directory.pending[slot.index])
            crashed.directories[number] = DiskDirectory(entries)
        named = {number for one in crashed.directories.values() for number in one.durable.values()}
        for number in named & self.files.keys():
            file = self.files[number]
            chosen = choices.get(number)
            crashed.files[number] = DiskFile(_contents(file, chosen) if chosen else file.durable)
        return crashed


def _versions(file: DiskFile, sector: int) -> list[bytes]:
    return file.stuck.get(sector, []) + file.versions.get(sector, [])


def _contents(file: DiskFile, chosen: list[tuple[Slot, int]]) -> bytes:
    size = len(file.durable)
    contents = bytearray(file.durable)
    for slot, choice in chosen:
        if slot.what == SIZE:
            size = file.sizes[choice - 1] if choice else size
        elif choice:
            sector = _versions(file, slot.what)[choice - 1]
            start = slot.what * SECTOR
            if start > len(contents):
                contents.extend(bytes(start - len(contents)))
            contents[start : start + len(sector)] = sector
    del contents[size:]
    return bytes(contents).ljust(size, b"\0")


# ---------------------------------------------------------------- which damage


def lose_all(slots: list[Slot], _: random.Random) -> list[int]:
    return [0] * len(slots)


def keep_all(slots: list[Slot], _: random.Random) -> list[int]:
    return [slot.count for slot in slots]


def at_random(slots: list[Slot], rng: random.Random) -> list[int]:
    """Choose every version of everything with equal chances."""
    draw = rng.random
    return [int(draw() * (slot.count + 1)) for slot in slots]


def keep_most(slots: list[Slot], rng: random.Random) -> list[int]:
    """Keep the newest of everything but about one in eight."""
    draw = rng.random
    return [slot.count if draw() < 0.875 else int(draw() * slot.count) for slot in slots]


def keep_few(slots: list[Slot], rng: random.Random) -> list[int]:
    """Lose everything but about one in eight: what was written last may arrive first."""
    draw = rng.random
    return [int(draw() * (slot.count + 1)) if draw() < 0.125 else 0 for slot in slots]


def lose_one(slots: list[Slot], rng: random.Random) -> list[int]:
    chosen = keep_all(slots, rng)
    if slots:
        index = rng.randrange(len(slots))
        chosen[index] = rng.randrange(slots[index].count)
    return chosen


def keep_one(slots: list[Slot], rng: random.Random) -> list[int]:
    chosen = lose_all(slots, rng)
    if slots:
        index = rng.randrange(len(slots))
        chosen[index] = rng.randint(1, slots[index].count)
    return chosen


def tear_one_file(slots: list[Slot], rng: random.Random) -> list[int]:
    """Keep everything, but any mixture of one file's sectors and sizes, or of one directory."""
    chosen = keep_all(slots, rng)
    torn = rng.choice(slots).owner if slots else 0
    return [
        rng.randint(0, slot.count) if slot.owner == torn else choice
        for slot, choice in zip(slots, chosen, strict=True)
    ]


def lose_names(slots: list[Slot], _: random.Random) -> list[int]:
    """Keep files, lose directory entries: what a missing directory fsync costs."""
    return [0 if slot.what == ENTRY else slot.count for slot in slots]


def lose_data(slots: list[Slot], _: random.Random) -> list[int]:
    """Keep names and sizes, lose data: files of zeros (ext4 and XFS do that)."""
    return [slot.count if slot.what < 0 else 0 for slot in slots]


def lose_sizes(slots: list[Slot], _: random.Random) -> list[int]:
    return [0 if slot.what == SIZE else slot.count for slot in slots]


DAMAGES: tuple[Damage, ...] = (
    lose_all,
    keep_all,
    at_random,
    keep_most,
    keep_few,
    lose_one,
    keep_one,
    tear_one_file,
    lose_names,
    lose_data,
    lose_sizes,
)
