# SPDX-License-Identifier: Apache-2.0
"""What verbs do beside a running server, which has its own view of workspaces: they refuse."""

import click

from waggle_fsstore.domain.errors import ServerRunningError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.server_lock import running_servers

force_option = click.option(
    "--force", is_flag=True, help="Do it even while a server runs on this store."
)


def refuse_beside_server(store: TransactionalRepository, *, force: bool, tool: str = "") -> None:
    """Raise :class:`ServerRunningError` if a server runs on the store, unless forced.

    ``tool`` is the tool of the server that does the same, if there is one.
    """
    if force or not isinstance(store, FileStore):
        return
    for holder in running_servers(store.path):
        instead = f"call its tool {tool}" if tool else "stop it first"
        raise ServerRunningError(holder, f"{instead}, or repeat with --force")
