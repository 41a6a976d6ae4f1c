"""What groups wrote, as an independent reader finds it: kafka-python, batches and schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kafka_groups
from kafka_clients import KafkaPythonBatch

import pylog
from pylog import OffsetAndMetadata, TopicPartition
from pylog._native import batch_headers
from pylog.groups.group_log import OFFSETS_TOPIC

# By the version that a key begins with: the schema of the key, and of the value.
SCHEMAS = {
    1: ("OffsetKey", "OffsetValue"),
    3: ("GroupKey", "EpochValue"),
    4: ("GroupKey", "TopicsValue"),
    5: ("MemberKey", "MemberValue"),
    6: ("GroupKey", "EpochValue"),
    7: ("MemberKey", "TargetValue"),
    8: ("MemberKey", "CurrentValue"),
}


def records_of(path: Path) -> list[tuple[int, Any, Any]]:
    """Return (key version, key, value or None) of all records, as kafka-python reads them."""
    data = b"".join(file.read_bytes() for file in sorted(path.glob("*.log")))
    found = []
    for header in batch_headers(data):
        batch = data[header["position"] : header["position"] + header["size"]]
        for record in KafkaPythonBatch(batch):
            version = int.from_bytes(record.key[:2], "big")
            key_schema, value_schema = SCHEMAS[version]
            value = (
                None if record.value is None else kafka_groups.decode(value_schema, record.value)
            )
            found.append((version, kafka_groups.decode(key_schema, record.key), value))
    return found


def test_kafka_python_reads_all_that_a_group_wrote(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic("orders", 2)
        topic_id = topic._known[1].topic_id
        groups = log._coordinator
        first = groups.join("g", ["orders"], instance_id="w1", max_poll_interval_ms=300_000)
        first.look()
        first.commit({TopicPartition("orders", 0): OffsetAndMetadata(42, "m", 5)})
        second = groups.join("g", ["orders"], client_id="c")
        first.let_go(first.look().to_revoke)
        second.leave()
        ids = first.member_id, second.member_id
    found = records_of(tmp_path / "log" / f"{OFFSETS_TOPIC}-0")
    assert {key.group for _, key, _ in found} == {"g"}
    assert {version for version, _, _ in found} == set(SCHEMAS)
    (offset,) = [(key, value) for version, key, value in found if version == 1]
    assert (offset[0].topic, offset[0].partition) == ("orders", 0)
    assert (offset[1].offset, offset[1].leader_epoch, offset[1].metadata) == (42, 5, "m")
    assert [value.epoch for version, _, value in found if version == 3] == [1, 2, 3]
    (topics,) = [value for version, _, value in found if version == 4]
    assert [(one.topic_id, one.topic_name, one.num_partitions) for one in topics.topics] == [
        (topic_id, "orders", 2)
    ]
    members = [(key.member, value) for version, key, value in found if version == 5]
    assert [member_id for member_id, _ in members] == [ids[0], ids[1], ids[1]]
    assert (members[0][1].instance_id, members[0][1].rebalance_timeout_ms) == ("w1", 300_000)
    assert (members[1][1].client_id, members[1][1].rebalance_timeout_ms) == ("c", -1)
    assert members[2][1] is None, "who left is forgotten"
    states = [value.state for version, key, value in found if version == 8 and key.member == ids[0]]
    assert states == [0, 1, 0, 0], "stable, has to let go, has let go, has all again"
