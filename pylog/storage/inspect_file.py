"""What stands in one file of a partition or log: its parts in order, and what is wrong with them.

Knows every kind of file.  Must not know how facts are shown.  Reads only; takes no lock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

from pylog import _native, codecs
from pylog._native import PAGE_BYTES, Record, Records, batch_headers
from pylog.errors import (
    CorruptionError,
    IncompatibleFormatError,
    InvalidRecordError,
    MissingExtraError,
)
from pylog.storage import layout
from pylog.storage.files import Directory, File, read_file
from pylog.storage.index import OFFSET_ENTRY
from pylog.storage.inspect import extents_of, take_moment
from pylog.storage.inspect_segment import (
    Batches,
    Extent,
    Fact,
    Finding,
    Rest,
    entry_complaints,
    load_entries,
    new_scanner,
    record_findings,
    scan,
)
from pylog.storage.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_manifest
from pylog.storage.shared_page import STATE_NAME, copied_marks, peek

_CODECS: Final = {
    codecs.NONE: "none",
    codecs.GZIP: "gzip",
    codecs.SNAPPY: "snappy",
    codecs.LZ4: "lz4",
    codecs.ZSTD: "zstd",
}
_STATES: Final = {_native.OPEN: "open", _native.FULL: "full", _native.FAILED: "failed"}
_APPEND_TIME, _TRANSACTIONAL, _CONTROL, _DELETE_HORIZON = 8, 16, 32, 64


def is_known(name: str) -> bool:
    """Return whether a file of this name can be told about."""
    if name in _TEXTS or name == STATE_NAME:
        return True
    return _segment_file(name) is not None


def _segment_file(name: str) -> tuple[int, str, int] | None:
    """Return (base offset, Kafka's name, revision or 0) of a segment's file; None for another."""
    cleaned, parsed = layout.parse_cleaned_name(name), layout.parse_segment_name(name)
    if cleaned is not None:
        return cleaned[1], cleaned[0], cleaned[2]
    return None if parsed is None else (parsed[0], name, 0)


def inspect_file(
    directory: Directory, name: str, lock_file: File | None, *, with_records: bool
) -> Iterator[Fact | Finding]:
    """Yield what stands in a file, in its order.

    name: accepted by is_known.  lock_file: tells whether the partition is in use; None if unknown.
    with_records: the records of each batch of a `.log` follow it.
    Raises OSError.  O(bytes), two passes over a `.log`.
    """
    found = _segment_file(name)
    if name in _TEXTS:
        yield from _text(directory, name)
    elif found is None:
        yield from _state(directory, lock_file)
    else:
        base_offset, kafka_name, revision = found
        extent = _extent(directory, kafka_name, base_offset, revision, lock_file)
        if layout.parse_log_name(kafka_name) is not None:
            yield from _log(directory, extent, with_records=with_records)
        else:
            yield from _index(directory, kafka_name, extent)


def _extent(
    directory: Directory, name: str, base_offset: int, revision: int, lock_file: File | None
) -> Extent:
    """Return how much of a segment's file counts; all that is whole when it does not count."""
    moment, _ = take_moment(directory, lock_file)
    for extent in extents_of(moment):
        is_in_place = revision == 0 and (
            extent.revision == 0
            or layout.cleaned_name(name, extent.revision) not in directory.names()
        )
        if extent.base_offset == base_offset and (is_in_place or extent.revision == revision):
            return dataclasses.replace(extent, revision=revision)
    return Extent(
        base_offset=base_offset,
        end_offset=base_offset,
        size=0,
        rest=Rest.BATCHES,
        is_compacted=True,
        revision=revision,
    )


# ------------------------------------------------------------------ batches


def _log(directory: Directory, extent: Extent, *, with_records: bool) -> Iterator[Fact | Finding]:
    """Yield the batches of a `.log`, each with its records, and findings where they belong."""
    file = extent.open(directory, layout.log_name(extent.base_offset))
    try:
        batches, found = scan(file, new_scanner(extent), extent)
        found += record_findings(file, batches)
        findings = sorted(found, key=lambda finding: finding.position or 0, reverse=True)
        for start, end in zip(batches.positions.tolist(), batches.ends.tolist(), strict=True):
            while findings and (findings[-1].position or 0) < start:
                yield from _damage(file, findings.pop())
            data = file.pread(end - start, start)
            yield _batch_fact(data, start, is_intact=True)
            if with_records:
                yield from _record_facts(data)
        while findings:
            yield from _damage(file, findings.pop())
    finally:
        file.close()


def _damage(file: File, finding: Finding) -> Iterator[Fact | Finding]:
    """Yield the header that stands where a batch is damaged, if it looks like one."""
    if finding.is_damage and finding.position is not None and finding.first is not None:
        start = finding.position
        size = 12 + int.from_bytes(file.pread(12, start)[8:], "big")
        data = file.pread(min(size, max(file.size() - start, 0)), start)
        is_parsed = finding.message.startswith("crc32c") and batch_headers(data)
        if is_parsed:
            yield _batch_fact(data, start, is_intact=False)
    yield finding


def _batch_fact(data: bytes, position: int, *, is_intact: bool) -> Fact:
    """Return every header field of the batch in `data`, and what its attributes mean."""
    header = batch_headers(data)[0]
    attributes = header["attributes"]
    values: dict[str, Any] = {
        "position": position,
        "size": header["size"],
        "base_offset": header["base_offset"],
        "last_offset": header["base_offset"] + header["last_offset_delta"],
        "count": header["count"],
        "leader_epoch": header["leader_epoch"],
        "magic": header["magic"],
        "crc": f"{header['crc']:#010x}",
        "is_crc_valid": is_intact,
        "attributes": attributes,
        "compression": _CODECS.get(attributes & 7, f"unknown {attributes & 7}"),
        "timestamp_type": "LogAppendTime" if attributes & _APPEND_TIME else "CreateTime",
        "is_transactional": bool(attributes & _TRANSACTIONAL),
        "is_control": bool(attributes & _CONTROL),
        "has_delete_horizon": bool(attributes & _DELETE_HORIZON),
    }
    for name in (
        "last_offset_delta",
        "base_timestamp",
        "max_timestamp",
        "producer_id",
        "producer_epoch",
        "base_sequence",
    ):
        values[name] = header[name]
    return Fact("batch", values)


def _record_facts(data: bytes) -> Iterator[Fact]:
    """Yield the records of one batch; what does not parse was told as a finding already."""
    try:
        for record in Records(data, decompress=codecs.decompress, include_control=True):
            yield Fact("record", _record_values(record))
    except (CorruptionError, InvalidRecordError, MissingExtraError):
        return


def _record_values(record: Record) -> dict[str, Any]:
    return {
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": None if record.key is None else escaped(record.key),
        "value": None if record.value is None else escaped(record.value),
        "headers": [
            [escaped(name.encode()), None if value is None else escaped(value)]
            for name, value in record.headers
        ],
    }


def escaped(data: bytes) -> str:
    r"""Return bytes as printable text from which they can be had back.

    UTF-8 that prints stays; every other byte becomes \xNN and a backslash \\, so that no terminal
    obeys what a record says.
    """
    text = data.decode("utf-8", "surrogateescape")
    return "".join(
        "\\\\" if character == "\\" else character if character.isprintable() else _hex(character)
        for character in text
    )


def _hex(character: str) -> str:
    data = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in data)


