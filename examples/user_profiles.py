"""Keep the latest profile of every user in a compacted topic, and start instances from it.

    python examples/user_profiles.py [--users N] [--updates N] [--partitions N] [--memory BYTES]
        [--compression CODEC] [--directory DIR]

Netflix's case at one machine's size: services keep user profiles in memory, and a new instance of a
service reads them from a compacted topic.  Published was that 7 days of updates took 40 TB, and the
compacted topic 2 TB.

Seven days of updates are appended, compressed, a few users writing most of them; some users leave,
which is a null value.  Then the topic is compacted, and a fresh instance builds its local store
from offset 0.  It has to read one record per user, and to hold what the updates come to.

Exit code: 0 it did, 1 it did not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator

import pylog

TOPIC = "profiles"
WEEK_MS = 7 * 86_400_000
BATCH = 5_000  # updates for one append_many
SKEW = 4  # 1 is none; with 4 a tenth of the users writes more than half of the updates
LEAVING = 0.01  # of the updates
DEVICES = (b"tv", b"phone", b"tablet", b"browser", b"console")

Profiles = dict[bytes, bytes | None]


# ------------------------------------------------------------------ the week


class Week:
    """Updates as they come, and what they come to: the last profile of each user."""

    def __init__(self, *, users: int, updates: int, seed: int = 20261122) -> None:
        self._users = users
        self._updates = updates
        self._choose = choose = random.Random(seed)
        # Python needs longer to make a list than the log needs to take it.
        self._lists = [
            b",".join(b"%d" % choose.randrange(80_000) for _ in range(20)) for _ in range(10_000)
        ]
        self.latest: Profiles = {}

    def batches(self) -> Iterator[tuple[list[bytes | None], list[bytes]]]:
        """Yield values and keys."""
        for start in range(0, self._updates, BATCH):
            count = min(BATCH, self._updates - start)
            keys = [self._user() for _ in range(count)]
            values = [self._profile(start + row) for row in range(count)]
            self.latest.update(zip(keys, values, strict=True))
            yield values, keys

    def _user(self) -> bytes:
        return b"user-%09d" % int(self._users * self._choose.random() ** SKEW)

    def _profile(self, update: int) -> bytes | None:
        choose = self._choose
        if choose.random() < LEAVING:
            return None
        return b'{"update":%d,"device":"%s","taste":"%064x","watched":[%s]}' % (
            update,
            DEVICES[update % len(DEVICES)],
            choose.getrandbits(256),
            choose.choice(self._lists),
        )


def append_all(topic: pylog.Topic, week: Week, updates: int) -> None:
    """Append the updates of a week that ends now, and say how fast that was."""
    end = int(time.time() * 1000)
    done, seconds = 0, 0.0
    for values, keys in week.batches():
        began = time.perf_counter()
        topic.append_many(values, keys=keys, timestamps=end - WEEK_MS * (updates - done) // updates)
        seconds += time.perf_counter() - began
        done += len(values)
        draw(done / updates, f"{done:,} updates")
    print(f"appended  {done:,} updates of {len(week.latest):,} users: {rate(done, seconds)}")


# ------------------------------------------------------------------ compacting, starting


def compact(topic: pylog.Topic) -> None:
    """Compact the topic, and say what it keeps."""

    def show(progress: pylog.CompactionProgress) -> None:
        share = progress.done_bytes / max(progress.total_bytes, 1)
        draw(min(share, 1.0), f"partition {progress.partition}, pass {progress.phase}")

    began = time.perf_counter()
    reports = topic.compact(progress=show).values()
    seconds = time.perf_counter() - began
    before, after = (
        sum(getattr(report, name) for report in reports) for name in ("bytes_before", "bytes_after")
    )
    read, kept = (
        sum(getattr(report, name) for report in reports)
        for name in ("records_read", "records_kept")
    )
    rounds = max(report.rounds for report in reports)
    print(f"compacted {read:,} records to {kept:,}: {rate(read, seconds)}, {rounds} round(s)")
    print(f"  7 days of retention keep {megabytes(before)}")
    print(f"  compaction keeps         {megabytes(after)}, {after / max(before, 1):.1%} of that")


def start_instance(directory: str, expected: Profiles) -> bool:
    """Build a local store from offset 0; return whether it is right and read no record too many."""
    with pylog.open(directory) as log:
        began = time.perf_counter()
        local = dict(log.table(TOPIC))
        seconds = time.perf_counter() - began
        keys = [record.key for record in log.read(TOPIC)]
    print(f"started   a fresh instance with {len(local):,} profiles: {rate(len(keys), seconds)}")
    users = {key: value for key, value in expected.items() if value is not None}
    is_right = local == users
    print(f"  {'equal to what was written' if is_right else 'DIFFERENT from what was written'}")
    is_lean = len(keys) == len(set(keys)) == len(expected)
    print(
        f"  {len(keys):,} records read, {'one' if is_lean else 'NOT one'} for each of"
        f" {len(expected):,} users, {len(expected) - len(users):,} of whom have left"
    )
    return is_right and is_lean


# ------------------------------------------------------------------ all of it


def run(arguments: argparse.Namespace, directory: str) -> int:
    """Write a week, compact it, start an instance; return the exit code."""
    week = Week(users=arguments.users, updates=arguments.updates)
    cleaner = pylog.CleanerConfig(dedupe_buffer_bytes=arguments.memory, cleaner_enable=False)
    with pylog.open(directory, cleaner=cleaner) as log:
        topic = log.create_topic(
            TOPIC,
            partitions=arguments.partitions,
            cleanup_policy="compact",
            compression_type=arguments.compression,
            durability="os",
            segment_bytes=16 << 20,
        )
        append_all(topic, week, arguments.updates)
        compact(topic)
    return 0 if start_instance(directory, week.latest) else 1


def rate(count: int, seconds: float) -> str:
    return f"{seconds:.2f} s, {count / max(seconds, 1e-9):,.0f}/s"


def megabytes(size: int) -> str:
    return f"{size / 1e6:8,.1f} MB"


def draw(share: float, text: str) -> None:
    """Draw a bar of 50 characters on a terminal, and nothing elsewhere."""
    if sys.stderr.isatty():
        end = "\n" if share >= 1 else ""
        print(f"\r[{'#' * int(50 * share):<50}] {text}\033[K", end=end, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--updates", type=int, default=2_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--memory", type=int, default=32 << 20, help="bytes to remember keys in")
    parser.add_argument("--compression", default="lz4", help="of the topic, by default lz4")
    parser.add_argument("--directory", help="keep the log here; by default a temporary directory")
    arguments = parser.parse_args()
    if arguments.directory is not None:
        return run(arguments, arguments.directory)
    with tempfile.TemporaryDirectory(prefix="pylog-") as directory:
        return run(arguments, directory)


if __name__ == "__main__":
    sys.exit(main())
