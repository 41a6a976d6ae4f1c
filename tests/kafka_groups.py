"""kafka-python's protocol engine as a witness for the records of `__consumer_offsets`.

It reads Kafka's schema notation; the fields of the group records, which it does not ship, are
written down here as Kafka 4.0 has them.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

with warnings.catch_warnings():
    # It reads its own schemas with a function that Python 3.11 has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.protocol.data_container import DataContainer
    from kafka.protocol.schemas import StructField


def field(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "versions": "0+"} | more


OR_NULL = {"nullableVersions": "0+"}
PLACES = [field("TopicId", "uuid"), field("Partitions", "[]int32")]
PLACES_WITH_EPOCHS = [
    *PLACES,
    field("AssignmentEpochs", "[]int32", default="null", taggedVersions="0+", tag=0, **OR_NULL),
]
RACKS = [field("Partition", "int32"), field("Racks", "[]string")]
TOPIC = [
    field("TopicId", "uuid"),
    field("TopicName", "string"),
    field("NumPartitions", "int32"),
    field("PartitionMetadata", "[]PartitionMetadata", fields=RACKS),
]
CLASSIC_MEMBER = [
    field("MemberId", "string"),
    field("GroupInstanceId", "string", versions="3+", nullableVersions="3+"),
    field("ClientId", "string"),
    field("ClientHost", "string"),
    field("RebalanceTimeout", "int32", versions="1+"),
    field("SessionTimeout", "int32"),
    field("Subscription", "bytes"),
    field("Assignment", "bytes"),
]
PROTOCOLS = [field("Name", "string"), field("Metadata", "bytes")]
CLASSIC_METADATA = [
    field("SessionTimeoutMs", "int32"),
    field("SupportedProtocols", "[]ClassicProtocol", fields=PROTOCOLS),
]

# name: (first flexible version, fields)
SCHEMAS: dict[str, tuple[int, list[dict[str, Any]]]] = {
    "OffsetKey": (
        99,
        [field("Group", "string"), field("Topic", "string"), field("Partition", "int32")],
    ),
    "GroupKey": (99, [field("Group", "string")]),
    "MemberKey": (99, [field("Group", "string"), field("Member", "string")]),
    "OffsetValue": (
        4,
        [
            field("Offset", "int64"),
            field("LeaderEpoch", "int32", versions="3+"),
            field("Metadata", "string"),
            field("CommitTimestamp", "int64"),
            field("ExpireTimestamp", "int64", versions="1"),
        ],
    ),
    "ClassicGroupValue": (
        4,
        [
            field("ProtocolType", "string"),
            field("Generation", "int32"),
            field("Protocol", "string", **OR_NULL),
            field("Leader", "string", **OR_NULL),
            field("CurrentStateTimestamp", "int64", versions="2+"),
            field("Members", "[]MemberMetadata", fields=CLASSIC_MEMBER),
        ],
    ),
    "EpochValue": (0, [field("Epoch", "int32")]),
    "TopicsValue": (0, [field("Topics", "[]TopicMetadata", fields=TOPIC)]),
    "MemberValue": (
        0,
        [
            field("InstanceId", "string", **OR_NULL),
            field("RackId", "string", **OR_NULL),
            field("ClientId", "string"),
            field("ClientHost", "string"),
            field("SubscribedTopicNames", "[]string"),
            field("SubscribedTopicRegex", "string", **OR_NULL),
            field("RebalanceTimeoutMs", "int32"),
            field("ServerAssignor", "string", **OR_NULL),
            field(
                "ClassicMemberMetadata",
                "ClassicMemberMetadata",
                default="null",
                taggedVersions="0+",
                tag=0,
                fields=CLASSIC_METADATA,
                **OR_NULL,
            ),
        ],
    ),
    "TargetValue": (0, [field("TopicPartitions", "[]TopicPartition", fields=PLACES)]),
    "CurrentValue": (
        0,
        [
            field("MemberEpoch", "int32"),
            field("PreviousMemberEpoch", "int32"),
            field("State", "int8"),
            field("AssignedPartitions", "[]TopicPartitions", fields=PLACES_WITH_EPOCHS),
            field("PartitionsPendingRevocation", "[]TopicPartitions", fields=PLACES_WITH_EPOCHS),
        ],
    ),
}


def _witness(name: str) -> Any:
    json = {"name": name, "type": "data", "versions": "0+", "fields": SCHEMAS[name][1]}
    struct = StructField(json)
    witness = type(name, (DataContainer,), {"_struct": struct})
    struct.set_data_class(witness)
    return witness


_WITNESSES = {name: _witness(name) for name in SCHEMAS}


def decode(name: str, data: bytes) -> Any:
    """Return what kafka-python reads in a key or value; all bytes have to be used."""
    version = int.from_bytes(data[:2], "big", signed=True)
    is_flexible = version >= SCHEMAS[name][0]
    stream = io.BytesIO(data[2:])
    decoded = _WITNESSES[name].decode(
        stream, version=version, compact=is_flexible, tagged=is_flexible
    )
    assert stream.read() == b"", "bytes are left over"
    return decoded


def encode(name: str, version: int, **fields: Any) -> bytes:
    """Return a key or value as kafka-python writes it."""
    is_flexible = version >= SCHEMAS[name][0]
    item = _WITNESSES[name](version=version, **fields)
    data = item.encode(version=version, compact=is_flexible, tagged=is_flexible)
    return version.to_bytes(2, "big", signed=True) + bytes(data)
