"""Partitioned commit logs in a directory, in Kafka's format, as a library.

Begin with `open`.  What can go wrong is in `errors`, one tree under `PylogError`.
"""

from pylog import errors
from pylog.config import TopicConfig
from pylog.consumer.config import ConsumerConfig
from pylog.consumer.consumer import Consumer
from pylog.errors import PylogError
from pylog.groups.administration import Groups
from pylog.groups.descriptions import (
    GroupDescription,
    GroupListing,
    GroupOffset,
    MemberDescription,
    OffsetReset,
)
from pylog.log import Log, open
from pylog.producer.config import ProducerConfig
from pylog.producer.futures import SendFuture
from pylog.producer.producer import Producer
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
from pylog.replication.config import ReplicationConfig
from pylog.replication.directory_transport import DirectoryTransport
from pylog.replication.election import best_candidate
from pylog.replication.facts import FollowerStatus, InSync, ReplicaStatus, ReplicationStatus
from pylog.replication.replicating import Replication
from pylog.replication.server import ReplicaServer
from pylog.replication.socket_transport import SocketTransport
from pylog.replication.transport import ReplicationTransport
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.partition import Partition
from pylog.table.table import Table
from pylog.topics.topic import Topic

__all__ = [
    "AppendEvent",
    "AppendedRecords",
    "CleanerConfig",
    "Columns",
    "CompactionProgress",
    "CompactionReport",
    "Consumer",
    "ConsumerConfig",
    "DirectoryTransport",
    "FollowerStatus",
    "Freed",
    "GroupDescription",
    "GroupListing",
    "GroupOffset",
    "Groups",
    "InSync",
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
    "ReplicaServer",
    "ReplicaStatus",
    "Replication",
    "ReplicationConfig",
    "ReplicationStatus",
    "ReplicationTransport",
    "SendFuture",
    "SocketTransport",
    "Table",
    "TableChange",
    "Topic",
    "TopicConfig",
    "TopicPartition",
    "best_candidate",
    "errors",
    "open",
]
