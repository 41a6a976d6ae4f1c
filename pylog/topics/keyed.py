"""Many records to the partitions of their keys: one call, one batch per partition.

Knows the router and partitions.  Must not know files, nor how a batch is encoded.  Two ways lead to
the same result.  The C core places what needs nothing but memory, and leaves the rest.  Where a
topic asks for a codec, or a user's partitioner picks, each partition encodes and appends its own.

Locks: none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np

from pylog import codecs
from pylog._native import Router, system_clock
from pylog.config import TopicConfig
from pylog.errors import NotAppendedError, PylogError
from pylog.records import AppendedRecords
from pylog.storage import policy
from pylog.storage.encoding import BatchRules, Chunk, Headers, compression_of
from pylog.storage.partition import Partition
from pylog.storage.role import Role

_Values = Sequence[bytes | None]
_Span = tuple[int, int, int]  # partition, first offset, end offset
_Left = tuple[int, bytearray, bytes, int]  # see Router.append_many
_Item = TypeVar("_Item")

_FEW_WAITS: Final = 8  # for fewer, starting threads is not worth it (guessed)
_THREADS: Final = 16  # syncs in flight together


class KeyedAppender:
    """Appends many records at once to the partitions of one topic."""

    def __init__(
        self,
        topic: str,
        router: Router,
        partition_of: Callable[[int], Partition],
        *,
        config: Callable[[], TopicConfig],
        pick: Callable[[bytes | None, bytes | None], int] | None,
    ) -> None:
        self._topic = topic
        self._router = router
        self._partition_of = partition_of
        self._config = config  # the topic's of now
        self._pick = pick  # by (key, value); None: the router hashes keys

    def append(
        self,
        values: _Values,
        keys: _Values | None,
        headers: Sequence[Headers] | None,
        timestamps: Sequence[int] | int | None,
    ) -> AppendedRecords:
        """Append records to the partitions of their keys; see `Topic.append_many`."""
        config = self._config()
        if self._pick is None and compression_of(config).codec == codecs.NONE:
            return self._append_in_c(values, keys, headers, timestamps, config)
        when = system_clock() if timestamps is None else timestamps
        return self._append_each(values, keys, headers, when)

    # ------------------------------------------------------------------ the C way

    def _append_in_c(
        self,
        values: _Values,
        keys: _Values | None,
        headers: Sequence[Headers] | None,
        timestamps: Sequence[int] | int | None,
        config: TopicConfig,
    ) -> AppendedRecords:
        """Place what the C core can place, and let partitions place what it leaves."""
        # Who is in sync is said of the whole log, so any partition knows whether they are enough.
        role = self._partition_of(0).begin_append()
        rules, now = BatchRules.of(config), system_clock()
        attributes, earliest, latest, needs_key = rules.stamping(now)
        partitions, offsets, stamps, spans, left = self._router.append_many(
            values,
            keys,
            headers,
            now if timestamps is None or rules.is_append_time else timestamps,
            max_batch_bytes=config.max_message_bytes,
            max_chunk_bytes=rules.chunk_bytes,
            large_bytes=policy.LARGE_WRITE,
            attributes=attributes,
            earliest=earliest,
            latest=latest,
            needs_key=needs_key,
        )
        appended = AppendedRecords(
            self._topic,
            np.frombuffer(partitions, np.int32),
            np.frombuffer(offsets, np.int64),
            stamps if isinstance(stamps, int) else np.frombuffer(stamps, np.int64),
        )
        failed = self._place_left(left, appended, spans)
        self._wait_durable(spans, config, role)
        if failed is not None:
            if isinstance(failed, NotAppendedError):
                failed.appended = _placed(appended)
            raise failed
        return appended

    def _place_left(
        self, left: list[_Left], appended: AppendedRecords, spans: list[_Span]
    ) -> Exception | None:
        """Place what the C core left, all that can be; returns one of the errors."""
        left_of: dict[int, list[_Left]] = {}
        for item in left:
            left_of.setdefault(item[0], []).append(item)

        def place(number: int) -> None:
            partition = self._partition_of(number)
            for _, data, row_bytes, latest in left_of[number]:
                rows = np.frombuffer(row_bytes, np.int32)
                first, end = partition.place(Chunk(data, len(rows), latest))
                appended.offsets[rows] = np.arange(first, end)
                spans.append((number, first, end))

        # Opening files waits for the disk, making room in open ones does not.
        slow = sum(not self._partition_of(number).is_attached for number in left_of)
        return _any_error(place, left_of, waits=slow if self._is_unobserved else 0)

    def _wait_durable(self, spans: list[_Span], before: TopicConfig, role: Role | None) -> None:
        """Wait for all, whatever becomes of one; raises an error at the end.

        before, role: the settings when it began, and what `begin_append` said then.
        """
        # Who placed a record by older settings waits as the newest say.  What was placed to wait
        # for a sync stays hidden until one, or until its partition follows other settings.
        is_needed = "fsync" in (before.durability, self._config().durability)
        is_needed = is_needed or self._partition_of(0).waits_after_placing
        if self._is_unobserved and not is_needed:
            return

        def wait(span: _Span) -> None:
            number, first, end = span
            self._partition_of(number).wait_durable(first, end, role)

        failed = _any_error(wait, spans, waits=len(spans) if self._is_unobserved else 0)
        if failed is not None:
            raise failed

    @property
    def _is_unobserved(self) -> bool:
        """Whether nobody is to be told of appends, by the thread that called when it has waited."""
        return not self._partition_of(0).tells_of_appends

    # ------------------------------------------------------------------ the Python way

    def _append_each(
        self,
        values: _Values,
        keys: _Values | None,
        headers: Sequence[Headers] | None,
        timestamps: Sequence[int] | int,
    ) -> AppendedRecords:
        """Let each partition encode its records, and then append them."""
        if keys is None:
            keys = [None] * len(values)
        for name, given in (("keys", keys), ("headers", headers), ("timestamps", timestamps)):
            if given is not None and not isinstance(given, int) and len(given) != len(values):
                raise ValueError(f"{name} has {len(given)} elements, values has {len(values)}")
        rows_of = self._rows_of(values, keys)
        # All is encoded before anything is appended, so that a wrong argument leaves no traces.
        chunks = {
            number: self._partition_of(number).encode_chunks(
                [values[row] for row in rows],
                [keys[row] for row in rows],
                None if headers is None else [headers[row] for row in rows],
                timestamps if isinstance(timestamps, int) else [timestamps[row] for row in rows],
            )
            for number, rows in rows_of.items()
        }
        parts: list[tuple[list[int], AppendedRecords]] = []
        try:
            for number, rows in rows_of.items():
                appended = self._partition_of(number).append_chunks(chunks[number])
                parts.append((rows, appended))
        except NotAppendedError as error:
            assert isinstance(error.appended, AppendedRecords)
            parts.append((rows[: len(error.appended)], error.appended))
            error.appended = _in_order(self._topic, parts)
            raise
        return _in_order(self._topic, parts)

    def _rows_of(self, values: _Values, keys: _Values) -> dict[int, list[int]]:
        """Return the rows of each partition; those without a key all go to the same one."""
        rows_of: dict[int, list[int]] = {}
        if self._pick is not None:
            for row, (key, value) in enumerate(zip(keys, values, strict=True)):
                rows_of.setdefault(self._pick(key, value), []).append(row)
            return rows_of
        keyless: list[int] = []
        for row, key in enumerate(keys):
            if key is None:
                keyless.append(row)
            else:
                rows_of.setdefault(self._router.pick(key), []).append(row)
        if keyless:
            size = sum(1 + len(values[row] or b"") for row in keyless)
            rows_of.setdefault(self._router.stick(size), []).extend(keyless)
        return {number: sorted(rows) for number, rows in rows_of.items()}


def _any_error(
    function: Callable[[_Item], None], items: Collection[_Item], *, waits: int
) -> Exception | None:
    """Call the function for each item; return one of the errors.  Threads help who often waits.

    waits: for how many of the items the disk is waited for.
    """
    left = iter(list(items))  # shared: each item goes to one thread

    def work() -> Exception | None:
        first = None
        for item in left:
            try:
                function(item)
            except (PylogError, OSError) as error:
                first = first or error
        return first

    if waits < _FEW_WAITS:
        return work()
    helpers: list[Future[Exception | None]] = []
    with ThreadPoolExecutor(_THREADS - 1, "pylog-append") as pool:
        # None are started when the main thread has ended: then this thread does it all.
        with contextlib.suppress(RuntimeError):
            for _ in range(_THREADS - 1):
                helpers.append(pool.submit(work))
        errors = [work(), *(helper.result() for helper in helpers)]
    return next((error for error in errors if error is not None), None)


def _placed(appended: AppendedRecords) -> AppendedRecords:
    """Return the rows that have an offset."""
    rows = appended.offsets >= 0
    return AppendedRecords(
        appended.topic, appended.partitions[rows], appended.offsets[rows], appended.timestamps[rows]
    )


def _in_order(topic: str, parts: list[tuple[list[int], AppendedRecords]]) -> AppendedRecords:
    """Return what several partitions took, in the order of the rows that were given."""
    if not parts:
        empty = np.empty(0, np.int64)
        return AppendedRecords(topic, np.empty(0, np.int32), empty, empty)
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return AppendedRecords(
        topic,
        np.concatenate([appended.partitions for _, appended in parts])[order],
        np.concatenate([appended.offsets for _, appended in parts])[order],
        np.concatenate([appended.timestamps for _, appended in parts])[order],
    )
