"""KeyMap: SipHash, the map against a plain dict, and pass 1 of compaction over whole batches."""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
import reference

from pylog import _native
from pylog.errors import CorruptRangeError, InvalidRecordError

SECRET = bytes(range(16))
SLOT_BYTES = 24
T = 1_700_000_000_000
GZIP = 1

# SipHash-2-4 of the reference implementation (vectors_sip128): secret 00 01 .. 0f, key 00 01 ..
REFERENCE_HASHES = {
    0: "a3817f04ba25a8e66df67214c7550293",
    1: "da87c1d86b99af44347659119b22fc45",
    2: "8177228da4a45dc7fca38bdef60affe4",
    3: "9c70b60c5267a94e5f33b6b02985ed51",
    4: "f88164c12d9c8faf7d0f6e7c7bcd5579",
    5: "1368875980776f8854527a07690e9627",
    6: "14eeca338b208613485ea0308fd7a15e",
    7: "a1f1ebbed8dbc153c0b84aa61ff08239",
    8: "3b62a9ba6258f5610f83e264f31497b4",
    15: "5493e99933b0a8117e08ec0f97cfc3d9",
}


def sip_hash(secret: bytes, key: bytes, block_rounds: int = 1, last_rounds: int = 3) -> bytes:
    """SipHash with 128 bits of output, from the paper."""
    mask = 2**64 - 1

    def turned(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & mask

    def rounds(v: list[int], count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turned(v[1], 13) ^ v[0]
            v[0] = turned(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turned(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turned(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turned(v[1], 17) ^ v[2]
            v[2] = turned(v[2], 32)

    words = [int.from_bytes(secret[i : i + 8], "little") for i in (0, 8)]
    initial = b"somepseudorandomlygeneratedbytes"
    v = [
        int.from_bytes(initial[8 * i : 8 * i + 8], "big") ^ words[i % 2] ^ (0xEE if i == 1 else 0)
        for i in range(4)
    ]
    padded = key + bytes(-(len(key) + 1) % 8) + bytes([len(key) % 256])
    for i in range(0, len(padded), 8):
        block = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= block
        rounds(v, block_rounds)
        v[0] ^= block
    out = b""
    for place, constant in ((2, 0xEE), (1, 0xDD)):
        v[place] ^= constant
        rounds(v, last_rounds)
        out += (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")
    return out


def native_hash(secret: bytes, key: bytes) -> bytes:
    low, high = _native.key_hash(secret, key)
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def batch(base: int, keys: Iterable[bytes | None], **fields: Any) -> bytes:
    records = [(delta, delta, key, b"value") for delta, key in enumerate(keys)]
    fields.setdefault("last_offset_delta", max(len(records) - 1, 0))
    return _native.make_batch(records, base_offset=base, base_timestamp=T, **fields)


def packed(base: int, keys: Iterable[bytes | None], **fields: Any) -> bytes:
    return bytes(_native.compress_batches(batch(base, keys, **fields), GZIP, zlib.compress))


def inflate(codec: int, payload: memoryview) -> bytes:
    assert codec == GZIP
    return zlib.decompress(payload)


def one_by_one(keys: Iterable[bytes | None], base: int = 0) -> bytes:
    return b"".join(batch(base + i, [key]) for i, key in enumerate(keys))


def home_of(key: bytes, homes: int, secret: bytes = SECRET) -> int:
    return _native.key_hash(secret, key)[1] * homes >> 64


def keys_of_one_home(count: int, homes: int, home: int) -> list[bytes]:
    """Keys whose hashes send them all to one slot of a map with so many homes."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        key = b"key-%d" % number
        if home_of(key, homes) == home:
            found.append(key)
        number += 1
    return found


# ---------------------------------------------------------------- the hash


@pytest.mark.parametrize("size", REFERENCE_HASHES)
def test_paper_as_written_here_is_that_of_the_reference_implementation(size: int) -> None:
    expected = bytes.fromhex(REFERENCE_HASHES[size])
    assert sip_hash(SECRET, bytes(range(size)), block_rounds=2, last_rounds=4) == expected


def test_hash_is_that_of_the_paper_for_keys_of_any_length() -> None:
    source = random.Random(1)
    for size in [*range(70), 255, 256, 257, 1000]:
        secret, key = source.randbytes(16), source.randbytes(size)
        assert native_hash(secret, key) == sip_hash(secret, key), size


def test_secret_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        _native.key_hash(bytes(15), b"key")
    with pytest.raises(ValueError, match="secret of 16 bytes"):
        _native.KeyMap(bytes(17), 1 << 20)


# ---------------------------------------------------------------- the map


@pytest.mark.parametrize("seed", range(20))
def test_map_holds_what_a_dict_holds(seed: int) -> None:
    source = random.Random(seed)
    universe = [source.randbytes(source.randrange(20)) for _ in range(source.choice([1, 50, 5000]))]
    key_map = _native.KeyMap(source.randbytes(16), 1 << 20)
    expected: dict[bytes, int] = {}
    offset = 0
    for _ in range(source.randrange(1, 30)):
        keys = source.choices(universe, k=source.randrange(1, 400))
        data = batch(offset, keys) if source.random() < 0.5 else one_by_one(keys, offset)
        assert key_map.add_batches(data) == (_native.END, len(data), 0)
        expected |= {key: offset + i for i, key in enumerate(keys)}
        offset += len(keys)
    assert len(key_map) == len(expected)
    assert key_map.end_offset == offset
    assert {key: key_map.offset_of(key) for key in expected} == expected
    assert all(key_map.offset_of(source.randbytes(30)) is None for _ in range(100))


def test_memory_starts_small_and_doubles_up_to_its_limit() -> None:
    limit = 1 << 20
    key_map = _native.KeyMap(SECRET, limit)
    sizes = {key_map.nbytes}
    for base in range(0, 1 << 20, 1000):
        status, _, _ = key_map.add_batches(
            batch(base, (b"%d" % n for n in range(base, base + 1000)))
        )
        sizes.add(key_map.nbytes)
        if status == _native.NO_ROOM:
            break
    assert key_map.is_full
    assert sorted(sizes) == [(limit // SLOT_BYTES >> n) * SLOT_BYTES for n in (4, 3, 2, 1, 0)]
    # Nine tenths of the homes, which are all but the spill behind them.
    assert 0.85 < len(key_map) / (limit / SLOT_BYTES) <= 0.9
    assert key_map.end_offset == len(key_map)
    assert all(key_map.offset_of(b"%d" % n) == n for n in range(len(key_map)))


@pytest.mark.parametrize("slots", range(6, 60))
def test_map_of_few_slots_takes_what_fits_and_says_how_far_it_came(slots: int) -> None:
    key_map = _native.KeyMap(SECRET, slots * SLOT_BYTES)
    keys = [b"%d" % n for n in range(100)]
    data = one_by_one(keys)
    status, position, _ = key_map.add_batches(data)
    assert (status, key_map.is_full) == (_native.NO_ROOM, True)
    assert 1 <= len(key_map) <= slots
    assert key_map.end_offset == len(key_map)
    for offset, key in enumerate(keys):
        expected = offset if offset < len(key_map) else None
        assert key_map.offset_of(key) == expected
    # It stays full, and what it holds stays.
    before = len(key_map), key_map.end_offset
    assert key_map.add_batches(data, position) == (_native.NO_ROOM, position, 0)
    assert (len(key_map), key_map.end_offset) == before


def test_full_map_goes_on_as_long_as_it_knows_the_keys() -> None:
    key_map = _native.KeyMap(SECRET, 6 * SLOT_BYTES)
    data = one_by_one([b"a", b"a", None, b"a"])
    assert key_map.add_batches(data) == (_native.END, len(data), 0)
    assert (len(key_map), key_map.offset_of(b"a"), key_map.is_full) == (1, 3, False)
    assert key_map.add_batches(one_by_one([b"a", b"b"], 4))[0] == _native.NO_ROOM
    assert (key_map.end_offset, key_map.offset_of(b"a")) == (5, 4)
    assert key_map.offset_of(b"b") is None


@pytest.mark.parametrize(("home", "room"), [(0, 12), (6, 10), (12, 4)])
def test_keys_that_share_a_slot_are_told_apart(home: int, room: int) -> None:
    # 20 slots: 13 homes, 3 slots of spill (an eighth and one), 4 that stay empty.  From the first
    # home on the load decides, nine in ten; from any other the slots that are left.
    keys = keys_of_one_home(14, 13, home)
    key_map = _native.KeyMap(SECRET, 20 * SLOT_BYTES)
    status, _, _ = key_map.add_batches(one_by_one(keys))
    assert status == _native.NO_ROOM
    assert len(key_map) == room
    assert [key_map.offset_of(key) for key in keys] == [*range(room), *[None] * (14 - room)]


def test_map_that_grows_keeps_keys_that_share_slots() -> None:
    # The first map has 2730 slots.
    slots = 65520 // SLOT_BYTES
    homes = slots - (slots // 8 + 5)
    keys = keys_of_one_home(40, homes, homes - 1)
    others = [b"other-%d" % n for n in range(4000)]
    key_map = _native.KeyMap(SECRET, 1 << 20)
    data = one_by_one([*keys, *others])
    assert key_map.add_batches(data) == (_native.END, len(data), 0)
    assert key_map.nbytes > 65520
    assert [key_map.offset_of(key) for key in [*keys, *others]] == list(range(4040))


def test_too_little_memory_is_refused() -> None:
    for max_bytes in (-1, 0, 143):
        with pytest.raises(ValueError, match="144"):
            _native.KeyMap(SECRET, max_bytes)


# ---------------------------------------------------------------- whole batches


def test_cut_batch_says_how_much_it_needs() -> None:
    first, second = batch(0, [b"a", b"b"]), batch(2, [b"a"])
    data = first + second
    for end in range(len(first), len(data)):
        key_map = _native.KeyMap(SECRET, 1 << 20)
        status, position, size = key_map.add_batches(data, 0, end)
        expected = len(second) if end - len(first) >= _native.BATCH_HEADER_BYTES else 61
        if end == len(first):
            assert (status, position, size) == (_native.END, end, 0)
        else:
            assert (status, position, size) == (_native.INCOMPLETE, len(first), expected)
        assert key_map.offset_of(b"a") == 0
        assert key_map.add_batches(data, position) == (_native.END, len(data), 0)
        assert key_map.offset_of(b"a") == 2


def test_records_before_the_first_offset_are_left_out() -> None:
    data = batch(0, [b"a", b"b", b"c"]) + batch(3, [b"d", b"e"])
    for first_offset in range(6):
        key_map = _native.KeyMap(SECRET, 1 << 20)
        key_map.add_batches(data, first_offset=first_offset)
        found = {key: key_map.offset_of(key) for key in (b"a", b"b", b"c", b"d", b"e")}
        assert found == {
            key: None if offset < first_offset else offset for offset, key in enumerate(found)
        }
        assert key_map.end_offset == 5


def test_records_without_a_key_and_of_control_or_transactional_batches_are_left_out() -> None:
    data = batch(0, [b"a", None, b""]) + batch(3, [b"a"], attributes=0x20)
    data += batch(4, [b"a"], attributes=0x10) + batch(5, [b"a"], attributes=0x30)
    key_map = _native.KeyMap(SECRET, 1 << 20)
    assert key_map.add_batches(data) == (_native.END, len(data), 0)
    assert (key_map.offset_of(b"a"), key_map.offset_of(b""), len(key_map)) == (0, 2, 2)
    assert key_map.offset_of(None) is None
    assert key_map.end_offset == 6


def test_compressed_batches_are_taken_in() -> None:
    empty = _native.make_batch([], base_offset=6, last_offset_delta=1, attributes=GZIP)
    data = batch(0, [b"a", b"b"]) + packed(2, [b"b", None, b"c"]) + empty + batch(8, [b"c"])
    key_map = _native.KeyMap(SECRET, 1 << 20, inflate)
    assert key_map.add_batches(data) == (_native.END, len(data), 0)
    assert [key_map.offset_of(key) for key in (b"a", b"b", b"c")] == [0, 2, 8]
    with pytest.raises(InvalidRecordError, match="no decompressor"):
        _native.KeyMap(SECRET, 1 << 20).add_batches(data)


@pytest.mark.parametrize("slots", range(6, 40, 3))
def test_full_map_says_where_in_a_compressed_batch_it_stopped(slots: int) -> None:
    keys = [b"%d" % n for n in range(50)]
    data = packed(0, keys[:20]) + packed(20, keys[20:])
    key_map = _native.KeyMap(SECRET, slots * SLOT_BYTES, inflate)
    status, position, _ = key_map.add_batches(data)
    assert status == _native.NO_ROOM
    assert key_map.end_offset == len(key_map)
    assert position == (0 if key_map.end_offset < 20 else len(packed(0, keys[:20])))
    assert [key_map.offset_of(key) for key in keys[: len(key_map)]] == list(range(len(key_map)))


def test_error_of_the_decompressor_goes_through() -> None:
    def fail(codec: int, payload: memoryview) -> bytes:
        raise InvalidRecordError("no")

    def text(codec: int, payload: memoryview) -> str:
        return "no bytes"

    data = packed(0, [b"a"])
    key_map = _native.KeyMap(SECRET, 1 << 20, fail)
    with pytest.raises(InvalidRecordError, match="no"):
        key_map.add_batches(data)
    with pytest.raises(TypeError):
        _native.KeyMap(SECRET, 1 << 20, text).add_batches(data)  # type: ignore[arg-type]


def test_map_in_use_is_not_used_twice() -> None:
    def meddle(codec: int, payload: memoryview) -> bytes:
        with pytest.raises(RuntimeError, match="another thread"):
            key_map.add_batches(b"")
        with pytest.raises(RuntimeError, match="another thread"):
            key_map.offset_of(b"a")
        return zlib.decompress(payload)

    key_map = _native.KeyMap(SECRET, 1 << 20, meddle)
    key_map.add_batches(packed(0, [b"a"]))
    assert key_map.offset_of(b"a") == 0


# ---------------------------------------------------------------- damage


def outcome(data: bytes | bytearray, **arguments: Any) -> int | str:
    try:
        return _native.KeyMap(SECRET, 1 << 20, inflate).add_batches(data, **arguments)[0]
    except CorruptRangeError:
        return "damage"


def test_batches_that_do_not_ascend_or_leave_their_range_are_damage() -> None:
    good = batch(10, [b"a", b"b"])
    for data, arguments in [
        (good + batch(11, [b"c"]), {}),
        (good + batch(3, [b"c"]), {}),
        (good, {"end_offset": 11}),
        (good + batch(50, [b"c"]), {"end_offset": 50}),
    ]:
        key_map = _native.KeyMap(SECRET, 1 << 20)
        with pytest.raises(CorruptRangeError, match="offsets of the batch"):
            key_map.add_batches(data, **arguments)
    key_map = _native.KeyMap(SECRET, 1 << 20)
    assert key_map.add_batches(good, end_offset=12)[0] == _native.END


def test_flipped_bit_is_damage() -> None:
    data = bytearray(batch(7, [b"key", b"other"]))
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            # Only the leader epoch and a lower base offset lie outside of what can be checked.
            status = outcome(data, end_offset=9)
            assert status in {"damage", _native.INCOMPLETE} or position < 8 or 12 <= position < 16
            data[position] ^= 1 << bit


@pytest.mark.parametrize("codec", [0, GZIP])
def test_records_that_break_the_format_are_damage_under_a_good_crc(codec: int) -> None:
    source = random.Random(2)
    good = batch(0, [b"key-%d" % n for n in range(5)])
    header, payload, _ = reference.decode_batch(good)
    changed = 0
    for _ in range(3000):
        bad = bytearray(payload)
        for _ in range(source.randrange(1, 4)):
            bad[source.randrange(len(bad))] = source.randrange(256)
        cut = bytes(bad[: source.choice([len(bad), source.randrange(len(bad))])])
        header = dataclasses.replace(header, attributes=codec)
        data = reference.encode_batch(header, zlib.compress(cut) if codec else cut)
        key_map = _native.KeyMap(SECRET, 1 << 20, inflate)
        try:
            records = reference.decode_records(cut, header.count)
        except reference.FormatError:
            with pytest.raises(CorruptRangeError) as caught:
                key_map.add_batches(data)
            assert (caught.value.first, caught.value.last) in {(0, 4), (0, 0)}
            continue
        changed += 1
        deltas = [record.offset_delta for record in records]
        if deltas == sorted(set(deltas)) and deltas[-1] <= 4 and deltas[0] >= 0:
            key_map.add_batches(data)
            for record in records:
                assert record.key is None or key_map.offset_of(record.key) is not None
        else:
            with pytest.raises(CorruptRangeError):
                key_map.add_batches(data)
    assert changed > 100


def test_count_that_lies_is_damage() -> None:
    header, payload, _ = reference.decode_batch(batch(0, [b"a", b"b"]))
    for count in (0, 1, 3, 100, 2**31 - 1):
        for codec in (0, GZIP):
            lying = dataclasses.replace(
                header, count=count, last_offset_delta=max(count, 1) - 1, attributes=codec
            )
            data = reference.encode_batch(lying, zlib.compress(payload) if codec else payload)
            with pytest.raises(CorruptRangeError):
                _native.KeyMap(SECRET, 1 << 20, inflate).add_batches(data)


def test_records_that_leave_their_batch_are_damage_where_only_marks_are_looked_at() -> None:
    """Pass 2 passes over records that go, unread; its marks end with what pass 1 took in."""
    keys = [b"newest", *[b"old"] * 49]
    key_map = _native.KeyMap(SECRET, 1 << 20)
    key_map.add_batches(batch(0, keys))
    batch_filter = _native.BatchFilter(key_map, now=-1, delete_retention_ms=0)
    deltas = [49, *range(1, 50)]
    rows = [(delta, 0, key, b"") for delta, key in zip(deltas, keys, strict=True)]
    other = _native.make_batch(rows, last_offset_delta=49, base_timestamp=T)

    with pytest.raises(CorruptRangeError, match="0 to 49"):
        batch_filter.filter(other, bytearray(1 << 16))
