# SPDX-License-Identifier: Apache-2.0
"""A durable store for agent environments, one readable JSON file each, with an MCP server, a CLI and pytest fixtures included.

All public names are here. Each is imported when it is first used, because the pytest plugin is
loaded before coverage starts and must not import the rest of the package.
"""  # noqa: E501  # The sentence that describes the project everywhere.

from importlib import import_module
from typing import TYPE_CHECKING, Final

# "A as A" tells type checkers that A is public.
# isort: off
if TYPE_CHECKING:
    from waggle_fsstore.config import (
        ExecutionSettings as ExecutionSettings,
        Settings as Settings,
    )
    from waggle_fsstore.domain.audit import audit as audit
    from waggle_fsstore.domain.environment import (
        Capabilities as Capabilities,
        Environment as Environment,
        Idempotency as Idempotency,
        Owner as Owner,
        Runtime as Runtime,
        Status as Status,
    )
    from waggle_fsstore.domain.errors import (
        CapacityError as CapacityError,
        ConflictError as ConflictError,
        CorruptDocumentError as CorruptDocumentError,
        CountMismatchError as CountMismatchError,
        CreationCancelledError as CreationCancelledError,
        DestroyPendingError as DestroyPendingError,
        EnvironmentAlreadyExistsError as EnvironmentAlreadyExistsError,
        EnvironmentNotFoundError as EnvironmentNotFoundError,
        EnvironmentNotRunningError as EnvironmentNotRunningError,
        ExecutionUnavailableError as ExecutionUnavailableError,
        HistoryLostError as HistoryLostError,
        HistoryPrunedError as HistoryPrunedError,
        HostNotFoundError as HostNotFoundError,
        HostRefusedError as HostRefusedError,
        HostUnreachableError as HostUnreachableError,
        IdempotencyKeyReusedError as IdempotencyKeyReusedError,
        InvalidEnvironmentError as InvalidEnvironmentError,
        InvalidEnvironmentIdError as InvalidEnvironmentIdError,
        InvalidRuntimeError as InvalidRuntimeError,
        InvalidTransitionError as InvalidTransitionError,
        JournalDamagedError as JournalDamagedError,
        LockHolder as LockHolder,
        LockTimeoutError as LockTimeoutError,
        NoFreePortError as NoFreePortError,
        OtherHostError as OtherHostError,
        OutcomeUnknownError as OutcomeUnknownError,
        ProviderError as ProviderError,
        RuntimeUnavailableError as RuntimeUnavailableError,
        ServerRunningError as ServerRunningError,
        SettingError as SettingError,
        StoreClosedError as StoreClosedError,
        StoreError as StoreError,
        StoreGoneError as StoreGoneError,
        StoreUnavailableError as StoreUnavailableError,
        TooManyExecutionsError as TooManyExecutionsError,
        UnsupportedFormatError as UnsupportedFormatError,
        WaggleError as WaggleError,
        WorkspaceGoneError as WorkspaceGoneError,
        WorkspacePathError as WorkspacePathError,
    )
    from waggle_fsstore.domain.event import (
        Event as Event,
        EventKind as EventKind,
    )
    from waggle_fsstore.domain.execution import (
        Execution as Execution,
        Stop as Stop,
    )
    from waggle_fsstore.domain.finding import (
        Finding as Finding,
        Severity as Severity,
    )
    from waggle_fsstore.domain.repository import (
        Repository as Repository,
        TransactionalRepository as TransactionalRepository,
    )
    from waggle_fsstore.domain.workspace_file import (
        FileEntry as FileEntry,
        FilePart as FilePart,
    )
    from waggle_fsstore.provider.local import LocalProvider as LocalProvider
    from waggle_fsstore.service.cancellation import Cancellation as Cancellation
    from waggle_fsstore.service.environments import EnvironmentService as EnvironmentService
    from waggle_fsstore.service.executor import Executor as Executor
    from waggle_fsstore.service.files import Files as Files
    from waggle_fsstore.service.ports import Ports as Ports
    from waggle_fsstore.service.provider import Leftovers as Leftovers
    from waggle_fsstore.service.provider import Provider as Provider
    from waggle_fsstore.service.reaper import Reaper as Reaper
    from waggle_fsstore.service.reconcile import Reconciliation as Reconciliation
    from waggle_fsstore.service.workspaces import Workspaces as Workspaces
    from waggle_fsstore.store.file_store import FileStore as FileStore
    from waggle_fsstore.store.maintenance.info import StoreInfo as StoreInfo
    from waggle_fsstore.store.maintenance.prune import Pruned as Pruned
    from waggle_fsstore.store.maintenance.restore import Restored as Restored
    from waggle_fsstore.store.maintenance.snapshot import Snapshot as Snapshot
    from waggle_fsstore.store.memory_store import MemoryStore as MemoryStore
    from waggle_fsstore.wiring import (
        open_repository as open_repository,
        open_service as open_service,
    )
# isort: on

__version__: Final = "0.1.0"

#: The public names, by the module that defines them.
_NAMES: Final = {
    "config": "ExecutionSettings Settings",
    "domain.audit": "audit",
    "domain.environment": "Capabilities Environment Idempotency Owner Runtime Status",
    "domain.errors": (
        "CapacityError ConflictError CorruptDocumentError CountMismatchError "
        "CreationCancelledError "
        "DestroyPendingError EnvironmentAlreadyExistsError EnvironmentNotFoundError "
        "EnvironmentNotRunningError ExecutionUnavailableError HistoryLostError "
        "HistoryPrunedError HostNotFoundError "
        "HostRefusedError HostUnreachableError IdempotencyKeyReusedError InvalidEnvironmentError "
        "InvalidEnvironmentIdError InvalidRuntimeError InvalidTransitionError JournalDamagedError "
        "LockHolder LockTimeoutError NoFreePortError OtherHostError OutcomeUnknownError "
        "ProviderError "
        "RuntimeUnavailableError ServerRunningError SettingError StoreClosedError StoreError "
        "StoreGoneError StoreUnavailableError TooManyExecutionsError UnsupportedFormatError "
        "WaggleError WorkspaceGoneError WorkspacePathError"
    ),
    "domain.event": "Event EventKind",
    "domain.execution": "Execution Stop",
    "domain.finding": "Finding Severity",
    "domain.repository": "Repository TransactionalRepository",
    "domain.workspace_file": "FileEntry FilePart",
    "provider.local": "LocalProvider",
    "service.cancellation": "Cancellation",
    "service.environments": "EnvironmentService",
    "service.executor": "Executor",
    "service.files": "Files",
    "service.ports": "Ports",
    "service.provider": "Leftovers Provider",
    "service.reaper": "Reaper",
    "service.reconcile": "Reconciliation",
    "service.workspaces": "Workspaces",
    "store.file_store": "FileStore",
    "store.maintenance.info": "StoreInfo",
    "store.maintenance.prune": "Pruned",
    "store.maintenance.restore": "Restored",
    "store.maintenance.snapshot": "Snapshot",
    "store.memory_store": "MemoryStore",
    "wiring": "open_repository open_service",
}
_HOME_OF: Final = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
