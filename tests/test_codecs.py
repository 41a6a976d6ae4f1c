"""Compression codecs: every framing comes back, what is cut or too large is refused, and how."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Callable

import cramjam
import lz4.frame
import pytest

from pylog import codecs
from pylog.errors import InvalidRecordError, MissingExtraError

ZSTD_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
DATA = b"records of a batch, " * 50


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
