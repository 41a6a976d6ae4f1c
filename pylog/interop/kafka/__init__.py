"""Kafka clusters: topics are mirrored into one, and read from one.  Needs the extra `kafka`.

Importing it needs nothing: confluent-kafka is loaded by who makes a `Mirror`.
"""

from pylog.interop.kafka.lanes import MirrorProgress
from pylog.interop.kafka.mirror import Mirror
from pylog.interop.kafka.offsets import CopiedOffset
from pylog.interop.kafka.source import Source
from pylog.interop.kafka.transport import KafkaTransport

__all__ = ["CopiedOffset", "KafkaTransport", "Mirror", "MirrorProgress", "Source"]
