# SPDX-License-Identifier: Apache-2.0
"""The composition root: the only place that picks a backend and a provider."""

import logging
import math
import os
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary, finalize

from waggle_fsstore import config
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.errors import SettingError, StoreGoneError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.memory_store import MemoryStore

# Each function imports what it needs: most programs need only a store.
if TYPE_CHECKING:
    from waggle_fsstore.domain.host import Hosts
    from waggle_fsstore.provider.executor import LocalExecutor
    from waggle_fsstore.provider.local import LocalProvider
    from waggle_fsstore.service.environments import EnvironmentService
    from waggle_fsstore.service.membership import Membership
    from waggle_fsstore.store.server_lock import ServerLock, ServerPresence

_log: Final = logging.getLogger(__name__)

# At least two letters: "C:" is a drive.
_match_scheme: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):").match

# Each runs once: when it is called, when its provider is freed, or at the exit of the process.
_temporary_workspaces: Final["WeakKeyDictionary[LocalProvider, finalize[..., Any]]"] = (
    WeakKeyDictionary()
)


def open_repository(
    location: str | os.PathLike[str] | None = None, *, recovers: bool = True
) -> TransactionalRepository:
    """Open the store at a location, or the default store.

    ``location`` is a path (``~`` is the home directory) or a ``file:`` URL for a
    :class:`FileStore`, ``memory:`` for a :class:`MemoryStore`, or a ``postgresql:`` URL for a
    :class:`PostgresStore`, which needs the extra ``postgres``. By default it is
    ``WAGGLE_STORE_PATH``, else ``store`` in ``WAGGLE_DATA_DIR``, else ``store`` in the
    system's directory for user data of ``waggle``. ``recovers`` is that of :class:`FileStore`.
    ``WAGGLE_STORE_TIMEOUT`` bounds the calls to a database.

    Raises ``ValueError`` for any other location, and :class:`SettingError`, which names the
    variable, if the location comes from one.
    """
    url = _database_url(location)
    if url is not None:
        try:
            return _open_database(url)
        except SettingError:
            raise
        except ValueError as error:
            if location is None:
                raise SettingError("WAGGLE_STORE_PATH", str(error)) from None
            raise
    path = _path_of(location)
    return MemoryStore() if path is None else FileStore(path, recovers=recovers)


def open_service(
    repository: TransactionalRepository,
    settings: "config.Settings | None" = None,
    *,
    as_operator: bool = False,
) -> "EnvironmentService":
    """Return a service over a store, with the provider of this machine.

    The workspaces of a :class:`FileStore` are in the directory that ``settings`` name, else in
    one beside it, with the same name and ``-workspaces`` appended; those of a store in PostgreSQL
    in that directory, else in ``workspaces`` in the data directory. Those of a store in memory
    are in a temporary directory, which is removed when the process ends. ``settings`` default
    to the ``WAGGLE_*`` environment variables. ``as_operator`` leaves the environments of this
    host to its server, if one runs on a store that several hosts share.

    Raises :class:`SettingError`, also for a directory of workspaces inside the store's own
    directories, and what :meth:`Repository.find_all` raises.
    """
    from waggle_fsstore.provider.files import WorkspaceFiles
    from waggle_fsstore.service.environments import EnvironmentService
    from waggle_fsstore.service.ports import Ports

    settings = settings or config.Settings.from_env()
    membership = _membership_of(repository, settings, as_operator=as_operator)
    root, store = _places_of(repository, settings)
    executor = executor_of(root, store, settings.execution)
    return EnvironmentService(
        repository,
        _provider_of(repository, settings, membership, root, executor),
        executor=executor,
        files=WorkspaceFiles(root, max_bytes=settings.execution.max_workspace),
        capacity=settings.max_environments,
        default_timeout=settings.default_timeout,
        max_timeout=settings.max_timeout,
        ports=Ports(settings.ssh_ports, is_here=membership.owns),
        membership=membership,
    )


def server_lock(
    name: str,
    location: str | os.PathLike[str] | None = None,
    settings: "config.Settings | None" = None,
) -> "ServerLock | None":
    """Return a lock shared by the servers of a store; ``None`` for a store in memory.

    Of a store in PostgreSQL, the servers of one host share it. Opens no store. Raises
    ``ValueError`` as :func:`open_repository` does.
    """
    from waggle_fsstore.store.server_lock import ServerLock

    path = _lock_path(location, settings)
    return None if path is None else ServerLock(path, name)


