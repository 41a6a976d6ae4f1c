"""Benchmarks: pylog beside bare files and its peers.  Begin with `python -m pytest bench`."""
