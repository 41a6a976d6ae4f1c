"""One partition on one disk: files, segments, indexes, recovery.

Knows bytes and files.  Must not know what topics mean, groups or clients.  Inside, a module imports
only those below it; the order is in tests/test_floors.py.
"""
