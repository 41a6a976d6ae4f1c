"""compress_batches(): another payload, the same header otherwise, and a CRC that fits."""

from __future__ import annotations

import dataclasses
import gc
import random
import zlib
from typing import Any

import pytest
import reference

from pylog import _native
from pylog.errors import InvalidRecordError

T = 1_700_000_000_000
GZIP, LZ4 = 1, 3  # numbers of codecs: what stands behind them is zlib in both cases here


def inflate(codec: int, payload: memoryview) -> bytes:
    assert codec in (GZIP, LZ4)
    return zlib.decompress(payload)


def encoded(source: random.Random, batches: int) -> bytearray:
    """Batches with every header field set to something."""
    data = bytearray()
    for _ in range(batches):
        count = source.randrange(1, 20)
        value = source.randbytes(10) * source.randrange(1, 30)
        data += _native.make_batch(
            [(delta, delta, b"k", value, (("h", None),)) for delta in range(count)],
            base_offset=source.randrange(2**40),
            leader_epoch=source.randrange(2**20),
            attributes=source.choice([0, 8, 16]),
            base_timestamp=T,
            producer_id=source.randrange(2**40),
            producer_epoch=source.randrange(2**15),
            base_sequence=source.randrange(2**31),
        )
    return data


@pytest.mark.parametrize("seed", range(10))
def test_only_codec_payload_length_and_crc_change(seed: int) -> None:
    plain = encoded(random.Random(seed), 1 + seed)
    expected = b""
    for _, header, payload, _ in reference.batches(bytes(plain)):
        changed = dataclasses.replace(header, attributes=header.attributes | LZ4)
        expected += reference.encode_batch(changed, zlib.compress(payload))
    packed = _native.compress_batches(plain, LZ4, zlib.compress)
    assert type(packed) is bytearray
    assert packed == expected
    # There and back again, by way of another codec.
    other = _native.compress_batches(packed, GZIP, zlib.compress, inflate)
    assert {header["attributes"] & 7 for header in _native.batch_headers(other)} == {GZIP}
    assert _native.compress_batches(other, 0, None, inflate) == plain


def test_batches_that_are_in_the_codec_stay_as_they_are() -> None:
    plain = encoded(random.Random(1), 3)
    packed = _native.compress_batches(plain, LZ4, zlib.compress)

    def never(*_: Any) -> bytes:
        raise AssertionError

    assert _native.compress_batches(packed, LZ4, never, never) == packed
    assert _native.compress_batches(plain, 0, None, never) == plain
    mixed = packed + plain
    assert _native.compress_batches(mixed, LZ4, zlib.compress) == packed + packed
    assert _native.compress_batches(b"", LZ4, never) == bytearray()


def test_batch_that_compaction_emptied_stays_empty() -> None:
    empty = _native.make_batch([], base_offset=5, last_offset_delta=3, producer_id=7)
    assert _native.compress_batches(empty, LZ4, zlib.compress) == empty


def test_payload_that_grows_keeps_the_codec_as_in_kafka() -> None:
    plain, _ = _native.encode([b"x"], None, None, T, 1000)
    packed = _native.compress_batches(plain, LZ4, lambda payload: bytes(payload) * 3)
    assert packed[61:] == plain[61:] * 3
    (header,) = _native.batch_headers(packed)
    assert (header["attributes"], header["size"]) == (LZ4, len(packed))


def test_large_batch_is_sealed_as_a_small_one() -> None:
    value = random.Random(2).randbytes(1 << 20)
    plain, _ = _native.encode([value], None, None, T, 1 << 21)
    packed = _native.compress_batches(plain, LZ4, zlib.compress)
    (header,) = _native.batch_headers(packed)
    assert header["crc"] == _native.crc32c(packed[21:])
    (record,) = _native.Records(packed, decompress=inflate)
    assert record.value == value


def test_payload_may_be_kept_by_whom_it_was_given_to() -> None:
    kept = []

    def keep(payload: memoryview) -> bytes:
        kept.append(payload)
        return b""

    plain = bytes(encoded(random.Random(3), 1))
    expected = plain[61:]
    _native.compress_batches(bytearray(plain), LZ4, keep)
    gc.collect()
    assert bytes(kept[0]) == expected


def test_errors_of_the_codec_pass_through() -> None:
    def fail(payload: memoryview) -> bytes:
        raise ZeroDivisionError

    plain = encoded(random.Random(4), 2)
    with pytest.raises(ZeroDivisionError):
        _native.compress_batches(plain, LZ4, fail)
    packed = _native.compress_batches(plain, LZ4, zlib.compress)
    with pytest.raises(ZeroDivisionError):
        _native.compress_batches(packed, 0, None, lambda codec, payload: fail(payload))
    with pytest.raises(TypeError, match="bytes-like"):
        _native.compress_batches(plain, LZ4, lambda payload: "text")  # type: ignore[arg-type]
    plain.append(0)  # nothing holds on to it


def test_compressed_batch_needs_a_decompressor() -> None:
    packed = _native.compress_batches(encoded(random.Random(5), 1), LZ4, zlib.compress)
    with pytest.raises(InvalidRecordError, match=r"codec 3\) and no decompressor"):
        _native.compress_batches(packed, 0, None)


@pytest.mark.parametrize("codec", [-1, 8, 0])
def test_codec_that_does_not_fit_its_function_is_refused(codec: int) -> None:
    with pytest.raises(ValueError, match="a codec in"):
        _native.compress_batches(b"", codec, zlib.compress)
    with pytest.raises(ValueError, match="a codec in"):
        _native.compress_batches(b"", codec or LZ4, None)


def test_what_is_not_whole_batches_is_refused() -> None:
    plain = encoded(random.Random(6), 2)
    for size in range(1, len(plain)):
        cut = plain[:size]
        if sum(header["size"] for header in _native.batch_headers(cut)) < size:
            with pytest.raises(InvalidRecordError, match="whole batches"):
                _native.compress_batches(cut, LZ4, zlib.compress)
