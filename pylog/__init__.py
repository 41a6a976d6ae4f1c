"""Partitioned commit logs in a directory, in Kafka's format, as a library.

Begin with `open`.  What can go wrong is in `errors`, one tree under `PylogError`.
"""

from pylog import errors
from pylog.cleaner_config import CleanerConfig
from pylog.config import TopicConfig
from pylog.consumer import Consumer
from pylog.consumer_config import ConsumerConfig
from pylog.errors import PylogError
from pylog.futures import SendFuture
from pylog.groups.administration import Groups
from pylog.groups.descriptions import (
    GroupDescription,
    GroupListing,
    GroupOffset,
    MemberDescription,
    OffsetReset,
)
from pylog.log import Log, open
from pylog.producer import Producer
from pylog.producer_config import ProducerConfig
from pylog.records import (
    AppendedRecords,
    AppendEvent,
    Columns,
    CompactionProgress,
    CompactionReport,
    Freed,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    ReadEvent,
    Record,
    RecordMetadata,
    Records,
    TableChange,
    TopicPartition,
)
from pylog.storage.partition import Partition
from pylog.table import Table
from pylog.topics import Topic

__all__ = [
    "AppendEvent",
    "AppendedRecords",
    "CleanerConfig",
    "Columns",
    "CompactionProgress",
    "CompactionReport",
    "Consumer",
    "ConsumerConfig",
    "Freed",
    "GroupDescription",
    "GroupListing",
    "GroupOffset",
    "Groups",
    "Log",
    "MemberDescription",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetReset",
    "Partition",
    "Producer",
    "ProducerConfig",
    "PylogError",
    "ReadEvent",
    "Record",
    "RecordMetadata",
    "Records",
    "SendFuture",
    "Table",
    "TableChange",
    "Topic",
    "TopicConfig",
    "TopicPartition",
    "errors",
    "open",
]
