"""The writable end of a partition: maps for the C core to append through, and room in them.

Knows the active segment's three files and how they grow.  Must not know when to roll or to sync.
Space is taken by writing zeros before a record is placed, so a full disk is an exception here and
never a SIGBUS there (RELIABILITY D1).

Locks: every method that ends in `_locked` is called with the page lock held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Iterator
from typing import Final

from pylog import _native
from pylog._native import Marks, SharedPage
from pylog.errors import NotAppendedError, PartitionFailedError, PartitionFullError
from pylog.storage import layout, policy
from pylog.storage.files import Directory, File

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# After these the files cannot be trusted to take another write (RELIABILITY section 5).
_READ_ONLY_ERRORS: Final = frozenset({errno.EIO, errno.EROFS})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TailRules:
    """What the writable end needs of a topic's configuration."""

    segment_bytes: int
    segment_ms: int
    segment_index_bytes: int
    index_interval_bytes: int
    max_message_bytes: int
    is_visible_on_append: bool
    is_compressed: bool  # batches come encoded; see Tail.append
    is_log_append_time: bool
    needs_key: bool
    is_held: bool
    timestamp_before_ms: int
    timestamp_after_ms: int
    zero_bytes: int  # written at a time; see File.fill_zeros


def full_error(error: OSError, path: str) -> PartitionFullError | None:
    """Return the error that asks a caller to free space, None when `error` is another.

    path: of what was written, since a failed write names no file.
    """
    if error.errno not in _NO_SPACE:
        return None
    message = f"{error.filename or path}: {error.strerror}"
    return PartitionFullError(message, error_number=error.errno or 0)


def refusal_of(error: OSError, path: str) -> tuple[NotAppendedError, int | None]:
    """Return what a caller is told when making room failed, and the state that it leads to."""
    full = full_error(error, path)
    if full is not None:
        return full, _native.FULL
    message = f"{error.filename or path}: {error.strerror}"
    if error.errno in _READ_ONLY_ERRORS:
        return PartitionFailedError(message), _native.FAILED
    return NotAppendedError(message), None