# ------------------------------------------------------------------ indexes


def _index(directory: Directory, name: str, extent: Extent) -> Iterator[Fact | Finding]:
    """Yield the entries of an index, each followed by what is wrong with it."""
    base_offset = extent.base_offset
    path = f"{directory.path}/{name}"
    entries, rest_bytes = load_entries(directory, name, extent)
    complaints: dict[int, str] = {}
    try:
        log = extent.open(directory, layout.log_name(base_offset))
    except FileNotFoundError:
        yield Finding(path=path, message="not compared: its .log is missing", is_damage=False)
    else:
        try:
            batches: Batches = scan(log, new_scanner(extent), extent)[0]
            complaints.update(entry_complaints(entries, log, batches, base_offset))
        finally:
            log.close()
    for number, entry in enumerate(entries.tolist()):
        place = number * entries.dtype.itemsize
        first, second = entry
        if entries.dtype == OFFSET_ENTRY:
            yield Fact("index entry", {"offset": base_offset + first, "position": second})
        else:
            yield Fact("time entry", {"timestamp": first, "offset": base_offset + second})
        if place in complaints:
            yield Finding(
                path=path,
                message=complaints[place],
                position=place,
                is_damage=extent.is_index_due,
            )
    expected = extent.entries_in(name)
    if expected is not None and len(entries) < expected:
        message = f"holds {len(entries)} entries, {expected} expected"
        yield Finding(path=path, message=message, is_damage=extent.is_index_due)
    if rest_bytes:
        message = f"{rest_bytes} bytes after the last entry"
        yield Finding(path=path, message=message, position=entries.nbytes, is_damage=False)


