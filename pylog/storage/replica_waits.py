"""What acks="all" asks of a partition: enough replicas before an append, all in sync after it.

Knows the role and the high watermark.  Must not know who moves that, nor who the replicas are.

Locks: none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from pylog.errors import NotEnoughReplicasAfterAppendError, NotEnoughReplicasError
from pylog.storage import layout
from pylog.storage.environment import Environment, KnownSettings
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.storage.role import NO_ROLE, Role, RoleKind


class ReplicaWaits(ABC):
    """The part of a partition that waits for other replicas."""

    topic: str
    _settings: KnownSettings
    _environment: Environment

    @abstractmethod
    def _known_settings(self) -> KnownSettings:
        """Return settings and role, as new as anybody has counted."""

    @abstractmethod
    def wait(self, offset: int, timeout: float | None = None) -> bool:
        """Wait until the high watermark is above `offset`; return whether it is."""

    def begin_append(self, *, waits_for_all: bool | None = None) -> Role | None:
        """Return the role by which an append that begins now is acknowledged, for `wait_durable`.

        waits_for_all: whether every in-sync replica has to have it; by default as the role says.
        None: no other replica is waited for.
        Raises NotEnoughReplicasError when too few are in sync for that.
        Without news of settings: no system call.
        """
        settings = self._known_settings()
        role = settings.role
        if role.kind is not RoleKind.LEADER:
            # A follower is refused when it writes, unless it leads by then; so it is looked again.
            return None if waits_for_all is False else role
        if not self._waits_for_all(role) if waits_for_all is None else not waits_for_all:
            return None
        needed = max(role.min_insync_replicas, settings.config.min_insync_replicas)
        in_sync = self._environment.in_sync_replicas()
        if in_sync < needed:
            raise NotEnoughReplicasError(in_sync, needed)
        return role

    def _waits_for_all(self, role: Role) -> bool:
        # As in Kafka, what topics and groups there are is never less safe than what is in them.
        return role.waits_for_all or layout.is_internal(self.topic)

    @property
    def _asks_before_appending(self) -> bool:
        """Whether an append looks how many replicas are in sync, which the C core does not."""
        role = self._settings.role
        return role.kind is RoleKind.LEADER and self._waits_for_all(role)

    def _wait_for_replicas(self, start: int, end_offset: int, role: Role) -> None:
        """Return when every in-sync replica has what was placed in [start, end_offset).

        role: what `begin_append` returned; NO_ROLE when it was not asked, or there was none.
        """
        now = self._settings.role
        if role == NO_ROLE:
            if now.kind is RoleKind.LEADER and not self._waits_for_all(now):
                return
            role = now
        environment = self._environment
        deadline = environment.monotonic() + role.request_timeout
        while True:
            left = deadline - environment.monotonic()
            is_there = self.wait(end_offset - 1, min(max(left, 0.0), LOOK_AGAIN_SECONDS))
            # Only now: if another led meanwhile, what is there need not be what was placed.
            now = environment.role()
            if now.kind is not RoleKind.LEADER or now.epoch != role.epoch:
                message = f"this log leads no more: it is a {now.kind.value} in epoch {now.epoch}"
                raise NotEnoughReplicasAfterAppendError(message, start, end_offset)
            if is_there:
                return
            if left <= 0:
                in_sync = environment.in_sync_replicas()
                message = f"{in_sync} replicas in sync after {role.request_timeout} s"
                raise NotEnoughReplicasAfterAppendError(message, start, end_offset)
