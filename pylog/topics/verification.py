"""A whole log examined while anybody may be using it: its partitions, and the topics against them.

Knows which directories a log has and what `__metadata` says of them.  Must not know how partitions
are stored.  Opens no log, so one that is being written, or is broken, can be examined all the same.
Reads only; takes no lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from pylog.engine.log_files import LOCK_NAME
from pylog.errors import CorruptionError, IncompatibleFormatError, InvalidRecordError
from pylog.storage import layout
from pylog.storage.files import Directory, File, OsDirectory, OsFiles, read_file
from pylog.storage.inspect import PartitionReport, inspect_partition, records_of
from pylog.storage.inspect_file import inspect_file, is_known
from pylog.storage.inspect_segment import Fact, Finding
from pylog.storage.manifest import MANIFEST_NAME
from pylog.storage.shared_page import STATE_NAME
from pylog.topics.metadata import METADATA_TOPIC, TopicFacts, parse_topic

_Parsed = TypeVar("_Parsed")
_MAX_TEXT_BYTES: Final = 1 << 16
_OWN_NAMES: Final = frozenset({LOCK_NAME, layout.META_PROPERTIES})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """What was noticed about the log itself, beside its partitions."""

    path: str
    findings: tuple[Finding, ...]


def verify(path: str) -> Iterator[PartitionReport | LogReport]:
    """Examine the log, or the one partition, in the directory `path`; one report each, as made.

    Raises OSError when the directory cannot be read; ValueError when it is neither of the two.
    O(bytes), two passes over the data.
    """
    path = os.path.realpath(path)
    with _opened(path) as root:
        names = root.names()
        partitions = [name for name in names if layout.parse_partition_directory(name)]
        if _is_partition(names):
            with _opened(os.path.dirname(path)) as parent, _lock_file(parent) as lock_file:
                yield inspect_partition(parent.directory(os.path.basename(path)), lock_file)
        elif layout.META_PROPERTIES in names or partitions:
            with _lock_file(root) as lock_file:
                yield from _verify_log(root, names, partitions, lock_file)
        else:
            raise ValueError(f"{path}: neither a log nor a partition")


def dump(path: str, *, with_records: bool) -> Iterator[Fact | Finding]:
    """Tell what stands in one file of a log or partition, and what is wrong with it.

    Raises OSError when the file cannot be read; ValueError when it is not one of a log's.
    """
    path = os.path.realpath(path)
    directory, name = os.path.split(path)
    if not is_known(name):
        raise ValueError(f"{path}: not a file of a log")
    log, partition = os.path.split(directory)
    with _opened(log) as root, _lock_file(root) as lock_file:
        place = root.directory(partition) if partition else root
        yield from inspect_file(place, name, lock_file, with_records=with_records)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[OsDirectory]:
    root = OsFiles().root(path, create=False)
    try:
        yield root
    finally:
        root.close()


@contextlib.contextmanager
def _lock_file(root: Directory) -> Iterator[File | None]:
    """Yield the log's lock file, only to ask it; None when it is missing or may not be read."""
    try:
        file = root.open(LOCK_NAME)
    except OSError:
        yield None
        return
    try:
        yield file
    finally:
        file.close()


def _is_partition(names: list[str]) -> bool:
    """Return whether these are the files of a partition; one that was never written has few."""
    own = {MANIFEST_NAME, STATE_NAME, layout.PARTITION_METADATA, layout.LEADER_EPOCH_CHECKPOINT}
    return bool(own & set(names)) or any(layout.parse_segment_name(name) for name in names)


# ------------------------------------------------------------------ a log


def _verify_log(
    root: Directory, names: list[str], partitions: list[str], lock_file: File | None
) -> Iterator[PartitionReport | LogReport]:
    """Examine each partition, then the topics against them; the last report is the log's."""
    findings: list[Finding] = []
    if layout.META_PROPERTIES in names:
        _parse(root, layout.META_PROPERTIES, layout.parse_meta_properties, findings)
    else:
        findings.append(Finding(path=f"{root.path}/{layout.META_PROPERTIES}", message="is missing"))
    if lock_file is None:
        message = "cannot be read, so partitions are taken for closed"
        findings.append(Finding(path=f"{root.path}/{LOCK_NAME}", message=message, is_damage=False))
    for name in partitions:
        try:
            yield inspect_partition(root.directory(name), lock_file)
        except OSError as error:
            findings.append(_unreadable(f"{root.path}/{name}", error))
    topics = _topics(root, lock_file, findings)
    if topics is not None:
        _compare(root, partitions, topics, findings)
    for name in sorted(set(names) - _OWN_NAMES - set(partitions)):
        message = "does not belong to a log"
        findings.append(Finding(path=f"{root.path}/{name}", message=message, is_damage=False))
    yield LogReport(path=root.path, findings=tuple(findings))


def _topics(
    root: Directory, lock_file: File | None, findings: list[Finding]
) -> dict[str, TopicFacts] | None:
    """Return the topics that `__metadata` lists, None when there is no such partition."""
    directory = root.directory(layout.partition_directory(METADATA_TOPIC, 0))
    if not directory.exists():
        return None
    topics: dict[str, TopicFacts] = {}
    try:
        for record in records_of(directory, lock_file):
            name = (record.key or b"").decode(errors="replace")
            topics.pop(name, None)
            if record.value is not None:
                topics[name] = parse_topic(name, record.value)
    except (CorruptionError, InvalidRecordError) as error:
        findings.append(Finding(path=directory.path, message=str(error)))
    except OSError as error:
        findings.append(_unreadable(directory.path, error))
    return topics


def _compare(
    root: Directory, partitions: list[str], topics: dict[str, TopicFacts], findings: list[Finding]
) -> None:
    """Compare the directories with the topics; a partition that was never used has none."""
    for name in partitions:
        parsed = layout.parse_partition_directory(name)
        assert parsed is not None
        topic, number = parsed
        if layout.is_internal(topic):
            continue
        path = f"{root.path}/{name}"
        facts = topics.get(topic)
        if facts is None or number >= facts.partitions:
            message = "belongs to no topic: its records cannot be reached by name"
            findings.append(Finding(path=path, message=message, is_damage=False))
        elif facts.is_deleting:
            message = "is being deleted, or was when a process died"
            findings.append(Finding(path=path, message=message, is_damage=False))
        else:
            found = _parse(root.directory(name), layout.PARTITION_METADATA, _parse_id, [])
            if found is not None and found != facts.topic_id:
                message = f"topic id {found} stored, {facts.topic_id} expected"
                findings.append(
                    Finding(path=f"{path}/{layout.PARTITION_METADATA}", message=message)
                )


def _parse_id(data: bytes, *, path: str) -> object:
    return layout.parse_partition_metadata(data, path=path)


def _parse(
    directory: Directory,
    name: str,
    parse: Callable[..., _Parsed],
    findings: list[Finding],
) -> _Parsed | None:
    """Return what a small file says; a finding and None when it says nothing."""
    path = f"{directory.path}/{name}"
    try:
        data = read_file(directory, name, max_bytes=_MAX_TEXT_BYTES)
        return None if data is None else parse(data, path=path)
    except (CorruptionError, IncompatibleFormatError) as error:
        findings.append(Finding(path=path, message=getattr(error, "reason", None) or str(error)))
    except OSError as error:
        findings.append(_unreadable(path, error))
    return None


def _unreadable(path: str, error: OSError) -> Finding:
    return Finding(path=path, message=f"cannot be read: {error.strerror}")
