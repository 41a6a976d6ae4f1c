"""examples/user_profiles.py: one record of each user is left; a fresh instance reads no more."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest
from running import EXAMPLES, run_example

import pylog

EXAMPLE = "user_profiles.py"

pytestmark = pytest.mark.slow


def run(*arguments: str | Path) -> CompletedProcess[str]:
    return run_example(EXAMPLE, "--users", "300", *arguments)


@pytest.mark.parametrize(
    ("updates", "compression", "memory"), [(20_000, "lz4", "32000000"), (4_000, "gzip", "1024")]
)
def test_fresh_instance_reads_one_record_for_each_user(
    tmp_path: Path, updates: int, compression: str, memory: str
) -> None:
    kept = tmp_path / "log"
    settings = ("--compression", compression, "--memory", memory)
    done = run("--updates", str(updates), *settings, "--directory", kept)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"appended  {updates:,} updates of ")
    users = lines[0].split(" updates of ")[1].split()[0]
    assert lines[1].startswith(f"compacted {updates:,} records to {users}: ")
    assert (", 1 round(s)" in lines[1]) == (memory != "1024")
    assert lines[-2] == "  equal to what was written"
    assert lines[-1].startswith(f"  {users} records read, one for each of {users} users, ")
    with pylog.open(kept, create=False) as log:
        assert f"{len(list(log.read('profiles')))}" == users


def test_without_a_directory_nothing_is_kept() -> None:
    done = run("--updates", "2000", "--partitions", "1")
    assert done.returncode == 0 and "equal" in done.stdout


def test_what_is_missing_or_too_much_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import user_profiles

    with pylog.open(tmp_path) as log:
        topic = log.create_topic("profiles", cleanup_policy="compact")
        topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    directory = str(tmp_path)
    assert user_profiles.start_instance(directory, {b"a": b"1", b"b": b"2"})
    assert not user_profiles.start_instance(directory, {b"a": b"1", b"b": b"3"})
    assert "DIFFERENT" in capsys.readouterr().out
    with pylog.open(tmp_path) as log:
        log.topic("profiles").append(b"2", key=b"b")
    assert not user_profiles.start_instance(directory, {b"a": b"1", b"b": b"2"})
    assert "NOT one" in capsys.readouterr().out


def test_progress_is_a_bar_on_a_terminal_and_nothing_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import user_profiles

    user_profiles.draw(0.5, "half")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    user_profiles.draw(0.5, "half")
    user_profiles.draw(1.0, "all")
    bars = capsys.readouterr().err
    assert "[" + "#" * 25 + " " * 25 + "] half" in bars
    assert "[" + "#" * 50 + "] all" in bars and bars.endswith("\n")
