"""Keep a repository's history in a log, and get the tree of its last commit back by replaying it.

    python examples/git_history.py [REPOSITORY] [--directory DIR] [--durability fsync|interval|os]

Each change of a file becomes a record: the path is its key, the new blob id its value, a deletion a
null value.  A second process reads along while this one writes.  Then the log is opened again and
replayed: the last value of each key is the tree, and it has to equal `git ls-tree -r HEAD`.  And
once more when the topic was compacted: then one record for each path is all that is read.

Exit code: 0 the trees are equal, 1 they differ, 2 there is nothing to read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator

import pylog

TOPIC = "history"
END = b""  # the key of the last record, by which readers know it: no path is empty
BATCH = 1000  # events for one append_many: one batch, one sync
# Paths end with NUL, so they may hold anything; ids are whole; and no setting of a user changes
# what is shown: renames, submodules that are hidden, the root, the way merges are compared.
GIT_LOG = """
    -c log.showRoot=true -c log.showSignature=false -c log.diffMerges=separate
    log --first-parent -m --root --reverse --raw -z --format=%H
    --no-renames --no-abbrev --no-relative --ignore-submodules=none
""".split()
READER_SECONDS = 60.0  # what the reader may need to end after the last event (guessed)
HERE = os.path.dirname(os.path.abspath(__file__))

Event = tuple[bytes, bytes | None, bytes]  # path, blob id or None when deleted, mode
Tree = dict[bytes, tuple[bytes, bytes]]  # path -> blob id, mode


# ------------------------------------------------------------------ what git says


def give_up(reason: str) -> None:
    print(f"{reason}\nname a repository: python {sys.argv[0]} REPOSITORY", file=sys.stderr)
    sys.exit(2)


def git(repository: str, *arguments: str) -> bytes:
    """Return what git prints; end with code 2 and its own words when it fails."""
    try:
        done = subprocess.run(["git", "-C", repository, *arguments], capture_output=True)
    except FileNotFoundError:
        give_up("git is not installed, or not on PATH")
    if done.returncode:
        give_up(f"{repository}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def commits_of(repository: str, head: str) -> Iterator[list[Event]]:
    """Yield the events of each commit of the first-parent line, oldest first, while git runs."""
    command = ["git", "-C", repository, *GIT_LOG, head]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        words = split(iter(lambda: process.stdout.read1(1 << 16), b""))
        events: list[Event] = []
        next(words, None)  # the id of the first commit
        for word in words:
            if b":" in word:  # :old-mode new-mode old-id new-id status, and then the path
                _, mode, _, blob, status = word.split(b" ")
                events.append((next(words), None if status == b"D" else blob, mode))
            else:  # the id of the next commit
                yield events
                events = []
        yield events
    if process.returncode:
        give_up(f"{repository}: git log failed")


def split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *words, rest = (rest + chunk).split(b"\0")
        yield from words


def tree_of(repository: str, head: str) -> Tree:
    """Return what `git ls-tree` lists; the blob id of a submodule is a commit of its own."""
    tree: Tree = {}
    for line in git(repository, "ls-tree", "-r", "-z", "--full-tree", head).split(b"\0")[:-1]:
        facts, path = line.split(b"\t", 1)
        mode, _, blob = facts.split(b" ")
        tree[path] = blob, mode
    return tree


# ------------------------------------------------------------------ the log


def write(topic: pylog.Topic, commits: Iterable[list[Event]]) -> tuple[int, float]:
    """Append every event; return how many there were and the seconds spent in appending."""
    count, seconds = 0, 0.0
    for events in batches(commits):
        began = time.perf_counter()
        topic.append_many(
            [blob for _, blob, _ in events],
            keys=[path for path, _, _ in events],
            headers=[[("mode", mode)] for _, _, mode in events],
        )
        seconds += time.perf_counter() - began
        count += len(events)
    topic.append(b"end", key=END)
    return count, seconds


def batches(commits: Iterable[list[Event]]) -> Iterator[list[Event]]:
    waiting: list[Event] = []
    for events in commits:
        waiting += events
        if len(waiting) >= BATCH:
            yield waiting
            waiting = []
    yield waiting


def follow(directory: str) -> None:
    """Read along in a process of its own, to the last record; print what was seen."""
    with pylog.open(directory) as log:
        records = log.read(TOPIC, follow=True)
        print("ready", flush=True)
        for seen, record in enumerate(records):
            if record.key == END:
                late = max(time.time() * 1000 - record.timestamp, 0)
                print(f"{seen:,} events while they were written, the last {late:.0f} ms after that")
                return


def replay(directory: str) -> tuple[Tree, int]:
    """Return the tree that the log's records make, and how many events there are."""
    tree: Tree = {}
    with pylog.open(directory) as log:
        for count, record in enumerate(log.read(TOPIC)):
            if record.key == END:
                return tree, count
            assert record.key is not None
            if record.value is None:
                tree.pop(record.key, None)
            else:
                tree[record.key] = record.value, record.headers[0][1] or b""
    return tree, -1  # the end was lost


