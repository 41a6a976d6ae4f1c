"""Give space back: move the log start, and remove the files of segments that hold nothing above it.

Knows the order of it: the manifest's replacement is the commit, the marks tell all processes, then
files are renamed and, a while later, removed by whichever process notices.  What to delete is
decided in policy.py.  Must not know topics.

Locks: the page lock for the change, the partition's own for what this process remembers.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from pylog._native import Marks
from pylog.errors import InvalidConfigurationError, OffsetOutOfRangeError
from pylog.storage.attachment import Attachment
from pylog.storage.handle import PartitionHandle
from pylog.storage.segment_files import deleted_names, mark_deleted
from pylog.storage.tail import full_error

logger = logging.getLogger("pylog")

HIGH_WATERMARK: Final = -1  # Kafka's DeleteRecordsRequest.HIGH_WATERMARK


class RetainingPartition(PartitionHandle):
    """What of a partition is kept, and how the rest goes."""

    def delete_records(self, before: int) -> int:
        """Delete all records below an offset; return the log start offset, which is then there.

        before: at most the high watermark; -1 stands for the high watermark.  Below the log start
        offset nothing changes.  Durable, and seen by every process, when it returns: reading what
        was deleted raises OffsetOutOfRangeError.  Segments that hold no other records go, and give
        their space back after `file_delete_delay_ms`.
        Raises TypeError, OffsetOutOfRangeError, InvalidConfigurationError for a topic that is only
        compacted, PartitionFullError, PartitionFailedError, ClosedError, OSError, and what opening
        raises.  One replacement of the manifest, two syncs, while appenders wait.
        Source: KIP-107, Kafka Partition.deleteRecordsOnLeader.
        """
        policies = self.config.cleanup_policy
        if policies == "compact":
            # The latest record of a key would go with the others (Kafka: PolicyViolationException).
            raise InvalidConfigurationError("cleanup_policy", policies, '"delete" among them')
        with self._lock:
            attachment = self._attached()
            if attachment is None:
                _check_before(before, 0, 0)
                return 0
            with attachment.page:
                marks = attachment.page.marks()
                _check_before(before, marks.log_start_offset, marks.high_watermark)
                attachment.check_writable(marks)
                offset = marks.high_watermark if before == HIGH_WATERMARK else before
                if offset <= marks.log_start_offset:
                    return marks.log_start_offset
                gone = self._advance_start_locked(attachment, marks, offset)
            self._remove_later(gone)
            return offset

    def _advance_start_locked(
        self, attachment: Attachment, marks: Marks, log_start_offset: int
    ) -> list[int]:
        try:
            marks, segments = attachment.ready_locked(marks)
            return attachment.advance_start_locked(segments, log_start_offset)
        except OSError as error:
            raise full_error(error, self._directory.path) or error from error

    # ------------------------------------------------------------------ files

    def _remove_later(self, gone: list[int]) -> None:
        """Rename the files of segments that no longer count, and have them removed in time."""
        if not gone:
            return
        try:
            for base_offset in gone:
                mark_deleted(self._directory, base_offset)
        except OSError as error:
            # The next one to open the partition alone finds them.
            logger.warning("%s: not marked as deleted: %s", self._directory.path, error)
        self.remove_deleted()

    def remove_deleted(self) -> None:
        """Remove the files of deleted segments that have waited for `file_delete_delay_ms`.

        Whoever renamed them may have died, so all that are there count; the time runs since this
        process first saw them.  Raises OSError.
        """
        with self._lock:
            if self._is_closed or not self._directory.exists():
                return
            # Without space nobody waits: who reads such a segment on holds its file.
            delay = 0 if self.state == "full" else self.config.file_delete_delay_ms / 1000
            now = self._environment.monotonic()
            seen = {
                name: self._deleted_since.get(name, now) for name in deleted_names(self._directory)
            }
            self._deleted_since = seen
            for name in [name for name, since in seen.items() if now - since >= delay]:
                with contextlib.suppress(FileNotFoundError):
                    self._directory.unlink(name)
                del seen[name]
            if seen:
                self._environment.on_deleted_files(self)


def _check_before(before: int, start: int, end: int) -> None:
    if isinstance(before, bool) or not isinstance(before, int):
        raise TypeError(f"before must be an int, not {type(before).__name__}")
    if before != HIGH_WATERMARK and not 0 <= before <= end:
        raise OffsetOutOfRangeError(before, start, end)
