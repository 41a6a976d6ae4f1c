"""Offsets of the log as offsets of a cluster, and groups that go on there.

Knows what was recorded.  Must not know how it came to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pylog.interop.kafka.cluster import Cluster
from pylog.interop.kafka.runs import Translation
from pylog.interop.kafka.session import Options
from pylog.interop.kafka.states import LaneKey, LaneState, read_positions, read_runs
from pylog.log import Log
from pylog.records import TopicPartition

Asked = Mapping[TopicPartition, Iterable[int]]


class CopiedOffset(NamedTuple):
    """An offset on both sides, each of the next record to read.

    metadata: the text that was committed with it.  missing: how many offsets before `source` are
    not mirrored yet; what lies there comes after `target`.
    """

    source: int
    target: int
    metadata: str = ""
    missing: int = 0


def translate(
    log: Log, options: Options, asked: Asked
) -> dict[TopicPartition, dict[int, CopiedOffset] | None]:
    """Return offsets of the cluster by those asked for; None for partitions not mirrored.

    Raises what `Mirror.translate` raises.
    """
    cluster = Cluster(options.settings)
    keys = {}
    for place in asked:
        topic = log.topic(place.topic)
        topic.partition(place.partition)
        target = options.rename(place.topic)
        keys[place] = LaneKey.of(options.log_id, topic.topic_id, place.partition, target)
    states = read_positions(cluster, options.state_topic)
    known = {place: states[key] for place, key in keys.items() if key in states}
    ends = cluster.ends([TopicPartition(keys[place].target, place.partition) for place in known])
    translations = {
        keys[place]: Translation(asked[place])
        for place, state in known.items()
        if state.offsets == "recorded"
    }
    if translations:
        for key, run in read_runs(cluster, options.state_topic):
            if key in translations:
                translations[key].see(run)
    found: dict[TopicPartition, dict[int, CopiedOffset] | None] = dict.fromkeys(asked)
    for place, state in known.items():
        key = keys[place]
        end = ends[TopicPartition(key.target, place.partition)][1]
        translation = translations.get(key)
        found[place] = {offset: _copied(offset, state, end, translation) for offset in asked[place]}
    return found


def _copied(
    offset: int, state: LaneState, end: int, translation: Translation | None
) -> CopiedOffset:
    if translation is None:
        return CopiedOffset(offset, min(offset, end), missing=max(offset - end, 0))
    target = translation.at(offset)
    missing = max(offset - state.position, 0)
    return CopiedOffset(offset, state.target if target is None else target, missing=missing)


def copy_groups(
    log: Log, options: Options, groups: Iterable[str] | None, *, dry_run: bool
) -> dict[str, dict[TopicPartition, CopiedOffset]]:
    """Commit in the cluster what groups have committed here; see `Mirror.copy_groups`."""
    names = [listing.group for listing in log.groups.list()] if groups is None else list(groups)
    committed = {}
    asked: dict[TopicPartition, set[int]] = {}
    for name in names:
        offsets = log.groups.describe(name).offsets
        committed[name] = {
            place: offset.committed
            for place, offset in offsets.items()
            if offset.committed is not None and offset.high_watermark is not None
        }
        for place, one in committed[name].items():
            asked.setdefault(place, set()).add(one.offset)
    found = translate(log, options, asked)
    copied: dict[str, dict[TopicPartition, CopiedOffset]] = {}
    cluster = Cluster(options.settings)
    for name, places in committed.items():
        copied[name] = {}
        for place, one in places.items():
            targets = found[place]
            if targets is not None:
                copied[name][place] = targets[one.offset]._replace(metadata=one.metadata)
        offsets_there = {
            TopicPartition(options.rename(place.topic), place.partition): (one.target, one.metadata)
            for place, one in copied[name].items()
        }
        if offsets_there and not dry_run:
            cluster.alter_group_offsets(name, offsets_there)
    return copied
