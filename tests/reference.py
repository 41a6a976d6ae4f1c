"""The oracle: Kafka's batch v2, varints, checksums and index rules in readable Python.

Written from the format's description, not from the C core, and slow on purpose: what the two agree
on is unlikely to be wrong in both.  Imports nothing of pylog.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Sequence

# base offset, length, leader epoch, magic, crc | attributes, last offset delta, base timestamp,
# max timestamp, producer id, producer epoch, base sequence, count
BEFORE_CRC = struct.Struct(">qiibI")
AFTER_CRC = struct.Struct(">hiqqqhii")
HEADER_BYTES = BEFORE_CRC.size + AFTER_CRC.size
assert HEADER_BYTES == 61

LOG_APPEND_TIME = 0x08


class FormatError(ValueError):
    """Raised when bytes are not what the format says."""


# ---------------------------------------------------------------- varints


def zigzag_varint(value: int) -> bytes:
    rest = value * 2 if value >= 0 else -value * 2 - 1
    groups = bytearray()
    while rest >= 0x80:
        groups.append(rest & 0x7F | 0x80)
        rest >>= 7
    groups.append(rest)
    return bytes(groups)


class Reader:
    """Takes fields off the front of bytes, and says when there are not enough."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.position:
            raise FormatError(f"{size} bytes do not remain")
        self.position += size
        return self.data[self.position - size : self.position]

    def varint(self, max_bytes: int = 5) -> int:
        value = 0
        for shift in range(0, 7 * max_bytes, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                value &= (1 << (32 if max_bytes == 5 else 64)) - 1
                return value >> 1 if value % 2 == 0 else -(value >> 1) - 1
        raise FormatError("a varint that does not end")

    def varlong(self) -> int:
        return self.varint(max_bytes=10)

    def nullable(self) -> bytes | None:
        size = self.varint()
        return None if size == -1 else self.take(size)


# ---------------------------------------------------------------- checksums


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes, value: int = 0) -> int:
    crc = value ^ 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return Kafka's hash of a key as Java's signed int."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    hashed = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for position in range(0, whole, 4):
        group = int.from_bytes(data[position : position + 4], "little") * multiplier & mask
        group = (group ^ group >> 24) * multiplier & mask
        hashed = (hashed * multiplier & mask) ^ group
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    hashed = (hashed ^ hashed >> 13) * multiplier & mask
    hashed ^= hashed >> 15
    return hashed - (1 << 32) if hashed >= 1 << 31 else hashed


# ---------------------------------------------------------------- records and batches


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    offset_delta: int
    timestamp_delta: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def encode(self) -> bytes:
        body = b"\0" + zigzag_varint(self.timestamp_delta) + zigzag_varint(self.offset_delta)
        body += _nullable(self.key) + _nullable(self.value) + zigzag_varint(len(self.headers))
        for name, value in self.headers:
            body += _nullable(name.encode()) + _nullable(value)
        return zigzag_varint(len(body)) + body


def _nullable(value: bytes | None) -> bytes:
    return zigzag_varint(-1) if value is None else zigzag_varint(len(value)) + value


def _decode_record(reader: Reader) -> Record:
    body = Reader(reader.take(reader.varint()))
    body.take(1)
    timestamp_delta, offset_delta = body.varlong(), body.varint()
    key, value = body.nullable(), body.nullable()
    count = body.varint()
    if count < 0:
        raise FormatError("a negative count of headers")
    headers = []
    for _ in range(count):
        name = body.nullable()
        if name is None:
            raise FormatError("a header without a name")
        headers.append((name.decode(errors="surrogateescape"), body.nullable()))
    if body.position != len(body.data):
        raise FormatError("bytes are left over in a record")
    return Record(offset_delta, timestamp_delta, key, value, tuple(headers))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    base_offset: int = 0
    leader_epoch: int = -1
    attributes: int = 0
    last_offset_delta: int = 0
    base_timestamp: int = 0
    max_timestamp: int = 0
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    count: int = 0

    @property
    def codec(self) -> int:
        return self.attributes & 7


