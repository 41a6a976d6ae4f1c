"""What a table holds does not follow from what its topic holds any more."""

from __future__ import annotations

from pylog.errors.base import PylogError, shown


class StaleTableError(PylogError, LookupError):
    """Raised when a table cannot go on from where it stands.  What it holds was not changed.

    A table that is opened with if_stale="rebuild" begins anew instead.
    """


class TopicRecreatedError(StaleTableError):
    """Raised when a table's store was filled from a topic that was deleted and made anew.

    stored_id: of the topic that filled it;  topic_id: of the one that has the name now.
    """

    _fields = ("topic", "stored_id", "topic_id")

    def __init__(self, topic: str, stored_id: str, topic_id: str) -> None:
        super().__init__(f"topic {shown(topic)} was id {stored_id}, it is id {topic_id} now")
        self.topic, self.stored_id, self.topic_id = topic, stored_id, topic_id


class TopicTruncatedError(StaleTableError):
    """Raised when a table holds records that its topic lost: it was cut, and may have grown again.

    position: the offset that the table stands at;  log_end_offset: of the partition.  Where that is
    not below `position`, other records than the table read stand there now.
    """

    _fields = ("topic", "partition", "position", "log_end_offset")

    def __init__(self, topic: str, partition: int, position: int, log_end_offset: int) -> None:
        cut = f"was cut and ends at {log_end_offset}"
        place = f"topic {shown(topic)}, partition {partition}"
        super().__init__(f"{place}, {cut}; the table holds other records, up to {position}")
        self.topic, self.partition = topic, partition
        self.position, self.log_end_offset = position, log_end_offset


class RecordsMissedError(StaleTableError):
    """Raised when records were deleted before a table read them: the values in it may be old.

    position: the offset that the table stands at;  log_start_offset: where the partition begins.
    """

    _fields = ("topic", "partition", "position", "log_start_offset")

    def __init__(self, topic: str, partition: int, position: int, log_start_offset: int) -> None:
        place = f"topic {shown(topic)}, partition {partition}"
        gone = f"offsets [{position}, {log_start_offset}) were deleted unread"
        super().__init__(f"{place}: {gone}")
        self.topic, self.partition = topic, partition
        self.position, self.log_start_offset = position, log_start_offset


class TombstonesDroppedError(StaleTableError):
    """Raised when compaction dropped records that take keys away before a table read them.

    They are kept for `delete_retention_ms`; who comes later may hold keys that are gone.
    position: the offset that the table stands at;  dropped_end: behind the last that was dropped.
    """

    _fields = ("topic", "partition", "position", "dropped_end")

    def __init__(self, topic: str, partition: int, position: int, dropped_end: int) -> None:
        place = f"topic {shown(topic)}, partition {partition}"
        gone = f"compaction dropped tombstones of offsets [{position}, {dropped_end}) unread"
        super().__init__(f"{place}: {gone}")
        self.topic, self.partition = topic, partition
        self.position, self.dropped_end = position, dropped_end
