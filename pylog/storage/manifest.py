"""The durable facts of a partition: which segments count, and up to where they are known whole.

Pure: text in, values out, and back.  The manifest's atomic replacement (`files.replace_file`) is
the commit point of every change to the set of segments.  Must not know how segments are read.

    pylog-manifest 4
    generation 12                     counts replacements of this file
    is_clean 1                        1: nothing was written after this text; the end is exact
    log_start_offset 0
    clock 1700000000000 -1            what the clock is known to have passed, and a time in doubt
    cleaned 1000 1700000000000        up to where the log was compacted, and when
    tombstones 900                    behind the last one that was dropped when its time was over
    truncated 11                      the generation by which the end of the log was cut off last
    high_watermark 1950               up to where all in-sync replicas were known to have it
    durable_offset 2000               everything below was on disk when this was written
    active 1700 1900 1999 512         first and max timestamp, offset of the max, bytes not indexed
    segments 2
    0 1000 67108860 1800 9 7 1 1805 8    base and end offset, bytes, max timestamp, entries of index
    1000 2000 4096 1900 1 1 0 1906 0     and time index, is compacted, append time, revision; the
    crc32c 1a2b3c4d                      last is active.  crc32c: of all bytes above

`end offset` and `size` of the active segment are its recovery point: recovery scans from there.
Version 3 had no `truncated` and `high_watermark`, version 2 no `cleaned`, `tombstones` and
revisions either, version 1 no `clock` and append times; they are read, and replaced with the first
change.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from pylog._native import crc32c
from pylog.errors import CorruptFileError, IncompatibleFormatError

MANIFEST_NAME: Final = "manifest"
MAX_MANIFEST_BYTES: Final = 64 << 20  # a million segments; what is larger is not ours
FORMAT_VERSION: Final = 4
_OLDEST_VERSION: Final = 1
_SEGMENT_FIELDS: Final = {1: 7, 2: 8, 3: 9, 4: 9}  # numbers in the line of a segment, by version
_TITLE: Final = "pylog-manifest"
_CRC_LINE: Final = re.compile(r"crc32c ([0-9a-f]{8})\n\Z")
_LIMIT: Final = 2**63


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFacts:
    """What is durably known of one segment.  Offsets are [base_offset, end_offset).

    append_time: no record was appended later, by the log's clock; -1 when that is not known, and
    2**63 - 1 while that clock is behind what it was.
    revision: what tells these files from all others that had this base offset before.  0 for files
    as they were appended to, or the generation by which the log was truncated before they were;
    compaction's have a greater one.
    """

    base_offset: int
    end_offset: int
    size: int
    max_timestamp: int
    index_entries: int = 0
    time_entries: int = 0
    is_compacted: bool = False
    append_time: int = -1
    revision: int = 0

    @property
    def identity(self) -> tuple[int, int]:
        """What tells the segment's files from all others that this partition ever had."""
        return self.base_offset, self.revision


