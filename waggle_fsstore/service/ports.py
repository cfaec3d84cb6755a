# SPDX-License-Identifier: Apache-2.0
"""Ports: which one an environment gets, so that no two have the same."""

import threading
from bisect import bisect_left
from collections.abc import Callable

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import NoFreePortError, StoreError
from waggle_fsstore.domain.repository import TransactionalRepository


class Ports:
    """The ports of a range, and which of them are taken.

    The store says who has which port. Here stand also those that are about to be stored.
    Ports go round, so that one that was just given back is not reused at once.
    ``is_free`` tells whether no other program of this machine listens on a port.
    """

    def __init__(self, ports: range, *, is_free: Callable[[int], bool] | None = None) -> None:
        self._ports = ports
        self._is_free = is_free or _is_free
        self._lock = threading.Lock()
        self._pending: set[int] = set()
        self._stored: dict[str, int] = {}  # By id.
        self._as_of: int | None = None  # Up to which change of the store all is known.
        self._next = ports.start
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """In a child: what is about to be stored is so by the parent."""
        self._lock = threading.Lock()
        self._pending = set()

    def learn(self, repository: TransactionalRepository) -> None:
        """Note the ports of all stored environments, and forget those of others."""
        with self._lock:
            self._learn(repository)

    def follow(self, repository: TransactionalRepository, revision: int) -> None:
        """Note what has become of the ports up to a revision that was stored just now."""
        with self._lock:
            if self._as_of is None:
                self._learn(repository)
                self._as_of = revision
                return
            try:
                for event in repository.history(after=self._as_of, until=revision):
                    # The event of a deletion has the environment that is no more.
                    stored = event.environment if event.status else None
                    self._note(event.environment_id, stored.ssh_port if stored else 0)
            except StoreError:  # Pruned, or damaged: the documents tell as well.
                self._learn(repository)
            self._as_of = max(revision, self._as_of)

    def take(self) -> int:
        """A port that nobody has. Raises :class:`NoFreePortError` when there is none."""
        with self._lock:
            free = sorted(set(self._ports).difference(self._pending, self._stored.values()))
            turn = bisect_left(free, self._next)
            for port in free[turn:] + free[:turn]:
                if self._is_free(port):
                    self._next = port + 1
                    self._pending.add(port)
                    return port
        raise NoFreePortError(self._ports[0], self._ports[-1])

    def keep(self, port: int, environment_id: str) -> None:
        """Note that a port that was taken is stored with an environment."""
        with self._lock:
            self._pending.discard(port)
            self._note(environment_id, port)

    def give_back(self, port: int) -> None:
        """Let a port that was taken, and is not stored, be taken again."""
        with self._lock:
            self._pending.discard(port)

    def forget(self, environment_id: str) -> None:
        """Let the port of an environment be taken again: it has it no more."""
        with self._lock:
            self._note(environment_id, 0)

    def is_shared(self, environment: Environment) -> bool:
        """Whether another stored environment has the same port."""
        with self._lock:
            has_it = self._stored.get(environment.id) == environment.ssh_port
            return list(self._stored.values()).count(environment.ssh_port) > has_it

    def _learn(self, repository: TransactionalRepository) -> None:
        stored = repository.find_all(on_corrupt=lambda _: None)
        self._stored = {one.id: one.ssh_port for one in stored if one.ssh_port}

    def _note(self, environment_id: str, port: int) -> None:
        if port:
            self._stored[environment_id] = port
        else:
            self._stored.pop(environment_id, None)


def _is_free(port: int) -> bool:
    import socket  # Not everybody who imports the package needs it.

    with socket.socket() as probe:
        try:
            probe.bind(("", port))  # Of any interface. Nothing listens, so nobody can connect.
        except OSError:
            return False
    return True
