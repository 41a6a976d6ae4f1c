"""Examine the files of one segment: every byte that counts is looked at, and none is changed.

Knows how batches, records and index entries must fit together.  Must not know which segments
count: the caller says how much of the files is known, and what the bytes after that may be.  Takes
no lock.

Index rules are Kafka's (DumpLogSegments): the offset of an entry equals the last offset of the
batch at its position; the offset of a time entry is the last one of a batch whose max timestamp it
names.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pylog import _native, codecs
from pylog._native import BATCH_HEADER_BYTES, Record, Records, Scanner, batch_headers, crc32c
from pylog.errors import CorruptionError, InvalidRecordError, MissingExtraError
from pylog.storage import layout
from pylog.storage.cleaned_files import open_revision
from pylog.storage.epochs import NO_EPOCH
from pylog.storage.files import Directory, File
from pylog.storage.index import OFFSET_ENTRY, TIME_ENTRY, view_entries
from pylog.storage.policy import OFFSETS_PER_SEGMENT
from pylog.storage.scan import REASONS, Damage, KnownEnd, last_nonzero, walk_log

_CHUNK_BYTES: Final = 1 << 20  # records are looked at in pieces of this size, as readers do
_EPOCH: Final = slice(12, 16)  # of a batch: its leader epoch
_ATTRIBUTES: Final = 22  # the low byte of a batch's attributes, where its codec stands
_CODEC_BITS: Final = 7
_CRC_FROM: Final = 21  # a batch's CRC covers the bytes from here to its end
_MAX_TIMESTAMP: Final = slice(35, 43)
_EVERY_BATCH: Final = -1  # an index interval below which no batch lies
_SHOWN_ENTRIES: Final = 3  # of one index; the rest is counted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was noticed.  Never holds payload bytes.

    is_damage: something that was written is lost, unreadable or contradicted; otherwise a note.
    position: byte in the file, None when it is about the whole file.
    first, end: the offsets [first, end) that cannot be read because of it, None for none.
    """

    path: str
    message: str
    is_damage: bool = True
    position: int | None = None
    first: int | None = None
    end: int | None = None

    def __str__(self) -> str:
        place = self.path if self.position is None else f"{self.path} at {self.position}"
        lost = ""
        if self.first is not None and self.end is not None and self.first < self.end:
            lost = f"; offsets {self.first} to {self.end - 1} are unreadable"
        return f"{place}: {self.message}{lost}"


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """One thing that stands in a file.  kind: "batch", "record", ...; values: ready for JSON."""

    kind: str
    values: dict[str, Any]