@dataclasses.dataclass(frozen=True, slots=True)
class Cleaned:
    """How far compaction came: no key has two values below `offset`, which is Kafka's first dirty.

    time: when it last came to an end, milliseconds since the epoch; -1 before it did.
    Source: Kafka's cleaner-offset-checkpoint.
    """

    offset: int = 0
    time: int = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """What is known of the wall clock, in milliseconds; -1 for nothing.

    trusted: a time that has passed.  doubted: a time so much later that the clock may be wrong.
    """

    trusted: int = -1
    doubted: int = -1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ActiveFacts:
    """What a clean open needs of the active segment, so that it reads no data."""

    first_timestamp: int = -1
    max_timestamp: int = -1
    max_timestamp_offset: int = -1
    bytes_since_index_entry: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The durable facts of one partition.

    dropped_tombstones_end: behind the last one that compaction left out because its time was over.
    truncated_at: the generation by which the end of the log was cut off last, 0 for never; it is
    the revision of the segments that are appended to since.
    high_watermark: a lower bound, which counts only for a log that is one of several replicas:
    where it is alone, durability tells.
    """

    generation: int
    is_clean: bool
    log_start_offset: int
    durable_offset: int
    active: ActiveFacts
    clock: Clock = Clock()
    cleaned: Cleaned = Cleaned()
    dropped_tombstones_end: int = 0
    truncated_at: int = 0
    high_watermark: int = 0
    segments: tuple[SegmentFacts, ...]

    def __post_init__(self) -> None:
        assert self.segments, "a manifest names at least the active segment"

    @property
    def log_end_offset(self) -> int:
        """The end offset that was known when this was written."""
        return self.segments[-1].end_offset

    def was_appended_to(self, facts: SegmentFacts) -> bool:
        """Return whether a segment's files are as they were appended to, since the last truncation.

        Of all others, those that compaction wrote and those of before, everything is on disk.
        """
        return facts.revision in (0, self.truncated_at)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest file."""
    active = manifest.active
    lines = [
        f"{_TITLE} {FORMAT_VERSION}",
        f"generation {manifest.generation}",
        f"is_clean {manifest.is_clean:d}",
        f"log_start_offset {manifest.log_start_offset}",
        f"clock {manifest.clock.trusted} {manifest.clock.doubted}",
        f"cleaned {manifest.cleaned.offset} {manifest.cleaned.time}",
        f"tombstones {manifest.dropped_tombstones_end}",
        f"truncated {manifest.truncated_at}",
        f"high_watermark {manifest.high_watermark}",
        f"durable_offset {manifest.durable_offset}",
        f"active {active.first_timestamp} {active.max_timestamp} {active.max_timestamp_offset}"
        f" {active.bytes_since_index_entry}",
        f"segments {len(manifest.segments)}",
    ]
    lines += [
        f"{facts.base_offset} {facts.end_offset} {facts.size} {facts.max_timestamp}"
        f" {facts.index_entries} {facts.time_entries} {facts.is_compacted:d}"
        f" {facts.append_time} {facts.revision}"
        for facts in manifest.segments
    ]
    body = ("\n".join(lines) + "\n").encode("ascii")
    return body + f"crc32c {crc32c(body):08x}\n".encode("ascii")


def parse_manifest(data: bytes, *, path: str) -> Manifest:
    """Return the manifest that `data` holds.

    Raises CorruptFileError when a byte is wrong, IncompatibleFormatError for another version.
    """
    text = _checked_body(data, path)
    lines = _Lines(text.split("\n")[:-1], path)
    (version,) = lines.take(_TITLE, 1)
    if not _OLDEST_VERSION <= version <= FORMAT_VERSION:
        raise IncompatibleFormatError(path, found=version, supported=FORMAT_VERSION)
    (generation,) = lines.take("generation", 1)
    (is_clean,) = lines.take("is_clean", 1)
    (log_start_offset,) = lines.take("log_start_offset", 1)
    clock = Clock(*lines.take("clock", 2)) if version > 1 else Clock()
    cleaned = Cleaned(*lines.take("cleaned", 2)) if version > 2 else Cleaned()
    (dropped_end,) = lines.take("tombstones", 1) if version > 2 else (0,)
    (truncated_at,) = lines.take("truncated", 1) if version > 3 else (0,)
    (high_watermark,) = lines.take("high_watermark", 1) if version > 3 else (0,)
    (durable_offset,) = lines.take("durable_offset", 1)
    active = _active(lines)
    (count,) = lines.take("segments", 1)
    segments = tuple(_segment(lines, version) for _ in range(lines.checked_count(count)))
    lines.expect_end()
    _check_order(segments, log_start_offset, path)
    if not 0 <= generation < _LIMIT // 2:
        raise CorruptFileError(path, f"generation {generation} leaves no room to count")
    if not 0 <= truncated_at <= generation or high_watermark < 0:
        raise CorruptFileError(path, f"truncated {truncated_at}, high watermark {high_watermark}")
    return Manifest(
        generation=generation,
        is_clean=bool(is_clean),
        log_start_offset=log_start_offset,
        durable_offset=durable_offset,
        active=active,
        clock=clock,
        cleaned=cleaned,
        dropped_tombstones_end=dropped_end,
        truncated_at=truncated_at,
        high_watermark=high_watermark,
        segments=segments,
    )


