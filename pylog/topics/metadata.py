"""What `__metadata` says of a topic: one JSON value per name, under Kafka's setting names.

Knows the record's value and what makes it believable.  Must not know who reads or appends it.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import Final

from pylog.config import TopicConfig
from pylog.errors import CorruptionError
from pylog.storage import layout

METADATA_TOPIC: Final = "__metadata"
MAX_PARTITIONS: Final = 1_000_000  # a bound for typing errors, not for the format (guessed)
_VALUE_VERSION: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class TopicFacts:
    """What `__metadata` says of one topic."""

    name: str
    topic_id: uuid.UUID
    partitions: int
    config: TopicConfig
    is_deleting: bool = False

    def encode(self) -> bytes:
        """Return the record value; settings are written under Kafka's names."""
        fields = {
            "version": _VALUE_VERSION,
            "id": self.topic_id.hex,
            "partitions": self.partitions,
            "config": self.config.to_kafka(),
            "is_deleting": self.is_deleting,
        }
        return json.dumps(fields, sort_keys=True).encode()


def parse_topic(name: str, value: bytes) -> TopicFacts:
    """Return what a record of `__metadata` says.  Raises CorruptionError."""
    try:
        # The name becomes a path: one with slashes would lead out of the log.
        layout.check_topic_name(name)
        fields = json.loads(value)
        if fields["version"] != _VALUE_VERSION:
            raise ValueError(f"version {fields['version']!r}")
        partitions = int(fields["partitions"])
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ValueError(f"{partitions} partitions")
        config = TopicConfig.from_kafka(fields["config"])
        is_deleting = fields["is_deleting"] is True
        return TopicFacts(name, uuid.UUID(hex=fields["id"]), partitions, config, is_deleting)
    # RecursionError: brackets in brackets, thousands deep.  OverflowError: an infinite number.
    except (
        ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError
    ) as error:  # fmt: skip
        raise CorruptionError(f"{METADATA_TOPIC}: topic {name!r}: {error}") from error
