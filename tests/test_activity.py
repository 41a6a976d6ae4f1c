"""examples/activity_*.py: every event that a producer was told of is in the log, or in all."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest
from running import EXAMPLES, run_example

import pylog

EXAMPLE = "activity_tracking.py"

pytestmark = pytest.mark.slow


def run(*arguments: str | Path) -> CompletedProcess[str]:
    return run_example(EXAMPLE, "--seconds", "1", *arguments)


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_threads_and_a_second_process_track_activity(tmp_path: Path, durability: str) -> None:
    kept = tmp_path / "log"
    done = run(
        "--partitions", "5", "--events", "100", "--durability", durability, "--directory", kept
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 partitions, events of about 100 bytes, keyed" in done.stdout
    assert f"durability {durability} (" in done.stdout and "acks       1" in done.stdout
    assert "producers  2 threads here, 1 processes beside, 100 events a call" in done.stdout
    told = done.stdout.splitlines()[-1].split()
    assert told[0] == "equal"
    with pylog.open(kept, create=False) as log:
        records = list(log.read("activity"))
    assert f"{len(records):,}" == told[1]
    keyed = {(record.key, record.partition) for record in records if record.key is not None}
    assert len(keyed) == len({key for key, _ in keyed}) > 0


def test_without_a_directory_nothing_is_kept() -> None:
    done = run("--partitions", "2", "--events", "10", "--threads", "1", "--processes", "0")
    assert done.returncode == 0 and "equal" in done.stdout


def test_no_acknowledged_event_is_lost_with_the_broker_that_led(tmp_path: Path) -> None:
    done = run_example(
        "activity_failover.py",
        *("--partitions", "3", "--events", "20", "--calls", "10", "--directory", tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    *_, a, b, c = done.stdout.splitlines()
    assert {line.split()[0] for line in (a, b, c)} == {"equal"}
    assert "broker 0, when 1" in done.stdout and "epoch 2" in done.stdout


def test_an_acknowledged_event_that_a_broker_lacks_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import activity_failover

    with pylog.open(tmp_path / "broker-1") as log:
        activity_failover.track(log, 1, 2, 5, 1)
    assert activity_failover.compare(1, tmp_path, {1: 5}) == 0
    assert activity_failover.compare(1, tmp_path, {1: 6, 2: 1}) == 1
    assert "broker 1 lacks 2 acknowledged events" in capsys.readouterr().out


def test_an_event_that_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import activity_tracking

    assert activity_tracking.compare(5, 5, [1]) == 0
    assert activity_tracking.compare(6, 5, [1]) == 1
    assert "6 events were acknowledged, the log holds 5" in capsys.readouterr().out
