"""Compression codecs as Kafka frames them: bytes in, bytes out, with a hard cap on what is read.

Knows codec numbers (batch attributes, bits 0-2), levels and framings.  Must not know batches or
records.  zstd and snappy need the extras of these names; gzip is the standard library's, lz4 a core
dependency. Source: FORMAT section 4; Kafka `common/compress`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import lz4.frame

from pylog.errors import InvalidRecordError, MissingExtraError, RecordTooLargeError

NONE: Final = 0
GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4

NUMBERS: Final[Mapping[str, int]] = {
    "none": NONE,
    "gzip": GZIP,
    "snappy": SNAPPY,
    "lz4": LZ4,
    "zstd": ZSTD,
}
# Kafka's (KIP-390).  To gzip -1 is zlib's own default; to lz4 9 is the fast compressor.
DEFAULT_LEVELS: Final[Mapping[str, int]] = {"gzip": -1, "lz4": 9, "zstd": 3}

# What is read may not be larger, so nothing larger is written.  A batch of the default size at the
# codecs' usual ratios stays far below (RELIABILITY E2).
MAX_DECOMPRESSED_BYTES: Final = 64 << 20
DECOMPRESSED: Final = "what can be decompressed"  # the limit's name in errors
_XERIAL_MAGIC: Final = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES: Final = 16
_XERIAL_HEADER: Final = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES: Final = 32 << 10  # snappy-java's default
_LZ4_GREATEST_RATIO: Final = 255  # a byte of a block makes a match longer by so much at most
_LZ4_FLAGS_POSITION: Final = 4  # behind the magic
_LZ4_HAS_SIZE: Final = 1 << 3
_FIRST_PIECE_BYTES: Final = 4 << 10  # of a frame behind another; then it doubles (guessed)
_GZIP_WINDOW: Final = 31  # zlib's number for "a gzip wrapper, 32 KiB window"


@dataclasses.dataclass(frozen=True, slots=True)
class Compression:
    """What a writer does to the records of a batch: codec number and level.

    level: as in Kafka's settings; without meaning for codecs that have none.
    """

    codec: int = NONE
    level: int = 0

    @classmethod
    def named(cls, name: str, level: int | None = None) -> Compression:
        """Return the compression of a name in NUMBERS, by default at Kafka's level for it."""
        return cls(NUMBERS[name], DEFAULT_LEVELS.get(name, 0) if level is None else level)

    def compress(self, payload: memoryview) -> bytes:
        """Return a batch's records as Kafka's own clients frame them.

        Nothing is spared when compression does not help, as in Kafka: the result may be larger.
        Raises RecordTooLargeError for more than MAX_DECOMPRESSED_BYTES, which no reader would take;
        MissingExtraError when the codec's package is not installed.  One library call, for snappy
        one for 32 KiB; they release the GIL.  Source: FORMAT section 4, KIP-390.
        """
        if len(payload) > MAX_DECOMPRESSED_BYTES:
            raise RecordTooLargeError(len(payload), MAX_DECOMPRESSED_BYTES, DECOMPRESSED)
        return _ENCODERS[self.codec](payload, self.level)


UNCOMPRESSED: Final = Compression()


def _compress_gzip(payload: memoryview, level: int) -> bytes:
    return zlib.compress(payload, level, _GZIP_WINDOW)


def _compress_lz4(payload: memoryview, level: int) -> bytes:
    # Kafka's default level is its fast compressor, all others are lz4's high compression, whose
    # lowest level here is 3.  Kafka's reader takes independent blocks only.
    data: bytes = lz4.frame.compress(
        payload,
        compression_level=0 if level == DEFAULT_LEVELS["lz4"] else max(level, 3),
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
        block_linked=False,
        store_size=False,
    )
    return data


def _compress_zstd(payload: memoryview, level: int) -> bytes:
    zstd = _import_zstd()
    parameter = zstd.CompressionParameter
    options = {parameter.compression_level: level, parameter.content_size_flag: 0}
    data: bytes = zstd.compress(payload, options=options)
    return data