def require_store(location: str | os.PathLike[str] | None, settings: "config.Settings") -> None:
    """Raise :class:`StoreGoneError` if only the workspaces of a store are left.

    A server must not begin a new store beside them: its disk may not be mounted yet.
    """
    from waggle_fsstore.store.format.layout import Layout
    from waggle_fsstore.store.write import initialize

    if _database_url(location) is not None:
        return
    path = _path_of(location)
    if path is None or initialize.detect(Layout(os.path.realpath(path))):
        return
    workspaces = _workspaces_of(os.path.realpath(path), settings.workspaces)
    if os.path.isdir(workspaces) and os.listdir(workspaces):
        remedy = (
            f"its workspaces are in {workspaces}; put it back, or begin a new store beside "
            "them with 'serve --init'"
        )
        raise StoreGoneError(path, remedy)


def server_presence(
    location: str | os.PathLike[str] | None = None, settings: "config.Settings | None" = None
) -> "ServerPresence | None":
    """Return the lock by which a server of a store shows that it runs, as :func:`server_lock`."""
    from waggle_fsstore.store.server_lock import ServerPresence

    path = _lock_path(location, settings)
    return None if path is None else ServerPresence(path)


def remove_temporary_workspaces() -> None:
    """Remove the workspaces of stores in memory, as the exit of the process does.

    For a process that ends by ``os._exit``, which runs no exit handlers.
    """
    for remove in list(_temporary_workspaces.values()):
        remove()


def _places_of(repository: TransactionalRepository, settings: "config.Settings") -> tuple[str, str]:
    """Return the directory of the workspaces, and the path of a store in files, else ""."""
    if isinstance(repository, MemoryStore):
        import tempfile

        return tempfile.mkdtemp(prefix="waggle-"), ""
    store = str(repository.path) if isinstance(repository, FileStore) else ""
    workspaces = settings.workspaces
    return (_workspaces_of(store, workspaces) if store else _shared_workspaces(settings)), store


def _provider_of(
    repository: TransactionalRepository,
    settings: "config.Settings",
    membership: "Membership",
    root: str,
    executor: "LocalExecutor | None",
) -> "LocalProvider":
    """Return the provider of this machine, with the workspaces that belong to a store."""
    from waggle_fsstore.provider.local import LocalProvider
    from waggle_fsstore.service.revival import was_running

    if not isinstance(repository, MemoryStore):
        stored = repository.find_all(on_corrupt=lambda _: None)
        has_workspaces = any(
            one.provider in (LocalProvider.name, *LocalProvider.former_names)
            and (one.status in (Status.RUNNING, Status.DESTROYING) or was_running(one))
            and (membership.hosts is None or one.host_id == membership.id is not None)
            for one in stored
        )
        return LocalProvider(
            root,
            has_workspaces=has_workspaces,
            store=str(repository.path) if isinstance(repository, FileStore) else "",
            trash_keep=settings.trash_keep,
            trash_max=settings.trash_max,
            executor=executor,
        )
    provider = LocalProvider(root, executor=executor)
    _temporary_workspaces[provider] = finalize(provider, _remove_temporary, root)
    return provider


def executor_of(
    root: str, store: str, settings: "config.ExecutionSettings"
) -> "LocalExecutor | None":
    """Return what runs programs in the workspaces of this machine, ``None`` if nothing may."""
    from functools import partial

    from waggle_fsstore.provider.executor import LocalExecutor
    from waggle_fsstore.provider.local import LocalProvider
    from waggle_fsstore.provider.sandbox.find import find_sandbox, find_unisolated
    from waggle_fsstore.provider.sandbox.limits import Limits
    from waggle_fsstore.provider.sandbox.slots import Slots

    if settings.mode == "off" or os.name != "posix":
        return None
    tokens = os.environ.get("WAGGLE_AUTH_TOKENS_FILE", "").strip()
    is_isolated = settings.mode != "unisolated"
    find = partial(
        find_sandbox,
        root,
        settings.user,
        (store, root, tokens),
        has_network=settings.network == "host",
    )
    return LocalExecutor(
        root,
        find if is_isolated else find_unisolated,
        provider=LocalProvider.name,
        is_isolated=is_isolated,
        limits=Limits(
            memory_bytes=settings.memory_mb << 20,
            processes=settings.max_processes,
            open_files=settings.max_open_files,
            file_bytes=settings.max_file,
            disk_bytes=settings.max_workspace,
            output_bytes=settings.max_output,
            # For a server that is stopped, and so cannot watch the time.
            cpu_seconds=2 * math.ceil(settings.max_timeout.total_seconds()),
        ),
        slots=Slots(settings.max_executions_each, settings.max_executions),
        may_install=settings.network != "none",
    )


