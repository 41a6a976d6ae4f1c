"""A mirror where offsets cannot be the same: which is which is recorded, and groups follow it."""

from __future__ import annotations

import random

import confluent_kafka
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_cluster import SECONDS, SETTINGS, Cluster, Sent, append_all, random_records, sent

import pylog
from pylog.errors import (
    GroupIdNotFoundError,
    KafkaRefusedError,
    KafkaUnavailableError,
    OffsetsDifferError,
)
from pylog.interop import kafka
from pylog.interop.kafka.cluster import kafka_settings
from pylog.interop.kafka.runs import Run, Translation, decode_runs, encode_runs, runs_of
from pylog.interop.kafka.writers import TransactionalWriter


def check_translated(
    mirror: kafka.Mirror, topic: pylog.Topic, there: dict[int, Sent], *, start: int
) -> None:
    """Assert that each record is there once, in order, where the mirror says."""
    records = list(topic.partition(0).records())
    step = max(len(records) // 4, 1)  # each is asked of the cluster
    offsets = [mirror.translate(topic.name, 0, one.offset) for one in records[::step]]
    assert [there[offset] for offset in offsets] == [sent(one) for one in records[::step]]
    copies = [one for offset, one in sorted(there.items()) if offset >= start]
    assert copies == [sent(one) for one in records]


def test_compacted_topic_is_mirrored_and_each_offset_is_known(
    log: pylog.Log, cluster: Cluster
) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    topic = log.create_topic(name, cleanup_policy="compact", **SETTINGS)
    append_all(topic.partition(0), random_records(random.randrange(2**32), 300, needs_key=True))
    append_all(topic.partition(0), random_records(1, 300, needs_key=True))
    for key in (b"a", b"b", b"a", b"c", b"a"):
        topic.append(b"x", key=key)
    topic.compact()
    mirror = kafka.Mirror(log, cluster.bootstrap, topics=[name], state_topic=state_topic)
    (position,) = mirror.run().values()
    assert (position.offsets, position.position) == ("recorded", 605)
    check_translated(mirror, topic, cluster.read(name, 0), start=0)

    topic.append(b"later", key=b"later")
    (position,) = mirror.run().values()
    assert position.records == 1
    check_translated(mirror, topic, cluster.read(name, 0), start=0)
    assert mirror.translate(name, 0, 606) == position.target_offset


def test_same_offsets_go_on_as_recorded_ones_behind_a_gap(log: pylog.Log, cluster: Cluster) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    topic = log.create_topic(name, cleanup_policy="compact", **SETTINGS)
    mirror = kafka.Mirror(log, cluster.bootstrap, topics=[name], state_topic=state_topic)
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    (position,) = mirror.run().values()
    assert position.offsets == "identity"
    topic.append_many([b"3", b"4", b"5"], keys=[b"a", b"c", b"c"])
    topic.compact()
    topic.append(b"6", key=b"d")
    (position,) = mirror.run().values()
    assert position.offsets == "recorded"
    there = cluster.read(name, 0)
    assert [one.value for one in there.values()] == [b"1", b"2", b"3", b"5", b"6"]
    assert [mirror.translate(name, 0, offset) for offset in range(7)] == [
        0, 1, 2, 3, 3, 4, position.target_offset,
    ]  # fmt: skip


def test_target_that_others_write_to_gets_each_record_once(
    log: pylog.Log, cluster: Cluster
) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    cluster.produce(name, b"was here before")
    topic = log.create_topic(name, **SETTINGS)
    append_all(topic.partition(0), random_records(2, 200))
    mirror = kafka.Mirror(log, cluster.bootstrap, topics=[name], state_topic=state_topic)
    mirror.run()
    check_translated(mirror, topic, cluster.read(name, 0), start=1)
    cluster.produce(name, b"came between")
    append_all(topic.partition(0), random_records(3, 100))
    (position,) = mirror.run().values()
    assert (position.records, position.position) == (100, 300)
    there = {
        offset: one for offset, one in cluster.read(name, 0).items() if one.value != b"came between"
    }
    check_translated(mirror, topic, there, start=1)


def test_mirror_of_the_same_offsets_goes_on_with_recorded_ones_when_asked(
    log: pylog.Log, cluster: Cluster
) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    topic = log.create_topic(name, **SETTINGS)
    for offsets in ("identity", "recorded", "auto", "recorded"):
        append_all(topic.partition(0), random_records(4, 40))
        mirror = kafka.Mirror(
            log,
            cluster.bootstrap,
            topics=[name],
            state_topic=state_topic,
            offsets=offsets,  # type: ignore[arg-type]
        )
        (position,) = mirror.run().values()
        assert position.offsets == ("identity" if offsets == "identity" else "recorded")
        assert position.records == 40
    check_translated(mirror, topic, cluster.read(name, 0), start=0)


def test_transaction_that_was_not_committed_counts_for_nothing(
    log: pylog.Log, cluster: Cluster
) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    topic = log.create_topic(name, **SETTINGS)
    topic.append_many([b"%d" % number for number in range(50)])
    topic.append(b"cannot be sent", timestamp=0)
    mirror = kafka.Mirror(
        log, cluster.bootstrap, topics=[name], state_topic=state_topic, offsets="recorded"
    )
    for _ in range(2):
        with pytest.raises(pylog.errors.UnmirrorableRecordError):
            mirror.run()
    aborted = cluster.end(name, 0)
    topic.delete_records({0: 51})
    topic.append(b"first that counts")
    with pytest.raises(LookupError):
        mirror.translate(name, 0, 51)
    mirror.run()
    offset = mirror.translate(name, 0, 51)
    assert offset >= aborted
    assert cluster.read(name, 0)[offset].value == b"first that counts"


def test_transaction_that_failed_behind_a_gap_is_not_taken_for_a_copy(
    log: pylog.Log, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    topic = log.create_topic(name, cleanup_policy="compact", **SETTINGS)
    mirror = kafka.Mirror(log, cluster.bootstrap, topics=[name], state_topic=state_topic)
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    mirror.run()
    topic.append_many([b"3", b"4", b"5"], keys=[b"c", b"c", b"d"])
    topic.compact()

    def fail(writer: TransactionalWriter) -> None:
        writer.finish()  # what it sent has got offsets, which tell nothing
        raise KafkaUnavailableError("_TRANSPORT", "broken off")

    with monkeypatch.context() as patch, pytest.raises(KafkaUnavailableError):
        patch.setattr(TransactionalWriter, "commit", fail)
        mirror.run()
    (position,) = mirror.run().values()
    assert position.records == 2
    there = cluster.read(name, 0)
    copies = [there[mirror.translate(name, 0, offset)].value for offset in (0, 1, 3, 4)]
    assert copies == [b"1", b"2", b"4", b"5"]


def test_identity_that_is_not_possible_is_refused(log: pylog.Log, cluster: Cluster) -> None:
    name = cluster.topic()
    cluster.produce(name, b"was here before")
    log.create_topic(name, **SETTINGS).append(b"x")
    mirror = kafka.Mirror(
        log,
        cluster.bootstrap,
        topics=[name],
        offsets="identity",
        state_topic=cluster.topic("state"),
    )
    with pytest.raises(OffsetsDifferError):
        mirror.run()
    assert cluster.end(name, 0) == 1


# ---------------------------------------------------------------------- groups


def test_groups_go_on_in_the_cluster_at_the_record_that_comes_next(
    log: pylog.Log, cluster: Cluster
) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    cluster.produce(name, b"was here before")
    topic = log.create_topic(name, **SETTINGS)
    topic.append_many([b"%d" % number for number in range(10)])
    group = f"group-of-{name}"
    with log.consumer(name, group=group, enable_auto_commit=False) as consumer:
        consumer.poll(timeout=0)
        consumer.commit({(name, 0): 7}, metadata="seven")
    log.create_topic("not-mirrored", **SETTINGS).append(b"x")
    log.groups.alter_offsets(group, {pylog.TopicPartition("not-mirrored", 0): _committed(1)})

    mirror = kafka.Mirror(log, cluster.bootstrap, topics=[name], state_topic=state_topic)
    with pytest.raises(LookupError, match="not mirrored"):
        mirror.translate(name, 0, 7)
    mirror.run()
    planned = mirror.copy_groups(dry_run=True)
    assert _committed_there(cluster, group, name) == (-1001, None)
    assert mirror.copy_groups([group]) == planned
    place = pylog.TopicPartition(name, 0)
    assert planned == {group: {place: kafka.CopiedOffset(7, 8, "seven")}}
    offset, metadata = _committed_there(cluster, group, name)
    assert metadata == "seven"
    assert cluster.read(name, 0)[offset].value == b"7"


def test_group_that_is_ahead_of_the_mirror_is_told_by_how_much(
    log: pylog.Log, cluster: Cluster
) -> None:
    name, state_topic = cluster.topic(), cluster.topic("state")
    topic = log.create_topic(name, **SETTINGS)
    topic.append_many([b"x"] * 4)
    mirror = kafka.Mirror(log, cluster.bootstrap, topics=[name], state_topic=state_topic)
    mirror.run()
    topic.append_many([b"x"] * 3)
    log.groups.alter_offsets("ahead", {pylog.TopicPartition(name, 0): _committed(7)})
    (copied,) = mirror.copy_groups(["ahead"])["ahead"].values()
    assert (copied.source, copied.target, copied.missing) == (7, 4, 3)
    with pytest.raises(GroupIdNotFoundError):
        mirror.copy_groups(["nobody"])


def _committed(offset: int) -> pylog.OffsetAndMetadata:
    return pylog.OffsetAndMetadata(offset)


def _committed_there(cluster: Cluster, group: str, topic: str) -> tuple[int, str | None]:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": group})
    try:
        (place,) = consumer.committed([confluent_kafka.TopicPartition(topic, 0)], timeout=SECONDS)
        return place.offset, place.metadata
    finally:
        consumer.close()


# ---------------------------------------------------------------------- pure

RUNS = st.lists(st.tuples(*[st.integers(0, 2**40)] * 2, st.integers(1, 50)), max_size=30)


def runs_from(steps: list[tuple[int, int, int]]) -> list[Run]:
    """Return runs that follow each other with gaps on both sides, as records come."""
    sources: list[int] = []
    targets: list[int] = []
    source = target = 0
    for source_gap, target_gap, length in steps:
        source, target = source + source_gap, target + target_gap
        sources += range(source, source + length)
        targets += range(target, target + length)
        source, target = source + length, target + length
    return runs_of(sources, targets)


@given(RUNS)
def test_runs_are_written_down_and_read_back(steps: list[tuple[int, int, int]]) -> None:
    runs = runs_from(steps)
    assert list(decode_runs(encode_runs(runs))) == runs


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)), max_size=8),
    st.randoms(),
)
def test_translation_finds_the_first_record_at_or_after_an_offset(
    steps: list[tuple[int, int, int]], chance: random.Random
) -> None:
    runs = runs_from(steps)
    places = {run.source + step: run.target + step for run in runs for step in range(run.length)}
    offsets = range(max(places, default=0) + 3)
    translation = Translation(offsets)
    for run in chance.sample(runs, len(runs)):
        translation.see(run)
    for offset in offsets:
        later = [source for source in places if source >= offset]
        assert translation.at(offset) == (places[min(later)] if later else None)


@pytest.mark.parametrize("data", [b"", b"{}x", b"[1]", b"[[0,0,0]]", b"[[0,-1,1]]", b'["abc"]'])
def test_runs_that_nobody_wrote_are_refused(data: bytes) -> None:
    with pytest.raises(KafkaRefusedError):
        list(decode_runs(data))


def test_settings_of_a_topic_mean_the_same_in_a_cluster() -> None:
    assert kafka_settings(pylog.TopicConfig()) == {
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime",
    }
    config = pylog.TopicConfig(
        cleanup_policy="compact", segment_bytes=1 << 20, max_message_bytes=1 << 21, durability="os"
    )
    assert kafka_settings(config) == {
        "cleanup.policy": "compact",
        "max.message.bytes": "2097152",
        "message.timestamp.type": "CreateTime",
    }
    everything = kafka_settings(pylog.TopicConfig(cleanup_policy="", retention_ms=5))
    assert everything == {
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime",
        "retention.bytes": "-1",
        "retention.ms": "-1",
    }
