"""Topics of a log: what `__metadata` says of them, their partitions, and appends by key.

Must not know groups or clients.
"""
