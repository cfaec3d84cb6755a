# SPDX-License-Identifier: Apache-2.0
"""Every error that the package raises.

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
      IdempotencyKeyReusedError                .idempotency_key .environment_id
      CreationCancelledError
      CountMismatchError                       .expected .actual
      ProviderError                            .provider .reason
        RuntimeUnavailableError                .provider .reason .runtime
        WorkspaceGoneError                     .provider .reason
        ExecutionUnavailableError              .provider .reason
        TooManyExecutionsError                 .provider .reason
        OtherHostError                         .provider .reason .host .url
      WorkspacePathError(ValueError)           .workspace_path .reason
      SettingError(ValueError)                 .variable .reason
      ServerRunningError                       .holder .advice
      HostNotFoundError(LookupError)           .name
      HostRefusedError                         .name .reason
      DestroyPendingError                      .environment_id .host
      HostUnreachableError                     .environment_id .host .reason
      StoreError
        CorruptDocumentError                   .path .reason
        UnsupportedFormatError                 .path .found .supported
        ConflictError                          .environment_id .expected .actual
        LockTimeoutError(TimeoutError)         .path .holder .timeout
        OutcomeUnknownError                    .path
        JournalDamagedError                    .path .line
        HistoryPrunedError                     .oldest
        HistoryLostError(ValueError)           .after
        StoreGoneError                         .path .remedy
        StoreUnavailableError                  .location .reason
        StoreClosedError

Errors of the operating system (disk full, read-only, no permission) are not wrapped: they
stay an ``OSError`` with its ``errno`` and ``filename``. A ``LockTimeoutError`` is an
``OSError`` too, because ``TimeoutError`` is one: catch it first.
"""

import errno
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

_MAX_ID_CHARACTERS: Final = 250


class WaggleError(Exception):
    """Base of every error of this package; carries its data as attributes.

    A subclass with its own constructor lists that constructor's arguments in ``_fields``,
    and stores each under the same name. The error then survives ``pickle`` and ``copy``,
    and can cross a process pool.
    """

    _fields: ClassVar[tuple[str, ...] | None] = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._fields is None:
            arguments = self.args
        else:
            arguments = tuple(getattr(self, name) for name in self._fields)
        return type(self), arguments, self.__dict__.copy()


# Errors of an environment


class EnvironmentNotFoundError(WaggleError, LookupError):
    """No environment with this id is stored."""

    _fields = ("environment_id",)

    def __init__(self, environment_id: str) -> None:
        self.environment_id = environment_id
        super().__init__(f"environment not found: {_quoted(environment_id)}")


class EnvironmentAlreadyExistsError(WaggleError):
    """An environment with this id is already stored, or has the same idempotency key."""

    _fields = ("environment_id",)

    def __init__(self, environment_id: str) -> None:
        self.environment_id = environment_id
        super().__init__(f"environment already exists: {_quoted(environment_id)}")


class EnvironmentNotRunningError(WaggleError):
    """The operation needs a running environment, and this one has another status."""

    _fields = ("environment_id", "status")

    def __init__(self, environment_id: str, status: str) -> None:
        self.environment_id = environment_id
        self.status = status
        super().__init__(f"environment {_quoted(environment_id)} is {status}, not running")


class InvalidEnvironmentError(WaggleError, ValueError):
    """A field of an environment has a value that no store accepts."""

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
    """The runtime is unknown."""

    _fields = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__("runtime", reason)


class InvalidTransitionError(WaggleError, ValueError):
    """The state machine has no transition from ``source`` to ``target``."""

    _fields = ("source", "target")

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        super().__init__(f"an environment that is {source} cannot become {target}")


class CapacityError(WaggleError):
    """As many live environments are stored as the capacity allows."""

    _fields = ("capacity",)

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        super().__init__(
            f"the limit of {capacity} live environments is reached: "
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


class IdempotencyKeyReusedError(WaggleError):
    """The idempotency key belongs to a creation with other arguments. Nothing was created.

    ``environment_id`` is the environment that was created with it.
    """

    _fields = ("idempotency_key", "environment_id")

    def __init__(self, idempotency_key: str, environment_id: str) -> None:
        self.idempotency_key = idempotency_key
        self.environment_id = environment_id
        super().__init__(
            f"the idempotency key {_quoted(idempotency_key)} was used with other arguments, for "
            f"environment {_quoted(environment_id)}: repeat those arguments, or use a new key"
        )


class CreationCancelledError(WaggleError):
    """The creation was cancelled; neither a record nor a workspace is left of it."""

    _fields = ()

    def __init__(self) -> None:
        super().__init__("the creation was cancelled")


class CountMismatchError(WaggleError):
    """Another number of environments has the labels than the caller expected. None was destroyed.

    ``actual`` is their number now.
    """

    _fields = ("expected", "actual")

    def __init__(self, expected: int, actual: int) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"the number of environments with these labels is {actual}, not {expected}: look at "
            "them again"
        )


