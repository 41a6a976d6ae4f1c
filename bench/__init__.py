"""Benchmarks: pylog beside bare files and py-lmdb.  Begin with `python -m pytest bench`."""
