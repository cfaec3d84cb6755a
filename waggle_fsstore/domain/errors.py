# SPDX-License-Identifier: Apache-2.0
"""What can go wrong: every error of the package.

::

    WaggleError
      EnvironmentNotFoundError(LookupError)    .environment_id
      EnvironmentAlreadyExistsError            .environment_id
      EnvironmentNotRunningError               .environment_id .status
      InvalidEnvironmentError(ValueError)      .field .reason
        InvalidEnvironmentIdError
        InvalidRuntimeError
      InvalidTransitionError(ValueError)       .source .target
      CapacityError                            .capacity
      NoFreePortError                          .first .last
      ProviderError                            .provider .reason
        RuntimeUnavailableError                .provider .reason .runtime
        WorkspaceGoneError                     .provider .reason
      SettingError(ValueError)                 .variable .reason
      ServerRunningError                       .holder
      StoreError
        CorruptDocumentError                   .path .reason
        UnsupportedFormatError                 .path .found .supported
        ConflictError                          .environment_id .expected .actual
        LockTimeoutError(TimeoutError)         .path .holder .timeout
        OutcomeUnknownError                    .path
        JournalDamagedError                    .path .line
        HistoryPrunedError                     .oldest
        StoreClosedError

What the operating system reports (disk full, read-only, no permission) is not
wrapped: it stays an ``OSError`` with its ``errno`` and ``filename``. Note that a
``LockTimeoutError`` is an ``OSError`` too, because ``TimeoutError`` is one: catch
it first.
"""

from typing import ClassVar

from waggle_fsstore.domain.base_error import WaggleError, short
from waggle_fsstore.domain.store_errors import (
    ConflictError,
    CorruptDocumentError,
    HistoryPrunedError,
    JournalDamagedError,
    LockHolder,
    LockTimeoutError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreError,
    UnsupportedFormatError,
)

__all__ = [
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
]


class EnvironmentNotFoundError(WaggleError, LookupError):
    """No environment with this id is stored."""

    _fields = ("environment_id",)

    def __init__(self, environment_id: str) -> None:
        self.environment_id = environment_id
        super().__init__(f"environment not found: {short(environment_id)}")


class EnvironmentAlreadyExistsError(WaggleError):
    """An environment with this id is stored already."""

    _fields = ("environment_id",)

    def __init__(self, environment_id: str) -> None:
        self.environment_id = environment_id
        super().__init__(f"environment already exists: {short(environment_id)}")


class EnvironmentNotRunningError(WaggleError):
    """The operation needs a running environment, and this one is not."""

    _fields = ("environment_id", "status")

    def __init__(self, environment_id: str, status: str) -> None:
        self.environment_id = environment_id
        self.status = status
        super().__init__(f"environment {short(environment_id)} is {status}, not running")


class InvalidEnvironmentError(WaggleError, ValueError):
    """A field of an environment holds a value that no store accepts."""

    _fields: ClassVar[tuple[str, ...] | None] = ("field", "reason")

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"invalid environment: {field}: {reason}")


class InvalidEnvironmentIdError(InvalidEnvironmentError):
    """The id is not 1-200 bytes of UTF-8 without NUL."""

    _fields = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__("id", reason)


class InvalidRuntimeError(InvalidEnvironmentError):
    """The runtime is none of the known ones."""

    _fields = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__("runtime", reason)


class InvalidTransitionError(WaggleError, ValueError):
    """The state machine has no step from ``source`` to ``target``."""

    _fields = ("source", "target")

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        super().__init__(f"an environment that is {source} cannot become {target}")


class CapacityError(WaggleError):
    """As many live environments as allowed are stored already."""

    _fields = ("capacity",)

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        super().__init__(
            f"{capacity} live environments is the limit, and it is reached: "
            "destroy one or raise the capacity"
        )


class NoFreePortError(WaggleError):
    """Every port of the range is taken, by an environment or by another program."""

    _fields = ("first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        super().__init__(
            f"no port from {first} to {last} is free: destroy an environment or widen the range"
        )


class ProviderError(WaggleError):
    """The provider could not make, check or remove an environment.

    ``reason`` is one line without paths, fit to be shown to a client. What lies behind
    it, such as an ``OSError``, is its ``__cause__``.
    """

    _fields: ClassVar[tuple[str, ...] | None] = ("provider", "reason")

    def __init__(self, provider: str, reason: str) -> None:
        self.provider = provider
        self.reason = reason
        super().__init__(f"provider {provider}: {reason}")


class RuntimeUnavailableError(ProviderError):
    """The provider has no such runtime here: install it, or ask for another one."""

    _fields = ("provider", "reason", "runtime")

    def __init__(self, provider: str, reason: str, runtime: str) -> None:
        self.runtime = runtime
        super().__init__(provider, reason)


class WorkspaceGoneError(ProviderError):
    """What the environment runs in is gone, or broken for good: nothing brings it back."""


class SettingError(WaggleError, ValueError):
    """A setting has a value that it cannot have; nothing was started."""

    _fields = ("variable", "reason")

    def __init__(self, variable: str, reason: str) -> None:
        self.variable = variable
        self.reason = reason
        super().__init__(f"{variable}: {reason}")


class ServerRunningError(WaggleError):
    """Another server serves this store already. Nothing was changed.

    ``holder`` is who that is, ``None`` if it cannot be told.
    """

    _fields = ("holder",)

    def __init__(self, holder: LockHolder | None) -> None:
        self.holder = holder
        super().__init__(
            f"the store is served already, by {holder or 'an unknown process'}: "
            "stop that server, or give this one a store of its own"
        )
