# SPDX-License-Identifier: Apache-2.0
"""Ports: which one an environment gets, so that no two have the same."""

import threading
from collections.abc import Callable, Iterable

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import NoFreePortError


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
        self._taken: dict[int, str] = {}  # By whom; by "" what is about to be stored.
        self._next = 0

    def learn(self, environments: Iterable[Environment]) -> None:
        """Note the ports of all stored environments, and forget those of others.

        A port that was taken and is not stored yet stays taken.
        """
        with self._lock:
            pending = {port: "" for port, owner in self._taken.items() if not owner}
            self._taken = pending | {one.ssh_port: one.id for one in environments if one.ssh_port}

    def take(self) -> int:
        """A port that nobody has. Raises :class:`NoFreePortError` when there is none."""
        with self._lock:
            for step in range(len(self._ports)):
                index = (self._next + step) % len(self._ports)
                port = self._ports[index]
                if port not in self._taken and self._is_free(port):
                    self._next = index + 1
                    self._taken[port] = ""
                    return port
        raise NoFreePortError(self._ports[0], self._ports[-1])

    def keep(self, port: int, environment_id: str) -> None:
        """Note that a port that was taken is stored with an environment."""
        with self._lock:
            self._taken[port] = environment_id

    def give_back(self, port: int) -> None:
        """Let a port be taken again."""
        with self._lock:
            self._taken.pop(port, None)


def _is_free(port: int) -> bool:
    import socket  # Not everybody who imports the package needs it.

    with socket.socket() as probe:
        try:
            probe.bind(("", port))  # Of any interface. Nothing listens, so nobody can connect.
        except OSError:
            return False
    return True
