"""Random logs for tests of compaction: batches of every kind that a log may hold."""

from __future__ import annotations

import random

import reference
from reference import LOG_APPEND_TIME, Header, Record
from reference_cleaner import CONTROL, HAS_HORIZON, TRANSACTIONAL

from pylog import codecs

T = 1_700_000_000_000
HOUR = 3_600_000
CODECS = tuple(codecs.NUMBERS.values())


def unpack(codec: int, payload: bytes) -> bytes:
    return codecs.decompress(codec, memoryview(payload))


def pack(codec: int, payload: bytes) -> bytes:
    return codecs.Compression(codec, 3).compress(memoryview(payload))


def random_log(
    rng: random.Random, *, batches: int, keys: int = 12, is_foreign: bool = True
) -> bytes:
    """Return batches one after another from a random base offset on, with gaps.

    is_foreign: with what pylog itself does not write: transactions, control batches.
    """
    offset = rng.choice((0, 0, 1000, 2**40))
    data = b""
    for _ in range(batches):
        offset += rng.choice((0, 0, 0, 1, 50))
        batch, offset = random_batch(rng, offset, keys=keys, is_foreign=is_foreign)
        data += batch
    return data


def random_batch(
    rng: random.Random, base_offset: int, *, keys: int, is_foreign: bool
) -> tuple[bytes, int]:
    """Return a batch and the offset behind it."""
    kind = rng.choices(("plain", "empty", "control", "transactional"), (20, 1, 1, 1))[0]
    if not is_foreign and kind in ("control", "transactional"):
        kind = "plain"
    if kind == "control":
        return _control_batch(rng, base_offset), base_offset + 1
    codec = rng.choice(CODECS) if rng.random() < 0.5 else 0
    attributes = codec if kind != "empty" else 0
    attributes |= LOG_APPEND_TIME if rng.random() < 0.15 else 0
    attributes |= TRANSACTIONAL if kind == "transactional" else 0
    base_timestamp = T + rng.randrange(-HOUR, HOUR)
    if kind != "empty" and rng.random() < 0.2:
        attributes |= HAS_HORIZON
        base_timestamp = T + rng.choice((-HOUR, 0, 1, HOUR, 10**12))
    deltas = _deltas(rng) if kind != "empty" else []
    records = [_record(rng, delta, base_timestamp, keys) for delta in deltas]
    last_delta = max(deltas, default=rng.randrange(5)) + rng.choice((0, 0, 0, 1, 30))
    times = [base_timestamp + record.timestamp_delta for record in records]
    has_producer = kind == "transactional" or rng.random() < 0.4
    header = Header(
        base_offset=base_offset,
        leader_epoch=rng.choice((-1, 0, 7)),
        attributes=attributes,
        last_offset_delta=last_delta,
        base_timestamp=base_timestamp if records else -1,
        max_timestamp=T if attributes & LOG_APPEND_TIME else max(times, default=-1),
        producer_id=rng.randrange(2**40) if has_producer else -1,
        producer_epoch=rng.randrange(2**15) if has_producer else -1,
        base_sequence=rng.randrange(2**31) if has_producer else -1,
        count=len(records),
    )
    payload = b"".join(record.encode() for record in records)
    if codec and records:
        payload = pack(codec, payload)
    return reference.encode_batch(header, payload), base_offset + last_delta + 1


def _deltas(rng: random.Random) -> list[int]:
    """Return rising offset deltas, with gaps as an earlier cleaning left them."""
    count = rng.choice((1, 1, 2, 5, 30))
    return sorted(rng.sample(range(count + rng.choice((0, 0, 10))), count))


def _record(rng: random.Random, delta: int, base_timestamp: int, keys: int) -> Record:
    key = rng.choice((b"", b"k%d" % rng.randrange(keys), b"k%d" % rng.randrange(keys)))
    if rng.random() < 0.02:
        key = key * 200
    is_null = rng.random() < 0.05
    value = None if rng.random() < 0.25 else rng.randbytes(rng.choice((0, 1, 20, 500)))
    time = rng.choice((-1, 0, T, T + rng.randrange(-HOUR, HOUR)))
    headers = ((("h", None), ("trace", b"1"))) if rng.random() < 0.2 else ()
    return Record(delta, time - base_timestamp, None if is_null else key, value, headers)


def _control_batch(rng: random.Random, base_offset: int) -> bytes:
    record = Record(0, 0, bytes([0, 0, 0, rng.randrange(2)]), bytes(6))
    header = Header(
        base_offset=base_offset,
        leader_epoch=1,
        attributes=CONTROL | TRANSACTIONAL,
        base_timestamp=T,
        max_timestamp=T,
        producer_id=7,
        producer_epoch=0,
        count=1,
    )
    return reference.encode_batch(header, record.encode())
