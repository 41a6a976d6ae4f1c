"""A compacted topic as a mapping: how it is replayed, followed and kept.

Must not know files or segments.
"""
