"""What all tests share: which are skipped where, their directories, and Hypothesis without a clock.

Directories of tests are in memory if there is room: what a disk does is proved on disks, and for
the rest of the tests a sync is half of their time.  PYTEST_DEBUG_TEMPROOT puts them elsewhere.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import crc32c
import pytest
import reference
from hypothesis import settings

import pylog
from pylog import _native

if TYPE_CHECKING:
    from kafka_cluster import Cluster

# A deadline measures the machine, not the code: a loaded one would fail a sound test.
settings.register_profile("pylog", deadline=None, print_blob=True)
settings.load_profile("pylog")

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
IS_EXHAUSTIVE = os.environ.get("PYLOG_EXHAUSTIVE", "") not in ("", "0")


MEMORY = "/dev/shm"
# Half a gigabyte is the most that a test takes, and there may be a worker for each processor.
MEMORY_BYTES = max(4, os.cpu_count() or 1) << 29
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)

# A shell that runs the suite in the background lets it ignore Ctrl-C, which many tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this run cannot or was not asked to do, each with its reason."""
    if item.get_closest_marker("root") and not IS_ROOT:
        pytest.skip("needs root")
    if item.get_closest_marker("exhaustive") and not IS_EXHAUSTIVE:
        pytest.skip("minutes to hours; PYLOG_EXHAUSTIVE=1 runs it")


def pytest_collection_finish() -> None:
    """Keep thousands of tests out of each later look for garbage: many tests ask for one."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory of the test's own; on a disk where the mark `disk` asks for it."""
    if request.node.get_closest_marker("disk"):
        with tempfile.TemporaryDirectory(prefix="pylog-test-") as path:
            yield Path(path)
    else:
        yield tmp_path


@pytest.fixture
def log(tmp_path: Path) -> Iterator[pylog.Log]:
    """A log of the test's own, open until the test ends."""
    with pylog.open(tmp_path) as log:
        yield log


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Kafka cluster that the tests of a module share, each with topics of its own."""
    from kafka_cluster import mock_cluster

    with mock_cluster() as cluster:
        yield cluster


@pytest.fixture
def no_second_look() -> Iterator[None]:
    """Let waits for events sleep until somebody wakes them: without one they never end."""
    before = _native.set_events_slice_ms(86_400_000)
    yield
    _native.set_events_slice_ms(before)


@pytest.fixture
def quick_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the oracle take its CRCs from a library: its own readable loop is most of its time."""
    monkeypatch.setattr(reference, "crc32c", crc32c.crc32c)
