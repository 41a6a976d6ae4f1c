"""examples/marketplace_events.py: a rolling restart of static members moves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import run_example


@pytest.mark.slow
def test_static_members_restart_and_nothing_moves(tmp_path: Path) -> None:
    sizes = "--members 6 --processes 2 --partitions 12 --cities 50 --rate 200".split()
    sizes += ["--quiet-seconds", "0.2"]
    done = run_example("marketplace_events.py", *sizes, "--directory", tmp_path / "log")
    assert (done.returncode, done.stderr) == (0, "")
    static, dynamic = done.stdout.split("dynamic members:")
    assert "static members: 6 in 2 processes share 12 partitions" in static
    assert "0 rebalances, 0 partitions moved" in static
    assert "12 rebalances" in dynamic
    assert done.stdout.count("none left out") == 2
