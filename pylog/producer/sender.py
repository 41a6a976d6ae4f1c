"""The thread of a producer: takes batches that are due, appends them, and says what became of them.

Knows how batches are retried and acknowledged.  Must not know how records become batches.

Locks: none of its own; the accumulator's is not held while anything is appended or synced.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from pylog.errors import (
    ClosedError,
    DeliveryTimeoutError,
    NotAppendedError,
    OutOfOrderSequenceError,
    PylogError,
)
from pylog.producer.accumulator import Accumulator, Batch, Lane
from pylog.producer.config import ProducerConfig
from pylog.storage.partition import Placed
from pylog.storage.producer_state import MAX_SEQUENCE, ProducedBatch
from pylog.storage.role import Role

logger = logging.getLogger("pylog")

_FORKED: Final = "sent by the parent process, which alone knows what became of it"


class _Appended(NamedTuple):
    """A batch, where it is, and what `begin_append` said before it was there."""

    batch: Batch
    where: Placed
    role: Role | None


class Sender:
    """Sends what an accumulator collects.

    on_fork: called in a forked child.
    """

    def __init__(
        self, accumulator: Accumulator, config: ProducerConfig, *, on_fork: Callable[[], None]
    ) -> None:
        self.accumulator = accumulator
        self._acks = config.acks
        self._compression = config.codec
        self._is_idempotent = config.enable_idempotence
        self._begin()
        self._on_fork = on_fork
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def _begin(self) -> None:
        # 63 random bits: with a million producers a day the chance that two have the same is one in
        # ten million, and nobody has to be asked.  Kafka's brokers deal theirs out in blocks.
        self._producer_id = secrets.randbits(63) if self._is_idempotent else None

    def start(self) -> None:
        """Start the thread unless it runs already."""
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                # A daemon: who ends without closing has the log closed at exit, which closes this.
                self._thread = threading.Thread(target=self._run, name="pylog-sender", daemon=True)
                self._thread.start()

    def check_thread(self) -> None:
        """Raise RuntimeError in the sender's own thread, where its callbacks run."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback cannot wait for what its own thread sends")

    def close(self, timeout: float | None = None) -> None:
        """Send all there is and end; see Producer.close."""
        self.accumulator.close()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout)
        if thread.is_alive():
            self._fail(
                self.accumulator.abort(),
                DeliveryTimeoutError(f"the producer was closed, with timeout={timeout}"),
            )

    def after_fork(self) -> None:
        """In a forked child: there is no thread, and what was sent is the parent's."""
        self._thread = None
        self._starting = threading.Lock()
        self._begin()
        unresolved = self.accumulator.after_fork()
        self._on_fork()
        error = ClosedError(_FORKED)
        for batch in unresolved:
            if not batch.is_done:
                batch.after_fork(error)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while self.send_due():
                pass
        except BaseException as error:
            # A bug, which Python reports.  Nobody shall wait for what is never sent.
            self.accumulator.close()
            self._fail(self.accumulator.abort(), error)
            raise

    def send_due(self) -> bool:
        """Send what is due, waiting for it; return False when there is nothing more to come."""
        due = self.accumulator.wait_for_due()
        if due is not None:
            self.send(due)
        return due is not None

    def send(self, due: list[tuple[Lane, list[Batch]]]) -> None:
        """Append batches, each lane's in order, with one sync a partition; resolve them."""
        try:
            placed = [(lane, self._place(lane, batches)) for lane, batches in due]
            # One sync for all that was placed in a partition.
            for lane, batches in placed:
                if batches:
                    self._acknowledge(lane, batches)
        except BaseException as error:
            for _, taken in due:
                self._fail([batch for batch in taken if not batch.is_done], error)
            raise

    def _place(self, lane: Lane, batches: list[Batch]) -> list[_Appended]:
        """Append a lane's batches in order; return those that were, and where they are."""
        placed: list[_Appended] = []
        for place, batch in enumerate(batches):
            if self.accumulator.is_late(batch):
                self._fail([batch], self.accumulator.late_error(lane))
                continue
            try:
                role = lane.partition.begin_append(waits_for_all=self._acks == "all")
                where = self._append(lane, batch)
            except (PylogError, OSError) as error:
                if not (isinstance(error, NotAppendedError) and error.retriable):
                    self._fail([batch], error)
                    continue
                if not self.accumulator.put_back(lane, batches[place:], error):
                    self._fail(batches[place:], error)
                break
            lane.error = None
            if self._acks == 0:
                batch.resolve(*where)
            placed.append(_Appended(batch, where, role))
        return placed

    def _append(self, lane: Lane, batch: Batch) -> Placed:
        """Append one batch, numbered if the producer is idempotent."""
        builder = batch.builder
        produced = None
        if self._producer_id is not None:
            # Only what was appended moves the sequence on, so a batch keeps its own in all tries.
            produced = ProducedBatch(
                self._producer_id, lane.epoch, lane.sequence, builder.count, -1, 0
            )
        data = builder.seal() if produced is None else builder.seal(*produced[:3])
        try:
            placed = lane.partition.place_batch(
                data, builder.count, builder.max_timestamp, self._compression, produced
            )
        except OutOfOrderSequenceError:
            # The log has lost or forgotten what it knew.  Source: Kafka's TransactionManager.
            lane.epoch, lane.sequence = lane.epoch + 1, 0
            raise
        if produced is not None:
            lane.sequence = (produced.last_sequence + 1) & MAX_SEQUENCE
        return placed

    def _acknowledge(self, lane: Lane, placed: list[_Appended]) -> None:
        """Wait until what was placed is as durable as `acks` asks, and resolve it."""
        batches = [each.batch for each in placed]
        first, last = placed[0], placed[-1]
        end_offset = last.where.first_offset + last.batch.builder.count
        try:
            lane.partition.wait_durable(first.where.first_offset, end_offset, first.role)
        except (PylogError, OSError) as error:
            if self._acks == 0:
                logger.warning("%r: %s, after it was acknowledged", lane.partition, error)
            self._fail([batch for batch in batches if not batch.is_done], error)
        for batch, where, _ in placed:
            if not batch.is_done:
                batch.resolve(*where)
        self.accumulator.release(batches)

    def _fail(self, batches: list[Batch], error: BaseException) -> None:
        for batch in batches:
            batch.fail(error)
        self.accumulator.release(batches)
