"""Reads: whose turn it is, alone or in a group, and how far is committed.

Must not know producers, files or segments.
"""
