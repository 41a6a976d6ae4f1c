"""The messages of the socket transport: what they look like, and back.  Pure: bytes and values.

    length         u32    bytes that follow this field
    kind           u8     see Kind
    header_length  u32    bytes of the header
    header         JSON   an object of numbers and texts; nothing in it is ever run or unpickled
    data                  the rest: batches as stored, in a message of batches only

All numbers are big-endian.  Every field of a header is asked for by name, type and range; one that
is missing, or that nobody asked for, makes the message invalid.  What may be said belongs to one
version of the protocol, which the greeting (authentication.py) tells.
"""

from __future__ import annotations

import enum
import json
import struct
import uuid
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from pylog.errors import (
    DivergedReplicaError,
    FencedLeaderEpochError,
    InconsistentClusterIdError,
    InvalidMessageError,
    InvalidTopicError,
    NotEligibleError,
    PylogError,
    ReplicationError,
)
from pylog.replication.facts import (
    MAX_EPOCH,
    MAX_EPOCHS,
    InSync,
    PartitionId,
    ReplicaPosition,
    ReplicaStatus,
    is_replica_id,
)
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaBatches, ReplicaHello
from pylog.storage import layout

LENGTH: Final = struct.Struct(">I")
_PREFIX: Final = struct.Struct(">BI")
assert LENGTH.size == 4 and _PREFIX.size == 5

MAX_HEADER_BYTES: Final = 1 << 20  # of an epoch list of MAX_EPOCHS, some 60 KB; ample (guessed)
_MAX_OFFSET: Final = 2**63 - 1
_MAX_NUMBER: Final = 2**31 - 1
_MAX_MEMBERS: Final = 1000
_MAX_TEXT: Final = 4096  # characters of an error's text; longer ones are cut

_T = TypeVar("_T")
Buffer = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """What a message is: the calls of a transport, and what comes back."""

    HELLO = 1
    REPLICA_HELLO = 2
    POSITION = 3
    TRUNCATE = 4
    START_ANEW = 5
    REPLICA_POSITION = 6
    BATCHES = 7
    ACKNOWLEDGEMENT = 8
    FENCE = 9
    STATUS = 10
    ERROR = 11


class Message(NamedTuple):
    """A message as it came: its header is an object, its fields are not looked at yet."""

    kind: Kind
    header: dict[str, Any]
    data: memoryview


def encode(kind: Kind, header: dict[str, Any], data_bytes: int = 0) -> bytes:
    """Return what stands before the data of a message; with data_bytes 0 the whole of it."""
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    length = LENGTH.pack(_PREFIX.size + len(text) + data_bytes)
    return length + _PREFIX.pack(kind, len(text)) + text


def decode(body: Buffer) -> Message:
    """Return the message in the bytes that follow its length.  Raises InvalidMessageError."""
    view = memoryview(body)
    if len(view) < _PREFIX.size:
        raise InvalidMessageError(f"{len(view)} bytes are no message")
    number, size = _PREFIX.unpack_from(view)
    if size > min(len(view) - _PREFIX.size, MAX_HEADER_BYTES):
        raise InvalidMessageError(f"a header of {size} bytes in a message of {len(view)}")
    try:
        kind = Kind(number)
        header = json.loads(bytes(view[_PREFIX.size : _PREFIX.size + size]))
    # RecursionError: brackets in brackets, thousands deep.
    except (ValueError, RecursionError) as error:
        raise InvalidMessageError(f"kind {number}: {type(error).__name__}") from None
    if not isinstance(header, dict):
        raise InvalidMessageError(f"a header that is a {type(header).__name__}")
    data = view[_PREFIX.size + size :]
    if data and kind is not Kind.BATCHES:
        raise InvalidMessageError(f"{len(data)} bytes after a {kind.name}")
    return Message(kind, header, data)


# ---------------------------------------------------------------- values to headers


def hello_header(hello: LeaderHello) -> dict[str, Any]:
    """Return a leader's hello as a header."""
    return {"cluster": hello.cluster_id.hex, "leader": hello.leader_id, "epoch": hello.epoch}


def replica_hello_header(hello: ReplicaHello) -> dict[str, Any]:
    """Return a follower's hello as a header."""
    return {"replica": hello.replica_id, "in_sync": _in_sync_value(hello.in_sync)}


def partition_header(partition: PartitionId) -> dict[str, Any]:
    """Return which partition a message is about."""
    topic, number, topic_id = partition
    return {"topic": topic, "partition": number, "topic_id": topic_id.hex}


def position_header(position: ReplicaPosition) -> dict[str, Any]:
    """Return a position as a header."""
    return {
        "epochs": position.epochs[-MAX_EPOCHS:],
        "start": position.log_start_offset,
        "watermark": position.high_watermark,
        "end": position.log_end_offset,
    }


