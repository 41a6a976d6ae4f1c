"""Carry out one round of compaction: remember the newest offset of each key, then copy what stays.

Knows how segments are read in large pieces and cleaned ones written; which record stays is the C
core's business.  Must not know manifest, page or locks: who calls commits what is written here.

Pass 1 goes over the dirty segments until all are seen or the map is full.  Pass 2 goes over a group
of segments, whichever part of the log they are from, and writes one.  No piece is larger than the
largest batch, or two of them for what is written, so memory is bounded by the map.

A damaged source raises, and nothing counts of what was written by then.

Locks: none.  A `KeyMap` is used by one thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from pylog import _native
from pylog._native import BatchFilter, KeyMap, Scanner
from pylog.errors import CorruptRangeError
from pylog.records import CompactionProgress
from pylog.storage import layout
from pylog.storage.files import Directory, File
from pylog.storage.manifest import Manifest, SegmentFacts
from pylog.storage.policy import INDEX_ENTRY_BYTES, TIME_ENTRY_BYTES
from pylog.storage.scan import REASONS
from pylog.storage.segment import Segment

_RESERVED_PER_BYTE: Final = 2  # of what is filtered: the C core's advice
_LONGEST_LOG: Final = 2**31 - 1  # positions in an index are int32, as in Kafka


class OutgrownError(OSError):
    """What is left of segments of nearly 2 GiB, with the times of its tombstones, is larger."""


class Source(NamedTuple):
    """A segment that is cleaned, and the base offset of the one that follows it."""

    segment: Segment
    end_offset: int


class Run:
    """One compaction while it goes on: how it reads and writes, how far it is, and what it did.

    io_bytes: of a piece.  step: told of the bytes that are about to be read or written.  tell: told
    of the progress.  What either raises ends the run.
    """

    def __init__(
        self,
        progress: CompactionProgress,
        *,
        io_bytes: int,
        step: Callable[[int], None],
        tell: Callable[[CompactionProgress], object] | None,
    ) -> None:
        self.progress = progress
        self.io_bytes = io_bytes
        self.step = step
        self._tell = tell
        self.records_kept = self.records_dropped = 0

    def begin(self, phase: str, total_bytes: int) -> None:
        """Begin with a phase; "map" begins a round, in which what is kept is counted anew."""
        number = self.progress.round
        if phase == "map":
            number, self.records_kept = number + 1, 0
        self.progress = self.progress._replace(
            round=number, phase=phase, done_bytes=0, total_bytes=total_bytes
        )

    def was_read(self, size: int) -> None:
        """Tell how far it is."""
        self.progress = self.progress._replace(done_bytes=self.progress.done_bytes + size)
        if self._tell is not None:
            self._tell(self.progress)


class _Pieces:
    """Reads the batches of a segment in large pieces, as whoever takes them in asks for more."""

    def __init__(self, source: Source, run: Run) -> None:
        self.segment = source.segment
        self.file = source.segment.file()
        self._size = source.segment.facts.size
        self._run = run
        self._buffer = bytearray(min(run.io_bytes, max(self._size, 1)))
        self.position = 0

    def read(self) -> memoryview | None:
        """Return the bytes from `position` on, None at the end.  Raises CorruptRangeError."""
        count = min(len(self._buffer), self._size - self.position)
        if count <= 0:
            return None
        self._run.step(count)
        view = memoryview(self._buffer)[:count]
        if self.file.pread_into(view, self.position) < count:
            raise self.damage(REASONS[_native.END])
        self._run.was_read(count)
        return view

    def advance(self, taken: int, needed: int) -> None:
        """Go on after `taken` bytes of the piece; the batch there has `needed` bytes, 0: no matter.

        Raises CorruptRangeError for a batch that runs past the end.
        """
        self.position += taken
        if self.position + needed > self._size:
            raise self.damage(REASONS[_native.INCOMPLETE])
        if needed > len(self._buffer):
            self._buffer = bytearray(needed)

    @contextlib.contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Say of which file the C core's complaint is."""
        try:
            yield
        except CorruptRangeError as error:
            raise CorruptRangeError(
                error.first, error.last, self.segment.path, self.position, error.reason
            ) from error

    def damage(self, reason: str) -> CorruptRangeError:
        facts = self.segment.facts
        last = max(facts.end_offset - 1, facts.base_offset)
        return CorruptRangeError(facts.base_offset, last, self.segment.path, self.position, reason)


def map_keys(key_map: KeyMap, sources: Sequence[Source], *, first_offset: int, run: Run) -> int:
    """Pass 1: take in the keys at and above `first_offset`; return the offset up to which all are.

    Raises CorruptRangeError, ReplacedError, InvalidRecordError and MissingExtraError for what
    cannot be decompressed, OSError.  Source: Kafka Cleaner.buildOffsetMap.
    """
    for source in sources:
        pieces = _Pieces(source, run)
        while (piece := pieces.read()) is not None:
            with pieces.naming_damage():
                status, taken, needed = key_map.add_batches(
                    piece, first_offset=first_offset, end_offset=source.end_offset
                )
            if status == _native.NO_ROOM:
                return key_map.end_offset
            pieces.advance(taken, needed)
    return sources[-1].end_offset


