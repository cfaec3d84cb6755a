# SPDX-License-Identifier: Apache-2.0
"""The composition root: the only place that picks a backend and a provider."""

import os
import re
import weakref
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from waggle_fsstore import config
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.memory_store import MemoryStore

# Each function imports what it needs: most programs want nothing but a store.
if TYPE_CHECKING:
    from waggle_fsstore.provider.local import LocalProvider
    from waggle_fsstore.service.environments import EnvironmentService
    from waggle_fsstore.store.server_lock import ServerLock

# Two letters at least: "C:" is a drive.
_scheme_of = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):").match


def open_repository(location: str | os.PathLike[str] | None = None) -> TransactionalRepository:
    """Open the store at a location, or the default one.

    ``location`` is a path (``~`` is the home folder) or a ``file:`` URL of a
    :class:`FileStore`, or ``memory:`` for a :class:`MemoryStore`. Without it,
    ``WAGGLE_STORE_PATH`` says where, else the store is ``store`` in ``WAGGLE_DATA_DIR``,
    else in the user's data folder of the system for ``waggle``.

    Raises ``ValueError`` for a location that is none of these.
    """
    path = _path_of(location)
    return MemoryStore() if path is None else FileStore(path)


def open_service(
    repository: TransactionalRepository, settings: "config.Settings | None" = None
) -> "EnvironmentService":
    """A service over a store, with the provider of this machine.

    The workspaces are beside a :class:`FileStore`, in a folder that is called like it with
    ``-workspaces`` added. Those of another store are in a temporary folder, and go with
    the process. ``settings`` are by default those of the ``WAGGLE_*`` variables.

    Raises :class:`SettingError`, and what :meth:`Repository.find_all` raises.
    """
    from waggle_fsstore.service.environments import EnvironmentService
    from waggle_fsstore.service.ports import Ports

    settings = settings or config.Settings.of()
    return EnvironmentService(
        repository,
        _provider_of(repository),
        capacity=settings.max_environments,
        default_timeout=settings.default_timeout,
        ports=Ports(settings.ssh_ports),
    )


def server_lock(name: str, location: str | os.PathLike[str] | None = None) -> "ServerLock | None":
    """A lock that the servers of a store share; ``None`` where no other can serve it.

    Opens no store. Raises ``ValueError`` as :func:`open_repository`.
    """
    from waggle_fsstore.store.server_lock import ServerLock

    path = _path_of(location)
    return None if path is None else ServerLock(path, name)


def _provider_of(repository: TransactionalRepository) -> "LocalProvider":
    """The provider of this machine, with the workspaces that belong to a store."""
    from waggle_fsstore.provider.local import LocalProvider

    if isinstance(repository, FileStore):
        stored = repository.find_all(on_corrupt=lambda _: None)
        has_workspaces = any(
            one.is_running and one.provider == LocalProvider.name for one in stored
        )
        return LocalProvider(f"{repository.path}-workspaces", has_workspaces=has_workspaces)
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="waggle-")
    provider = LocalProvider(folder)
    weakref.finalize(provider, shutil.rmtree, folder, ignore_errors=True)
    return provider


def _path_of(location: str | os.PathLike[str] | None) -> str | None:
    """The path of the store at a location; ``None`` for one in memory."""
    if location is None:
        location = config.store_location()
    if isinstance(location, os.PathLike):
        return os.fspath(location)
    if not location:
        raise ValueError("the location of the store is empty: give a path, file:PATH or memory:")
    if "\0" in unquote(location):
        raise ValueError("the location of the store holds a NUL character")
    scheme = _scheme_of(location)
    if scheme is None:
        return os.path.expanduser(location)
    match scheme[1].lower():
        case "memory" if location[len(scheme[0]) :].strip("/") == "":
            return None
        case "file":
            return _path_in(location)
        case _:
            raise ValueError(
                f"the location {location!r} is unknown: give a path (./{location} if it is one), "
                "file:PATH or memory:"
            )


def _path_in(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not path:
        raise ValueError(f"the location {url!r} names no local path: write file:///path")
    if os.name == "nt" and re.match(r"/[A-Za-z]:", path):  # pragma: no cover
        path = path[1:]
    return path
