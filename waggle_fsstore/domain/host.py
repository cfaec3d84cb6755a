# SPDX-License-Identifier: Apache-2.0
"""Hosts: the machines whose servers share one store."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

#: How often a host shows that it works.
HEARTBEAT: Final = timedelta(seconds=5)

#: A host is silent when it was not heard of for this long.
SILENCE: Final = 6 * HEARTBEAT

#: What to do where two machines have the id of one host.
COPY_ADVICE: Final = (
    "another machine has the same id: if the directory of the workspaces is a copy, delete the "
    "file .host-id in it; if it has moved here, stop the servers of that machine"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A machine, or a part of one, whose servers share one directory of workspaces; immutable.

    - ``id``: a UUID, kept in the directory of the workspaces.
    - ``name``: unique among the hosts that were not removed; may change.
    - ``url``: where its server can be reached, "" if it does not say.
    - ``seen_at``: when it was last heard of, by the clock of the store.
    - ``removed_at``: when an operator declared it gone, ``None`` before that.
    """

    id: str
    name: str
    url: str
    seen_at: datetime
    removed_at: datetime | None = None

    def is_silent(self, now: datetime) -> bool:
        """Return whether it was not heard of for half a minute, at a time of the store's clock."""
        return now - self.seen_at > SILENCE


class Hosts(Protocol):
    """The hosts that share a store. Each method raises what the store raises."""

    def now(self) -> datetime:
        """Return the time by the clock of the store, which is the same for all hosts."""
        ...

    def register(self, host_id: str, name: str, url: str, boot_id: str) -> bool:
        """Add a host, or give it another name and URL, and return true.

        ``boot_id`` is that of its machine, "" if unknown. Returns false, and changes nothing, while
        another boot with the same id is heard of: it may have ended just now, or be a machine with
        a copy of the id. Raises :class:`HostRefusedError` if another host has the name, or this one
        was removed.
        """
        ...

    def beat(self, host_id: str, boot_id: str) -> None:
        """Record that a host works.

        Raises :class:`HostRefusedError` if it was removed, or another machine has registered it.
        """
        ...

    def find_all(self) -> list[Host]:
        """Return all hosts, also removed ones, by name."""
        ...

    def remove(self, name: str) -> Host:
        """Declare a host gone for good, and return it; one that was removed stays so.

        Raises :class:`HostNotFoundError`.
        """
        ...
