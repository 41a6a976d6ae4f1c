"""examples/marketplace_events.py: a rolling restart of static members moves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "marketplace_events.py"
SECONDS = 55  # an example that needs longer hangs


@pytest.mark.slow
def test_static_members_restart_and_nothing_moves(tmp_path: Path) -> None:
    sizes = "--members 6 --processes 2 --partitions 12 --cities 50 --rate 200".split()
    sizes += ["--quiet-seconds", "0.2"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *sizes, "--directory", str(tmp_path / "log")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    static, dynamic = done.stdout.split("dynamic members:")
    assert "static members: 6 in 2 processes share 12 partitions" in static
    assert "0 rebalances, 0 partitions moved" in static
    assert "12 rebalances" in dynamic
    assert done.stdout.count("none left out") == 2