def batches_header(batches: ReplicaBatches) -> dict[str, Any]:
    """Return what goes before the data of batches."""
    return partition_header(batches.partition) | {
        "epoch": batches.epoch,
        "from": batches.from_offset,
        "end": batches.end_offset,
        "in_sync": _in_sync_value(batches.in_sync),
        "watermark": batches.high_watermark,
        "start": batches.log_start_offset,
    }


def acknowledgement_header(acknowledgement: Acknowledgement) -> dict[str, Any]:
    """Return an acknowledgement as a header."""
    order = acknowledgement.in_sync
    return partition_header(acknowledgement.partition) | {
        "end": acknowledgement.log_end_offset,
        "in_sync": None if order is None else list(order),
    }


def status_header(status: ReplicaStatus) -> dict[str, Any]:
    """Return how a replica is as a header."""
    return {
        "replica": status.replica_id,
        "cluster": None if status.cluster_id is None else status.cluster_id.hex,
        "promised": status.promised_epoch,
        "in_sync": _in_sync_value(status.in_sync),
        "end": status.log_end_offset,
    }


def _in_sync_value(in_sync: InSync | None) -> list[Any] | None:
    if in_sync is None:
        return None
    return [in_sync.epoch, in_sync.version, sorted(in_sync.members)]


# ---------------------------------------------------------------- headers to values


class Fields:
    """The fields of a header: each is taken once, and then none may be left."""

    def __init__(self, header: dict[str, Any]) -> None:
        self._left = dict(header)

    def take(self, name: str) -> Any:
        """Take any value.  Raises InvalidMessageError when it is not there."""
        try:
            return self._left.pop(name)
        except KeyError:
            raise InvalidMessageError(f"{name} is missing") from None

    def end(self, value: _T) -> _T:
        """Return `value`; raises InvalidMessageError when fields are left."""
        if self._left:
            raise InvalidMessageError(f"{len(self._left)} fields that nobody knows")
        return value

    def number(self, name: str, limit: int = _MAX_OFFSET) -> int:
        """Take a whole number in [0, limit]."""
        return _number(name, self.take(name), limit)

    def replica(self, name: str) -> str:
        """Take a replica's id."""
        return _replica(name, self.take(name))

    def id(self, name: str) -> uuid.UUID:
        """Take an id of 32 hex digits."""
        return _id(name, self.take(name))

    def id_or_none(self, name: str) -> uuid.UUID | None:
        """Take an id, or none."""
        value = self.take(name)
        return None if value is None else _id(name, value)

    def in_sync(self) -> InSync | None:
        """Take an InSync, or none."""
        value = self.take("in_sync")
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], list):
            raise InvalidMessageError("in_sync is not one")
        members = [_replica("in_sync", member) for member in value[2][: _MAX_MEMBERS + 1]]
        if not 0 < len(set(members)) == len(members) <= _MAX_MEMBERS:
            raise InvalidMessageError(f"in_sync has {len(value[2])} members")
        epoch = _number("in_sync", value[0], MAX_EPOCH)
        return InSync(epoch, _number("in_sync", value[1], _MAX_NUMBER), frozenset(members))

    def order(self) -> tuple[int, int] | None:
        """Take the order of an InSync, or none."""
        value = self.take("in_sync")
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            raise InvalidMessageError("in_sync is not an order")
        return _number("in_sync", value[0], MAX_EPOCH), _number("in_sync", value[1], _MAX_NUMBER)

    def partition(self) -> PartitionId:
        """Take which partition it is about."""
        topic = self.take("topic")
        if not isinstance(topic, str):
            raise InvalidMessageError("topic is no text")
        try:
            layout.check_topic_name(topic)
        except InvalidTopicError as error:
            raise InvalidMessageError(f"topic: {error}") from None
        return PartitionId(topic, self.number("partition", _MAX_NUMBER), self.id("topic_id"))

    def epochs(self) -> tuple[tuple[int, int], ...]:
        """Take the entries of an epoch list."""
        value = self.take("epochs")
        if not isinstance(value, list) or len(value) > MAX_EPOCHS:
            raise InvalidMessageError("epochs is no list of entries")
        entries: list[tuple[int, int]] = []
        last = (-1, -1)
        for entry in value:
            if not isinstance(entry, list) or len(entry) != 2:
                raise InvalidMessageError("epochs holds what is no entry")
            epoch, start = _number("epochs", entry[0], MAX_EPOCH), _number("epochs", entry[1])
            if epoch <= last[0] or start <= last[1]:
                raise InvalidMessageError(f"epochs: {epoch} {start} after {last[0]} {last[1]}")
            last = (epoch, start)
            entries.append(last)
        return tuple(entries)


def _number(name: str, value: Any, limit: int = _MAX_OFFSET) -> int:
    # A bool is an int to isinstance; here it is a mistake.
    if type(value) is not int or not 0 <= value <= limit:
        raise InvalidMessageError(f"{name} is no whole number in [0, {limit}]")
    return value