def _membership_of(
    repository: TransactionalRepository, settings: "config.Settings", *, as_operator: bool
) -> "Membership":
    """Return which host this is, of those that share a store."""
    from waggle_fsstore.service.membership import Membership, SharedMembership

    hosts: Hosts | None = getattr(repository, "hosts", None)
    if hosts is None:
        return Membership()
    from waggle_fsstore.domain.audit import host_name
    from waggle_fsstore.domain.process import boot_id
    from waggle_fsstore.provider.host_id import make_host_id, read_host_id
    from waggle_fsstore.provider.workspace_dirs import SERVERS
    from waggle_fsstore.store.server_lock import running_servers

    root = _shared_workspaces(settings)
    try:
        host_id = read_host_id(root)
    except ValueError as error:
        raise SettingError("WAGGLE_WORKSPACES", str(error)) from None
    if as_operator and running_servers(os.path.join(root, SERVERS)):
        host_id = None
    name = settings.host_name or host_name()
    return SharedMembership(
        hosts,
        host_id,
        lambda: make_host_id(root),
        name=name,
        url=settings.host_url,
        boot_id=boot_id(),
    )


def _shared_workspaces(settings: "config.Settings") -> str:
    """Return the directory of the workspaces of this host, for a store that hosts share."""
    return settings.workspaces or os.path.join(config.data_dir(), "workspaces")


def _lock_path(
    location: str | os.PathLike[str] | None, settings: "config.Settings | None"
) -> str | None:
    """Return the directory of the locks of servers; ``None`` for a store in memory."""
    if _database_url(location) is None:
        return _path_of(location)
    from waggle_fsstore.provider.workspace_dirs import SERVERS

    return os.path.join(_shared_workspaces(settings or config.Settings.from_env()), SERVERS)


def _remove_temporary(directory: str) -> None:
    """Remove the workspaces of a store in memory, but nothing that is mounted there."""
    from waggle_fsstore.provider.emptying import remove_tree

    try:
        remove_tree(directory)
    except OSError as error:
        _log.warning("%s cannot be removed: %s", directory, os.strerror(error.errno or 0))


def _workspaces_of(store: str, setting: str) -> str:
    """Return the directory of the workspaces of a store."""
    if not setting:
        return f"{store}-workspaces"
    parts = os.path.relpath(os.path.realpath(setting), os.path.realpath(store)).split(os.sep)
    if parts[0] in (".", ".waggle", "environments"):
        raise SettingError("WAGGLE_WORKSPACES", "is a directory of the store itself")
    return setting


def _database_url(location: str | os.PathLike[str] | None) -> str | None:
    """Return the URL of a PostgreSQL database at a location; ``None`` for any other one."""
    if location is None:
        location = os.environ.get("WAGGLE_STORE_PATH", "").strip()
    if isinstance(location, str) and location.startswith(("postgresql:", "postgres:")):
        return location
    return None


def _open_database(url: str) -> TransactionalRepository:
    try:
        from waggle_fsstore.store.postgres.store import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise ValueError(
            "a store in PostgreSQL needs the extra: pip install '/path/to/clone[postgres]'"
        ) from None
    return PostgresStore(url, timeout=config.database_timeout().total_seconds())


def _path_of(location: str | os.PathLike[str] | None) -> str | None:
    """Return the path of the store at a location; ``None`` for a store in memory."""
    if location is None:
        location = config.store_location()
        try:
            return _path_of(location)
        except ValueError as error:
            raise SettingError("WAGGLE_STORE_PATH", str(error)) from None
    if isinstance(location, os.PathLike):
        return os.fspath(location)
    if not location:
        raise ValueError("the location of the store is empty: give a path, file:PATH or memory:")
    if "\0" in unquote(location):
        raise ValueError("the location of the store contains a NUL character")
    if _database_url(location) is not None:
        raise ValueError(
            "this needs a store in files or memory: a store in PostgreSQL is for programs that use "
            "the library, and for verbs on records"
        )
    scheme = _match_scheme(location)
    if scheme is None:
        return config.local_path(location)
    match scheme[1].lower():
        case "memory" if location[len(scheme[0]) :].strip("/") == "":
            return None
        case "file":
            return _path_in_url(location)
        case _:
            raise ValueError(
                f"the location {location!r} is unknown: give a path (./{location} if it is one), "
                "file:PATH or memory:"
            )


def _path_in_url(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if path and config.local_path(parts.path) != parts.path:
        raise ValueError(f"the location {url!r} has a '~': write file:///path")
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not path:
        raise ValueError(f"the location {url!r} names no local path: write file:///path")
    if os.name == "nt" and re.match(r"/[A-Za-z]:", path):  # pragma: no cover
        path = path[1:]
    return path
