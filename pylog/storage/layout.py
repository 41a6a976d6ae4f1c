"""Names of files and directories, and Kafka's small text files: bytes in, values out, and back.

Pure: no file is touched here.  Parsing is strict, because a directory may come from an enemy and a
file may be cut anywhere: a name or text is what pylog or Kafka writes, to the byte, or is refused.
Must not know what segments hold.

    data/                              a log
      meta.properties                  format version and id of the log
      orders-0/                        topic, last dash, partition
        00000000000000000042.log       base offset in 20 digits; .index and .timeindex beside it
        00000000000000000042.snapshot  what producers sent below that offset
        00000000000000000042.log.8192.cut    bytes that recovery cut off that .log at 8192
        00000000000000000042.log.8.cleaned   what takes the place of that .log: revision 8 of it
        leader-epoch-checkpoint        Kafka's text: which leader epoch began at which offset
        partition.metadata             Kafka's text: the topic's id
Sources: Kafka LogFileUtils, Topic, CheckpointFile, PartitionMetadataFile.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterable
from typing import Final

from pylog.errors import CorruptFileError, IncompatibleFormatError, InvalidTopicError

LEADER_EPOCH_CHECKPOINT: Final = "leader-epoch-checkpoint"
PARTITION_METADATA: Final = "partition.metadata"
META_PROPERTIES: Final = "meta.properties"
FORMAT_VERSION: Final = 1  # of the directory; a larger one is refused, not guessed at

MAX_TOPIC_CHARACTERS: Final = 249  # Kafka's: 255 for a file name, less a dash and five digits
MAX_NAME_BYTES: Final = 255  # of one name in a directory, on every file system that pylog supports
_MAX_PARTITION: Final = 2**31 - 1
_MAX_OFFSET: Final = 2**63 - 1
_MAX_EPOCH: Final = 2**31 - 1

DELETED_SUFFIX: Final = ".deleted"  # Kafka's: the file no longer counts and is removed later
_CLEANED_SUFFIX: Final = ".cleaned"  # Kafka's, which removes such files when it opens a directory
_LOG: Final = ".log"
_INDEX: Final = ".index"
_TIMEINDEX: Final = ".timeindex"
_SNAPSHOT: Final = ".snapshot"

# fullmatch everywhere: `$` would let a trailing newline pass.  [0-9], as \d knows all scripts.
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,18})"  # canonical decimal, at most the digits of 2**63
_PARTITION_DIRECTORY: Final = re.compile(rf"(.+)-({_NUMBER})")
_SEGMENT_FILE: Final = re.compile(r"([0-9]{20})(\.log|\.index|\.timeindex)")
_SNAPSHOT_FILE: Final = re.compile(r"([0-9]{20})\.snapshot")
_CLEANED_FILE: Final = re.compile(
    rf"([0-9]{{20}}(?:\.log|\.index|\.timeindex))\.({_NUMBER})\.cleaned"
)
_CUT_FILE: Final = re.compile(rf"([0-9]{{20}})\.log\.({_NUMBER})\.cut")
_EPOCH_LINE: Final = re.compile(rf"({_NUMBER}) ({_NUMBER})")
_ID: Final = r"[A-Za-z0-9_-]{22}"  # 16 bytes in base64 for URLs, unpadded: Kafka's Uuid.toString
_PARTITION_METADATA_TEXT: Final = re.compile(rf"version: 0\ntopic_id: ({_ID})")
_META_PROPERTIES_TEXT: Final = re.compile(rf"pylog\.format=({_NUMBER})\nlog\.id=({_ID})\n")


# ---------------------------------------------------------------- topics and partitions


def check_topic_name(topic: str) -> None:
    """Accept a topic name by Kafka's rule: 1 to 249 of A-Z a-z 0-9 . _ -, and not "." or "..".

    Raises InvalidTopicError that says what is wrong with it.
    """
    if _TOPIC.fullmatch(topic) and topic not in (".", ".."):
        return
    if not topic:
        reason = "a name must not be empty"
    elif topic in (".", ".."):
        reason = "is a directory's own name"
    elif len(topic) > MAX_TOPIC_CHARACTERS:
        reason = f"{len(topic)} characters, at most {MAX_TOPIC_CHARACTERS} fit a file name"
    else:
        wrong = re.search(r"[^A-Za-z0-9._-]", topic)
        assert wrong is not None
        reason = f"{wrong[0]!r} at {wrong.start()} is not one of A-Z a-z 0-9 . _ -"
    raise InvalidTopicError(topic, reason)


def collision_key(topic: str) -> str:
    """Return what must be unique among topics: Kafka's metrics cannot tell "." from "_"."""
    return topic.replace(".", "_")


