"""KeyMap and BatchFilter against the oracle, on random logs: byte for byte, whatever the memory.

Data comes in pieces of any size, output goes into buffers of any size, the map holds three keys or
all.  Compressed batches that were rewritten are compared by what is in them.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterator

import pytest
import reference
import reference_cleaner
from cleaner_logs import CODECS, HOUR, T, pack, random_log, unpack
from conftest import IS_EXHAUSTIVE
from reference_cleaner import Round, end_of

from pylog import _native, codecs
from pylog._native import BatchFilter, KeyMap
from pylog.errors import CorruptRangeError

pytestmark = pytest.mark.usefixtures("quick_checksums")

END, INCOMPLETE, NO_ROOM = _native.END, _native.INCOMPLETE, _native.NO_ROOM
SECRET = bytes(range(16))
SLOT_BYTES = 24
ALL = 1 << 20
LOGS = 5000 if IS_EXHAUSTIVE else 200


def map_of(data: bytes, *, first_offset: int, max_bytes: int, rng: random.Random) -> KeyMap:
    """Return a map of as many keys from `first_offset` on as it has room for."""
    key_map = KeyMap(SECRET, max_bytes, codecs.decompress)
    position, end = 0, 0
    while position < len(data):
        end = min(max(end, position) + rng.choice((1, 61, 500, ALL)), len(data))
        status, position, size = key_map.add_batches(
            data, position, end, first_offset=first_offset, end_offset=end_of(data)
        )
        if status == NO_ROOM:
            assert key_map.is_full
            assert key_map.end_offset < end_of(data)
            break
        if status == INCOMPLETE:
            assert end < len(data)
            assert size > end - position
    assert key_map.nbytes <= max_bytes
    return key_map


def filtered(cleaner: BatchFilter, data: bytes, rng: random.Random) -> bytes:
    """Return what is left of `data`, given and taken in pieces."""
    cleaned, position, end = bytearray(), 0, 0
    out = bytearray(rng.choice((0, 100, 4000, ALL)))
    while position < len(data):
        end = min(max(end, position) + rng.choice((1, 61, 500, ALL)), len(data))
        status, position, written, size = cleaner.filter(
            data, out, position, end, end_offset=end_of(data)
        )
        cleaned += out[:written]
        if status == NO_ROOM and written == 0:
            assert size > len(out)
            out = bytearray(size)
        elif status == INCOMPLETE:
            assert size > end - position
    return bytes(cleaned)


def random_round(rng: random.Random, data: bytes, key_map: KeyMap, first_offset: int) -> Round:
    last_offsets = [
        header.base_offset + header.last_offset_delta for _, header, _, _ in reference.batches(data)
    ]
    latest_offset = key_map.end_offset - 1
    return Round(
        latest=reference_cleaner.newest_offsets(
            data, first_offset=first_offset, last_offset=latest_offset, unpack=unpack
        ),
        latest_offset=latest_offset,
        end=rng.choice((-1, end_of(data), last_offsets[0] + 1)),
        now=rng.choice((-1, T - 2 * HOUR, T, T + 2 * HOUR, 2**50)),
        delete_retention_ms=rng.choice((0, HOUR, 2**63 - 1)),
        kept_offsets=frozenset(rng.sample(last_offsets, rng.randrange(len(last_offsets) // 2 + 1))),
    )


def filter_of(key_map: KeyMap, round_: Round, rng: random.Random) -> BatchFilter:
    return BatchFilter(
        key_map,
        now=round_.now,
        delete_retention_ms=round_.delete_retention_ms,
        round_end=round_.end,
        kept_offsets=rng.sample(sorted(round_.kept_offsets), len(round_.kept_offsets)),
        decompress=codecs.decompress,
        compress=lambda codec, payload: pack(codec, bytes(payload)),
    )


def check_equal(found: bytes, expected: bytes, source: bytes) -> None:
    """Assert that the batches agree, and to the byte where nobody compressed them anew."""
    assert reference_cleaner.plain(found, unpack) == reference_cleaner.plain(expected, unpack)
    copied = set(whole_batches(source))
    for one, other in zip(whole_batches(found), whole_batches(expected), strict=True):
        if other in copied or reference.decode_batch(other)[0].codec == 0:
            assert one == other


def whole_batches(data: bytes) -> Iterator[bytes]:
    for position, _, _, size in reference.batches(data):
        yield data[position : position + size]


@pytest.mark.slow
@pytest.mark.parametrize("slots", [6, 8, 14, 1000])
def test_the_core_keeps_what_the_oracle_keeps(slots: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    dropped = 0
    for _ in range(LOGS):
        data = random_log(rng, batches=rng.randrange(1, 20))
        first_offset = rng.choice((0, rng.randrange(end_of(data))))
        key_map = map_of(data, first_offset=first_offset, max_bytes=slots * SLOT_BYTES, rng=rng)
        round_ = random_round(rng, data, key_map, first_offset)
        cleaner = filter_of(key_map, round_, rng)
        found = filtered(cleaner, data, rng)
        expected = reference_cleaner.clean(data, round_, unpack=unpack, pack=pack)
        check_equal(found, expected, data)
        assert len(key_map) == len(round_.latest)
        for key, offset in round_.latest.items():
            assert key_map.offset_of(key) == offset
        before, after = (len(reference_cleaner.rows(one, unpack)) for one in (data, found))
        dropped += before - after
    assert dropped > LOGS


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "batches"), [(6, 5), (20, 20)])
def test_rounds_of_a_tiny_map_come_to_the_fold_of_all_rows(slots: int, batches: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    most_rounds = 0
    for _ in range(LOGS // 10):
        data = log = random_log(rng, batches=batches, keys=40)
        first_offset, rounds, now = 0, 0, T
        while first_offset < end_of(data):
            key_map = map_of(log, first_offset=first_offset, max_bytes=slots * SLOT_BYTES, rng=rng)
            assert key_map.end_offset > first_offset, "a round makes progress"
            now += rng.choice((0, HOUR))
            round_ = dataclasses.replace(
                random_round(rng, log, key_map, first_offset), end=end_of(data), now=now
            )
            log = filtered(filter_of(key_map, round_, rng), log, rng)
            first_offset = key_map.end_offset
            rounds += 1
        before, after = (reference_cleaner.rows(one, unpack) for one in (data, log))
        assert set(after) <= set(before)
        assert reference_cleaner.fold(after) == reference_cleaner.fold(before)
        most_rounds = max(most_rounds, rounds)
    assert most_rounds > 3


# ---------------------------------------------------------------- collisions


@functools.cache
def crowded_keys(bits: int, prefix: int) -> list[bytes]:
    """Return keys whose hashes begin with the same bits, so that they all have one home."""
    keys = (b"%d" % number for number in range(60 << bits))
    return [key for key in keys if _native.key_hash(SECRET, key)[1] >> (64 - bits) == prefix]


@pytest.mark.parametrize("prefix", [0, 100, 255], ids=["first", "middle", "last"])
@pytest.mark.parametrize("slots", [40, 300])
def test_keys_of_one_home_are_told_apart(slots: int, prefix: int) -> None:
    keys = crowded_keys(8, prefix)
    rng = random.Random(slots + prefix)
    key_map = KeyMap(SECRET, slots * SLOT_BYTES)
    offset, newest = 0, {}
    while not key_map.is_full and offset < 1000:
        key = rng.choice(keys)
        batch = _native.make_batch([(0, 0, key, b"v", ())], base_offset=offset)
        key_map.add_batches(batch)
        if not key_map.is_full:
            newest[key] = offset
        offset += 1
    assert len(newest) >= min(len(keys), slots // 10)
    for key in keys:
        assert key_map.offset_of(key) == newest.get(key)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("codec", CODECS)
def test_no_flipped_bit_below_the_crc_gets_through_either_pass(codec: int) -> None:
    records = [(delta, delta, b"k%d" % delta, b"v" * 20, ()) for delta in range(4)]
    good = _native.make_batch(records, base_timestamp=T, base_offset=8, producer_id=7)
    if codec:
        good = bytes(_native.compress_batches(good, codec, lambda data: pack(codec, bytes(data))))
    empty_map = KeyMap(SECRET, 1000, codecs.decompress)
    for bit in range(8 * 17, 8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        key_map = KeyMap(SECRET, 1000, codecs.decompress)
        cleaner = BatchFilter(
            empty_map, now=T, delete_retention_ms=0, decompress=codecs.decompress, compress=pack
        )
        with pytest.raises(CorruptRangeError):
            key_map.add_batches(data, end_offset=12)
        with pytest.raises(CorruptRangeError):
            cleaner.filter(data, bytearray(1000), end_offset=12)
        assert (len(key_map), key_map.end_offset) == (0, 0)