class ProviderError(WaggleError):
    """The provider failed to make, check or remove an environment.

    ``reason`` is one line without paths, fit to be shown to a client. The underlying
    error, such as an ``OSError``, is its ``__cause__``.
    """

    _fields: ClassVar[tuple[str, ...] | None] = ("provider", "reason")

    def __init__(self, provider: str, reason: str) -> None:
        self.provider = provider
        self.reason = reason
        super().__init__(f"provider {provider}: {reason}")


class RuntimeUnavailableError(ProviderError):
    """The provider lacks this runtime on this machine: install it, or ask for another one."""

    _fields = ("provider", "reason", "runtime")

    def __init__(self, provider: str, reason: str, runtime: str) -> None:
        self.runtime = runtime
        super().__init__(provider, reason)


class WorkspaceGoneError(ProviderError):
    """The workspace of the environment is gone or broken, and cannot be restored."""


class ExecutionUnavailableError(ProviderError):
    """Nothing can be run in environments here; ``reason`` says what is missing."""


class TooManyExecutionsError(ProviderError):
    """The environment, or the whole server, runs as many programs as it may: try again."""


class OtherHostError(ProviderError):
    """Another host has the files of the environment.

    ``host`` is its name, "" if it is unknown; ``url`` is where its server can be reached, "" if it
    does not say.
    """

    _fields = ("provider", "reason", "host", "url")

    def __init__(self, provider: str, reason: str, host: str, url: str) -> None:
        self.host = host
        self.url = url
        super().__init__(provider, reason)


class WorkspacePathError(WaggleError, ValueError):
    """A path does not lead to such a file in the workspace.

    ``workspace_path`` is the path as the caller gave it.
    """

    _fields = ("workspace_path", "reason")

    def __init__(self, workspace_path: str, reason: str) -> None:
        self.workspace_path = workspace_path
        self.reason = reason
        super().__init__(f"{workspace_path!r:.200} {reason}")


# Errors of a store


class StoreError(WaggleError):
    """Base of the errors of a store."""


class CorruptDocumentError(StoreError):
    """A file that is not a document of the store, or only part of one.

    All other documents remain usable. Repair the file, or ``delete`` its environment,
    which moves the file to ``.waggle/lost+found``.
    """

    _fields = ("path", "reason")

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason} (repair the file or move it away)")


class UnsupportedFormatError(StoreError):
    """A file or directory that was written by a newer version, or by another program.

    It is neither read nor overwritten. ``found`` is its format number, or a description
    of its contents.
    """

    _fields = ("path", "found", "supported")

    def __init__(self, path: str | PathLike[str], found: int | str, supported: int) -> None:
        self.path = Path(path)
        self.found = found
        self.supported = supported
        if isinstance(found, int):
            problem = f"has format {found}, this program supports up to {supported}: upgrade it"
        else:
            problem = f"is not a store: {found}; choose a new or empty directory"
        super().__init__(f"{self.path} {problem}")


class ConflictError(StoreError):
    """The stored version is not the expected one: it was changed in the meantime.

    ``actual`` is the stored revision, 0 when nothing is stored. A manual edit is a version
    too, and gets its own revision.
    """

    _fields = ("environment_id", "expected", "actual")

    def __init__(self, environment_id: str, expected: int, actual: int) -> None:
        self.environment_id = environment_id
        self.expected = expected
        self.actual = actual
        found = f"revision {actual}" if actual else "nothing"
        wanted = f"revision {expected}" if expected else "nothing"
        super().__init__(
            f"environment {_quoted(environment_id)}: expected {wanted}, found {found}: "
            "read it again and repeat the change"
        )


class LockHolder(NamedTuple):
    """The process that last acquired a lock: process id, host name, and when (UTC).

    Of a process that acquires it often, ``since`` may be up to a second early.
    """

    pid: int
    host: str
    since: datetime

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since:%Y-%m-%d %H:%M:%S} UTC"


class LockTimeoutError(StoreError, TimeoutError):
    """The store lock did not become free in time; nothing was changed.

    ``holder`` is the process that last acquired the lock, as the lock file says, ``None`` if
    that is unreadable; ``timeout`` is the time waited, in seconds.
    """

    _fields = ("path", "holder", "timeout")

    def __init__(
        self, path: str | PathLike[str], holder: LockHolder | None, timeout: float
    ) -> None:
        message = (
            f"the store lock was not free within {timeout:g} s; last known holder: "
            f"{holder or 'an unknown process'}"
        )
        super().__init__(errno.ETIMEDOUT, message, str(path))
        self.path = Path(path)
        self.holder = holder
        self.timeout = timeout


class OutcomeUnknownError(StoreError):
    """A change failed, and it is unknown whether it will be visible after a restart.

    After any other error, a failed write has changed nothing. The ``__cause__`` is the
    failure. Once the disk works again, read the environment.
    """

    _fields = ("path",)

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        super().__init__(
            f"{self.path}: the change failed and could not be rolled back; it may or may not "
            "be visible after a restart: check the disk or the database server, then read the "
            "environment again"
        )