def is_internal(topic: str) -> bool:
    """Return whether a topic is the log's own: its name starts with two underscores."""
    return topic.startswith("__")


def partition_directory(topic: str, partition: int) -> str:
    """Return the name of a partition's directory.

    topic: accepted by check_topic_name;  partition: in [0, 2**31).
    Raises InvalidTopicError when the two together are longer than a file name may be.
    """
    assert 0 <= partition <= _MAX_PARTITION, partition
    name = f"{topic}-{partition}"
    if len(name) > MAX_NAME_BYTES:
        raise InvalidTopicError(topic, f"with -{partition} is longer than {MAX_NAME_BYTES} bytes")
    return name


def parse_partition_directory(name: str) -> tuple[str, int] | None:
    """Return (topic, partition) of a directory's name; None when it is not one of a partition."""
    match = _PARTITION_DIRECTORY.fullmatch(name)
    if match is None or len(name) > MAX_NAME_BYTES:
        return None
    topic, partition = match[1], int(match[2])
    if not _TOPIC.fullmatch(topic) or topic in (".", "..") or partition > _MAX_PARTITION:
        return None
    return topic, partition


# ---------------------------------------------------------------- segments


def log_name(base_offset: int) -> str:
    """Return the name of the segment's file of batches."""
    return _segment_name(base_offset, _LOG)


def index_name(base_offset: int) -> str:
    """Return the name of the segment's offset index."""
    return _segment_name(base_offset, _INDEX)


def timeindex_name(base_offset: int) -> str:
    """Return the name of the segment's time index."""
    return _segment_name(base_offset, _TIMEINDEX)


def segment_names(base_offset: int) -> tuple[str, str, str]:
    """Return the names of all files of a segment, the `.log` first."""
    return log_name(base_offset), index_name(base_offset), timeindex_name(base_offset)


def _segment_name(base_offset: int, suffix: str) -> str:
    assert 0 <= base_offset <= _MAX_OFFSET, base_offset
    return f"{base_offset:020d}{suffix}"


def snapshot_name(end_offset: int) -> str:
    """Return the name of a snapshot of producers, as of all offsets below `end_offset`."""
    return _segment_name(end_offset, _SNAPSHOT)


def parse_snapshot_name(name: str) -> int | None:
    """Return the end offset of a snapshot's name; None for any other name."""
    match = _SNAPSHOT_FILE.fullmatch(name)
    return None if match is None or int(match[1]) > _MAX_OFFSET else int(match[1])


def parse_segment_name(name: str) -> tuple[int, str] | None:
    """Return (base offset, suffix with its dot) of a segment's file; None for any other name."""
    match = _SEGMENT_FILE.fullmatch(name)
    if match is None or int(match[1]) > _MAX_OFFSET:
        return None
    return int(match[1]), match[2]


def deleted_name(name: str) -> str:
    """Return the name of a segment's file while it waits for its removal."""
    return name + DELETED_SUFFIX


def parse_deleted_name(name: str) -> tuple[int, str] | None:
    """Return (base offset, suffix) of a segment's file that waits for its removal; else None."""
    if not name.endswith(DELETED_SUFFIX):
        return None
    return parse_segment_name(name.removesuffix(DELETED_SUFFIX))


def cleaned_name(name: str, revision: int) -> str:
    """Return the name of a segment's file of this revision until it takes the place of the old."""
    assert revision > 0, revision
    return f"{name}.{revision}{_CLEANED_SUFFIX}"


def parse_cleaned_name(name: str) -> tuple[str, int, int] | None:
    """Return (name to be, base offset, revision) of a file that compaction wrote; else None."""
    match = _CLEANED_FILE.fullmatch(name)
    parsed = None if match is None else parse_segment_name(match[1])
    if match is None or parsed is None or not 0 < int(match[2]) <= _MAX_OFFSET:
        return None
    return match[1], parsed[0], int(match[2])


def parse_log_name(name: str) -> int | None:
    """Return the base offset of a `.log` file's name; None for any other name."""
    parsed = parse_segment_name(name)
    return parsed[0] if parsed is not None and parsed[1] == _LOG else None


def cut_name(base_offset: int, position: int) -> str:
    """Return the name under which recovery saves what it cuts off a `.log` at `position`."""
    assert 0 <= position <= _MAX_OFFSET, position
    return f"{log_name(base_offset)}.{position}.cut"


