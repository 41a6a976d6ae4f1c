"""How far a mirror is, and which offset is which, kept in a compacted topic of the cluster.

Partition 0 holds the positions, one record for each partition that is mirrored; partition 1 holds
the runs of offsets, one record for each transaction and partition.  Keys and values are JSON:

    0   ["position", log id, topic id, partition, target topic]
            {"offsets": "identity" | "recorded", "position": next source offset,
             "target": next target offset, "is_clean": nothing was in flight}
    1   ["offsets", log id, topic id, partition, target topic, next source offset]   see runs.py

Knows their form.  Must not know when they change.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

from pylog.errors import KafkaRefusedError
from pylog.interop.kafka.cluster import Cluster, check_partitions
from pylog.interop.kafka.runs import Run, decode_runs, encode_runs

POSITIONS: Final = 0
OFFSETS: Final = 1
PARTITIONS: Final = 2
_RUNS_IN_ENTRY: Final = 10_000  # some 150 kB
CONFIG: Final = {"cleanup.policy": "compact", "message.timestamp.type": "CreateTime"}

Offsets = Literal["identity", "recorded"]


class LaneKey(NamedTuple):
    """A partition and where it is mirrored to."""

    log_id: str
    topic_id: str
    partition: int
    target: str

    @classmethod
    def of(cls, log_id: str, topic_id: uuid.UUID, partition: int, target: str) -> LaneKey:
        """Return the key of a topic's partition."""
        return cls(log_id, str(topic_id), partition, target)


@dataclasses.dataclass(frozen=True, slots=True)
class LaneState:
    """How far a partition is mirrored.

    offsets: "identity", the same on both sides, or "recorded" in partition 1.  position, target:
    the next offset of the source and of the cluster.  is_clean: nothing was in flight when this was
    written, and nothing has been sent since.
    """

    offsets: Offsets
    position: int
    target: int
    is_clean: bool = True


class Entry(NamedTuple):
    """A record of the mirror's topic."""

    partition: int
    key: bytes
    value: bytes


def position_entry(key: LaneKey, state: LaneState) -> Entry:
    """Return the record that says how far a partition is."""
    return Entry(POSITIONS, encode(["position", *key]), encode(dataclasses.asdict(state)))


def offsets_entries(key: LaneKey, runs: list[Run]) -> Iterator[Entry]:
    """Yield the records of what one transaction brought: one, but for very many runs."""
    for first in range(0, len(runs), _RUNS_IN_ENTRY):
        part = runs[first : first + _RUNS_IN_ENTRY]
        position = part[-1].source + part[-1].length
        yield Entry(OFFSETS, encode(["offsets", *key, position]), encode_runs(part))


def read_positions(cluster: Cluster, topic: str) -> dict[LaneKey, LaneState]:
    """Return how far each partition is, as the last record of it says."""
    states: dict[LaneKey, LaneState] = {}
    for message in cluster.committed_messages(topic, POSITIONS):
        kind, *key = decode(message.key())
        if kind != "position":
            continue  # of a later version
        fields = decode(message.value())
        try:
            states[LaneKey(*key)] = LaneState(**fields)
        except TypeError as error:
            raise KafkaRefusedError("_BAD_MSG", f"topic {topic}: {error}") from error
    return states


def read_runs(cluster: Cluster, topic: str) -> Iterator[tuple[LaneKey, Run]]:
    """Yield the runs of all partitions, in the order they were written."""
    for message in cluster.committed_messages(topic, OFFSETS):
        kind, *key = decode(message.key())
        if kind == "offsets":
            for run in decode_runs(message.value() or b""):
                yield LaneKey(*key[:-1]), run


def prepare(cluster: Cluster, topic: str, replication_factor: int) -> None:
    """Make the mirror's own topic, if it is not there.  Raises what a Cluster raises."""
    has = cluster.partitions().get(topic)
    if has is None:
        cluster.create_topic(topic, PARTITIONS, replication_factor, CONFIG)
    else:
        check_partitions(topic, has, PARTITIONS)


def encode(value: Any) -> bytes:
    """Return a key or value as it is written down."""
    return json.dumps(value, separators=(",", ":")).encode()


def decode(data: bytes | None) -> Any:
    """Return a key or value.  Raises KafkaRefusedError for what nobody wrote."""
    try:
        return json.loads(data or b"")
    except ValueError as error:
        raise KafkaRefusedError("_BAD_MSG", f"a record of a mirror: {error}") from error