class JournalDamagedError(StoreError):
    """A journal line is damaged and good lines follow it, which no crash can cause.

    Writes are refused until the journal is repaired; documents can still be read.
    ``line`` counts from 1.
    """

    _fields = ("path", "line")

    def __init__(self, path: str | PathLike[str], line: int) -> None:
        self.path = Path(path)
        self.line = line
        super().__init__(
            f"{self.path}: line {line} is damaged; writes are refused until it is repaired: "
            "run 'waggle-fsstore fsck --repair'"
        )


class HistoryPrunedError(StoreError):
    """The requested history was pruned; ``oldest`` is the first sequence number kept."""

    _fields = ("oldest",)

    def __init__(self, oldest: int) -> None:
        self.oldest = oldest
        super().__init__(f"the history starts at {oldest}: earlier changes were pruned")


class HistoryLostError(StoreError, ValueError):
    """The history no longer has the change that a cursor names: it cannot be continued there.

    An older state of the store was put back, or a copy or another store took its place.
    ``after`` is the number of the change. Read the environments again, and then the history
    from a new cursor.
    """

    _fields = ("after",)

    def __init__(self, after: int) -> None:
        self.after = after
        super().__init__(
            f"the history cannot be continued after change {after}: an older state of the store "
            "was put back, or a copy or another store took its place; read the environments "
            "again, and the history from its beginning (after 0)"
        )


class StoreGoneError(StoreError):
    """The store was at this path, and is gone: removed, moved or unmounted.

    Nothing is made in its place. Once it is back, every call works again. ``remedy`` says
    what to do.
    """

    _fields = ("path", "remedy")

    def __init__(
        self, path: str | PathLike[str], remedy: str = "put it back, and no restart is needed"
    ) -> None:
        self.path = Path(path)
        self.remedy = remedy
        super().__init__(
            f"{self.path}: the store is gone: it was removed or moved, or its disk is not "
            f"mounted: {remedy}"
        )


class StoreUnavailableError(StoreError):
    """The database server of the store cannot be reached, or refuses its work; nothing was changed.

    ``location`` is the server, without credentials; ``reason`` is one line about it.
    """

    _fields = ("location", "reason")

    def __init__(self, location: str, reason: str) -> None:
        self.location = location
        self.reason = reason
        super().__init__(f"the store at {location} is unavailable: {reason}")


class StoreClosedError(StoreError):
    """The store was closed; open a new one."""

    _fields = ()

    def __init__(self) -> None:
        super().__init__("the store is closed: open a new one")


# Errors of a server


class SettingError(WaggleError, ValueError):
    """A setting has an invalid value; nothing was started."""

    _fields = ("variable", "reason")

    def __init__(self, variable: str, reason: str) -> None:
        self.variable = variable
        self.reason = reason
        super().__init__(f"{variable}: {reason}")


class ServerRunningError(WaggleError):
    """A server already serves this store. Nothing was changed.

    ``holder`` is the process of that server, ``None`` if it is unknown; ``advice`` is what
    to do.
    """

    _fields = ("holder", "advice")

    def __init__(
        self,
        holder: LockHolder | None,
        advice: str = "stop that server, or choose another store for this one",
    ) -> None:
        self.holder = holder
        self.advice = advice
        super().__init__(
            f"the store is already served by {holder or 'an unknown process'}: {advice}"
        )


# Errors of hosts that share a store


class HostNotFoundError(WaggleError, LookupError):
    """No host of this name shares the store."""

    _fields = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"host not found: {_quoted(name)}: see 'waggle-fsstore host ls'")


class HostRefusedError(WaggleError):
    """The host may not use the store: it was removed, or another one has its name."""

    _fields = ("name", "reason")

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"host {_quoted(name)} may not use the store: {reason}")


class DestroyPendingError(WaggleError):
    """The environment is *destroying*, and the host that has its files has not removed it yet.

    ``host`` is the name of that host, and since when it is silent, if it is.
    """

    _fields = ("environment_id", "host")

    def __init__(self, environment_id: str, host: str) -> None:
        self.environment_id = environment_id
        self.host = host
        super().__init__(
            f"environment {_quoted(environment_id)} is destroying: host {host} has its files, and "
            "removes it as soon as it can"
        )


class HostUnreachableError(WaggleError):
    """The server of the host that has the files of the environment does not do what was asked.

    ``reason`` says why, and whether it may have begun to; it is fit to be shown to a client.
    """

    _fields = ("environment_id", "host", "reason")

    def __init__(self, environment_id: str, host: str, reason: str) -> None:
        self.environment_id = environment_id
        self.host = host
        self.reason = reason
        super().__init__(
            f"host {host}, which has the files of environment {_quoted(environment_id)}, cannot be "
            f"reached: {reason}"
        )


def _quoted(environment_id: object) -> str:
    """Return the id for a message: quoted, escaped, and of bounded length."""
    text = ascii(environment_id)
    return text if len(text) <= _MAX_ID_CHARACTERS else f"{text[:_MAX_ID_CHARACTERS]}..."
