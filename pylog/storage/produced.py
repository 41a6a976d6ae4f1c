"""Append batches that producers numbered: each once, however often it is sent.

Knows how a judgement of sequences and an append become one step, for all threads and processes.
Must not know what the sequences mean, nor files.

A state says what all producers sent up to an offset.  Batches are judged by it and appended only if
the log still ends at that offset, which the append itself checks; whoever was faster is read, and
the judgement made anew.  Where others are faster all the time, it is made under the page lock.

Locks: `_lock`, around the state, taken before the partition's own and the page lock.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pylog._native import Reader, stamp_append_time
from pylog.config import LOG_APPEND_TIME, TopicConfig
from pylog.errors import ClosedError, OffsetMismatchError, RecordTooLargeError
from pylog.storage.attachment import Attachment
from pylog.storage.encoding import Chunk, chunk_bytes, recode
from pylog.storage.files import Directory
from pylog.storage.observer import Observer
from pylog.storage.producer_files import catch_up, load_state, save_snapshot
from pylog.storage.producer_state import ProducedBatch, ProducerState
from pylog.storage.segment import ReplacedError
from pylog.storage.validation import Header, check_batches

_TRIES: Final = 3  # before the page lock is held for a judgement (guessed)


class Piece(NamedTuple):
    """One encoded batch: bytes, records, greatest timestamp, and how its producer numbered it.

    produced: None for a batch without a producer.
    """

    data: bytearray
    record_count: int
    timestamp: int
    produced: ProducedBatch | None


class Produced:
    """What one process knows of a partition's producers, and its way to append for them.

    attach: returns what is open of the partition, with nothing left to do before a write.
    write: appends a chunk if the log ends at an offset, else raises OffsetMismatchError.
    held: the partition's own lock.  While it is held nobody closes or suspends the partition, which
    may promise a clean end before it has let go of the page.
    """

    def __init__(
        self,
        directory: Directory,
        reader: Reader,
        *,
        attach: Callable[[], Attachment],
        write: Callable[[Chunk, int], tuple[int, int]],
        held: Callable[[], threading.RLock],
        clock: Callable[[], int],
        observer: Observer | None,
    ) -> None:
        self._directory = directory
        self._reader = reader
        self._attach = attach
        self._write = write
        self._held = held
        self._clock = clock
        self._observer = observer
        self._lock = threading.RLock()
        self._state: ProducerState | None = None
        self._saved_offset = -1
        self._truncated_at = 0

    def forget(self) -> None:
        """Know nothing any more: others may do anything to the log that is let go."""
        self._state = None

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.RLock()
        self._state = None

    def save(self, attachment: Attachment) -> None:
        """Write down what is known, if anything is, before the log is let go."""
        # Who appends now holds the lock, and may wait for the caller's.
        if self._lock.acquire(blocking=False):
            try:
                is_newest = attachment.page.marks().truncated_at == self._truncated_at
                if self._state is not None and is_newest:
                    self._state.forget_expired(self._clock())
                    save_snapshot(self._directory, self._state)
            finally:
                self._lock.release()

    def append(self, pieces: Sequence[Piece]) -> list[range]:
        """Append batches, all that are new or none; return the offsets of each.

        A batch that was appended before keeps the offsets that it has.
        Raises InvalidProducerEpochError, OutOfOrderSequenceError, and what a write raises.
        """
        with self._lock:
            for _ in range(_TRIES):
                attachment = self._attach()
                try:
                    state, known = self._judge(attachment, pieces)
                except ClosedError:
                    continue  # another thread suspended the partition
                fresh = _fresh(pieces, known)
                if not fresh:
                    return _spans(pieces, known, 0)
                try:
                    first, _ = self._write(_chunk_of(fresh), state.end_offset)
                except OffsetMismatchError:
                    continue
                return self._appended(state, pieces, known, first, attachment)
            return self._append_alone(pieces)

    def _append_alone(self, pieces: Sequence[Piece]) -> list[range]:
        """Judge and append in one turn of the page lock."""
        while True:
            with self._held():
                attachment = self._attach()
                # What may take long, everybody would have to wait for.
                self._known_state(attachment, self._clock())
                with attachment.page:
                    state, known = self._judge(attachment, pieces)
                    fresh = _fresh(pieces, known)
                    if not fresh:
                        return _spans(pieces, known, 0)
                    chunk = _chunk_of(fresh)
                    placed = attachment.write_locked(*chunk, state.end_offset, is_large=True)
            if isinstance(placed, tuple):
                break
            # Settings were changed since they were looked at.
        attachment.after_write()
        if self._observer is not None:
            self._observer.placed(*placed, len(chunk.data), self._observer.now())
        return self._appended(state, pieces, known, placed[0], attachment)

    def _judge(
        self, attachment: Attachment, pieces: Sequence[Piece]
    ) -> tuple[ProducerState, list[ProducedBatch | None]]:
        """Return the state of all that is in the log, and for each piece what it repeats."""
        now = self._clock()
        state = self._known_state(attachment, now)
        answers = iter(state.judge([p.produced for p in pieces if p.produced is not None], now))
        return state, [None if p.produced is None else next(answers) for p in pieces]

    def _known_state(self, attachment: Attachment, now: int) -> ProducerState:
        """Return the state of all that is in the log."""
        while True:
            try:
                return self._caught_up(attachment, now)
            except ReplacedError:
                continue  # what was read by then was taken; the rest is in other files now

    def _caught_up(self, attachment: Attachment, now: int) -> ProducerState:
        """Return the state as of now, with snapshots of the rolls that were passed.

        Raises ReplacedError when segments went while they were read; what was read by then counts.
        """
        marks = attachment.page.marks()
        segments = attachment.segments(marks)
        state = self._state
        if marks.truncated_at != self._truncated_at:
            # What others have the place of now says nothing any more.
            state = self._state = None
            self._truncated_at, self._saved_offset = marks.truncated_at, -1
        if state is None:
            state = load_state(self._directory, self._reader, segments, marks, now=now)
            self._state = state
            return state
        if state.end_offset < marks.base_offset:
            # A snapshot of the roll is of use only as of its offset.
            catch_up(state, self._reader, segments, marks, marks.base_offset, now=now)
            self._save_roll(state, marks.base_offset)
        catch_up(state, self._reader, segments, marks, marks.log_end_offset, now=now)
        return state

    def _save_roll(self, state: ProducerState, base_offset: int) -> None:
        if state.end_offset == base_offset > self._saved_offset:
            self._saved_offset = base_offset
            state.forget_expired(self._clock())
            save_snapshot(self._directory, state)

    def _appended(
        self,
        state: ProducerState,
        pieces: Sequence[Piece],
        known: Sequence[ProducedBatch | None],
        first: int,
        attachment: Attachment,
    ) -> list[range]:
        """Take what was appended at `first` into the state; return the offsets of all pieces."""
        spans = _spans(pieces, known, first)
        with contextlib.suppress(ClosedError):
            self._save_roll(state, attachment.page.marks().base_offset)
        now = self._clock()
        for piece, found, span in zip(pieces, known, spans, strict=True):
            if found is None:
                if piece.produced is not None:
                    state.add(ProducedBatch(*piece.produced[:4], span.start, now), now)
                state.end_offset = span.stop
        return spans


def pieces_of(data: memoryview, config: TopicConfig, *, now: int) -> list[Piece]:
    """Return other clients' batches as the topic stores them.

    Raises what `check_batches` raises, MissingExtraError, and RecordTooLargeError for a batch that
    grew too large in the topic's codec, and for more than can be placed at once.
    """
    pieces = []
    for header in check_batches(data, config, now=now):
        position, timestamp = header["position"], header["max_timestamp"]
        batch = recode(bytearray(data[position : position + header["size"]]), config)
        if len(batch) > config.max_message_bytes:
            raise RecordTooLargeError(len(batch), config.max_message_bytes)
        if config.message_timestamp_type == LOG_APPEND_TIME:
            timestamp = now
            stamp_append_time(batch, now)
        pieces.append(Piece(batch, header["count"], timestamp, _produced(header)))
    total, limit = sum(len(piece.data) for piece in pieces), chunk_bytes(config)
    if total > limit:
        raise RecordTooLargeError(total, limit, "what is placed at once")
    return pieces


def _produced(header: Header) -> ProducedBatch | None:
    if header["producer_id"] < 0:
        return None
    return ProducedBatch(
        header["producer_id"],
        header["producer_epoch"],
        header["base_sequence"],
        header["count"],
        -1,
        header["max_timestamp"],
    )


def _fresh(pieces: Sequence[Piece], known: Sequence[ProducedBatch | None]) -> list[Piece]:
    return [piece for piece, found in zip(pieces, known, strict=True) if found is None]


def _chunk_of(pieces: Sequence[Piece]) -> Chunk:
    data = pieces[0].data
    if len(pieces) > 1:
        data = bytearray().join(piece.data for piece in pieces)
    count = sum(piece.record_count for piece in pieces)
    return Chunk(data, count, max(piece.timestamp for piece in pieces))


def _spans(
    pieces: Sequence[Piece], known: Sequence[ProducedBatch | None], first: int
) -> list[range]:
    """Return the offsets of each piece; those that are new follow each other from `first` on."""
    spans = []
    placed: dict[ProducedBatch | None, range] = {}
    for piece, found in zip(pieces, known, strict=True):
        if found is None:
            span = placed[piece.produced] = range(first, first + piece.record_count)
            first += piece.record_count
        else:
            # It repeats one of these pieces, or what was in the log.
            span = placed.get(found, found.offsets)
        spans.append(span)
    return spans
