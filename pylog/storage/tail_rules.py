"""What a topic's settings mean for the writable end of its partitions.

Pure: settings and marks in, rules and decisions out.  Must not know files.
"""

from __future__ import annotations

from pylog import codecs
from pylog._native import Marks
from pylog.config import LOG_APPEND_TIME, TopicConfig
from pylog.storage import policy
from pylog.storage.encoding import compression_of
from pylog.storage.tail import TailRules


def tail_rules(config: TopicConfig, partition: str, *, is_held: bool) -> TailRules:
    """Return the rules by which a partition of this name is written.

    is_held: appends do not move the high watermark, and are news for who brings them to replicas.
    """
    is_fsync = config.durability == "fsync"
    return TailRules(
        segment_bytes=config.segment_bytes,
        segment_ms=policy.rolling_ms(config, partition),
        segment_index_bytes=config.segment_index_bytes,
        index_interval_bytes=config.index_interval_bytes,
        max_message_bytes=config.max_message_bytes,
        is_visible_on_append=not (is_fsync or is_held),
        is_compressed=compression_of(config).codec != codecs.NONE,
        is_log_append_time=config.message_timestamp_type == LOG_APPEND_TIME,
        needs_key=policy.is_compacted(config),
        is_held=is_held,
        timestamp_before_ms=config.message_timestamp_before_max_ms,
        timestamp_after_ms=config.message_timestamp_after_max_ms,
        zero_bytes=policy.PAGE if is_fsync else policy.MAX_GROWTH,
    )


def should_roll(
    config: TopicConfig, partition: str, marks: Marks, size: int, count: int, timestamp: int
) -> bool:
    """Return whether `count` records of `size` bytes go to a new segment; see policy.should_roll.

    timestamp: the greatest of them.
    """
    entries = policy.index_entries_needed(size, config.index_interval_bytes)
    return policy.should_roll(
        position=marks.position,
        size=size,
        first_timestamp=marks.first_timestamp,
        timestamp=timestamp,
        relative_offset=marks.log_end_offset + count - 1 - marks.base_offset,
        index_entries=marks.index_entries + entries,
        segment_bytes=config.segment_bytes,
        segment_ms=policy.rolling_ms(config, partition),
        max_index_entries=policy.max_index_entries(config.segment_index_bytes),
    )
