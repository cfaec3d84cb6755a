# SPDX-License-Identifier: Apache-2.0
"""A store of environments, each a readable JSON file in a directory, and what serves them.

Every public name is here and nowhere else. Each is imported when it is first asked
for: the pytest plugin is loaded before coverage starts, and must not pull in the
package with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from waggle_fsstore.config import Settings
    from waggle_fsstore.domain.audit import audit
    from waggle_fsstore.domain.environment import (
        Capabilities,
        Environment,
        Owner,
        Runtime,
        Status,
    )
    from waggle_fsstore.domain.errors import (
        CapacityError,
        ConflictError,
        CorruptDocumentError,
        EnvironmentAlreadyExistsError,
        EnvironmentNotFoundError,
        EnvironmentNotRunningError,
        HistoryPrunedError,
        InvalidEnvironmentError,
        InvalidEnvironmentIdError,
        InvalidRuntimeError,
        InvalidTransitionError,
        JournalDamagedError,
        LockHolder,
        LockTimeoutError,
        NoFreePortError,
        OutcomeUnknownError,
        ProviderError,
        RuntimeUnavailableError,
        ServerRunningError,
        SettingError,
        StoreClosedError,
        StoreError,
        UnsupportedFormatError,
        WaggleError,
        WorkspaceGoneError,
    )
    from waggle_fsstore.domain.event import Event, EventKind
    from waggle_fsstore.domain.finding import Finding, Severity
    from waggle_fsstore.domain.repository import Repository, TransactionalRepository
    from waggle_fsstore.provider.local import LocalProvider
    from waggle_fsstore.service.environments import EnvironmentService
    from waggle_fsstore.service.ports import Ports
    from waggle_fsstore.service.provider import Provider
    from waggle_fsstore.service.reaper import Reaper
    from waggle_fsstore.service.reconcile import Reconciliation
    from waggle_fsstore.store.file_store import FileStore
    from waggle_fsstore.store.memory_store import MemoryStore
    from waggle_fsstore.wiring import open_repository, open_service

__version__: Final = "0.1.0"

_HOMES: Final = {
    "wiring": ("open_repository", "open_service"),
    "config": ("Settings",),
    "domain.audit": ("audit",),
    "domain.environment": ("Capabilities", "Environment", "Owner", "Runtime", "Status"),
    "domain.errors": (
        "CapacityError",
        "ConflictError",
        "CorruptDocumentError",
        "EnvironmentAlreadyExistsError",
        "EnvironmentNotFoundError",
        "EnvironmentNotRunningError",
        "HistoryPrunedError",
        "InvalidEnvironmentError",
        "InvalidEnvironmentIdError",
        "InvalidRuntimeError",
        "InvalidTransitionError",
        "JournalDamagedError",
        "LockHolder",
        "LockTimeoutError",
        "NoFreePortError",
        "OutcomeUnknownError",
        "ProviderError",
        "RuntimeUnavailableError",
        "ServerRunningError",
        "SettingError",
        "StoreClosedError",
        "StoreError",
        "UnsupportedFormatError",
        "WaggleError",
        "WorkspaceGoneError",
    ),
    "domain.event": ("Event", "EventKind"),
    "domain.repository": ("Repository", "TransactionalRepository"),
    "provider.local": ("LocalProvider",),
    "service.environments": ("EnvironmentService",),
    "service.ports": ("Ports",),
    "service.provider": ("Provider",),
    "service.reaper": ("Reaper",),
    "service.reconcile": ("Reconciliation",),
    "store.file_store": ("FileStore",),
    "domain.finding": ("Finding", "Severity"),
    "store.memory_store": ("MemoryStore",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Capabilities",
    "CapacityError",
    "ConflictError",
    "CorruptDocumentError",
    "Environment",
    "EnvironmentAlreadyExistsError",
    "EnvironmentNotFoundError",
    "EnvironmentNotRunningError",
    "EnvironmentService",
    "Event",
    "EventKind",
    "FileStore",
    "Finding",
    "HistoryPrunedError",
    "InvalidEnvironmentError",
    "InvalidEnvironmentIdError",
    "InvalidRuntimeError",
    "InvalidTransitionError",
    "JournalDamagedError",
    "LocalProvider",
    "LockHolder",
    "LockTimeoutError",
    "MemoryStore",
    "NoFreePortError",
    "OutcomeUnknownError",
    "Owner",
    "Ports",
    "Provider",
    "ProviderError",
    "Reaper",
    "Reconciliation",
    "Repository",
    "Runtime",
    "RuntimeUnavailableError",
    "ServerRunningError",
    "SettingError",
    "Settings",
    "Severity",
    "Status",
    "StoreClosedError",
    "StoreError",
    "TransactionalRepository",
    "UnsupportedFormatError",
    "WaggleError",
    "WorkspaceGoneError",
    "audit",
    "open_repository",
    "open_service",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
