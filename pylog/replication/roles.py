"""The role of a log among its replicas, as every process that has the log open sees and changes it.

Knows the role file, who may change it, and how the others learn of it.  Must not know partitions,
nor how a role is lived.

Locks: a byte of `pylog.lock`, held while the file is read, changed and replaced, so that of two
processes one comes second; another one, held by the process that lives the role.  The kernel drops
both when their holder dies.  `_lock`, around who of this process holds the second.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Final

from pylog.engine.engine import Engine
from pylog.errors import ReplicationError
from pylog.replication.role_file import read_state, replace_state
from pylog.replication.standing import ReplicaState
from pylog.storage.environment import Flushable
from pylog.storage.files import File
from pylog.storage.role import Role, RoleKind

logger = logging.getLogger("pylog")

# Bytes of pylog.lock, above those of groups (groups/liveness.py).
_CHANGING_BYTE: Final = 2**62 + 2**61
_SERVING_BYTE: Final = _CHANGING_BYTE + 1


class Roles:
    """What a log is among its replicas.  Every method may be called by many threads at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: tuple[int, Role] | None = None
        self._lock = threading.Lock()
        self._serving: File | None = None
        self._parts: set[object] = set()  # that serve in this process
        engine.role_of = self._role_now
        engine.on_lost_records = self._note_lost
        engine.fork_listeners.append(self.after_fork)

    def open(self) -> None:
        """Step down if the log led before a boot; see ReplicaState.after_power_cut.

        Raises CorruptFileError, IncompatibleFormatError, OSError.  Without a role: one open that
        finds nothing.
        """
        if self._is_of_another_boot(self.state):
            self.change(self._after_boot)

    def _is_of_another_boot(self, state: ReplicaState) -> bool:
        return state.kind is RoleKind.LEADER and state.boot != self.boot

    def _after_boot(self, state: ReplicaState) -> ReplicaState:
        if not self._is_of_another_boot(state):
            return state
        logger.warning(
            "log %s led in epoch %d before the last boot; it follows now, until it is promoted",
            self._engine.path,
            state.promised_epoch,
        )
        return state.after_power_cut(lost_acknowledged=False)

    @property
    def boot(self) -> str:
        """A digest of this boot."""
        identity = self._engine.boot_identity.encode()
        return hashlib.blake2b(identity, digest_size=16).hexdigest()

    @property
    def replica_id(self) -> str:
        """This log's id among the replicas."""
        return self._engine.log_id.hex

    @property
    def state(self) -> ReplicaState:
        """What the role file says now.  Raises as `open`; reads a file."""
        return read_state(self._engine.root) or ReplicaState(replica_id=self.replica_id)

    def _role_now(self) -> Role:
        """Return the role of now; reads the file if anything was counted since the last time."""
        count = self._engine.settings.value
        known = self._known
        if known is None or known[0] != count:
            # One assignment; and the count first: what changes afterwards makes another one.
            known = self._known = (count, self.state.role)
        return known[1]

    @property
    def role(self) -> Role:
        """The role of now, as partitions see it.  Without news: no system call."""
        return self._role_now()

    def change(self, event: Callable[[ReplicaState], ReplicaState]) -> ReplicaState:
        """Let an event happen to the state, durably; return what it is now.

        event: returns the next state, itself for no change; may raise.  Nobody else changes it
        meanwhile, in any process.  When this returns, no append that begins goes by an older role.
        Raises what `event` raises, and as `open`.  Two syncs when something changed.
        """
        engine = self._engine
        holder = engine.lock_alone(_CHANGING_BYTE, blocking=True)
        assert holder is not None
        try:
            before = self.state
            after = event(before)
            if after == before:
                return before
            try:
                replace_state(engine.root, after)
            finally:
                # Also after an error, which may have come when the new file was there.
                if after.role != before.role or after.in_sync is None:
                    engine.settings.notify()
                    engine.events.notify()
            if after.kind is not before.kind:
                logger.info(
                    "log %s: %s of epoch %d", engine.path, after.kind.value, after.promised_epoch
                )
            return after
        finally:
            holder.close()

    def _note_lost(self, partition: Flushable) -> None:
        logger.error("%r lost, or may have lost, what was acknowledged", partition)
        self.change(lambda state: state.after_power_cut(lost_acknowledged=True))

    def serve(self) -> Callable[[], None]:
        """Keep other processes from living this role; return a function that ends that, once.

        Several parts of this process may.
        Raises ReplicationError when another process does, ClosedError, OSError.
        """
        with self._lock:
            if self._serving is None:
                self._serving = self._engine.lock_alone(_SERVING_BYTE, blocking=False)
            if self._serving is None:
                raise ReplicationError(f"log {self._engine.path}: another process serves it")
            part = object()
            self._parts.add(part)
        return lambda: self._end_part(part)

    def _end_part(self, part: object) -> None:
        with self._lock:
            self._parts.discard(part)
            if not self._parts and self._serving is not None:
                self._serving.close()
                self._serving = None

    def after_fork(self) -> None:
        """In a forked child: it serves nothing."""
        self._lock = threading.Lock()
        self._parts = set()
        if self._serving is not None:
            # It shares its lock with the parent: if that is killed, it must not stay here.
            self._serving.close()
            self._serving = None