def parse_cut_name(name: str) -> tuple[int, int] | None:
    """Return (base offset, position) of a saved cut; None for any other name."""
    match = _CUT_FILE.fullmatch(name)
    if match is None or max(int(match[1]), int(match[2])) > _MAX_OFFSET:
        return None
    return int(match[1]), int(match[2])


# ---------------------------------------------------------------- text files


def encode_leader_epochs(entries: Iterable[tuple[int, int]]) -> bytes:
    """Return the text of a leader-epoch-checkpoint.

    entries: (epoch, start offset), both strictly rising.  Diagram of a file with two:

        0          version
        2          count
        2 100      epoch, start offset
        4 250
    """
    lines = [f"{epoch} {start}\n" for epoch, start in entries]
    return f"0\n{len(lines)}\n{''.join(lines)}".encode("ascii")


def parse_leader_epochs(data: bytes, *, path: str) -> tuple[tuple[int, int], ...]:
    """Return the (epoch, start offset) entries of a leader-epoch-checkpoint, rising.

    An empty file has none: Kafka creates it so.  path: for the error's text only.
    Raises CorruptFileError.
    """
    if not data:
        return ()
    text = _ascii(data, path)
    # The last line must end: without its newline a cut number would pass for a smaller one.
    if not text.endswith("\n"):
        raise CorruptFileError(path, "the last line is cut")
    version, *rest = text[:-1].split("\n")
    if version != "0":
        raise CorruptFileError(path, f"line 1: expected version 0, found {version[:20]!r}")
    if not rest or rest[0] != str(len(rest) - 1):
        found = rest[0][:20] if rest else ""
        raise CorruptFileError(path, f"line 2: expected {len(rest) - 1} entries, found {found!r}")
    entries: list[tuple[int, int]] = []
    for number, line in enumerate(rest[1:], 3):
        match = _EPOCH_LINE.fullmatch(line)
        if match is None:
            raise CorruptFileError(path, f"line {number}: expected epoch and start offset")
        epoch, start = int(match[1]), int(match[2])
        last_epoch, last_start = entries[-1] if entries else (-1, -1)
        if not (last_epoch < epoch <= _MAX_EPOCH and last_start < start <= _MAX_OFFSET):
            raise CorruptFileError(
                path, f"line {number}: {epoch} {start} after {last_epoch} {last_start}"
            )
        entries.append((epoch, start))
    return tuple(entries)


def encode_partition_metadata(topic_id: uuid.UUID) -> bytes:
    """Return the text of a partition.metadata file; Kafka ends it without a newline."""
    return f"version: 0\ntopic_id: {_encode_id(topic_id)}".encode("ascii")


def parse_partition_metadata(data: bytes, *, path: str) -> uuid.UUID:
    """Return the topic id that a partition.metadata file holds.

    Raises CorruptFileError, also for the zero id, which Kafka uses for "none".
    """
    match = _PARTITION_METADATA_TEXT.fullmatch(_ascii(data, path))
    if match is None:
        raise CorruptFileError(
            path, "expected the lines 'version: 0' and 'topic_id: <22 characters>'"
        )
    return _parse_id(match[1], path)


def encode_meta_properties(log_id: uuid.UUID) -> bytes:
    """Return the text of a log's meta.properties."""
    return f"pylog.format={FORMAT_VERSION}\nlog.id={_encode_id(log_id)}\n".encode("ascii")


def parse_meta_properties(data: bytes, *, path: str) -> uuid.UUID:
    """Return the id of the log that a meta.properties file belongs to.

    Raises CorruptFileError, and IncompatibleFormatError when a later pylog wrote the directory.
    """
    match = _META_PROPERTIES_TEXT.fullmatch(_ascii(data, path))
    if match is None:
        raise CorruptFileError(
            path, "expected the lines 'pylog.format=<n>' and 'log.id=<22 characters>'"
        )
    if int(match[1]) != FORMAT_VERSION:
        raise IncompatibleFormatError(path, int(match[1]), FORMAT_VERSION)
    return _parse_id(match[2], path)


def _encode_id(value: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(value.bytes).decode("ascii").rstrip("=")


def _parse_id(text: str, path: str) -> uuid.UUID:
    value = uuid.UUID(bytes=base64.urlsafe_b64decode(text + "=="))
    # 22 characters hold 132 bits: the last 4 must be zero, or two texts would be one id.
    if _encode_id(value) != text or value.int == 0:
        raise CorruptFileError(path, f"{text!r} is not an id")
    return value


def _ascii(data: bytes, path: str) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise CorruptFileError(path, f"byte {error.start} is not ASCII") from None
