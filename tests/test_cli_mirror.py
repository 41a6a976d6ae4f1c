"""`pylog mirror` into a mock cluster: records, groups, and what is said of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from commands import run
from kafka_cluster import PARTITIONS, Cluster

import pylog
from pylog.cli.main import main


def test_mirror_copies_records_and_after_yes_groups(cluster: Cluster, tmp_path: Path) -> None:
    name, state = cluster.topic(), cluster.topic("state")
    with pylog.open(tmp_path / "data") as log:
        log.create_topic(name, 4).append_many([b"a", b"b"], partition=1)
        place = pylog.TopicPartition(name, 1)
        log.groups.alter_offsets("billing", {place: pylog.OffsetAndMetadata(1)})
    words = ["mirror", "-b", cluster.bootstrap, name, "--state-topic", state, "--groups"]
    done = run(*words, "-X", "client.id=test", "--json", where=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["is_committed"] is False
    found = {row["partition"]: row for row in document["partitions"]}
    assert (found[1]["records"], found[1]["target_offset"], found[1]["offsets"]) == (
        2,
        2,
        "identity",
    )
    assert document["groups"] == [
        {
            "group": "billing",
            "topic": name,
            "partition": 1,
            "here": 1,
            "in_cluster": 1,
            "missing": 0,
        }
    ]
    assert cluster.end(name, 1) == 2
    done = run(*words, "--yes", where=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["TOPIC", "PARTITION", "NEXT"]
    assert lines[-1].split() == ["billing", name, "1", "1", "1", "0"]
    assert cluster.end(name, 1) == 2  # nothing was copied twice


def test_mirror_back_copies_out_of_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    name = cluster.topic()
    cluster.produce(name, b"there", partition=2)
    with pylog.open(tmp_path / "data") as log:
        log.create_topic(name, PARTITIONS)  # the mock tells no settings to make it from
    words = ["mirror", "-b", cluster.bootstrap, name, "--back", "--json"]
    done = run(*words, where=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(row["records"] for row in json.loads(done.stdout)["partitions"]) == 1
    with pylog.open(tmp_path / "data") as log:
        (record,) = log.read(name)
    assert (record.partition, record.offset, record.value) == (2, 0, b"there")


def test_mirror_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pylog.open(tmp_path / "data").close()
    words = ["-d", str(tmp_path / "data"), "mirror", "-b", "127.0.0.1:1"]
    assert main([*words, "-X", "nonsense"]) == 2
    assert main([*words, "--groups", "--follow"]) == 2
    assert main([*words, "--groups", "--back"]) == 2
    assert main([*words, "one", "--pattern", "t.*"]) == 2
    assert "topics or a pattern" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    assert main(words) == 2
    assert "pip install 'pylog[kafka]'" in capsys.readouterr().err
