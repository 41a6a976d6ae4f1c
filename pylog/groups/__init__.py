"""Consumer groups: who reads which partition, and how far.

Pure rules at the bottom (schemas, assignors, membership), the log that they are written to on top.
"""