def compact(directory: str) -> tuple[int, int]:
    """Keep the last record of each path only; return the bytes before and after."""
    with pylog.open(directory) as log:
        topic = log.topic(TOPIC)
        before = topic.compact()[0].bytes_before
        # Deletions were kept for readers who follow.  None is left, so their time is over at once,
        # and the next compaction drops them; something has to be new for it.
        topic.append(b"end", key=END)
        return before, topic.compact()[0].bytes_after


# ------------------------------------------------------------------ all of it


def run(repository: str, directory: str, durability: str) -> int:
    """Write while another process reads, replay, compare; return the exit code."""
    head = git(repository, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    if git(repository, "rev-parse", "--is-shallow-repository").strip() == b"true":
        print("shallow clone: its oldest commit counts as the one that made all files before it")
    with pylog.open(directory) as log:
        topic = log.create_topic(
            TOPIC, durability=durability, cleanup_policy="compact", delete_retention_ms=0
        )
        command = [sys.executable, __file__, "--follow", directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            try:
                assert reader.stdout is not None
                reader.stdout.readline()  # it is ready
                count = write_history(repository, head, topic)
                seen = reader.communicate(timeout=READER_SECONDS)[0].strip()
                print(f"reader  {seen or 'DIED'}")
            finally:
                reader.kill()
    began = time.perf_counter()
    tree, read = replay(directory)
    print(f"replay  {read:,} events: {rate(read, time.perf_counter() - began)}")
    is_whole = read == count and seen.startswith(f"{count:,} ")
    expected = tree_of(repository, head)
    if compare(tree, expected, is_whole=is_whole):
        return 1
    before, after = compact(directory)
    tree, read = replay(directory)
    print(f"compact {before:,} bytes to {after:,}; replay of {read:,} records, one for each path")
    return compare(tree, expected, is_whole=read == len(expected))


def write_history(repository: str, head: str, topic: pylog.Topic) -> int:
    """Write the whole history and say how fast that was; return the number of events."""
    total = int(git(repository, "rev-list", "--count", "--first-parent", head))
    began = time.perf_counter()
    count, seconds = write(topic, progress(commits_of(repository, head), total))
    print(
        f"wrote   {count:,} events of {total:,} commits: {rate(count, seconds)},"
        f" durability {topic.config.durability}; {time.perf_counter() - began:.2f} s with git"
    )
    return count


def compare(tree: Tree, expected: Tree, *, is_whole: bool) -> int:
    """Say whether the trees are equal, and if not, where they differ; return the exit code."""
    paths = sorted(path for path in tree | expected if tree.get(path) != expected.get(path))
    for path in paths[:10]:
        print(f"  {path!r}: log {tree.get(path)}, git {expected.get(path)}")
    if paths or not is_whole:
        print(f"DIFFERENT: {len(paths)} paths{'' if is_whole else ', and events are missing'}")
        return 1
    links = sum(mode == b"160000" for _, mode in tree.values())
    print(f"equal   {len(tree):,} paths as in git ls-tree -r HEAD, {links} of them submodules")
    return 0


def rate(count: int, seconds: float) -> str:
    return f"{seconds:.3f} s, {count / max(seconds, 1e-9):,.0f} events/s"


def progress(commits: Iterator[list[Event]], total: int) -> Iterator[list[Event]]:
    """Pass commits on, drawing a bar of 50 characters on a terminal."""
    for number, events in enumerate(commits, 1):
        done = number * 50 // total
        if sys.stderr.isatty() and done != (number - 1) * 50 // total:
            end = "\n" if number == total else ""
            print(f"\r[{'#' * done:<50}] {number:,} commits", end=end, file=sys.stderr, flush=True)
        yield events


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository", nargs="?", default=HERE, metavar="REPOSITORY")
    parser.add_argument("--directory", help="keep the log here; by default a temporary directory")
    parser.add_argument("--durability", default="fsync", choices=["fsync", "interval", "os"])
    parser.add_argument("--follow", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.follow:
        follow(options.follow)
        return 0
    if options.directory is not None:
        if os.path.isdir(options.directory) and os.listdir(options.directory):
            parser.error(f"{options.directory} is not empty")
        return run(options.repository, options.directory, options.durability)
    with tempfile.TemporaryDirectory(prefix="pylog-") as directory:
        return run(options.repository, directory, options.durability)


if __name__ == "__main__":
    sys.exit(main())