class WritableTail:
    """The active segment's files, mapped; `native` appends to them in one C call."""

    def __init__(
        self,
        directory: Directory,
        page: SharedPage,
        rules: TailRules,
        *,
        topic: str,
        partition: int,
        clock: Callable[[], int],
        log_events: _native.Events | None,
        settings: _native.Events | None,
        settings_seen: int,
        counters: _native.Counters,
        growth_limit: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._growth_limit = growth_limit
        self._page = page
        self._rules = rules
        self._log: File | None = None
        self._base_offset = 0
        self._window_end = 0
        self.serial = -1
        self.native = _native.Tail(
            page,
            topic=topic,
            partition=partition,
            clock=clock,
            log_events=log_events,
            settings=settings,
            counters=counters,
        )
        self.configure(rules, settings_seen=settings_seen)

    def configure(self, rules: TailRules, *, settings_seen: int) -> None:
        """Follow these rules from now on, as long as the count of settings is `settings_seen`.

        Other rules mean other maps: they are made with the next append that finds none.
        """
        if rules != self._rules:
            self.detach()
        self._rules = rules
        self.native.configure(
            max_message_bytes=rules.max_message_bytes,
            segment_bytes=rules.segment_bytes,
            segment_ms=rules.segment_ms,
            index_interval_bytes=rules.index_interval_bytes,
            timestamp_before_ms=rules.timestamp_before_ms,
            timestamp_after_ms=rules.timestamp_after_ms,
            visible_on_append=rules.is_visible_on_append,
            is_compressed=rules.is_compressed,
            is_log_append_time=rules.is_log_append_time,
            needs_key=rules.needs_key,
            is_held=rules.is_held,
            settings_seen=settings_seen,
        )

    def attach_locked(self, marks: Marks, log: File) -> None:
        """Open and map the active segment's files, which exist.  Raises OSError.

        The files are opened before anything is written through them, so that a later sync through
        `log` reports every failed write (RELIABILITY A3).
        """
        self._log, self._base_offset = log, marks.base_offset
        self._map_locked(marks, needed=marks.position)
        self.serial = marks.segment_serial

    @contextlib.contextmanager
    def _indexes(self) -> Iterator[tuple[File, File]]:
        """Open both index files for a moment: a partition keeps one descriptor, the log's."""
        with contextlib.ExitStack() as stack:
            files = []
            for name in layout.segment_names(self._base_offset)[1:]:
                file = self._directory.open(name, writable=True, create=True)
                stack.callback(file.close)
                files.append(file)
            yield files[0], files[1]

    def _map_locked(self, marks: Marks, *, needed: int) -> None:
        """Map from `marks.position` on, to `needed` at least; raises OSError."""
        assert self._log is not None
        index_bytes = policy.rounded_up(self._rules.segment_index_bytes)
        start, size = policy.window_of(
            position=marks.position, needed=needed, segment_bytes=self._rules.segment_bytes
        )
        with self._indexes() as (index, timeindex):
            self.native.attach(
                segment_serial=marks.segment_serial,
                window=self._log.map(size, position=start, writable=True),
                window_position=start,
                index=index.map(index_bytes, writable=True),
                timeindex=timeindex.map(index_bytes, writable=True),
                log=self._log.descriptor(),
            )
        self._window_end = start + size

    def make_room_locked(self, marks: Marks, size: int) -> None:
        """Take space for batches of `size` bytes, and for the index entries they may need.

        What is large takes its space itself, by one pwrite that may fail before it counts.
        Raises PartitionFullError with nothing changed but more zeros after the end.
        """
        assert self._log is not None
        log = self._log
        needed = marks.position + size
        if needed > marks.allocated and size < policy.LARGE_WRITE:
            target = policy.grown_size(
                allocated=marks.allocated,
                needed=needed,
                segment_bytes=self._rules.segment_bytes,
                max_growth=self._growth_limit(),
            )
            allocated = _grow(log, marks.allocated, target, needed, step=self._rules.zero_bytes)
            self._page.publish(allocated=allocated)
        self._grow_indexes_locked(marks, size)
        if needed > self._window_end and size < policy.LARGE_WRITE:
            self._map_locked(marks, needed=needed)

    def _grow_indexes_locked(self, marks: Marks, size: int) -> None:
        """Take space in the index files for the entries that `size` bytes of batches may add."""
        spare = policy.index_entries_needed(size, self._rules.index_interval_bytes)
        maximum = policy.max_index_entries(self._rules.segment_index_bytes)
        entries = policy.grown_entries(
            allocated=marks.index_allocated, needed=marks.index_entries + spare, maximum=maximum
        )
        times = policy.grown_entries(
            allocated=marks.time_allocated, needed=marks.time_entries + spare, maximum=maximum
        )
        if entries == marks.index_allocated and times == marks.time_allocated:
            return
        with self._indexes() as (index, timeindex):
            if entries > marks.index_allocated:
                _grow_entries(index, marks.index_allocated, entries, policy.INDEX_ENTRY_BYTES)
                self._page.publish(index_allocated=entries)
            if times > marks.time_allocated:
                _grow_entries(timeindex, marks.time_allocated, times, policy.TIME_ENTRY_BYTES)
                self._page.publish(time_allocated=times)

    def clean_intent_locked(self) -> None:
        """Zero what a process that died in the middle of an append may have left after the end."""
        assert self._log is not None
        start, end = self._page.intent
        marks = self._page.marks()
        start = max(start, marks.position)
        log = self._log
        log.fill_zeros(start, min(end, max(log.size(), start)))
        self._page.set_intent(0, 0)

    def write_locked(
        self, data: bytearray, expected_offset: int, *, keeps_offsets: bool = False
    ) -> tuple[int, int] | int:
        """Place whole batches by one pwrite; returns (log end before, end offset) or a status.

        keeps_offsets: they have offsets and leader epochs already, which follow what is there.
        Raises PartitionFullError or OSError with nothing appended; if the cleaning up fails too,
        the OSError of that is raised from the first.
        """
        result = self.native.stamp(data, expected_offset, keeps_offsets=keeps_offsets)
        if isinstance(result, int):
            return result
        position, first = result
        assert self._log is not None
        log = self._log
        try:
            log.pwrite(data, position)
        except OSError as error:
            _undo_write(log, position, self._page.marks().allocated)
            self._page.set_intent(0, 0)
            raise full_error(error, log.path) or error from error
        return first, self.native.publish(data, keeps_offsets=keeps_offsets)

    def detach(self) -> None:
        """Let go of the maps and files; the native tail then answers NOT_OPEN."""
        self.native.detach()
        self.serial = -1
        self._log = None


def _grow(log: File, allocated: int, target: int, needed: int, *, step: int) -> int:
    """Write zeros over [allocated, target); with little space left, only as far as `needed`."""
    try:
        log.fill_zeros(allocated, target, step=step)
        return target
    except OSError as error:
        if full_error(error, log.path) is None:
            raise
    # The files that were half grown hold zeros only: cut them back and ask for less.
    log.truncate(allocated)
    target = policy.rounded_up(needed)
    try:
        log.fill_zeros(allocated, target, step=step)
    except OSError as error:
        log.truncate(allocated)
        raise full_error(error, log.path) or error from error
    return target


def _grow_entries(file: File, allocated: int, entries: int, entry_bytes: int) -> None:
    try:
        file.fill_zeros(allocated * entry_bytes, entries * entry_bytes)
    except OSError as error:
        raise full_error(error, file.path) or error from error


def _undo_write(log: File, position: int, allocated: int) -> None:
    """Restore the zeros after the end when a pwrite stopped half way (RELIABILITY A4)."""
    if log.size() > allocated:
        log.truncate(allocated)
    log.fill_zeros(position, max(position, allocated))