class _Lines:
    """The remaining lines of a manifest; every refusal names the file."""

    def __init__(self, lines: list[str], path: str) -> None:
        self._lines = lines
        self._next = 0
        self._path = path

    def refuse(self, reason: str) -> CorruptFileError:
        return CorruptFileError(self._path, reason)

    def take(self, name: str | None, count: int) -> list[int]:
        if self._next == len(self._lines):
            raise self.refuse(f"ends before {name or 'all segments'}")
        fields = self._lines[self._next].split(" ")
        self._next += 1
        if name is not None and fields.pop(0) != name:
            raise self.refuse(f"line {self._next} is not {name!r}")
        if len(fields) != count or not all(re.fullmatch("-1|[0-9]{1,19}", f) for f in fields):
            raise self.refuse(f"line {self._next} does not hold {count} numbers")
        numbers = [int(field) for field in fields]
        if max(numbers) >= _LIMIT:
            raise self.refuse(f"line {self._next} holds a number of {_LIMIT} or more")
        return numbers

    def checked_count(self, count: int) -> int:
        remaining = len(self._lines) - self._next
        if count != remaining or count == 0:
            raise self.refuse(f"{count} segments promised, {remaining} listed")
        return count

    def expect_end(self) -> None:
        assert self._next == len(self._lines)


def _checked_body(data: bytes, path: str) -> str:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise CorruptFileError(path, "not ASCII text") from None
    match = _CRC_LINE.search(text)
    if match is None:
        raise CorruptFileError(path, "no crc32c line at the end")
    body = text[: match.start()]
    stored, computed = int(match[1], 16), crc32c(body.encode("ascii"))
    if stored != computed:
        raise CorruptFileError(path, f"crc32c {stored:#010x} stored, {computed:#010x} computed")
    return body


def _active(lines: _Lines) -> ActiveFacts:
    first, maximum, offset, since = lines.take("active", 4)
    return ActiveFacts(
        first_timestamp=first,
        max_timestamp=maximum,
        max_timestamp_offset=offset,
        bytes_since_index_entry=since,
    )


def _segment(lines: _Lines, version: int) -> SegmentFacts:
    fields = lines.take(None, _SEGMENT_FIELDS[version])
    base, end, size, max_timestamp, index_entries, time_entries, is_compacted, *rest = fields
    return SegmentFacts(
        base_offset=base,
        end_offset=end,
        size=size,
        max_timestamp=max_timestamp,
        index_entries=index_entries,
        time_entries=time_entries,
        is_compacted=bool(is_compacted),
        append_time=rest[0] if version > 1 else -1,
        revision=rest[1] if version > 2 else 0,
    )


def _check_order(segments: tuple[SegmentFacts, ...], log_start_offset: int, path: str) -> None:
    """Refuse what the CRC cannot see: a manifest that a program wrote wrongly."""
    end = max(segments[0].base_offset, 0)
    for facts in segments:
        if not end <= facts.base_offset <= facts.end_offset:
            raise CorruptFileError(path, f"segment {facts.base_offset} is out of order")
        if min(facts.size, facts.index_entries, facts.time_entries, facts.revision) < 0:
            raise CorruptFileError(path, f"segment {facts.base_offset} has a negative size")
        end = facts.end_offset
    if not segments[0].base_offset <= log_start_offset <= end:
        raise CorruptFileError(path, f"log start offset {log_start_offset} is outside the segments")
