"""What all tests share: which are skipped where, and Hypothesis without a clock."""

from __future__ import annotations

import os
import signal

import crc32c
import pytest
import reference
from hypothesis import settings

# A deadline measures the machine, not the code: a loaded one would fail a sound test.
settings.register_profile("pylog", deadline=None, print_blob=True)
settings.load_profile("pylog")

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
IS_EXHAUSTIVE = os.environ.get("PYLOG_EXHAUSTIVE", "") not in ("", "0")


# A shell that runs the suite in the background lets it ignore Ctrl-C, which many tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this run cannot or was not asked to do, each with its reason."""
    if item.get_closest_marker("root") and not IS_ROOT:
        pytest.skip("needs root")
    if item.get_closest_marker("exhaustive") and not IS_EXHAUSTIVE:
        pytest.skip("minutes to hours; PYLOG_EXHAUSTIVE=1 runs it")


@pytest.fixture
def quick_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the oracle take its CRCs from a library: its own readable loop is most of its time."""
    monkeypatch.setattr(reference, "crc32c", crc32c.crc32c)
