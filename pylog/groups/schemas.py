"""Keys and values of `__consumer_offsets`, in Kafka's schemas.

    key     int16 version, fields: the version says what the record is about
    value   int16 version, fields; null (a tombstone) forgets what the key says

     key  value  is
     0 1  0 - 4  a committed offset (written: 1 and 3, as Kafka 2.1 to 4.0)
     2    0 - 4  a group of the classic protocol: understood, never written
     3    0      a consumer group (KIP-848): its epoch
     4    0      ... the topics that its members subscribed to, as its epoch knows them
     5    0      ... a member
     6    0      ... the epoch that the target assignment was made for
     7    0      ... a member's target assignment
     8    0      ... what a member has now

Other keys are left alone: they belong to something that a later Kafka has.
Knows bytes and value types.  Must not know what follows from them.
Source: Kafka group-coordinator/src/main/resources/common/message, KIP-848, KIP-1251.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Collection, Mapping
from typing import Final

from pylog.errors import CorruptionError
from pylog.groups.facts import (
    ClassicGroupKey,
    ClassicGroupValue,
    ClassicMember,
    CurrentKey,
    CurrentValue,
    EpochValue,
    GroupKey,
    Key,
    MemberKey,
    MemberValue,
    OffsetKey,
    OffsetValue,
    Place,
    TargetEpochKey,
    TargetKey,
    TargetValue,
    TopicShape,
    TopicsKey,
    TopicsValue,
    Value,
)
from pylog.groups.wire import (
    UUID_BYTES,
    Input,
    encode_compact_array,
    encode_compact_string,
    encode_string,
    encode_tagged,
    encode_varint,
)

_VERSION: Final = struct.Struct(">h")
_OFFSET_KEY_VERSIONS: Final = (0, 1)
_CLASSIC_KEY_VERSION: Final = 2
_OFFSET_VALUE: Final = struct.Struct(">hqi")  # version 3: offset, leader epoch
_OFFSET_VALUE_VERSION: Final = b"\0\3"
_OFFSET_HEAD: Final = struct.Struct(">hqih")  # ... and the size of its metadata
_TIMESTAMP: Final = struct.Struct(">q")
_INT32: Final = struct.Struct(">i")
_NO_EPOCH: Final = -1
_NO_TIME: Final = -1
# Tagged fields.  Kafka's count from 0 up; pylog's own begin where Kafka never comes: "pl".
_CLASSIC_MEMBER_TAG: Final = 0
_TOPIC_ID_TAG: Final = 0
_ASSIGNMENT_EPOCHS_TAG: Final = 0
_SESSION_TIMEOUT_TAG: Final = 0x706C
_GROUP_KEYS: Final[dict[int, type[ClassicGroupKey | GroupKey | TopicsKey | TargetEpochKey]]] = {
    _CLASSIC_KEY_VERSION: ClassicGroupKey,
    3: GroupKey,
    4: TopicsKey,
    6: TargetEpochKey,
}
_MEMBER_KEYS: Final[dict[int, type[MemberKey | TargetKey | CurrentKey]]] = {
    5: MemberKey,
    7: TargetKey,
    8: CurrentKey,
}
_KEY_VERSIONS: Final[dict[type[Key], int]] = {
    OffsetKey: 1,
    **{kind: version for version, kind in _GROUP_KEYS.items()},
    **{kind: version for version, kind in _MEMBER_KEYS.items()},
}


# ---------------------------------------------------------------- encoding


def encode_key(key: Key) -> bytes:
    """Return the bytes of a key.  Raises ValueError for a text that is too long."""
    data = _VERSION.pack(_KEY_VERSIONS[type(key)]) + encode_string(key.group)
    if isinstance(key, OffsetKey):
        return data + encode_string(key.topic) + _INT32.pack(key.partition)
    if isinstance(key, MemberKey | TargetKey | CurrentKey):
        return data + encode_string(key.member_id)
    return data


def encode_offset(
    offset: int, leader_epoch: int | None, metadata: bytes, commit_timestamp: int
) -> bytes:
    """Return the value of a committed offset, version 3.

    metadata: UTF-8, shorter than 32 KiB.  Half a microsecond: it is in the way of every commit.
    """
    epoch = _NO_EPOCH if leader_epoch is None else leader_epoch
    text = _VERSION.pack(len(metadata)) + metadata
    return _OFFSET_VALUE.pack(3, offset, epoch) + text + _TIMESTAMP.pack(commit_timestamp)


def encode_value(value: Value) -> bytes:
    """Return the bytes of a value.  Raises ValueError for a text that is too long."""
    if isinstance(value, OffsetValue):
        metadata = encode_string(value.metadata)[_VERSION.size :]
        return encode_offset(value.offset, value.leader_epoch, metadata, value.commit_timestamp)
    return _VERSION.pack(0) + _flexible(value)


def _flexible(value: Value) -> bytes:
    """Return the fields of a value whose only version is 0."""
    tagged: dict[int, bytes] = {}
    if isinstance(value, EpochValue):
        data = _INT32.pack(value.epoch)
    elif isinstance(value, TopicsValue):
        data = encode_compact_array(map(_topic_bytes, value.topics))
    elif isinstance(value, MemberValue):
        data, tagged = _member_bytes(value)
    elif isinstance(value, TargetValue):
        data = _places_bytes(value.places)
    elif isinstance(value, CurrentValue):
        data = struct.pack(">iib", value.epoch, value.previous_epoch, value.state)
        data += _places_bytes(value.assigned) + _places_bytes(value.pending)
    else:
        raise TypeError(f"{type(value).__name__} is never written")
    return data + encode_tagged(tagged)


def _topic_bytes(topic: TopicShape) -> bytes:
    racks = encode_compact_array(())
    name = encode_compact_string(topic.name)
    return topic.topic_id + name + _INT32.pack(topic.partitions) + racks + encode_tagged({})


def _member_bytes(member: MemberValue) -> tuple[bytes, dict[int, bytes]]:
    if member.is_classic:
        raise TypeError("a member of the classic protocol is never written")
    texts = (member.instance_id, member.rack_id, member.client_id, member.client_host)
    data = b"".join(map(encode_compact_string, texts))
    data += encode_compact_array(map(encode_compact_string, member.topics))
    data += encode_compact_string(member.pattern)
    timeout = member.rebalance_timeout_ms
    data += _INT32.pack(_NO_TIME if timeout is None else timeout)
    data += encode_compact_string(member.assignor)
    tagged = {}
    if member.session_timeout_ms is not None:
        tagged[_SESSION_TIMEOUT_TAG] = _INT32.pack(member.session_timeout_ms)
    return data, tagged


def _places_bytes(places: Collection[Place]) -> bytes:
    """Return partitions by topic; with the epochs in which they were got, if there are any."""
    topics = []
    for topic_id, group in itertools.groupby(sorted(places), key=lambda place: place[0]):
        own = list(group)
        numbers = encode_compact_array(_INT32.pack(number) for _, number in own)
        tagged = {}
        if isinstance(places, Mapping):
            epochs = encode_compact_array(_INT32.pack(places[place]) for place in own)
            tagged[_ASSIGNMENT_EPOCHS_TAG] = epochs
        topics.append(topic_id + numbers + encode_tagged(tagged))
    return encode_compact_array(topics)


# ---------------------------------------------------------------- parsing


def parse_key(data: bytes) -> Key | None:
    """Return what a key is, None for a version that is not known.  Raises CorruptionError."""
    fields = Input(data)
    version = fields.int16()
    key: Key
    if version in _OFFSET_KEY_VERSIONS:
        group, topic = fields.string(is_compact=False), fields.string(is_compact=False)
        key = OffsetKey(group, topic, _at_least(fields.int32(), 0, "partition"))
    elif version in _GROUP_KEYS:
        key = _GROUP_KEYS[version](fields.string(is_compact=False))
    elif version in _MEMBER_KEYS:
        group = fields.string(is_compact=False)
        key = _MEMBER_KEYS[version](group, fields.string(is_compact=False))
    else:
        return None
    fields.end()
    return key


def parse_value(key: Key, data: bytes) -> Value:
    """Return what the value of a record with this key says.  Raises CorruptionError.

    Also for a version that a later Kafka may write: what it says cannot be left out.
    """
    if isinstance(key, OffsetKey) and data.startswith(_OFFSET_VALUE_VERSION):
        plain = _parse_written_offset(data)
        if plain is not None:
            return plain
    fields = Input(data)
    version = fields.int16()
    highest = 4 if isinstance(key, OffsetKey | ClassicGroupKey) else 0
    if not 0 <= version <= highest:
        name = type(key).__name__
        raise CorruptionError(f"{name}: value version {version}, this pylog reads 0 to {highest}")
    value = _parse_fields(key, fields, version)
    fields.end()
    return value


def _parse_written_offset(data: bytes) -> OffsetValue | None:
    """Return a committed offset of version 3, None for what has to be looked at carefully.

    It is what a log of groups is full of: 1 us instead of 5.
    """
    if len(data) < _OFFSET_HEAD.size + _TIMESTAMP.size:
        return None
    _, offset, epoch, size = _OFFSET_HEAD.unpack_from(data)
    end = _OFFSET_HEAD.size + size
    if size < 0 or offset < 0 or epoch < _NO_EPOCH or len(data) != end + _TIMESTAMP.size:
        return None
    metadata = ""
    if size:
        try:
            metadata = data[_OFFSET_HEAD.size : end].decode()
        except UnicodeDecodeError:
            return None
    (committed,) = _TIMESTAMP.unpack_from(data, end)
    return OffsetValue(offset, None if epoch == _NO_EPOCH else epoch, metadata, committed)


def _parse_fields(key: Key, fields: Input, version: int) -> Value:
    """Return what the fields behind the version say."""
    if isinstance(key, OffsetKey):
        return _parse_offset(fields, version)
    if isinstance(key, ClassicGroupKey):
        return _parse_classic_group(fields, version)
    value: Value
    if isinstance(key, MemberKey):
        return _parse_member(fields)
    if isinstance(key, TopicsKey):
        value = TopicsValue(tuple(fields.array(_parse_topic, is_compact=True)))
    elif isinstance(key, TargetKey):
        value = TargetValue(frozenset(_parse_places(fields)))
    elif isinstance(key, CurrentKey):
        value = CurrentValue(
            epoch=fields.int32(),
            previous_epoch=fields.int32(),
            state=fields.int8(),
            assigned=_parse_places(fields),
            pending=_parse_places(fields),
        )
    else:
        value = EpochValue(_at_least(fields.int32(), 0, "epoch"))
    fields.tagged()
    return value


def _parse_offset(fields: Input, version: int) -> OffsetValue:
    """Read a committed offset; version: in [0, 4]."""
    is_flexible = version >= 4
    offset = _at_least(fields.int64(), 0, "offset")
    epoch = _at_least(fields.int32(), _NO_EPOCH, "leader epoch") if version >= 3 else _NO_EPOCH
    metadata = fields.string(is_compact=is_flexible)
    committed = fields.int64()
    expires = fields.int64() if version == 1 else _NO_TIME
    tagged = fields.tagged() if is_flexible else {}
    topic_id = tagged.get(_TOPIC_ID_TAG)
    if topic_id is not None and len(topic_id) != UUID_BYTES:
        raise CorruptionError(f"a topic id of {len(topic_id)} bytes")
    return OffsetValue(
        offset,
        None if epoch == _NO_EPOCH else epoch,
        metadata,
        committed,
        None if expires == _NO_TIME else expires,
        topic_id,
    )


def _parse_classic_group(fields: Input, version: int) -> ClassicGroupValue:
    """Read a group of the classic protocol; version: in [0, 4]."""
    is_flexible = version >= 4

    def member(fields: Input) -> ClassicMember:
        parsed = ClassicMember(
            member_id=fields.string(is_compact=is_flexible),
            instance_id=fields.nullable_string(is_compact=is_flexible) if version >= 3 else None,
            client_id=fields.string(is_compact=is_flexible),
            client_host=fields.string(is_compact=is_flexible),
            rebalance_timeout_ms=fields.int32() if version >= 1 else None,
            session_timeout_ms=fields.int32(),
            subscription=fields.byte_string(is_compact=is_flexible),
            assignment=fields.byte_string(is_compact=is_flexible),
        )
        if is_flexible:
            fields.tagged()
        return parsed

    protocol_type = fields.string(is_compact=is_flexible)
    generation = fields.int32()
    protocol = fields.nullable_string(is_compact=is_flexible)
    leader = fields.nullable_string(is_compact=is_flexible)
    since = fields.int64() if version >= 2 else _NO_TIME
    members = tuple(fields.array(member, is_compact=is_flexible))
    if is_flexible:
        fields.tagged()
    state_timestamp = None if since == _NO_TIME else since
    return ClassicGroupValue(protocol_type, generation, protocol, leader, state_timestamp, members)


def _parse_member(fields: Input) -> MemberValue:
    """Read a member of a consumer group; of a classic one only that it is."""
    texts = {
        "instance_id": fields.nullable_string(is_compact=True),
        "rack_id": fields.nullable_string(is_compact=True),
    }
    client_id, client_host = fields.string(is_compact=True), fields.string(is_compact=True)
    topics = fields.array(lambda one: one.string(is_compact=True), is_compact=True)
    pattern = fields.nullable_string(is_compact=True)
    timeout = _at_least(fields.int32(), _NO_TIME, "rebalance time-out")
    assignor = fields.nullable_string(is_compact=True)
    tagged = fields.tagged()
    session = tagged.get(_SESSION_TIMEOUT_TAG)
    return MemberValue(
        **texts,
        client_id=client_id,
        client_host=client_host,
        topics=tuple(topics),
        pattern=pattern,
        rebalance_timeout_ms=None if timeout == _NO_TIME else timeout,
        assignor=assignor,
        session_timeout_ms=None if session is None else _session_timeout(Input(session)),
        is_classic=_CLASSIC_MEMBER_TAG in tagged,
    )


def _session_timeout(fields: Input) -> int:
    timeout = _at_least(fields.int32(), 0, "session time-out")
    fields.end()
    return timeout


def _parse_topic(fields: Input) -> TopicShape:
    def racks(fields: Input) -> None:
        fields.int32()
        fields.array(lambda one: one.string(is_compact=True), is_compact=True)
        fields.tagged()

    topic_id, name = fields.uuid(), fields.string(is_compact=True)
    partitions = _at_least(fields.int32(), 0, "count of partitions")
    fields.array(racks, is_compact=True)
    fields.tagged()
    return TopicShape(topic_id, name, partitions)


def _parse_places(fields: Input) -> dict[Place, int]:
    """Read partitions by topic; each with the epoch in which it was got, 0 where none is said."""
    places: dict[Place, int] = {}

    def topic(fields: Input) -> None:
        topic_id = fields.uuid()
        numbers = fields.array(Input.int32, is_compact=True)
        said = fields.tagged().get(_ASSIGNMENT_EPOCHS_TAG)
        epochs = [0] * len(numbers)
        if said is not None and said != encode_varint(0):
            inner = Input(said)
            epochs = inner.array(Input.int32, is_compact=True)
            inner.end()
        if len(epochs) != len(numbers):
            raise CorruptionError(f"{len(epochs)} epochs of {len(numbers)} partitions")
        for number, epoch in zip(numbers, epochs, strict=True):
            place = (topic_id, _at_least(number, 0, "partition"))
            if place in places:
                raise CorruptionError(f"partition {number} stands there twice")
            places[place] = epoch

    fields.array(topic, is_compact=True)
    return places


def _at_least(number: int, minimum: int, what: str) -> int:
    if number < minimum:
        raise CorruptionError(f"{what} {number}, expected at least {minimum}")
    return number
