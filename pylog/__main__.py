"""`python -m pylog`: see `pylog.cli`."""

from __future__ import annotations

import sys

from pylog.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