class CleanedSegment:
    """The files of a cleaned segment while they are written, under names that do not count."""

    def __init__(
        self,
        directory: Directory,
        sources: Sequence[Source],
        *,
        revision: int,
        index_interval_bytes: int,
    ) -> None:
        self._directory = directory
        self._sources = sources
        self._revision = revision
        base = sources[0].segment.base_offset
        self._names = [layout.cleaned_name(name, revision) for name in layout.segment_names(base)]
        self._files: list[File] = []
        self._scanner = Scanner(
            base_offset=base,
            next_offset=base,
            index_interval_bytes=index_interval_bytes,
            strict=False,
        )
        self.records_read = self.records_kept = 0
        self.dropped_tombstones_end = 0
        self._is_changed = len(sources) > 1

    def create(self) -> None:
        """Make the files, empty.  Raises OSError."""
        for name in self._names:
            file = self._directory.open(name, writable=True, create=True)
            self._files.append(file)
            file.truncate(0)  # a dead process may have left one

    def fill(self, batch_filter: BatchFilter, run: Run) -> None:
        """Pass 2: write what stays of the sources.  Raises what `map_keys` raises.

        Source: Kafka Cleaner.cleanSegments.
        """
        out = bytearray(_RESERVED_PER_BYTE * run.io_bytes)
        for source in self._sources:
            pieces = _Pieces(source, run)
            while (piece := pieces.read()) is not None:
                start, status = 0, _native.NO_ROOM
                while status == _native.NO_ROOM:
                    with pieces.naming_damage():
                        status, start, written, needed = batch_filter.filter(
                            piece, out, start, end_offset=source.end_offset
                        )
                    self._write(memoryview(out)[:written], run)
                    if status == _native.NO_ROOM and written == 0:
                        out = bytearray(needed)
                pieces.advance(start, needed)
        self.records_read = batch_filter.records_read
        self.records_kept = batch_filter.records_kept
        self.dropped_tombstones_end = batch_filter.dropped_tombstones_end
        size = sum(source.segment.facts.size for source in self._sources)
        dropped = self.records_read - self.records_kept
        self._is_changed |= dropped + batch_filter.horizons_set > 0 or self.size != size

    def _write(self, data: memoryview, run: Run) -> None:
        if not data:
            return
        run.step(len(data))
        position = self._scanner.position
        if position + len(data) > _LONGEST_LOG:
            raise OutgrownError(errno.EFBIG, "a cleaned segment outgrew its index", self._names[0])
        # Checked before it is written: what is wrong now would be believed for good.
        status = self._scanner.feed(data)
        assert status == _native.END, REASONS.get(status, status)
        self._files[0].pwrite(data, position)

    @property
    def size(self) -> int:
        """How many bytes of batches were written."""
        return self._scanner.position

    @property
    def is_changed(self) -> bool:
        """Whether it holds anything else than its one source."""
        return self._is_changed

    def finish(self) -> SegmentFacts:
        """Write the indexes and make everything durable, names included; return what it holds.

        Raises OSError.  Blocks for four syncs.
        """
        scanner, (log, index, timeindex) = self._scanner, self._files
        scanner.seal()
        index.pwrite(scanner.index, 0)
        timeindex.pwrite(scanner.timeindex, 0)
        last = self._sources[-1].segment
        log.take_time(last.file())
        for file in self._files:
            file.sync()
        # Before the manifest that names them is: one that survives a power cut finds its files.
        self._directory.sync()
        return SegmentFacts(
            base_offset=self._sources[0].segment.base_offset,
            end_offset=last.facts.end_offset,
            size=scanner.position,
            max_timestamp=scanner.max_timestamp,
            index_entries=len(scanner.index) // INDEX_ENTRY_BYTES,
            time_entries=len(scanner.timeindex) // TIME_ENTRY_BYTES,
            is_compacted=True,
            append_time=last.facts.append_time,
            revision=self._revision,
        )

    def check_names(self) -> None:
        """Assert that the files are found by their names.  Raises OSError."""
        for name, file in zip(self._names, self._files, strict=True):
            found = self._directory.open(name)
            try:
                assert found.identity() == file.identity(), f"{name} is not what was written"
            finally:
                found.close()

    def close(self) -> None:
        """Let go of the files; they stay."""
        for file in self._files:
            file.close()

    def remove(self) -> None:
        """Remove the files, which do not count.  Raises OSError."""
        for name in self._names:
            with contextlib.suppress(FileNotFoundError):
                self._directory.unlink(name)


def with_cleaned(
    manifest: Manifest,
    sources: Sequence[SegmentFacts],
    cleaned: SegmentFacts,
    dropped_tombstones_end: int,
) -> Manifest | None:
    """Return the manifest with one segment in the place of its sources; None if they are gone.

    sources: neighbours, as they were when they were read.  Others may have deleted them since, all
    or the first ones, or have truncated the last.
    dropped_tombstones_end: behind the last one that is left out for its age.
    """
    bases = [facts.base_offset for facts in manifest.segments]
    if sources[0].base_offset not in bases:
        return None
    place = bases.index(sources[0].base_offset)
    found = manifest.segments[place : place + len(sources)]
    if [(one.identity, one.size) for one in found] != [(one.identity, one.size) for one in sources]:
        return None
    # Their append time may have been settled meanwhile.
    cleaned = dataclasses.replace(cleaned, append_time=found[-1].append_time)
    segments = (*manifest.segments[:place], cleaned, *manifest.segments[place + len(sources) :])
    dropped_end = max(dropped_tombstones_end, manifest.dropped_tombstones_end)
    return dataclasses.replace(manifest, segments=segments, dropped_tombstones_end=dropped_end)
