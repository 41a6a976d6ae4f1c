"""What a log is among its replicas, as far as its partitions have to know.

A value type.  Must not know where it is written down, nor who the others are.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final


class RoleKind(enum.Enum):
    """Alone, or one of several replicas of which one leads."""

    NONE = "none"
    LEADER = "leader"
    FOLLOWER = "follower"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The role of a log, the same for all its partitions and in all processes.

    epoch: of the leader that it is or follows; counts unless kind is NONE.
    waits_for_all: whether an append that does not say so itself is acknowledged only when every
    in-sync replica has it.  min_insync_replicas: the least for any topic; a topic may ask for more.
    request_timeout: seconds that an append waits for the other replicas.
    """

    kind: RoleKind = RoleKind.NONE
    epoch: int = 0
    waits_for_all: bool = False
    min_insync_replicas: int = 1
    request_timeout: float = 30.0

    @property
    def is_held(self) -> bool:
        """Whether high watermarks follow neither appends nor syncs, but what replicas have."""
        return self.kind is not RoleKind.NONE


NO_ROLE: Final = Role()
