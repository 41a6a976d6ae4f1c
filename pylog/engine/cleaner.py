"""Compaction in the background: what is next, how fast, and when to try again after an error.

Knows partitions that say how dirty they are and compact themselves.  Must not know which partitions
there are, when it is called, nor how compaction works.

Locks: `_lock`, around the debt of bytes; nothing else is done while it is held.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from pylog.config import TopicConfig
from pylog.errors import ClosedError, PylogError, UnknownTopicOrPartitionError
from pylog.records import CompactionReport
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.policy import DirtyRange, is_compacted

logger = logging.getLogger("pylog")

_LONGEST_RETRY_SECONDS: Final = 3600.0  # guessed: an operator looks more often


class Compactable(Protocol):
    """What is asked of a partition; see storage/compacted.py."""

    @property
    def config(self) -> TopicConfig:
        """Its settings of now."""

    def dirty_range(self) -> DirtyRange | None:
        """Return what could be compacted, None while nothing is open."""

    def compact_if_due(self) -> CompactionReport | None:
        """Compact if its settings ask for it."""


class Retry(NamedTuple):
    """After an error: how often in a row, and when to try again."""

    failures: int
    at: float


class Cleaner:
    """One process's share of compacting a log.  `sweep` is for one thread at a time."""

    def __init__(self, config: CleanerConfig, monotonic: Callable[[], float]) -> None:
        self.config = config
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._paid_at = 0.0  # when all bytes that were let through are paid for
        self._ended = threading.Event()
        self._retries: weakref.WeakKeyDictionary[Compactable, Retry] = weakref.WeakKeyDictionary()

    # ------------------------------------------------------------------ how fast

    def pace(self, size: int) -> None:
        """Return when so many more bytes may be read or written.

        The first go at once, and those after them wait until they are paid for.
        Raises ClosedError after `end`, also if it was waiting.
        """
        if self._ended.wait(min(self.delay_of(size), threading.TIMEOUT_MAX)):
            raise ClosedError("the log was closed while it was compacted")

    def delay_of(self, size: int) -> float:
        """Take so many bytes out of the allowance; return the seconds to wait for them."""
        with self._lock:
            now = self._monotonic()
            start = max(now, self._paid_at)
            self._paid_at = start + size / self.config.cleaner_io_max_bytes_per_second
            return start - now

    def end(self) -> None:
        """Let everything that goes through `pace` end.  Idempotent."""
        self._ended.set()

    # ------------------------------------------------------------------ what is next

    def sweep(self, partitions: Iterable[Compactable]) -> None:
        """Compact each of the partitions that is due, those with the highest dirty ratio first.

        An error concerns only its partition: it is logged, the partition keeps it to be shown, and
        it is not tried again for `cleaner_backoff_ms`, doubled with each error up to an hour.
        """
        waiting = [one for one in partitions if is_compacted(one.config)]
        for partition in sorted(waiting, key=_ratio, reverse=True):
            retry = self._retries.get(partition)
            if retry is None or self._monotonic() >= retry.at:
                self._compact(partition)

    def _compact(self, partition: Compactable) -> None:
        """Compact one that may be due; whatever comes of it, note when to try again."""
        is_well = False
        try:
            if not self._ended.is_set():
                partition.compact_if_due()
            is_well = True
        except (ClosedError, UnknownTopicOrPartitionError):
            is_well = True  # closed, suspended or deleted meanwhile: nothing is wrong with it
        except (PylogError, OSError):
            logger.exception("%r was not compacted", partition)
        finally:
            # Also after what nobody thought of, which ends this sweep and is reported by Python.
            if is_well:
                self._retries.pop(partition, None)
            else:
                self._postpone(partition)

    def _postpone(self, partition: Compactable) -> None:
        failures = self._retries.get(partition, Retry(0, 0.0)).failures
        seconds = self.config.cleaner_backoff_ms / 1000 * 2.0 ** min(failures, 30)
        at = self._monotonic() + min(seconds, _LONGEST_RETRY_SECONDS)
        self._retries[partition] = Retry(failures + 1, at)

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._ended = threading.Event()


def _ratio(partition: Compactable) -> float:
    try:
        dirty = partition.dirty_range()
    except ClosedError:
        dirty = None
    return 0.0 if dirty is None else dirty.ratio