# ------------------------------------------------------------------ small files


def _text(directory: Directory, name: str) -> Iterator[Fact | Finding]:
    path = f"{directory.path}/{name}"
    data = read_file(directory, name, max_bytes=MAX_MANIFEST_BYTES)
    if data is None:
        raise FileNotFoundError(2, "No such file or directory", path)
    try:
        yield from _TEXTS[name](data, path)
    except (CorruptionError, IncompatibleFormatError) as error:
        yield Finding(path=path, message=getattr(error, "reason", None) or str(error))


def _manifest(data: bytes, path: str) -> Iterator[Fact]:
    manifest = parse_manifest(data, path=path)
    values = dataclasses.asdict(manifest)
    segments = values.pop("segments")
    values.update(values.pop("active"))
    yield Fact("manifest", values)
    for segment in segments:
        yield Fact("segment", segment)


def _leader_epochs(data: bytes, path: str) -> Iterator[Fact]:
    for epoch, start in layout.parse_leader_epochs(data, path=path):
        yield Fact("leader epoch", {"leader_epoch": epoch, "start_offset": start})


def _partition_metadata(data: bytes, path: str) -> Iterator[Fact]:
    topic_id = layout.parse_partition_metadata(data, path=path)
    yield Fact("partition", {"topic_id": str(topic_id)})


def _meta_properties(data: bytes, path: str) -> Iterator[Fact]:
    log_id = layout.parse_meta_properties(data, path=path)
    yield Fact("log", {"format": layout.FORMAT_VERSION, "log_id": str(log_id)})


_TEXTS: Final[dict[str, Callable[[bytes, str], Iterator[Fact]]]] = {
    MANIFEST_NAME: _manifest,
    layout.LEADER_EPOCH_CHECKPOINT: _leader_epochs,
    layout.PARTITION_METADATA: _partition_metadata,
    layout.META_PROPERTIES: _meta_properties,
}


def _state(directory: Directory, lock_file: File | None) -> Iterator[Fact | Finding]:
    """Yield the marks of the shared page, which mean something while it is in use only."""
    file = directory.open(STATE_NAME)
    try:
        marks = copied_marks(file.pread(PAGE_BYTES, 0))
    finally:
        file.close()
    if marks is None:
        message = "holds no page of this build; it is made anew by the next open"
        yield Finding(path=f"{directory.path}/{STATE_NAME}", message=message, is_damage=False)
        return
    if lock_file is not None and not peek(directory, lock_file)[0]:
        message = "nobody has the partition open, so these marks count for nothing"
        yield Finding(path=f"{directory.path}/{STATE_NAME}", message=message, is_damage=False)
    values: dict[str, Any] = {
        name: getattr(marks, name) for name in dir(type(marks)) if not name.startswith("_")
    }
    values["state"] = _STATES.get(marks.state, marks.state)
    yield Fact("marks", values)