def _compress_snappy(payload: memoryview, level: int) -> bytes:
    """Frame as snappy-java: a header, then blocks behind their sizes.  There are no levels."""
    compress = _import_cramjam().snappy.compress_raw
    parts = [_XERIAL_HEADER]
    for start in range(0, len(payload), _XERIAL_BLOCK_BYTES):
        block = bytes(compress(payload[start : start + _XERIAL_BLOCK_BYTES]))
        parts += struct.pack(">i", len(block)), block
    return b"".join(parts)


_ENCODERS: Final[dict[int, Callable[[memoryview, int], bytes]]] = {
    GZIP: _compress_gzip,
    SNAPPY: _compress_snappy,
    LZ4: _compress_lz4,
    ZSTD: _compress_zstd,
}


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


def _decompress_gzip(payload: memoryview) -> bytes:
    return _all_frames("gzip", payload, lambda: zlib.decompressobj(_GZIP_WINDOW), zlib.error)


def _all_frames(
    codec: str, payload: memoryview, new_decoder: Callable[[], Any], failure: type[Exception]
) -> bytes:
    """Decode all frames of a stream, which gzip calls members; each takes a decoder of its own.

    A decoder copies what follows its frame.  So only the first, mostly the only one, gets all there
    is; the others get pieces, or a megabyte of empty frames would take most of a second.
    """
    parts: list[bytes] = []
    room = MAX_DECOMPRESSED_BYTES
    position, piece_bytes = 0, len(payload)
    while position < len(payload):
        decoder = new_decoder()
        while not decoder.eof:
            piece = payload[position : position + piece_bytes]
            if not piece:
                raise _refused(codec, "the last frame is cut")
            try:
                parts.append(decoder.decompress(piece, room + 1))
            except failure as error:
                raise _refused(codec, error) from None
            room -= len(parts[-1])
            if room < 0:
                raise _too_large(codec)
            position += len(piece) - len(decoder.unused_data)
            piece_bytes *= 2
        piece_bytes = _FIRST_PIECE_BYTES
    return b"".join(parts)


def _decompress_lz4(payload: memoryview) -> bytes:
    """Decode the first frame and ignore what follows it, as Kafka does."""
    if _is_bounded_lz4(payload):
        # Twice as fast (measured).  What it cannot do is decided below.
        with contextlib.suppress(RuntimeError):
            plain: bytes = lz4.frame.decompress(payload)
            return plain
    decoder = lz4.frame.LZ4FrameDecompressor()
    try:
        data: bytes = decoder.decompress(payload, max_length=MAX_DECOMPRESSED_BYTES)
    except RuntimeError as error:
        raise _refused("lz4", error) from None
    if not decoder.eof:
        if len(data) == MAX_DECOMPRESSED_BYTES:
            raise _too_large("lz4")
        raise _refused("lz4", "the frame is cut")
    return data


def _is_bounded_lz4(payload: memoryview) -> bool:
    """Return whether no more can come out than may: by its length, and by no word of its own.

    The library takes memory for the size that a frame claims, whatever that is.
    """
    return (
        len(payload) * _LZ4_GREATEST_RATIO <= MAX_DECOMPRESSED_BYTES
        and len(payload) > _LZ4_FLAGS_POSITION
        and not payload[_LZ4_FLAGS_POSITION] & _LZ4_HAS_SIZE
    )


def _decompress_zstd(payload: memoryview) -> bytes:
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


def _import_cramjam() -> Any:
    try:
        import cramjam
    except ImportError:
        raise MissingExtraError("cramjam", "snappy") from None
    return cramjam


def _decompress_snappy(payload: memoryview) -> bytes:
    """Decode xerial's framing, or one raw block when its magic is absent, as Kafka does."""
    cramjam = _import_cramjam()
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
    GZIP: _decompress_gzip,
    SNAPPY: _decompress_snappy,
    LZ4: _decompress_lz4,
    ZSTD: _decompress_zstd,
}
