"""Which replica to promote, when the leader is gone; who decides that it is gone is the user's.

An election, by whoever the user lets elect (a Kubernetes lease, etcd, ZooKeeper):

 1. takes an epoch that no election had before;
 2. lets at least `quorum` replicas promise it (`fence`): they take nothing from an older leader;
 3. promotes, with that epoch, the one that `best_candidate` names.

Why that loses nothing.  A record is acknowledged when every member of an in-sync set has it, and
those are at least min_insync_replicas that have written the set down.  Of any n -
min_insync_replicas + 1 replicas one is among them, and promised only afterwards.  So the greatest
(epoch, version) that is written down is that set's or a later one's; and members of later sets were
let in when they had everything.  What was promised keeps the old leader from acknowledging more.

Pure.  Source: Raft (vote, election restriction); KIP-966 (who may be elected).
"""

from __future__ import annotations

from collections.abc import Sequence

from pylog.errors import FencedLeaderEpochError, NotEligibleError
from pylog.replication.facts import ReplicaStatus


def quorum(*, replicas: int, min_insync_replicas: int) -> int:
    """Return how many replicas have to promise the epoch before one may be promoted.

    replicas: all there are, the lost leader included.  min_insync_replicas: the least of all topics
    (`ReplicationConfig`).  With 3 and 2 it is 2; with 3 and 1 all 3, the lost leader too.
    """
    return max(1, replicas - min_insync_replicas + 1)


def best_candidate(
    answers: Sequence[ReplicaStatus], *, epoch: int, replicas: int, min_insync_replicas: int
) -> str:
    """Return the id of the replica to promote with `epoch`.

    answers: of those that promised `epoch`, each once.  One that may have lost what it acknowledged
    does not count.  Of equals, the one with the most records is taken.
    Raises FencedLeaderEpochError when one promised a later epoch: another election overtook this
    one.  NotEligibleError when too few answers count: ask more, or wait, or lose records
    (`promote` with `unclean=True`).
    """
    latest = max((answer.promised_epoch for answer in answers), default=epoch)
    if latest > epoch:
        raise FencedLeaderEpochError(epoch, latest)
    counting = {
        answer.replica_id: answer
        for answer in answers
        if answer.promised_epoch == epoch and answer.in_sync is not None
    }
    needed = quorum(replicas=replicas, min_insync_replicas=min_insync_replicas)
    if len(counting) < needed:
        raise NotEligibleError(
            f"{len(counting)} replicas that can tell what they have promised epoch {epoch}; "
            f"{needed} of {replicas} are needed"
        )
    return max(counting.values(), key=_rank).replica_id


def _rank(answer: ReplicaStatus) -> tuple[tuple[int, int], int, str]:
    assert answer.in_sync is not None
    return answer.in_sync.order, answer.log_end_offset, answer.replica_id
