"""Keys and values of `__consumer_offsets`: Kafka's vectors, kafka-python, and bytes of an enemy."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from typing import Any

import kafka_groups
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    TargetEpochKey,
    TargetKey,
    TargetValue,
    TopicShape,
    TopicsKey,
    TopicsValue,
    Value,
)
from pylog.groups.schemas import encode_key, encode_value, parse_key, parse_value
from pylog.groups.wire import MAX_STRING_BYTES, Input, encode_varint

T = 1_700_000_000_000
OFFSET = OffsetKey("g1", "orders", 3)
CLASSIC = ClassicGroupKey("g1")
TOPIC_ID = bytes.fromhex("00112233445566778899aabbccddeeff")
OTHER_ID = bytes.fromhex("ffeeddccbbaa99887766554433221100")

# Of Kafka's own code: group g1, topic orders, partition 3, offset 42, epoch 5, metadata m, time T.
KEY_VECTORS: list[tuple[Key, str]] = [
    (OFFSET, "00010002673100066f726465727300000003"),
    (CLASSIC, "000200026731"),
]
MEMBER_V1 = "00010003632d31000163000a2f3132372e302e302e31"
OFFSET_VECTORS = {
    "0000000000000000002a00016d0000018bcfe56800": OffsetValue(42, None, "m", T),
    "0001000000000000002a00016d0000018bcfe56800ffffffffffffffff": OffsetValue(42, None, "m", T),
    "0002000000000000002a00016d0000018bcfe56800": OffsetValue(42, None, "m", T),
    "0003000000000000002a0000000500016d0000018bcfe56800": OffsetValue(42, 5, "m", T),
    "0004000000000000002a00000005026d0000018bcfe5680000": OffsetValue(42, 5, "m", T),
}
MEMBER = ClassicMember("c-1", None, "c", "/127.0.0.1", 300_000, 45_000, b"\1\2", b"\3")
GROUP = ClassicGroupValue("consumer", 1, "range", "c-1", T, (MEMBER,))
OLDEST_MEMBER = dataclasses.replace(MEMBER, rebalance_timeout_ms=None)
CLASSIC_VECTORS = {
    "00000008636f6e73756d657200000001000572616e67650003632d31000000010003632d31000163000a2f3132372e"
    "302e302e310000afc80000000201020000000103": dataclasses.replace(
        GROUP, state_timestamp=None, members=(OLDEST_MEMBER,)
    ),
    "00010008636f6e73756d657200000001000572616e67650003632d31000000010003632d31000163000a2f3132372e"
    "302e302e31000493e00000afc80000000201020000000103": dataclasses.replace(
        GROUP, state_timestamp=None
    ),
    "00020008636f6e73756d657200000001000572616e67650003632d310000018bcfe56800000000010003632d310001"
    "63000a2f3132372e302e302e31000493e00000afc80000000201020000000103": GROUP,
    "00030008636f6e73756d657200000001000572616e67650003632d310000018bcfe56800000000010003632d31ffff"
    "000163000a2f3132372e302e302e31000493e00000afc80000000201020000000103": GROUP,
    "000409636f6e73756d6572000000010672616e676504632d310000018bcfe568000204632d310002630b2f3132372e"
    "302e302e31000493e00000afc803010202030000": GROUP,
    "0003000000000000ffffffff0000018bcfe5680000000000": ClassicGroupValue("", 0, None, None, T, ()),
}
VALUE_VECTORS: list[tuple[Key, str, Value]] = [
    *((OFFSET, data, value) for data, value in OFFSET_VECTORS.items()),
    *((CLASSIC, data, value) for data, value in CLASSIC_VECTORS.items()),
]

EXAMPLES: list[tuple[Key, Value]] = [
    (OFFSET, OffsetValue(42, 5, "m", T)),
    (GroupKey("g1"), EpochValue(7)),
    (TargetEpochKey("g1"), EpochValue(6)),
    (TopicsKey("g1"), TopicsValue((TopicShape(TOPIC_ID, "orders", 6),))),
    (
        MemberKey("g1", "m1"),
        MemberValue(
            instance_id="worker-1",
            client_id="c",
            client_host="here",
            topics=("orders", "payments"),
            pattern="o.*",
            rebalance_timeout_ms=300_000,
            assignor="uniform",
            session_timeout_ms=45_000,
        ),
    ),
    (TargetKey("g1", "m1"), TargetValue(frozenset({(TOPIC_ID, 0), (OTHER_ID, 300)}))),
    (
        CurrentKey("g1", "m1"),
        CurrentValue(7, 6, 1, {(TOPIC_ID, 0): 5, (TOPIC_ID, 1): 7}, {(OTHER_ID, 2): 3}),
    ),
]
WITNESSES: dict[type, str] = {
    OffsetKey: "OffsetKey",
    ClassicGroupKey: "GroupKey",
    GroupKey: "GroupKey",
    TopicsKey: "GroupKey",
    TargetEpochKey: "GroupKey",
    MemberKey: "MemberKey",
    TargetKey: "MemberKey",
    CurrentKey: "MemberKey",
}


@pytest.mark.parametrize(("key", "vector"), KEY_VECTORS)
def test_keys_are_kafkas_bytes(key: Key, vector: str) -> None:
    assert encode_key(key).hex() == vector
    assert parse_key(bytes.fromhex(vector)) == key


def test_the_older_key_of_an_offset_is_read() -> None:
    assert parse_key(b"\0\0" + encode_key(OFFSET)[2:]) == OFFSET


@pytest.mark.parametrize(("key", "vector", "value"), VALUE_VECTORS)
def test_every_version_of_kafkas_values_is_read(key: Key, vector: str, value: Value) -> None:
    assert parse_value(key, bytes.fromhex(vector)) == value


def test_an_offset_is_written_as_kafka_does_since_2_1() -> None:
    written = encode_value(OffsetValue(42, 5, "m", T)).hex()
    assert written == "0003000000000000002a0000000500016d0000018bcfe56800"
    assert encode_value(OffsetValue(42, None, "", T))[10:14] == b"\xff\xff\xff\xff"


def test_an_expiry_and_a_topic_id_are_read() -> None:
    data = bytes.fromhex("0001000000000000002a00016d0000018bcfe568000000018bcfe56801")
    assert parse_value(OFFSET, data) == OffsetValue(42, None, "m", T, T + 1)
    flexible = bytes.fromhex("0004000000000000002a00000005026d0000018bcfe56800")
    data = flexible + b"\x01\x00\x10" + TOPIC_ID
    assert parse_value(OFFSET, data) == OffsetValue(42, 5, "m", T, topic_id=TOPIC_ID)


@pytest.mark.parametrize(("key", "value"), EXAMPLES)
def test_what_is_written_is_read_again(key: Key, value: Value) -> None:
    assert parse_key(encode_key(key)) == key
    assert parse_value(key, encode_value(value)) == value


def test_a_key_of_a_later_kafka_is_left_alone() -> None:
    for version in range(9, 40):
        assert parse_key(version.to_bytes(2, "big") + b"\0\2g1") is None


@pytest.mark.parametrize(("key", "value"), EXAMPLES)
def test_a_value_of_a_later_version_is_not_left_out(key: Key, value: Value) -> None:
    for version in (-1, 5, 99):
        data = version.to_bytes(2, "big", signed=True) + encode_value(value)[2:]
        with pytest.raises(CorruptionError, match="version"):
            parse_value(key, data)


# ---------------------------------------------------------------- kafka-python as a witness


def places_of(decoded: Any) -> set[tuple[bytes, int]]:
    return {(topic.topic_id.bytes, number) for topic in decoded for number in topic.partitions}


def epochs_of(decoded: Any) -> dict[tuple[bytes, int], int]:
    return {
        (topic.topic_id.bytes, number): epoch
        for topic in decoded
        for number, epoch in zip(topic.partitions, topic.assignment_epochs, strict=True)
    }


@pytest.mark.parametrize(("key", "value"), EXAMPLES)
def test_kafka_python_reads_our_keys(key: Key, value: Value) -> None:
    decoded = kafka_groups.decode(WITNESSES[type(key)], encode_key(key))
    assert decoded.group == "g1"
    if isinstance(key, OffsetKey):
        assert (decoded.topic, decoded.partition) == ("orders", 3)
    if WITNESSES[type(key)] == "MemberKey":
        assert decoded.member == "m1"


def test_kafka_python_reads_our_values() -> None:
    values = {type(key): encode_value(value) for key, value in EXAMPLES}
    offset = kafka_groups.decode("OffsetValue", values[OffsetKey])
    assert (offset.offset, offset.leader_epoch, offset.metadata) == (42, 5, "m")
    assert offset.commit_timestamp == T
    assert kafka_groups.decode("EpochValue", values[GroupKey]).epoch == 7
    (topic,) = kafka_groups.decode("TopicsValue", values[TopicsKey]).topics
    assert (topic.topic_id.bytes, topic.topic_name, topic.num_partitions) == (TOPIC_ID, "orders", 6)
    assert topic.partition_metadata == []
    member = kafka_groups.decode("MemberValue", values[MemberKey])
    assert (member.instance_id, member.rack_id, member.client_id) == ("worker-1", None, "c")
    assert (member.client_host, member.subscribed_topic_regex) == ("here", "o.*")
    assert member.subscribed_topic_names == ["orders", "payments"]
    assert (member.rebalance_timeout_ms, member.server_assignor) == (300_000, "uniform")
    assert member.classic_member_metadata is None
    target = kafka_groups.decode("TargetValue", values[TargetKey])
    assert places_of(target.topic_partitions) == {(TOPIC_ID, 0), (OTHER_ID, 300)}
    current = kafka_groups.decode("CurrentValue", values[CurrentKey])
    assert (current.member_epoch, current.previous_member_epoch, current.state) == (7, 6, 1)
    assert epochs_of(current.assigned_partitions) == {(TOPIC_ID, 0): 5, (TOPIC_ID, 1): 7}
    assert epochs_of(current.partitions_pending_revocation) == {(OTHER_ID, 2): 3}


def test_we_read_what_kafka_python_writes() -> None:
    data = kafka_groups.encode(
        "MemberValue",
        0,
        instance_id=None,
        rack_id="r",
        client_id="c",
        client_host="h",
        subscribed_topic_names=["orders"],
        subscribed_topic_regex=None,
        rebalance_timeout_ms=-1,
        server_assignor=None,
    )
    expected = MemberValue(rack_id="r", client_id="c", client_host="h", topics=("orders",))
    assert parse_value(MemberKey("g1", "m1"), data) == expected
    # Without the epochs that Kafka adds since KIP-1251.
    places = [{"topic_id": uuid.UUID(bytes=TOPIC_ID), "partitions": [4, 2]}]
    data = kafka_groups.encode("TargetValue", 0, topic_partitions=places)
    assert parse_value(TargetKey("g1", "m1"), data) == TargetValue(
        frozenset({(TOPIC_ID, 2), (TOPIC_ID, 4)})
    )


@given(
    offset=st.integers(0, 2**63 - 1),
    epoch=st.none() | st.integers(0, 2**31 - 1),
    metadata=st.text(max_size=50),
    time=st.integers(0, 2**63 - 1),
)
def test_any_offset_is_read_by_kafka_python(
    offset: int, epoch: int | None, metadata: str, time: int
) -> None:
    value = OffsetValue(offset, epoch, metadata, time)
    data = encode_value(value)
    assert parse_value(OFFSET, data) == value
    decoded = kafka_groups.decode("OffsetValue", data)
    assert (decoded.offset, decoded.metadata, decoded.commit_timestamp) == (offset, metadata, time)
    assert decoded.leader_epoch == (-1 if epoch is None else epoch)


# ---------------------------------------------------------------- bytes of an enemy


@pytest.mark.parametrize(("key", "value"), EXAMPLES)
def test_bytes_that_are_cut_or_left_over_are_refused(key: Key, value: Value) -> None:
    data = encode_key(key)
    for end in range(len(data)):
        with pytest.raises(CorruptionError):
            parse_key(data[:end])
    with pytest.raises(CorruptionError, match="left over"):
        parse_key(data + b"\0")
    data = encode_value(value)
    for end in range(len(data)):
        with pytest.raises(CorruptionError):
            parse_value(key, data[:end])
    with pytest.raises(CorruptionError, match="left over"):
        parse_value(key, data + b"\0")


@pytest.mark.parametrize(("key", "vector", "value"), VALUE_VECTORS)
def test_vectors_that_are_cut_are_refused(key: Key, vector: str, value: Value) -> None:
    data = bytes.fromhex(vector)
    for end in range(len(data)):
        with pytest.raises(CorruptionError):
            parse_value(key, data[:end])


@pytest.mark.parametrize(
    ("key", "data"),
    [
        *((key, encode_value(value)) for key, value in EXAMPLES),
        *((key, bytes.fromhex(vector)) for key, vector, _ in VALUE_VECTORS),
    ],
)
def test_a_flipped_bit_is_refused_or_read_as_something_else(key: Key, data: bytes) -> None:
    read = parse_value(key, data)
    changed = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            # Only the version of a value may change without changing what it says.
            changed += parse_value(key, bytes(flipped)) != read or bit < 16
        except CorruptionError:
            changed += 1
    assert changed >= 8 * len(data) * 9 // 10  # rest: lengths of lists that nobody keeps


@given(st.binary(max_size=80))
def test_random_bytes_are_refused_or_mean_what_is_written_again(data: bytes) -> None:
    with contextlib.suppress(CorruptionError):
        key = parse_key(data)
        assert key is None or parse_key(encode_key(key)) == key
    for key, _ in EXAMPLES:
        with contextlib.suppress(CorruptionError):
            value = parse_value(key, b"\0\0" + data)
            if not getattr(value, "is_classic", False):
                assert parse_value(key, encode_value(value)) == value


@pytest.mark.parametrize(
    ("key", "tail"),
    [
        (OFFSET, "0000ffffffffffffffff00016d0000018bcfe56800"),  # offset -1
        (OFFSET, "0003000000000000002afffffffe00016d0000018bcfe56800"),  # leader epoch -2
        (OFFSET, "0000000000000000002affff0000018bcfe56800"),  # null metadata
        (OFFSET, "0000000000000000002afffe0000018bcfe56800"),  # length -2
        (OFFSET, "0000000000000000002a0001ff0000018bcfe56800"),  # not UTF-8
        (GroupKey("g"), "0000ffffffff00"),  # epoch -1
        (TopicsKey("g"), "0000ffffffff0f00"),  # a list of 2**32 - 2 items
        (TopicsKey("g"), "00000000"),  # a null list
        (TopicsKey("g"), "0000ffffffff7f00"),  # a varint of 35 bits
        (TargetKey("g", "m"), "0000" + "02" + TOPIC_ID.hex() + "0300000001" + "00000001" + "0000"),
        (TargetKey("g", "m"), "0000" + "02" + TOPIC_ID.hex() + "02ffffffff" + "0000"),
        (TargetKey("g", "m"), "0000" + "01" + "02" + "0500" + "0400"),  # tags that fall
    ],
)
def test_what_cannot_be_is_refused(key: Key, tail: str) -> None:
    with pytest.raises(CorruptionError):
        parse_value(key, bytes.fromhex(tail))


def test_epochs_that_do_not_fit_their_partitions_are_refused() -> None:
    value = CurrentValue(1, 0, 0, {(TOPIC_ID, 0): 5}, {})
    data = encode_value(value)
    assert parse_value(CurrentKey("g", "m"), data) == value
    tagged = bytes.fromhex("0100050200000005")
    assert data.count(tagged) == 1
    data = data.replace(tagged, bytes.fromhex("010009030000000500000006"))
    with pytest.raises(CorruptionError, match="2 epochs of 1 partitions"):
        parse_value(CurrentKey("g", "m"), data)


def test_a_text_that_does_not_fit_is_not_written() -> None:
    assert encode_key(GroupKey("g" * MAX_STRING_BYTES))[:4] == b"\0\3\x7f\xff"
    with pytest.raises(ValueError, match="32768 bytes"):
        encode_key(GroupKey("g" * (MAX_STRING_BYTES + 1)))


@given(st.integers(0, 2**32 - 1))
def test_a_varint_is_read_again(number: int) -> None:
    fields = Input(encode_varint(number))
    assert fields.varint() == number
    fields.end()
