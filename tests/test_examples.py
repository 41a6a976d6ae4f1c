"""The examples do what README promises, on repositories made for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANG_SECONDS

import pylog

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "git_history.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


def environment() -> dict[str, str]:
    """Return variables with no settings of this user's git, and this checkout to import from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
        "PYTHONPATH": str(ROOT),
    }


def git(repository: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(repository), *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=HANG_SECONDS,
        check=True,
    )


def run(*arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    variables = environment() | ({"PATH": path} if path is not None else {})
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *map(str, arguments)],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


def commit(repository: Path, message: str = "change") -> None:
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", message)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit: a file, a link, a program, and a name full of traps."""
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    (path / "file").write_text("one")
    (path / ":100644 name\n\twith \u00e9").write_text("two")
    (path / "link").symlink_to("nowhere")
    (path / "program").write_text("#!")
    (path / "program").chmod(0o755)
    commit(path)
    return path


def add_history(repository: Path) -> None:
    """Add deletions, a rename, a change of mode, a merge, and an empty last commit."""
    (repository / "file").unlink()
    commit(repository)
    (repository / "program").chmod(0o644)
    (repository / "link").rename(repository / "renamed")
    commit(repository)
    git(repository, "checkout", "--quiet", "-b", "side")
    (repository / "side").write_text("side")
    commit(repository)
    git(repository, "checkout", "--quiet", "main")
    (repository / "file").write_text("back")
    commit(repository)
    git(repository, "merge", "--quiet", "--no-ff", "side", "--message", "merge")
    commit(repository, "empty")


def test_one_commit_is_replayed(repository: Path) -> None:
    done = run(repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote   4 events of 1 commits" in done.stdout
    assert "reader  4 events while they were written" in done.stdout
    assert "equal   4 paths as in git ls-tree -r HEAD, 0 of them submodules" in done.stdout


def test_history_with_merges_and_deletions_is_replayed(repository: Path) -> None:
    add_history(repository)
    git(repository, "config", "diff.renames", "true")
    git(repository, "config", "log.showRoot", "false")
    done = run(repository, "--durability", "os")
    assert (done.returncode, done.stderr) == (0, "")
    # One deletion, two for a rename, one mode, one file again, one by the merge.
    assert "wrote   10 events of 6 commits" in done.stdout and "durability os" in done.stdout
    # Twice: once from all events, and once from what compaction left, one record for each path.
    assert done.stdout.count("equal   5 paths") == 2
    assert "replay  10 events" in done.stdout and "replay of 5 records" in done.stdout


def test_submodules_are_compared_too(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(repository, other, symlinks=True)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", str(other), "sub dir")
    git(repository, "config", "diff.ignoreSubmodules", "all")
    git(repository, "commit", "--quiet", "--message", "submodule")
    done = run(repository)
    assert done.returncode == 0
    assert "equal   6 paths as in git ls-tree -r HEAD, 1 of them submodules" in done.stdout


def test_shallow_clone_is_told_and_compared(repository: Path, tmp_path: Path) -> None:
    add_history(repository)
    git(tmp_path, "clone", "--quiet", "--depth=2", repository.as_uri(), "shallow")
    done = run(tmp_path / "shallow")
    assert done.returncode == 0
    assert done.stdout.startswith("shallow clone: ") and "equal   5 paths" in done.stdout


def test_log_is_kept_where_it_was_asked_for(repository: Path, tmp_path: Path) -> None:
    kept = tmp_path / "log"
    assert run(repository, "--directory", kept).returncode == 0
    with pylog.open(kept, create=False) as log:
        assert len(list(log.read("history"))) == 5  # four paths and the end
    done = run(repository, "--directory", kept)
    assert done.returncode == 2 and "is not empty" in done.stderr


def test_without_a_repository_it_says_how_to_name_one(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "not a git repository" in done.stderr and "REPOSITORY" in done.stderr


def test_without_a_commit_it_says_so(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    done = run(tmp_path)
    assert done.returncode == 2 and str(tmp_path) in done.stderr


def test_without_git_it_says_so(repository: Path, tmp_path: Path) -> None:
    done = run(repository, path=str(tmp_path))
    assert done.returncode == 2 and "git is not installed" in done.stderr


def test_difference_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import git_history

    tree = {b"a": (b"1", b"100644"), b"b": (b"2", b"100644")}
    assert git_history.compare(tree, tree, is_whole=True) == 0
    assert git_history.compare(tree, {b"a": (b"1", b"100644")}, is_whole=True) == 1
    assert "b'b': log (b'2', b'100644'), git None" in capsys.readouterr().out
    assert git_history.compare(tree, tree, is_whole=False) == 1


def test_progress_is_a_bar_on_a_terminal_and_nothing_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import git_history

    assert list(git_history.progress(iter([[], []]), 2)) == [[], []]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(git_history.progress(iter([[], []]), 2)) == [[], []]
    bar = "[" + "#" * 50 + "] 2 commits"
    assert capsys.readouterr().err.rstrip("\n").endswith(bar)
