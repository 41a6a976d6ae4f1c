"""The two ways into a cluster: with the same offsets, or in transactions with offsets recorded.

`PlainWriter` sends without transactions, whose markers would take offsets.  What it has sent is
found at the target's end.  `TransactionalWriter` puts records, the position behind them and their
offsets into one transaction: whatever dies when, all of it counts or nothing.

Knows the client library's producers.  Must not know which lanes there are.
Source: KIP-98, KIP-618.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pylog.errors import KafkaUnavailableError, MirrorError, OffsetsDifferError
from pylog.interop.kafka.client import (
    POLL_SECONDS,
    REQUEST_SECONDS,
    Settings,
    error_of,
    library,
    new_producer,
    translated,
)
from pylog.interop.kafka.lanes import Lane, Piece, not_sendable
from pylog.interop.kafka.runs import Run, runs_of
from pylog.interop.kafka.states import Entry, offsets_entries, position_entry
from pylog.records import Record, TopicPartition

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

    _Deliver = Callable[[KafkaError | None, Message[bytes, bytes]], None]

END_SECONDS: Final = 5.0  # how long a run that is to end waits for what is in flight (guessed)
_MESSAGE_BYTES: Final = 128  # that librdkafka keeps besides a message's own (guessed)
_MAX_TRANSACTION_RECORDS: Final = 100_000
_MAX_TRANSACTION_SECONDS: Final = 1.0  # how late records may be seen in the cluster (guessed)


class Writer:
    """A producer with bounded memory, whose waits end when a cluster does not answer.

    memory: bytes of keys and values that wait for their acknowledgement, at most.
    timeout: seconds without any acknowledgement until the cluster counts as unavailable.
    stop: when it is set, no wait is longer than some seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        memory: int,
        timeout: float,
        stop: threading.Event,
        **more: Any,
    ) -> None:
        self._producer = new_producer(
            settings,
            enable_idempotence=True,
            queue_buffering_max_kbytes=max(memory >> 10, 1),
            queue_buffering_max_messages=max(memory // _MESSAGE_BYTES, 1000),
            **more,
        )
        self._timeout = timeout
        self._stop = stop
        self._error: MirrorError | None = None
        self._answered = time.monotonic()

    @property
    def in_flight(self) -> int:
        """How many messages are not acknowledged."""
        return len(self._producer)

    def poll(self, seconds: float = 0.0) -> None:
        """Take acknowledgements that came, or wait for one.  Raises what went wrong with any."""
        try:
            count = self._producer.poll(seconds)
        except library().KafkaException as error:
            # A fatal one.  What a delivery that failed said before tells more.
            raise self._error or error_of(error.args[0]) from error
        if count:
            self._answered = time.monotonic()
        if self._error is not None:
            raise self._error
        timeout = min(self._timeout, END_SECONDS) if self._stop.is_set() else self._timeout
        if self.in_flight and time.monotonic() - self._answered > timeout:
            raise KafkaUnavailableError("_TIMED_OUT", "nothing was acknowledged in time")

    def finish(self, seconds: float | None = None) -> bool:
        """Wait until everything is acknowledged; return whether it is, after so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.in_flight:
            if deadline is not None and time.monotonic() > deadline:
                return False
            self.poll(POLL_SECONDS)
        self.poll()
        return True

    def send_records(
        self, target: TopicPartition, records: list[Record], deliver: _Deliver | None
    ) -> None:
        """Hand records to the client library; waits while its memory is full."""
        topic, number = target
        produce = self._producer.produce
        if not self.in_flight:
            self._answered = time.monotonic()
        for record in records:
            timestamp = record.timestamp
            if not timestamp:
                raise not_sendable(record)
            headers: Any = record.headers
            headers = [*headers] if headers else None
            value, key = record.value, record.key
            try:
                produce(topic, value, key, number, deliver, None, timestamp, headers)
            except BufferError:
                self._produce(topic, value, key, number, deliver, None, timestamp, headers)
            except library().KafkaException as error:
                raise self._reason(error.args[0]) from error

    def send_entry(self, topic: str, entry: Entry) -> None:
        """Hand over a record of the mirror's own topic."""
        if not self.in_flight:
            self._answered = time.monotonic()
        self._produce(topic, entry.value, entry.key, entry.partition, self._check_delivery)

    def _produce(self, *arguments: Any) -> None:
        """Hand over one record as soon as there is room for it."""
        while True:
            try:
                self._producer.produce(*arguments)
            except BufferError:
                self.poll(POLL_SECONDS)
            except library().KafkaException as error:
                raise self._reason(error.args[0]) from error
            else:
                return

    def _check_delivery(self, error: KafkaError | None, message: Message[bytes, bytes]) -> None:
        if error is not None:
            self._fail(error_of(error))

    def _fail(self, error: MirrorError) -> None:
        # The first one: what comes after it is a consequence.
        self._error = self._error or error

    def _reason(self, error: KafkaError) -> MirrorError:
        """Return what is behind an error of the library: a delivery that failed tells more."""
        try:
            self.poll()
        except MirrorError as reason:
            return reason
        return error_of(error)

    def drop(self) -> None:
        """Forget what is not acknowledged; it may or may not be in the cluster."""
        with translated():
            self._producer.purge()
        # What is told of each holds on to this writer, and so to the producer and its threads.
        self._producer.flush(END_SECONDS)


class PlainWriter(Writer):
    """Sends records that get their own offsets, and checks that they did."""

    def __init__(
        self, settings: Settings, *, memory: int, timeout: float, stop: threading.Event
    ) -> None:
        super().__init__(
            settings,
            memory=memory,
            timeout=timeout,
            stop=stop,
            # A record that fails is not followed by others, and none is given up by its age.
            enable_gapless_guarantee=True,
            message_timeout_ms=0,
        )

    def send(self, lane: Lane, piece: Piece) -> None:
        """Send records that follow each other from the lane's position on.

        Only the last one's offset is looked at: acknowledged at its place it proves those before,
        for they were sent in order behind an end that was at the first one's offset.
        """
        records = piece.records
        self.send_records(lane.target, records[:-1], None)
        self.send_records(
            lane.target, records[-1:], functools.partial(self._delivered, lane, piece)
        )
        lane.sent = records[-1].offset + 1
        self.poll()

    def _delivered(
        self,
        lane: Lane,
        piece: Piece,
        error: KafkaError | None,
        message: Message[bytes, bytes],
    ) -> None:
        """Take the acknowledgement of a piece's last record."""
        if error is not None:
            self._fail(error_of(error))
            return
        offset, expected = message.offset(), piece.records[-1].offset
        assert offset is not None
        if offset != expected:
            self._fail(OffsetsDifferError(*lane.target, expected, offset))
        else:
            lane.acknowledge(piece, offset + 1)


class Transactions(Writer):
    """A producer of transactions.  transactional_id: the same for who goes on after this one."""

    def __init__(
        self,
        settings: Settings,
        *,
        memory: int,
        timeout: float,
        stop: threading.Event,
        transactional_id: str,
    ) -> None:
        super().__init__(
            settings,
            memory=memory,
            timeout=timeout,
            stop=stop,
            transactional_id=transactional_id,
        )
        self._began: float | None = None

    def open(self) -> None:
        """End what a predecessor left, and shut it out.

        Raises KafkaUnavailableError, KafkaRefusedError.  Blocks for half a minute at most.
        """
        with translated():
            self._producer.init_transactions(REQUEST_SECONDS)

    @property
    def age(self) -> float:
        """Seconds since the transaction that is under way was begun, 0 when none is."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def begin(self) -> None:
        """Begin a transaction, unless one is under way."""
        if self._began is None:
            with translated():
                self._producer.begin_transaction()
            self._began = time.monotonic()

    def end(self) -> None:
        """Commit the transaction that is under way."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._producer.commit_transaction(REQUEST_SECONDS)
            except library().KafkaException as error:
                reason = error.args[0]
                if not reason.retriable() or time.monotonic() > deadline:
                    raise self._reason(reason) from error
            else:
                break
        self._began = None

    def abort(self, seconds: float) -> None:
        """End the transaction that is under way, if there is one, without what belongs to it."""
        if self._began is not None:
            self._began = None
            with translated():
                self._producer.abort_transaction(seconds)

    def take_offset(
        self, targets: list[int], error: KafkaError | None, message: Message[bytes, bytes]
    ) -> None:
        """Note the offset that a record got."""
        if error is not None:
            self._fail(error_of(error))
            return
        offset = message.offset()
        assert offset is not None
        targets.append(offset)


class _Share:
    """What one transaction has of a lane."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.targets: list[int] = []

    @property
    def sources(self) -> list[int]:
        return [record.offset for piece in self.pieces for record in piece.records]


class TransactionalWriter(Transactions):
    """Sends records in transactions, and with them what is to be remembered of them."""

    def __init__(self, settings: Settings, *, state_topic: str, **more: Any) -> None:
        super().__init__(settings, **more)
        self._memory: int = more["memory"]
        self._state_topic = state_topic
        self._shares: dict[Lane, _Share] = {}
        self._count = self._size = 0

    def send(self, lane: Lane, piece: Piece) -> None:
        """Send records in the transaction that is under way, or begin one; may commit it."""
        self.begin()
        share = self._shares.setdefault(lane, _Share())
        share.pieces.append(piece)
        self.send_records(
            lane.target, piece.records, functools.partial(self.take_offset, share.targets)
        )
        self._count += len(piece.records)
        self._size += piece.size_bytes
        self.poll()
        if (
            self._count >= _MAX_TRANSACTION_RECORDS
            or self._size >= self._memory
            or self.age > _MAX_TRANSACTION_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """End the transaction that is under way, if there is one, with all that belongs to it."""
        if self._began is None:
            return
        # First all offsets, for they are recorded in the same transaction.
        self.finish()
        for lane, share in self._shares.items():
            self._record(lane, share, runs_of(share.sources, share.targets))
        self.end()
        shares, self._shares = self._shares, {}
        self._count = self._size = 0
        for lane, share in shares.items():
            end = share.targets[-1] + 1
            for piece in share.pieces:
                lane.acknowledge(piece, end)

    def _record(self, lane: Lane, share: _Share, runs: list[Run]) -> None:
        for entry in offsets_entries(lane.key, runs):
            self.send_entry(self._state_topic, entry)
        state = lane.state_at(share.pieces[-1].next_offset, share.targets[-1] + 1)
        self.send_entry(self._state_topic, position_entry(lane.key, state))
