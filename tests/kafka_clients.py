"""The batch code of two Kafka clients, as witnesses for ours."""

import warnings

from aiokafka.record.default_records import DefaultRecordBatch as AiokafkaBatch
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AiokafkaBuilder

with warnings.catch_warnings():
    # kafka-python reads its schemas with a function that Python 3.11 has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import codec as kafka_codec
    from kafka.partitioner.default import murmur2 as kafka_murmur2
    from kafka.record.default_records import DefaultRecordBatch as KafkaPythonBatch
    from kafka.record.default_records import DefaultRecordBatchBuilder as KafkaPythonBuilder
    from kafka.record.memory_records import MemoryRecords

__all__ = [
    "AiokafkaBatch",
    "AiokafkaBuilder",
    "KafkaPythonBatch",
    "KafkaPythonBuilder",
    "MemoryRecords",
    "kafka_murmur2",
    "missing_extra",
]


def missing_extra(client: object, codec: str) -> str | None:
    """Return which extra a client lacks for a codec, as the reason of a skip."""
    has = {"snappy": kafka_codec.has_snappy, "zstd": kafka_codec.has_zstd}
    if client in (KafkaPythonBatch, KafkaPythonBuilder) and codec in has and not has[codec]():
        return f"kafka-python needs its extra {codec}"
    return None
