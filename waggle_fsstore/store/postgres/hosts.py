# SPDX-License-Identifier: Apache-2.0
"""The table of the hosts that share a store."""

from datetime import datetime
from typing import Any, Final

from waggle_fsstore.domain.audit import Author
from waggle_fsstore.domain.errors import HostNotFoundError, HostRefusedError
from waggle_fsstore.domain.host import COPY_ADVICE, SILENCE, Host
from waggle_fsstore.store.postgres.connections import Connections
from waggle_fsstore.store.postgres.transaction import Transaction
from waggle_fsstore.store.postgres.writer import Writer

_TIME: Final = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_NOW: Final = f"SELECT {_TIME.format('clock_timestamp()')}"
_COLUMNS: Final = f"id, name, url, {_TIME.format('seen_at')}, {_TIME.format('removed_at')}"
_ALL: Final = f"SELECT {_COLUMNS} FROM waggle.host ORDER BY name, removed_at, id"  # noqa: S608
# Of the host with the id and of that with the name: whether it is the same one, whether it was
# removed, and whether servers of another machine were just heard of.
_CLAIMS: Final = b"""
SELECT id = %(id)s, removed_at IS NOT NULL,
    boot_id NOT IN ('', %(boot_id)s) AND clock_timestamp() - seen_at < %(silence)s
FROM waggle.host WHERE id = %(id)s OR (name = %(name)s AND removed_at IS NULL)
"""
_REGISTER: Final = b"""
INSERT INTO waggle.host (id, name, url, boot_id, seen_at)
VALUES (%(id)s, %(name)s, %(url)s, %(boot_id)s, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url,
    boot_id = excluded.boot_id, seen_at = excluded.seen_at
"""
# A lost heartbeat does no harm, so it waits for no flush and no standby.
_BEAT: Final = """
UPDATE waggle.host SET seen_at = clock_timestamp()
FROM (SELECT set_config('synchronous_commit', 'off', true) OFFSET 0) setting
WHERE id = %s AND boot_id = %s AND removed_at IS NULL RETURNING name
"""
_REMOVE: Final = f"""
UPDATE waggle.host SET removed_at = clock_timestamp()
WHERE name = %s AND removed_at IS NULL RETURNING {_COLUMNS}
""".encode()  # noqa: S608
_REMOVED: Final = f"""
SELECT {_COLUMNS} FROM waggle.host WHERE name = %s ORDER BY removed_at DESC LIMIT 1
""".encode()  # noqa: S608  # Made of constants.

_REMOVED_ADVICE: Final = (
    "an operator removed it, and its environments are no longer its own: move their files away, "
    "or delete them, together with the file .host-id in the directory of the workspaces; the next "
    "start then makes a new host of it"
)
_TAKEN_ADVICE: Final = (
    "another host has this name: set WAGGLE_HOST to another one, mount the directory of the "
    "workspaces if it is missing, or run 'waggle-fsstore host remove' if that host is gone"
)


class HostTable:
    """See :class:`~waggle_fsstore.domain.host.Hosts`."""

    def __init__(self, connections: Connections, writer: Writer) -> None:
        self._connections = connections
        self._writer = writer

    def now(self) -> datetime:
        """See :meth:`Hosts.now`."""
        return datetime.fromisoformat(self._connections.read(_NOW)[0][0])

    def register(self, host_id: str, name: str, url: str, boot_id: str) -> bool:
        """See :meth:`Hosts.register`. Makes the tables of a store that does not exist yet."""

        def work(tx: Transaction, _: Author) -> bool:
            values = {"id": host_id, "name": name, "url": url, "boot_id": boot_id}
            for is_same, is_removed, is_copied in tx.execute(
                _CLAIMS, {**values, "silence": SILENCE}
            ):
                if is_removed:
                    raise HostRefusedError(name, _REMOVED_ADVICE)
                if not is_same:
                    raise HostRefusedError(name, _TAKEN_ADVICE)
                if is_copied:
                    return False
            tx.execute(_REGISTER, values)
            return True

        return self._writer.run(work, set(), alone=True)

    def beat(self, host_id: str, boot_id: str) -> None:
        """See :meth:`Hosts.beat`."""
        if not self._connections.read(_BEAT, (host_id, boot_id), writes=True):
            found = [one for one in self.find_all() if one.id == host_id]
            name = found[0].name if found else host_id
            is_removed = not found or found[0].removed_at is not None
            raise HostRefusedError(name, _REMOVED_ADVICE if is_removed else COPY_ADVICE)

    def find_all(self) -> list[Host]:
        """See :meth:`Hosts.find_all`."""
        return [_host(*row) for row in self._connections.read(_ALL)]

    def remove(self, name: str) -> Host:
        """See :meth:`Hosts.remove`."""

        def work(tx: Transaction, _: Author) -> Host:
            rows = tx.execute(_REMOVE, [name]) or tx.execute(_REMOVED, [name])
            if not rows:
                raise HostNotFoundError(name)
            return _host(*rows[0])

        return self._writer.run(work, set(), alone=True)


def _host(host_id: str, name: str, url: str, seen_at: str, removed_at: Any) -> Host:
    return Host(
        id=host_id,
        name=name,
        url=url,
        seen_at=datetime.fromisoformat(seen_at),
        removed_at=datetime.fromisoformat(removed_at) if removed_at else None,
    )
