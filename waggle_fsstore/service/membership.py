# SPDX-License-Identifier: Apache-2.0
"""Membership: this host among those that share a store, and what belongs to it.

The files of an environment are on one host. Only servers of that host create, check, expire and
remove it; those of the others read and change its record, and ask that host to remove it.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import HostRefusedError, OtherHostError
from waggle_fsstore.domain.host import COPY_ADVICE, HEARTBEAT, SILENCE, Host, Hosts

_MAX_WAIT: Final = SILENCE + HEARTBEAT
_POLL_S: Final = 1.0

_log: Final = logging.getLogger(__name__)


class Membership:
    """The only host of a store, to which everything belongs."""

    #: The hosts that share the store, ``None`` where there is only this one.
    hosts: Hosts | None = None

    @property
    def id(self) -> str | None:
        """The id of this host, which its environments carry as ``host_id``."""
        return None

    @property
    def name(self) -> str:
        """The name of this host, "" for the only one."""
        return ""

    def now(self) -> datetime:
        """Return the time by the clock that all hosts share."""
        return datetime.now(UTC)

    def join(self) -> None:
        """Become one of the hosts, as a server and each creation does. Can be repeated."""

    def refresh(self) -> None:
        """Read again which hosts there are, and what time it is."""

    def beat(self) -> None:
        """Show the other hosts that this one works. Raises :class:`HostRefusedError`."""

    def owns(self, environment: Environment) -> bool:  # noqa: ARG002  # All of them.
        """Return whether this host creates, checks, expires and removes an environment."""
        return True

    def is_unclaimed(self, environment: Environment) -> bool:  # noqa: ARG002
        """Return whether no host has said yet that it has the files of an environment."""
        return False

    def is_elsewhere(self, environment: Environment) -> bool:
        """Return whether another host has the files of an environment."""
        return not self.owns(environment) and not self.is_unclaimed(environment)

    def name_of(self, environment: Environment) -> str:  # noqa: ARG002
        """Return the name of the host that has the files of an environment, "" if none has."""
        return ""

    def describe_host_of(self, environment: Environment) -> str:
        """Return that name for a message, and since when the host is silent, if it is."""
        return self.name_of(environment)

    def url_of(self, environment: Environment) -> str:  # noqa: ARG002
        """Return where the server of that host can be reached, "" if that is unknown."""
        return ""

    def require(self, environment: Environment, provider: str) -> None:
        """Raise :class:`OtherHostError` unless this host has the files of an environment."""
        if self.owns(environment):
            return
        name = self.name_of(environment)
        reason = (
            f"the files of the environment are on host {self.describe_host_of(environment)}: call "
            "the server of that host"
            if name
            else "the files of the environment are on no host that is known: start the server "
            "whose directory of workspaces has them"
        )
        raise OtherHostError(provider, reason, name, self.url_of(environment))


class SharedMembership(Membership):
    """One of several hosts that share a store.

    ``host_id`` is ``None`` for a program that creates no environments, such as the command line
    on the machine of an operator; ``make_id`` then makes an id for :meth:`join`. ``boot_id`` tells
    a copy of the id on another machine from a server of the same one. ``wall`` returns
    the time of this machine, to which the difference to that of the store is added.
    """

    def __init__(
        self,
        hosts: Hosts,
        host_id: str | None,
        make_id: Callable[[], str],
        *,
        name: str,
        url: str = "",
        boot_id: str = "",
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.hosts: Hosts = hosts
        self._id = host_id
        self._make_id = make_id
        self._name = name
        self._url = url
        self._boot_id = boot_id
        self._wall = wall
        self._lock = threading.Lock()
        self._has_joined = False
        self._known: dict[str, Host] = {}
        # Ids that were looked for since the hosts were read.
        self._unknown: set[str] = set()
        self._offset: timedelta | None = None
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    @property
    def id(self) -> str | None:
        """See :attr:`Membership.id`; ``None`` before the first :meth:`join` of a new host."""
        return self._id

    @property
    def name(self) -> str:
        """See :attr:`Membership.name`."""
        return self._name

    def now(self) -> datetime:
        """See :meth:`Membership.now`."""
        if self._offset is None:
            self.refresh()
        return self._wall() + (self._offset or timedelta(0))

    def join(self) -> None:
        """See :meth:`Membership.join`.

        After a quick reboot it waits until the earlier boot is silent, for half a minute. Raises
        :class:`HostRefusedError`.
        """
        with self._lock:
            if not self._has_joined:
                # Stored here first: a host that forgot its id would be another one.
                host_id = self._make_id()
                self._register(host_id)
                self._id = host_id
                self.refresh()
                self._has_joined = True

    def _register(self, host_id: str) -> None:
        deadline = monotonic() + _MAX_WAIT.total_seconds()
        while not self.hosts.register(host_id, self._name, self._url, self._boot_id):
            if monotonic() >= deadline:
                raise HostRefusedError(self._name, COPY_ADVICE)
            _log.info("another boot with the id of this host was just heard of; waiting")
            time.sleep(_POLL_S)

    def refresh(self) -> None:
        """See :meth:`Membership.refresh`."""
        self._offset = self.hosts.now() - self._wall()
        self._known = {one.id: one for one in self.hosts.find_all()}
        self._unknown = set()

    def beat(self) -> None:
        """See :meth:`Membership.beat`."""
        if self._id is not None:
            self.hosts.beat(self._id, self._boot_id)
        self.refresh()

    def owns(self, environment: Environment) -> bool:
        """See :meth:`Membership.owns`.

        What a removed host had belongs to every host, and so does a record without files.
        """
        host_id = environment.host_id
        if host_id is None:
            return environment.provider is None
        host = self._host_of(environment)
        return host_id == self._id or (host is not None and host.removed_at is not None)

    def is_unclaimed(self, environment: Environment) -> bool:
        """See :meth:`Membership.is_unclaimed`: it was copied from another store."""
        if environment.host_id == self._id is not None:
            return False
        return environment.provider is not None and self._host_of(environment) is None

    def name_of(self, environment: Environment) -> str:
        """See :meth:`Membership.name_of`."""
        host = self._host_of(environment)
        return host.name if host else ""

    def url_of(self, environment: Environment) -> str:
        """See :meth:`Membership.url_of`."""
        host = self._host_of(environment)
        return host.url if host else ""

    def describe_host_of(self, environment: Environment) -> str:
        """See :meth:`Membership.describe_host_of`."""
        host = self._host_of(environment)
        if host is None:
            return "an unknown host"
        if not host.is_silent(self.now()):
            return host.name
        return f"{host.name} (not heard of since {host.seen_at:%Y-%m-%d %H:%M:%S} UTC)"

    def _host_of(self, environment: Environment) -> Host | None:
        host_id = environment.host_id
        if host_id is None:
            return None
        if host_id not in self._known and host_id not in self._unknown:
            self.refresh()
            if host_id not in self._known:
                self._unknown.add(host_id)
        return self._known.get(host_id)