def encode_batch(header: Header, payload: bytes) -> bytes:
    """Return a whole batch around records that are encoded (and compressed) already."""
    checked = AFTER_CRC.pack(
        header.attributes,
        header.last_offset_delta,
        header.base_timestamp,
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.count,
    )
    checked += payload
    length = len(checked) + BEFORE_CRC.size - 12
    before = BEFORE_CRC.pack(header.base_offset, length, header.leader_epoch, 2, crc32c(checked))
    return before + checked


def decode_batch(data: bytes) -> tuple[Header, bytes, int]:
    """Return (header, payload, size) of the batch at the front of `data`."""
    if len(data) < HEADER_BYTES:
        raise FormatError("the header is cut")
    base_offset, length, leader_epoch, magic, crc = BEFORE_CRC.unpack_from(data)
    size = length + 12
    if length < HEADER_BYTES - 12 or magic != 2 or size > len(data):
        raise FormatError("not a whole batch of version 2")
    if crc32c(data[21:size]) != crc:
        raise FormatError("the CRC does not match")
    attributes, last_delta, base_timestamp, max_timestamp, *producer, count = AFTER_CRC.unpack_from(
        data, BEFORE_CRC.size
    )
    header = Header(
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        attributes=attributes,
        last_offset_delta=last_delta,
        base_timestamp=base_timestamp,
        max_timestamp=max_timestamp,
        producer_id=producer[0],
        producer_epoch=producer[1],
        base_sequence=producer[2],
        count=count,
    )
    return header, data[HEADER_BYTES:size], size


def decode_records(payload: bytes, count: int) -> list[Record]:
    """Return the records of an uncompressed payload, which must hold exactly `count`."""
    reader = Reader(payload)
    records = [_decode_record(reader) for _ in range(count)]
    if reader.position != len(payload):
        raise FormatError("bytes are left over behind the last record")
    return records


def timestamp_of(header: Header, record: Record) -> int:
    if header.attributes & LOG_APPEND_TIME:
        return header.max_timestamp
    return header.base_timestamp + record.timestamp_delta


def batches(data: bytes) -> Iterator[tuple[int, Header, bytes, int]]:
    """Yield (position, header, payload, size) of whole batches one after another."""
    position = 0
    while position < len(data):
        header, payload, size = decode_batch(data[position:])
        yield position, header, payload, size
        position += size


# ---------------------------------------------------------------- indexes


@dataclasses.dataclass(slots=True)
class Indexes:
    """What a sealed segment's indexes hold, by Kafka's rule applied per batch."""

    offset_entries: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    time_entries: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def index_bytes(self) -> bytes:
        return b"".join(struct.pack(">ii", *entry) for entry in self.offset_entries)

    def timeindex_bytes(self) -> bytes:
        return b"".join(struct.pack(">qi", *entry) for entry in self.time_entries)


def index_segment(data: bytes, *, base_offset: int, interval_bytes: int) -> Indexes:
    """Return the indexes of a segment that is sealed after the batches in `data`."""
    indexes = Indexes()
    greatest, greatest_offset, since = -1, -1, 0

    def add_time_entry() -> None:
        newest = indexes.time_entries[-1][0] if indexes.time_entries else -1
        if greatest > newest:
            indexes.time_entries.append((greatest, greatest_offset - base_offset))

    for position, header, _, size in batches(data):
        last_offset = header.base_offset + header.last_offset_delta
        if header.max_timestamp > greatest:
            greatest, greatest_offset = header.max_timestamp, last_offset
        if since > interval_bytes:
            indexes.offset_entries.append((last_offset - base_offset, position))
            add_time_entry()
            since = 0
        since += size
    add_time_entry()
    return indexes


def lower_bound(entries: Sequence[tuple[int, int]], target: int) -> int:
    """Return the index of the last entry whose first field is <= target, -1 if there is none."""
    return sum(1 for first, _ in entries if first <= target) - 1