def _replica(name: str, value: Any) -> str:
    if not isinstance(value, str) or not is_replica_id(value):
        raise InvalidMessageError(f"{name} is no replica's id")
    return value


def _id(name: str, value: Any) -> uuid.UUID:
    if not isinstance(value, str) or len(value) != 32 or not set(value) <= set("0123456789abcdef"):
        raise InvalidMessageError(f"{name} is no id")
    return uuid.UUID(hex=value)


def hello_of(header: dict[str, Any]) -> LeaderHello:
    """Return a leader's hello.  Raises InvalidMessageError, as all functions below."""
    fields = Fields(header)
    return fields.end(
        LeaderHello(
            fields.id("cluster"), fields.replica("leader"), fields.number("epoch", MAX_EPOCH)
        )
    )


def replica_hello_of(header: dict[str, Any]) -> ReplicaHello:
    """Return a follower's hello."""
    fields = Fields(header)
    return fields.end(ReplicaHello(fields.replica("replica"), fields.in_sync()))


def position_of(header: dict[str, Any]) -> ReplicaPosition:
    """Return a position, whose offsets stand in their order."""
    fields = Fields(header)
    position = ReplicaPosition(
        epochs=fields.epochs(),
        log_start_offset=fields.number("start"),
        high_watermark=fields.number("watermark"),
        log_end_offset=fields.number("end"),
    )
    if not position.log_start_offset <= position.high_watermark <= position.log_end_offset:
        raise InvalidMessageError("start, watermark and end do not rise")
    return fields.end(position)


def batches_of(message: Message) -> ReplicaBatches:
    """Return batches; what is in `data` is not looked at."""
    fields = Fields(message.header)
    batches = ReplicaBatches(
        partition=fields.partition(),
        epoch=fields.number("epoch", MAX_EPOCH),
        from_offset=fields.number("from"),
        end_offset=fields.number("end"),
        in_sync=fields.in_sync(),
        high_watermark=fields.number("watermark"),
        log_start_offset=fields.number("start"),
        data=message.data,
    )
    if batches.end_offset < batches.from_offset:
        raise InvalidMessageError("batches that end before they begin")
    return fields.end(batches)


def acknowledgement_of(header: dict[str, Any]) -> Acknowledgement:
    """Return an acknowledgement."""
    fields = Fields(header)
    return fields.end(Acknowledgement(fields.partition(), fields.number("end"), fields.order()))


def status_of(header: dict[str, Any]) -> ReplicaStatus:
    """Return how a replica is."""
    fields = Fields(header)
    return fields.end(
        ReplicaStatus(
            replica_id=fields.replica("replica"),
            cluster_id=fields.id_or_none("cluster"),
            promised_epoch=fields.number("promised", MAX_EPOCH),
            in_sync=fields.in_sync(),
            log_end_offset=fields.number("end"),
        )
    )


# ---------------------------------------------------------------- errors

# Those that mean something to a leader, and the types of what they carry.  Others arrive as
# ReplicationError with the same words.
_ERRORS: Final[dict[str, tuple[Callable[..., PylogError], tuple[type, ...]]]] = {
    "FencedLeaderEpochError": (FencedLeaderEpochError, (int, int)),
    "InconsistentClusterIdError": (InconsistentClusterIdError, (str, str)),
    "NotEligibleError": (NotEligibleError, (str,)),
    "DivergedReplicaError": (DivergedReplicaError, (str, int, int)),
}
_ATTRIBUTES: Final = {
    "FencedLeaderEpochError": ("epoch", "promised"),
    "InconsistentClusterIdError": ("ours", "theirs"),
    "NotEligibleError": ("message",),
    "DivergedReplicaError": ("partition", "end_offset", "high_watermark"),
}


def error_header(error: PylogError | OSError) -> dict[str, Any]:
    """Return an error as a header."""
    name = type(error).__name__
    values = [getattr(error, attribute) for attribute in _ATTRIBUTES.get(name, ())]
    return {"error": name, "text": str(error)[:_MAX_TEXT], "values": values}


def error_of(header: dict[str, Any]) -> PylogError:
    """Return the error that a replica met."""
    fields = Fields(header)
    name, text, values = fields.take("error"), fields.take("text"), fields.take("values")
    if not isinstance(name, str) or not isinstance(text, str) or not isinstance(values, list):
        raise InvalidMessageError("an error that is none")
    make, types = _ERRORS.get(name, (None, ()))
    if tuple(type(value) for value in values) != types:
        raise InvalidMessageError("an error that does not say what it should")
    if make is not None:
        return fields.end(make(*values))
    return fields.end(ReplicationError(f"the replica answered {name[:80]}: {text[:_MAX_TEXT]}"))
