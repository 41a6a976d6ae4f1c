"""Compression codecs: every framing comes back, what is cut or too large is refused, and how.

What is written is looked at byte by byte, and decoded by each codec's own library.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import random
import struct
import sys
import zlib
from collections.abc import Callable

import cramjam
import lz4.block
import lz4.frame
import pytest
import reference

from pylog import codecs
from pylog.codecs import Compression
from pylog.errors import InvalidRecordError, MissingExtraError

ZSTD_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
DATA = b"records of a batch, " * 50
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "batches.json").read_text())
# V2 and V4b are compressed, as their variants by other clients.
VECTORS = {
    name: bytes.fromhex(text)
    for name, text in GOLDEN["batches"].items()
    if name.startswith(("V2", "V4b"))
}


def zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip(ZSTD_MODULE).compress(data))


def raw_snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def xerial(data: bytes) -> bytes:
    """Return two blocks as snappy-java frames them: its magic, two versions, sizes and blocks."""
    framed = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
    for part in (data[:100], data[100:]):
        block = raw_snappy(part)
        framed += struct.pack(">i", len(block)) + block
    return framed


FRAMINGS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (codecs.GZIP, gzip.compress),
    "lz4": (codecs.LZ4, lz4.frame.compress),
    "zstd": (codecs.ZSTD, zstd),
    "snappy": (codecs.SNAPPY, raw_snappy),
    "xerial": (codecs.SNAPPY, xerial),
}
framings = pytest.mark.parametrize(("codec", "compress"), FRAMINGS.values(), ids=FRAMINGS)


@framings
def test_what_was_compressed_comes_back(codec: int, compress: Callable[[bytes], bytes]) -> None:
    assert codecs.decompress(codec, memoryview(compress(DATA))) == DATA


@framings
def test_cut_payload_is_refused_or_gives_a_beginning(
    codec: int, compress: Callable[[bytes], bytes]
) -> None:
    payload = compress(DATA)
    refused = 0
    for size in range(1, len(payload)):
        try:
            data = codecs.decompress(codec, memoryview(payload)[:size])
        except InvalidRecordError:
            refused += 1
        else:
            # Xerial's blocks are whole by themselves; a cut between two of them shows nowhere.
            assert compress is xerial and DATA.startswith(data) and data != DATA
    assert refused >= len(payload) - 3


@framings
def test_payload_that_grows_past_the_cap_is_refused(
    codec: int, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecs, "MAX_DECOMPRESSED_BYTES", len(DATA))
    assert codecs.decompress(codec, memoryview(compress(DATA))) == DATA
    monkeypatch.setattr(codecs, "MAX_DECOMPRESSED_BYTES", len(DATA) - 1)
    with pytest.raises(InvalidRecordError, match=f"more than {len(DATA) - 1} bytes come out"):
        codecs.decompress(codec, memoryview(compress(DATA)))


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_all_frames_of_a_stream_are_decoded_and_capped_together(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, compress = FRAMINGS[name]
    payload = memoryview(compress(DATA) + compress(b"more"))
    assert codecs.decompress(codec, payload) == DATA + b"more"
    monkeypatch.setattr(codecs, "MAX_DECOMPRESSED_BYTES", len(DATA) + 3)
    with pytest.raises(InvalidRecordError, match="bytes come out"):
        codecs.decompress(codec, payload)


def test_of_lz4_the_first_frame_counts_as_for_kafka() -> None:
    payload = memoryview(lz4.frame.compress(DATA) + b"anything")
    assert codecs.decompress(codecs.LZ4, payload) == DATA


@pytest.mark.parametrize("size", [0, 1, 70_000, 1 << 20])
@pytest.mark.parametrize("claims_size", [False, True])
def test_lz4_says_the_same_on_its_fast_way_and_its_bounded_one(
    size: int, claims_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (DATA * 2000)[:size]
    frame = lz4.frame.compress(data, store_size=claims_size)
    damaged = frame[:-5] + b"\0" + frame[-4:]
    payloads = [frame, frame + b"behind", frame[:-1], damaged, bytes(size)]

    def results() -> list[bytes | str]:
        found: list[bytes | str] = []
        for payload in payloads:
            try:
                found.append(codecs.decompress(codecs.LZ4, memoryview(payload)))
            except InvalidRecordError as error:
                found.append(str(error))
        return found

    fast = results()
    monkeypatch.setattr(codecs, "_is_bounded_lz4", lambda payload: False)
    assert results() == fast
    assert fast[:2] == [data, data]


def test_size_that_an_lz4_frame_claims_is_not_believed() -> None:
    frame = bytearray(lz4.frame.compress(DATA, store_size=True))
    honest = codecs.decompress(codecs.LZ4, memoryview(frame))
    assert honest == DATA
    assert not codecs._is_bounded_lz4(memoryview(frame))
    assert codecs._is_bounded_lz4(memoryview(lz4.frame.compress(DATA, store_size=False)))
    frame[6:14] = (2**60).to_bytes(8, "little")
    with pytest.raises(InvalidRecordError):
        codecs.decompress(codecs.LZ4, memoryview(frame))


def test_unknown_codec_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="unknown compression codec 5"):
        codecs.decompress(5, memoryview(b""))


@pytest.mark.parametrize(
    ("codec", "modules", "extra"),
    [
        (codecs.SNAPPY, ["cramjam"], "snappy"),
        (codecs.ZSTD, ["compression", "compression.zstd", "backports", "backports.zstd"], "zstd"),
    ],
)
def test_missing_package_names_the_extra(
    codec: int, modules: list[str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pylog\[{extra}\]"):
        codecs.decompress(codec, memoryview(b"payload"))
    with pytest.raises(MissingExtraError, match=rf"pylog\[{extra}\]"):
        Compression(codec).compress(memoryview(b"payload"))


# ---------------------------------------------------------------- writing


def compression(name: str, level: int | None = None) -> Compression:
    if name == "zstd":
        pytest.importorskip(ZSTD_MODULE, reason="needs the extra zstd")
    return Compression.named(name, level)


def compressed(name: str, data: bytes, level: int | None = None) -> bytes:
    return compression(name, level).compress(memoryview(data))


codec_names = pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])


@codec_names
def test_what_is_written_is_read_at_every_size_around_a_block(name: str) -> None:
    source = random.Random(name)
    sizes = [0, 1, *(edge + step for edge in (32 << 10, 64 << 10) for step in (-1, 0, 1)), 200_000]
    for size in sizes:
        for data in (source.randbytes(size), (DATA * 200)[:size]):
            payload = memoryview(compressed(name, data))
            assert codecs.decompress(codecs.NUMBERS[name], payload) == data


@pytest.mark.slow
@codec_names
def test_all_that_may_be_written_can_be_read(name: str) -> None:
    data = bytes(codecs.MAX_DECOMPRESSED_BYTES)
    payload = memoryview(compressed(name, data))
    assert codecs.decompress(codecs.NUMBERS[name], payload) == data


def test_many_frames_are_decoded_without_copying_all_that_follows_for_each() -> None:
    fed: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self._decoder = zlib.decompressobj(31)

        def decompress(self, data: memoryview, most: int) -> bytes:
            fed.append(len(data))
            return self._decoder.decompress(data, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self._decoder, name)

    frames = [b"", DATA, random.Random(1).randbytes(50_000)] * 300
    stream = memoryview(b"".join(map(gzip.compress, frames)))
    assert codecs._all_frames("gzip", stream, Counting, zlib.error) == b"".join(frames)
    assert sum(fed) < 4 * len(stream)


def test_gzip_is_one_member_of_rfc_1952() -> None:
    payload = compressed("gzip", DATA)
    assert payload[:4] == b"\x1f\x8b\x08\0"
    assert payload[4:8] == bytes(4)  # no time of writing: the same records give the same bytes
    assert gzip.decompress(payload) == DATA


def test_snappy_is_framed_as_xerial_in_blocks_of_32_kib() -> None:
    data = random.Random(5).randbytes(80_000)
    payload = compressed("snappy", data)
    assert payload[:16].hex() == "82534e41505059000000000100000001"
    blocks, position = [], 16
    while position < len(payload):
        (size,) = struct.unpack_from(">i", payload, position)
        blocks.append(bytes(cramjam.snappy.decompress_raw(payload[position + 4 :][:size])))
        position += 4 + size
    assert [len(block) for block in blocks] == [32 << 10, 32 << 10, 80_000 - (64 << 10)]
    assert b"".join(blocks) == data


@pytest.mark.parametrize("data", [DATA * 200, random.Random(6).randbytes(200_000)])
def test_lz4_is_kafkas_frame_of_independent_blocks(data: bytes) -> None:
    payload = compressed("lz4", data)
    # Magic, FLG 0x60: version 1, independent blocks, no sizes or checksums; BD 0x40: 64 KiB.
    assert payload[:7].hex() == "04224d18604082"
    plain, position = b"", 7
    while word := struct.unpack_from("<I", payload, position)[0]:
        size = word & 0x7FFF_FFFF
        block = payload[position + 4 : position + 4 + size]
        # Each block decodes alone, and none is longer than it says.
        is_stored = word >> 31
        plain += block if is_stored else lz4.block.decompress(block, uncompressed_size=64 << 10)
        position += 4 + size
    assert payload[position:] == bytes(4)
    assert plain == data


def test_zstd_frame_names_no_size_as_kafkas_streams() -> None:
    payload = compressed("zstd", DATA)
    assert payload[:4].hex() == "28b52ffd"
    assert payload[4] & 0b1110_0111 == 0  # no content size, single segment, checksum, dictionary
    assert bytes(cramjam.zstd.decompress(payload)) == DATA


@pytest.mark.parametrize(
    ("name", "levels"),
    [("gzip", [1, 6, 9]), ("lz4", [9, 3, 12]), ("zstd", [-50, 1, 19])],
)
def test_levels_go_from_fast_to_small(name: str, levels: list[int]) -> None:
    source = random.Random(7)
    words = [source.randbytes(source.randrange(2, 9)) for _ in range(500)]
    data = b" ".join(source.choice(words) for _ in range(40_000))
    sizes = [len(compressed(name, data, level)) for level in levels]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_default_levels_are_kafkas() -> None:
    assert Compression.named("gzip").level == -1
    assert Compression.named("zstd").level == 3
    assert Compression.named("lz4") == Compression(codecs.LZ4, 9)
    fast = lz4.frame.compress(DATA * 99, block_linked=False, store_size=False)
    assert compressed("lz4", DATA * 99) == fast


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("gzip", 1), ("gzip", 9), ("lz4", 1), ("lz4", 2), ("lz4", 17),
        ("zstd", -131072), ("zstd", 22), ("snappy", 0),
    ],
)  # fmt: skip
def test_every_level_at_its_limit_is_readable(name: str, level: int) -> None:
    payload = memoryview(compressed(name, DATA, level))
    assert codecs.decompress(codecs.NUMBERS[name], payload) == DATA


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_kafka_and_its_clients_are_decoded(name: str) -> None:
    data = VECTORS[name]
    codec = data[22] & 7
    if codec == codecs.ZSTD:
        pytest.importorskip(ZSTD_MODULE, reason="needs the extra zstd")
    plain = codecs.decompress(codec, memoryview(data)[61:])
    values = [record.value for record in reference.decode_records(plain, data[60])]
    assert values
    assert all(value and value.endswith(b"abc" * 24) for value in values)
