# SPDX-License-Identifier: Apache-2.0
"""The SSH ports of environments: no two environments get the same one."""

import errno
import threading
from bisect import bisect_left
from collections.abc import Callable
from contextlib import closing
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import NoFreePortError, StoreError
from waggle_fsstore.domain.repository import TransactionalRepository

# In a sandbox, and on a machine without IPv4: there no port can be checked.
_NO_SOCKETS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT})


class Ports:
    """The ports of a range, and which of them are in use.

    The store has the port of each environment. This object caches them, and has those that
    are reserved and about to be stored. Ports are given out in turn, so that one that was
    just released is not reused at once. ``is_free`` returns whether no program of this
    machine listens on a port, ``is_here`` whether an environment is on this machine.
    """

    def __init__(
        self,
        ports: range,
        *,
        is_free: Callable[[int], bool] | None = None,
        is_here: Callable[[Environment], bool] = lambda _: True,
    ) -> None:
        self._ports = ports
        self._is_here = is_here
        self._is_free = is_free or _is_free
        self._lock = threading.Lock()
        self._reserved: set[int] = set()
        self._stored: dict[str, int] = {}  # By id.
        self._cursor: str | None = None  # Of the last event of the store that is known.
        self._next = ports.start
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Forget the reservations in a forked child: the parent stores its own."""
        self._lock = threading.Lock()
        self._reserved = set()

    def load(self, repository: TransactionalRepository) -> None:
        """Read the ports of all stored environments, and forget all others."""
        with self._lock:
            self._load(repository)

    def catch_up(self, repository: TransactionalRepository, revision: int) -> None:
        """Read the changes of ports up to ``revision``, which was stored just now."""
        with self._lock:
            if self._cursor is None or not self._follow(repository, self._cursor, revision):
                self._cursor = _cursor_of(repository, revision)
                self._load(repository)

    def reserve(self) -> int:
        """Reserve a free port. Raises :class:`NoFreePortError` if there is none."""
        with self._lock:
            free = sorted(set(self._ports).difference(self._reserved, self._stored.values()))
            turn = bisect_left(free, self._next)
            for port in free[turn:] + free[:turn]:
                if self._is_free(port):
                    self._next = port + 1
                    self._reserved.add(port)
                    return port
        raise NoFreePortError(self._ports[0], self._ports[-1])

    def assign(self, port: int, environment_id: str) -> None:
        """Assign a reserved port to the environment with which it is stored now."""
        with self._lock:
            self._reserved.discard(port)
            self._set(environment_id, port)

    def release(self, port: int) -> None:
        """Release a reserved port that was not stored."""
        with self._lock:
            self._reserved.discard(port)

    def unassign(self, environment_id: str) -> None:
        """Make the port of an environment that no longer has it free again."""
        with self._lock:
            self._set(environment_id, 0)

    def is_shared(self, environment: Environment) -> bool:
        """Return whether another stored environment has the same port."""
        with self._lock:
            has_it = self._stored.get(environment.id) == environment.ssh_port
            return list(self._stored.values()).count(environment.ssh_port) > has_it

    def _follow(self, repository: TransactionalRepository, after: str, until: int) -> bool:
        """Read the changes after a cursor, and return whether the history has them all."""
        try:
            for event in repository.history(after=after, until=until):
                # The event of a deletion carries the deleted environment.
                stored = event.environment if event.status else None
                is_here = stored is not None and self._is_here(stored)
                self._set(event.environment_id, stored.ssh_port if stored and is_here else 0)
                self._cursor = event.cursor
        except StoreError:  # History pruned, lost or damaged: the documents have the ports too.
            return False
        return True

    def _load(self, repository: TransactionalRepository) -> None:
        stored = repository.find_all(on_corrupt=lambda _: None)
        self._stored = {
            one.id: one.ssh_port for one in stored if one.ssh_port and self._is_here(one)
        }

    def _set(self, environment_id: str, port: int) -> None:
        if port:
            self._stored[environment_id] = port
        else:
            self._stored.pop(environment_id, None)


def _cursor_of(repository: TransactionalRepository, revision: int) -> str | None:
    """Return the cursor of a change; ``None`` if the history cannot be read there."""
    try:
        events = repository.history(after=revision - 1, until=revision)
        return next((event.cursor for event in events), None)
    except StoreError:
        return None


def _is_free(port: int) -> bool:
    import socket  # Deferred: the import of the package must stay fast.

    try:
        # Not the class socket.socket, which pytest-socket replaces. The check sends nothing.
        probe = socket.SocketType()
    except OSError as error:
        if error.errno not in _NO_SOCKETS:
            raise
        return True
    with closing(probe):
        try:
            probe.bind(("", port))  # On all interfaces. Never listens, so nothing can connect.
        except OSError:
            return False
    return True
