"""What stands in `__metadata`: changes of the topics by several processes, some of them killed."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

import pylog
from pylog import Log
from pylog.errors import CorruptionError
from pylog.topics.metadata import TopicFacts
from pylog.topics.registry import TopicRegistry


def test_a_change_whose_writer_died_before_its_sync_is_synced_by_the_next_one(log: Log) -> None:
    # Story: the next change waited for ever, in a busy loop, for a record that nobody synced.
    log.create_topic("a")
    metadata = TopicRegistry(log._engine).metadata
    facts = TopicFacts("b", uuid.uuid4(), 1, pylog.TopicConfig())
    attachment = metadata._attached()
    assert attachment is not None
    attachment.tail.native.append(facts.encode(), b"b")  # as if killed here: placed, not synced
    assert log.topics() == ["a"]

    log.create_topic("c")

    assert log.topics() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "partitions"), [("../victim", 1), ("a/b", 1), ("", 1), ("t", 0), ("t", 10**9)]
)
def test_what_nobody_could_have_created_is_refused(
    tmp_path: Path, name: str, partitions: int
) -> None:
    # Story: a topic called "../victim" was made, and with delete_topic removed, beside the log.
    (tmp_path / "victim-0").mkdir()
    with pylog.open(tmp_path / "log") as log:
        facts = TopicFacts(name, uuid.uuid4(), partitions, pylog.TopicConfig())
        TopicRegistry(log._engine).metadata.append(facts.encode(), name.encode())

    with pylog.open(tmp_path / "log") as log:
        for use in (log.topic, log.delete_topic):
            with pytest.raises(CorruptionError, match="__metadata"):
                use(name)

    assert list((tmp_path / "victim-0").iterdir()) == []


def test_topics_are_read_anew_when_their_log_was_truncated(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        kept = log.create_topic("kept")
        log.create_topic("gone")
        metadata = log.replication.log.registry.metadata
        # As a follower is told to that may lack acknowledged records.
        assert metadata.truncate(1, force=True) == 1
        assert log.topics() == ["kept"]
        assert log.topic("kept") is kept
        metadata.truncate(0, force=True)
        log.create_topic("new", partitions=2)
        assert log.topics() == ["new"]
        assert len(log.topic("new")) == 2