class Rest(enum.Enum):
    """What the bytes after the known end of a `.log` may be."""

    NOTHING = "nothing"  # the end is exact
    BATCHES = "batches"  # nobody has it open: more batches, then perhaps a torn one
    OTHERS = "others"  # it is being written: not ours to judge


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of a segment is known to count.

    [0, size) must hold whole batches with the offsets [base_offset, end_offset).
    index_entries, time_entries: how many are valid; None: all that the file holds.
    is_index_due: the indexes must agree by now; otherwise the next open writes them anew.
    revision: of the files, by which they are found; see cleaned_files.py.
    """

    base_offset: int
    end_offset: int
    size: int
    rest: Rest
    index_entries: int | None = None
    time_entries: int | None = None
    is_index_due: bool = True
    is_compacted: bool = False
    revision: int = 0

    def open(self, directory: Directory, name: str) -> File:
        """Open a file of the segment, by Kafka's name for it.  Raises OSError."""
        return open_revision(directory, name, self.revision, writable=False)

    def entries_in(self, name: str) -> int | None:
        """Return how many entries of the index file of this name are valid, None if not known."""
        is_index = name == layout.index_name(self.base_offset)
        return self.index_entries if is_index else self.time_entries


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReport:
    """What a segment holds, intact, and what was noticed.

    position, end_offset: where the last intact batch ends.  epochs: (leader epoch, first base
    offset) at each change.
    """

    batches: int = 0
    records: int = 0
    position: int = 0
    end_offset: int = 0
    epochs: tuple[tuple[int, int], ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Batches:
    """The intact batches of a `.log`, one row each; positions are bytes, ends exclusive."""

    positions: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    last_offsets: npt.NDArray[np.int64]
    damages: tuple[Damage, ...]

    def row_at(self, position: int) -> int | None:
        """Return the row of the batch that begins at `position`, None when none does."""
        row = int(np.searchsorted(self.positions, position))
        return row if row < len(self.positions) and self.positions[row] == position else None

    def row_of(self, last_offset: int) -> int | None:
        """Return the row of the batch whose last offset is this one, None when it is none's."""
        row = int(np.searchsorted(self.last_offsets, last_offset))
        is_there = row < len(self.last_offsets) and self.last_offsets[row] == last_offset
        return row if is_there else None


def new_scanner(extent: Extent) -> Scanner:
    """Return a scanner at the start of the segment that notes every batch."""
    return Scanner(
        base_offset=extent.base_offset,
        next_offset=extent.base_offset,
        index_interval_bytes=_EVERY_BATCH,
        strict=not extent.is_compacted,
    )


def inspect_segment(directory: Directory, extent: Extent) -> SegmentReport:
    """Examine a segment's three files.  Reads the `.log` twice: batches, then records in them.

    Never raises for what is on the disk: an OSError becomes a finding of its file.
    """
    path = f"{directory.path}/{layout.log_name(extent.base_offset)}"
    try:
        file = extent.open(directory, layout.log_name(extent.base_offset))
    except OSError as error:
        lost = Finding(
            path=path,
            message=f"cannot be opened: {error.strerror}",
            first=extent.base_offset,
            end=extent.end_offset,
        )
        return SegmentReport(end_offset=extent.base_offset, findings=(lost,))
    try:
        scanner = new_scanner(extent)
        batches, findings = scan(file, scanner, extent)
        findings += record_findings(file, batches)
        findings += index_findings(directory, file, batches, extent)
    except OSError as error:
        lost = Finding(path=path, message=f"cannot be read: {error.strerror}")
        return SegmentReport(end_offset=extent.base_offset, findings=(lost,))
    finally:
        file.close()
    return SegmentReport(
        batches=scanner.batches,
        records=scanner.records,
        position=scanner.position,
        end_offset=scanner.next_offset,
        epochs=tuple(scanner.epochs),
        findings=tuple(findings),
    )


# ------------------------------------------------------------------ batches


def scan(file: File, scanner: Scanner, extent: Extent) -> tuple[Batches, list[Finding]]:
    """Walk the batches that count; returns them and what stands between and after them."""
    size = file.size()
    end = size if extent.rest is Rest.BATCHES else min(extent.size, size)
    open_end = extent.base_offset + OFFSETS_PER_SEGMENT
    maximum = (
        open_end if extent.rest is Rest.BATCHES else max(extent.end_offset, scanner.next_offset)
    )
    known = KnownEnd(extent.size, extent.end_offset)
    walk = walk_log(file, scanner, end=end, maximum_offset=maximum, known=known)
    findings = [damage_finding(file, damage) for damage in walk.damages]
    # The last batches of a compacted segment may be gone without loss.
    is_short = walk.position < extent.size or (
        walk.next_offset < extent.end_offset and not extent.is_compacted
    )
    if is_short:
        stop = max(extent.size, walk.position)
        lost = Damage(walk.position, stop, walk.next_offset, extent.end_offset, walk.reason)
        findings.append(damage_finding(file, lost))
    findings += _rest_findings(file, extent, start=max(walk.position, extent.size), size=size)
    if extent.rest is not Rest.BATCHES and walk.next_offset > extent.end_offset:
        message = f"holds offsets up to {walk.next_offset}, {extent.end_offset} expected"
        findings.append(Finding(path=file.path, message=message, position=walk.position))
    entries = view_entries(scanner.index, OFFSET_ENTRY)
    positions = entries["position"].astype(np.int64)
    last_offsets = entries["offset"].astype(np.int64) + extent.base_offset
    ends = np.append(positions[1:], walk.position)[: len(positions)]
    for damage in walk.damages:
        row = int(np.searchsorted(positions, damage.start)) - 1
        if row >= 0:
            ends[row] = damage.start
    damages = (*walk.damages, Damage(walk.position, extent.size, 0, 0, "")) if is_short else ()
    return Batches(positions, ends, last_offsets, damages or walk.damages), findings


def damage_finding(file: File, damage: Damage) -> Finding:
    """Return the finding that a damaged range is; both CRCs are told when that is what differs."""
    reason = damage.reason
    if reason == REASONS[_native.BAD_CRC]:
        data = file.pread(BATCH_HEADER_BYTES, damage.start)
        size = 12 + int.from_bytes(data[8:12], "big")
        stored = int.from_bytes(data[17:21], "big")
        computed = crc32c(file.pread(size, damage.start)[_CRC_FROM:])
        reason = f"crc32c {stored:#010x} stored, {computed:#010x} computed"
    return Finding(
        path=file.path,
        message=reason,
        position=damage.start,
        first=damage.first_offset,
        end=damage.end_offset,
    )


def _rest_findings(file: File, extent: Extent, *, start: int, size: int) -> Iterator[Finding]:
    """Say what the bytes from `start`, where the batches end, to the end of the file are."""
    if size <= start:
        return
    if extent.rest is Rest.OTHERS:
        message = f"the {size - start} bytes after the published end are in use, not checked"
        yield Finding(path=file.path, message=message, position=start, is_damage=False)
        return
    used = last_nonzero(file, start=start, end=size) - start
    if used == 0:
        message = f"{size - start} zero bytes after the last batch"
    elif extent.rest is Rest.BATCHES:
        message = f"a torn tail of {used} bytes: the next open saves and cuts it"
    else:
        message = f"{used} foreign bytes after the end"
    is_damage = used > 0 and extent.rest is Rest.NOTHING
    yield Finding(path=file.path, message=message, position=start, is_damage=is_damage)


# ------------------------------------------------------------------ records


def records_in(file: File, batches: Batches) -> Iterator[Record]:
    """Yield the records of intact batches.

    Raises CorruptRangeError or InvalidRecordError for a batch whose records do not parse,
    MissingExtraError, OSError.
    """
    for start, end in zip(batches.positions.tolist(), batches.ends.tolist(), strict=True):
        yield from Records(file.pread(end - start, start), decompress=codecs.decompress)


def record_findings(file: File, batches: Batches) -> Iterator[Finding]:
    """Parse every record of intact batches, decompressing as needed.

    One C call for a piece of uncompressed batches; compressed ones go one by one, so that no more
    than one decompressed batch is in memory.
    """
    missing: set[str] = set()
    count = len(batches.positions)
    gaps = np.flatnonzero(batches.ends[:-1] != batches.positions[1:]) + 1
    row = 0
    while row < count:
        start = int(batches.positions[row])
        stop = max(row + 1, int(np.searchsorted(batches.ends, start + _CHUNK_BYTES, "right")))
        following = int(np.searchsorted(gaps, row, "right"))
        stop = min(stop, int(gaps[following])) if following < len(gaps) else stop
        data = file.pread(int(batches.ends[stop - 1]) - start, start)
        within = batches.positions[row:stop] - start
        octets = np.frombuffer(data, np.uint8)
        for index in np.flatnonzero(_epochs_at(octets, within) < NO_EPOCH).tolist():
            message = "the leader epoch, which no CRC covers, is negative"
            yield Finding(path=file.path, message=message, position=start + int(within[index]))
        is_plain = not (octets[within + _ATTRIBUTES] & _CODEC_BITS).any()
        if not (is_plain and _parses(data)):
            ends = (batches.ends[row:stop] - start).tolist()
            for first, end in zip(within.tolist(), ends, strict=True):
                yield from _batch_findings(file, data[first:end], start + first, missing)
        row = stop


def _epochs_at(octets: npt.NDArray[np.uint8], positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    places = positions[:, np.newaxis] + np.arange(_EPOCH.start, _EPOCH.stop)
    epochs: npt.NDArray[Any] = octets[places].view(">i4")
    return epochs[:, 0]


def _parses(data: bytes) -> bool:
    try:
        Records(data, include_control=True).columns()
    except CorruptionError:
        return False
    return True


def _batch_findings(file: File, data: bytes, position: int, missing: set[str]) -> Iterator[Finding]:
    """Parse one batch; `missing` collects what was said about missing packages."""
    header = batch_headers(data)[0]
    first = header["base_offset"]
    end = first + header["last_offset_delta"] + 1
    try:
        Records(data, decompress=codecs.decompress, include_control=True).columns()
    except MissingExtraError as error:
        message = f"records not checked: {error}"
        if message not in missing:
            missing.add(message)
            yield Finding(path=file.path, message=message, position=position, is_damage=False)
    except (CorruptionError, InvalidRecordError) as error:
        reason = getattr(error, "reason", None) or str(error)
        yield Finding(path=file.path, message=reason, position=position, first=first, end=end)


# ------------------------------------------------------------------ indexes


def index_findings(
    directory: Directory, log: File, batches: Batches, extent: Extent
) -> Iterator[Finding]:
    """Compare both indexes with the batches; at most a few entries of each file are named."""
    base = extent.base_offset
    for name in (layout.index_name(base), layout.timeindex_name(base)):
        path = f"{directory.path}/{name}"
        try:
            entries, rest_bytes = load_entries(directory, name, extent)
        except FileNotFoundError:
            if extent.is_index_due and len(batches.positions):
                yield Finding(path=path, message="is missing: reads scan instead", is_damage=False)
            continue
        except OSError as error:
            yield Finding(path=path, message=f"cannot be read: {error.strerror}")
            continue
        complaints: list[tuple[int | None, str]] = list(
            entry_complaints(entries, log, batches, base)
        )
        expected = extent.entries_in(name)
        if expected is not None and len(entries) < expected:
            complaints.append((None, f"holds {len(entries)} entries, {expected} expected"))
        for position, message in complaints[:_SHOWN_ENTRIES]:
            yield Finding(
                path=path, message=message, position=position, is_damage=extent.is_index_due
            )
        if len(complaints) > _SHOWN_ENTRIES:
            message = f"{len(complaints) - _SHOWN_ENTRIES} more entries do not match"
            yield Finding(path=path, message=message, is_damage=extent.is_index_due)
        if rest_bytes and extent.is_index_due and extent.rest is not Rest.OTHERS:
            message = f"{rest_bytes} bytes after the last entry"
            yield Finding(path=path, message=message, is_damage=False)


def load_entries(directory: Directory, name: str, extent: Extent) -> tuple[npt.NDArray[Any], int]:
    """Return the entries of an index file and how many bytes follow them.

    Where the extent does not say how many are valid, those before the zeros at the end are, as
    Kafka reads an index that was not trimmed.  A cut entry at the end is kept, filled with zeros.
    Raises OSError.
    """
    entry = OFFSET_ENTRY if name == layout.index_name(extent.base_offset) else TIME_ENTRY
    count = extent.entries_in(name)
    file = extent.open(directory, name)
    try:
        size = file.size()
        if count is not None:
            entries = view_entries(file.pread(min(count * entry.itemsize, size), 0), entry)
            return entries, size - entries.nbytes
        data = file.pread(size, 0)
    finally:
        file.close()
    used = -(-len(data.rstrip(b"\0")) // entry.itemsize) * entry.itemsize
    # The last byte of a good entry may be zero; of a lone first one, of time 0, even all of them.
    if used == 0 and size == entry.itemsize:
        used = size
    return view_entries(data[:used].ljust(used, b"\0"), entry), max(size - used, 0)


def entry_complaints(
    entries: npt.NDArray[Any], log: File, batches: Batches, base: int
) -> Iterator[tuple[int, str]]:
    """Yield (position in the index file, what is wrong) for entries that do not match the batches.

    Entries that lead into damage are passed over: the damage is told already.  Raises OSError.
    """
    if entries.dtype == OFFSET_ENTRY:
        return _offset_complaints(entries, batches, base)
    return _time_complaints(entries, log, batches, base)


def _offset_complaints(
    entries: npt.NDArray[Any], batches: Batches, base: int
) -> Iterator[tuple[int, str]]:
    last = (-1, -1)
    for number, (relative, position) in enumerate(entries.tolist()):
        place, offset = number * OFFSET_ENTRY.itemsize, base + relative
        row = batches.row_at(position)
        if relative <= last[0] or position <= last[1]:
            yield place, f"entry {offset} at {position} does not rise"
        elif row is None and not _is_damaged(batches, position):
            yield place, f"entry {offset} points at {position}, where no batch begins"
        elif row is not None and int(batches.last_offsets[row]) != offset:
            found = int(batches.last_offsets[row])
            yield place, f"entry {offset} points at {position}, where a batch ends with {found}"
        last = (relative, position)


def _time_complaints(
    entries: npt.NDArray[Any], log: File, batches: Batches, base: int
) -> Iterator[tuple[int, str]]:
    """See entry_complaints; reads the header of each batch that an entry names."""
    last = (-1, -1)
    for number, (timestamp, relative) in enumerate(entries.tolist()):
        place, offset = number * TIME_ENTRY.itemsize, base + relative
        row = batches.row_of(offset)
        if timestamp <= last[0] or relative < last[1]:
            yield place, f"entry {timestamp} {offset} does not rise"
        elif row is None:
            if not batches.damages:
                yield place, f"entry {timestamp} names {offset}, with which no batch ends"
        else:
            header = log.pread(BATCH_HEADER_BYTES, int(batches.positions[row]))
            found = int.from_bytes(header[_MAX_TIMESTAMP], "big", signed=True)
            if found != timestamp:
                yield place, f"entry {timestamp} names {offset}, whose batch has {found}"
        last = (timestamp, relative)


def _is_damaged(batches: Batches, position: int) -> bool:
    return any(damage.start <= position < damage.end for damage in batches.damages)
