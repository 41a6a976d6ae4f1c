"""What else Python programs keep records in, driven as pylog is: the same records, the same loops.

Each peer says what an append that has returned survives; only like is compared with like.  Packages
that are not installed are missing from the races and named by skipped tests; `pip install -e
'.[peers]'` brings them.
"""

from __future__ import annotations

from bench.peers import bare, databases, own, queues
from bench.peers.store import Peer

PEERS: tuple[Peer, ...] = (*own.PEERS, *bare.PEERS, *databases.PEERS, *queues.PEERS)
