"""Compression codecs as Kafka frames them: bytes in, bytes out, with a hard cap on the output.

Knows codec numbers (batch attributes, bits 0-2) and framings.  Must not know batches or records.
zstd and snappy need the extras of these names; gzip is the standard library's, lz4 a core
dependency. Source: FORMAT section 4; Kafka `common/compress`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import lz4.frame

from pylog.errors import InvalidRecordError, MissingExtraError

NONE: Final = 0
GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4

# A batch of the default size at the codecs' usual ratios stays far below (RELIABILITY E2).
MAX_DECOMPRESSED_BYTES: Final = 64 << 20
_XERIAL_MAGIC: Final = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES: Final = 16
_GZIP_WINDOW: Final = 31  # zlib's number for "a gzip wrapper, 32 KiB window"


def decompress(codec: int, payload: memoryview) -> bytes:
    """Return the records of a compressed batch, at most MAX_DECOMPRESSED_BYTES.

    Raises InvalidRecordError for an unknown codec, a stream that does not decode, or one that grows
    past the cap; MissingExtraError when the codec's package is not installed.  One library call a
    frame, which releases the GIL.
    """
    decoder = _DECODERS.get(codec)
    if decoder is None:
        raise InvalidRecordError(f"unknown compression codec {codec}")
    return decoder(payload)


def _refused(codec: str, reason: object) -> InvalidRecordError:
    return InvalidRecordError(f"{codec} payload does not decode: {reason}")


def _too_large(codec: str) -> InvalidRecordError:
    return _refused(codec, f"more than {MAX_DECOMPRESSED_BYTES} bytes come out")


def _gunzip(payload: memoryview) -> bytes:
    return _all_frames("gzip", payload, lambda: zlib.decompressobj(_GZIP_WINDOW), zlib.error)


def _all_frames(
    codec: str, payload: memoryview, new_decoder: Callable[[], Any], failure: type[Exception]
) -> bytes:
    """Decode all frames of a stream, which gzip calls members; each takes a decoder of its own."""
    parts: list[bytes] = []
    room = MAX_DECOMPRESSED_BYTES
    rest = bytes(payload)
    while rest:
        decoder = new_decoder()
        try:
            parts.append(decoder.decompress(rest, room + 1))
        except failure as error:
            raise _refused(codec, error) from None
        room -= len(parts[-1])
        if room < 0:
            raise _too_large(codec)
        if not decoder.eof:
            raise _refused(codec, "the last frame is cut")
        rest = decoder.unused_data
    return b"".join(parts)


def _lz4(payload: memoryview) -> bytes:
    decoder = lz4.frame.LZ4FrameDecompressor()
    try:
        # Kafka reads the first frame only and ignores what follows it; so does this.
        data: bytes = decoder.decompress(payload, max_length=MAX_DECOMPRESSED_BYTES)
    except RuntimeError as error:
        raise _refused("lz4", error) from None
    if not decoder.eof:
        if len(data) == MAX_DECOMPRESSED_BYTES:
            raise _too_large("lz4")
        raise _refused("lz4", "the frame is cut")
    return data


def _zstd(payload: memoryview) -> bytes:
    zstd = _import_zstd()
    return _all_frames("zstd", payload, zstd.ZstdDecompressor, zstd.ZstdError)


def _import_zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            from backports import zstd  # type: ignore[import-not-found,no-redef,unused-ignore]
        except ImportError:
            raise MissingExtraError("backports.zstd", "zstd") from None
    return zstd


def _snappy(payload: memoryview) -> bytes:
    """Decode xerial's framing, or one raw block when its magic is absent, as Kafka does."""
    try:
        import cramjam
    except ImportError:
        raise MissingExtraError("cramjam", "snappy") from None
    data = bytes(payload)
    blocks = _xerial_blocks(data) if data.startswith(_XERIAL_MAGIC) else [data]
    parts: list[bytes] = []
    room = MAX_DECOMPRESSED_BYTES
    for block in blocks:
        # A raw block begins with its decoded length, which is checked before it is believed.
        room -= _snappy_length(block)
        if room < 0:
            raise _too_large("snappy")
        try:
            parts.append(bytes(cramjam.snappy.decompress_raw(block)))
        except cramjam.DecompressionError as error:
            raise _refused("snappy", error) from None
    return b"".join(parts)


def _xerial_blocks(data: bytes) -> list[bytes]:
    """Return the raw blocks; every length is checked against what remains."""
    blocks = []
    position = 0
    while position < len(data):
        if data.startswith(_XERIAL_MAGIC, position):
            position += _XERIAL_HEADER_BYTES
            if position > len(data):
                raise _refused("snappy", "the header is cut")
            continue
        if position + 4 > len(data):
            raise _refused("snappy", "a block length is cut")
        (size,) = struct.unpack_from(">i", data, position)
        position += 4
        if not 0 <= size <= len(data) - position:
            raise _refused("snappy", f"a block of {size} bytes, {len(data) - position} remain")
        blocks.append(data[position : position + size])
        position += size
    return blocks


def _snappy_length(block: bytes) -> int:
    length = 0
    for shift, byte in enumerate(block[:5]):
        length |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return length
    raise _refused("snappy", "the decoded length is cut")


_DECODERS: Final[dict[int, Callable[[memoryview], bytes]]] = {
    GZIP: _gunzip,
    SNAPPY: _snappy,
    LZ4: _lz4,
    ZSTD: _zstd,
}
