# SPDX-License-Identifier: Apache-2.0
"""Environment: its fields, their valid values and its state machine."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from waggle_fsstore.domain.defaults import DEFAULT_IDLE_TIMEOUT
from waggle_fsstore.domain.errors import (
    InvalidEnvironmentError,
    InvalidRuntimeError,
    InvalidTransitionError,
)
from waggle_fsstore.domain.validation import (
    MAX_ID_BYTES,
    MAX_REVISION,
    are_ascii,
    check_id,
    check_integer,
    json_object,
    string_dict,
    text,
    title,
    utc,
)

MAX_PORT: Final = 65535

# A century. Up to here a number of seconds is exact to the microsecond as a JSON double.
MAX_TIMEOUT: Final = timedelta(days=36_500)


class Runtime(StrEnum):
    """The interpreter that an environment offers."""

    PYTHON = "python"
    NODE = "node"
    SHELL = "shell"


class Status(StrEnum):
    """The state of an environment in its life cycle."""

    CREATING = "creating"
    RUNNING = "running"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"
    ERROR = "error"

    @property
    def is_live(self) -> bool:
        """Whether an environment in this status takes up capacity."""
        return self in _LIVE


_LIVE: Final = frozenset({Status.CREATING, Status.RUNNING, Status.DESTROYING})

_TRANSITIONS: Final = {
    Status.CREATING: frozenset({Status.RUNNING, Status.ERROR}),
    Status.RUNNING: frozenset({Status.DESTROYING, Status.ERROR}),
    Status.DESTROYING: frozenset({Status.DESTROYED}),
    Status.DESTROYED: frozenset[Status](),
    Status.ERROR: frozenset({Status.RUNNING, Status.DESTROYING}),
}


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The tools that a probe found in an environment; immutable.

    ``path`` is the search path (``PATH``). A missing command is "".
    Raises :class:`InvalidEnvironmentError` naming ``capabilities.<field>``.
    """

    # In the order of a document, and without slots: the codec passes them on as they are.
    detected_at: datetime
    has_apk: bool = False
    has_apt_get: bool = False
    has_dnf: bool = False
    has_venv: bool = False
    has_yum: bool = False
    has_zypper: bool = False
    is_root: bool = False
    node_command: str = ""
    npm_command: str = ""
    path: str = ""
    pip_command: str = ""
    python_command: str = ""

    def __post_init__(self) -> None:
        detected_at = utc("capabilities.detected_at", self.detected_at)
        object.__setattr__(self, "detected_at", detected_at)
        for name in _CAPABILITY_TEXTS:
            object.__setattr__(self, name, text(f"capabilities.{name}", getattr(self, name)))
        for name in _CAPABILITY_FLAGS:
            if type(getattr(self, name)) is not bool:
                raise InvalidEnvironmentError(f"capabilities.{name}", "is not true or false")


_CAPABILITY_TEXTS: Final = tuple(f.name for f in fields(Capabilities) if f.type is str)
_CAPABILITY_FLAGS: Final = tuple(f.name for f in fields(Capabilities) if f.type is bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The process that is working on an environment; immutable.

    A process id alone proves nothing after a restart, so it comes with the boot id and
    the start time of the process (``process_started``, in the unit of the system, such
    as clock ticks since boot). ``pid_namespace`` is the namespace in which the process has
    this id, as the inode of ``/proc/self/ns/pid``; 0 where that is unknown.
    Raises :class:`InvalidEnvironmentError` naming ``owner.<field>``.
    """

    host: str
    boot_id: str
    pid: int
    process_started: int
    pid_namespace: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", text("owner.host", self.host))
        object.__setattr__(self, "boot_id", text("owner.boot_id", self.boot_id))
        check_integer("owner.pid", self.pid, 0, MAX_REVISION)
        check_integer("owner.process_started", self.process_started, 0, MAX_REVISION)
        check_integer("owner.pid_namespace", self.pid_namespace, 0, MAX_REVISION)


@dataclass(frozen=True, kw_only=True, slots=True)
class Idempotency:
    """The call that created an environment, so that a repeated call finds it; immutable.

    ``key`` is chosen by the caller, 1-200 printable characters. ``arguments`` is a digest of
    the other arguments of the call.
    Raises :class:`InvalidEnvironmentError` naming ``idempotency.<field>``.
    """

    key: str
    arguments: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", title("idempotency.key", self.key))
        object.__setattr__(self, "arguments", text("idempotency.arguments", self.arguments))


@dataclass(kw_only=True, slots=True)
class Environment:
    """One execution environment.

    A plain mutable value. The constructor copies ``labels`` and ``extra``, and converts
    times to UTC and the strings of ``runtime`` and ``status`` to their enums. It rejects
    invalid values, and so does every store on saving.

    - ``id``: 1-200 bytes of UTF-8 without NUL; a random UUID by default.
    - ``ssh_port``: 0-65535, 0 for none.
    - ``timeout``: the idle time after which it expires; zero or less for never.
    - ``capabilities``: ``None`` until probed.
    - ``provider``: the name of the provider that made it, ``None`` before that.
    - ``host_id``: the host that has its files, in a store that several hosts share; else ``None``.
    - ``owner``: the process that is creating or destroying it.
    - ``discard_files``: while it is being destroyed, whether its files are deleted at once;
      otherwise they are kept for a while.
    - ``idempotency``: the call that created it, ``None`` if the caller gave no key.
    - ``revision``: set by the store on each version that it returns; 0 means never
      stored. It is not part of equality.
    - ``extra``: the keys of its file that this version does not know, as JSON
      values. It may not contain a known key.

    Raises :class:`InvalidEnvironmentError`, or its subclass for the id or the
    runtime, with the name of the field in ``.field``.
    """

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str
    runtime: Runtime
    status: Status = Status.CREATING
    ssh_port: int = 0
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    last_used: datetime = field(default_factory=lambda: datetime.now(UTC))
    timeout: timedelta = DEFAULT_IDLE_TIMEOUT
    capabilities: Capabilities | None = None
    labels: dict[str, str] = field(default_factory=dict)
    provider: str | None = None
    host_id: str | None = None
    owner: Owner | None = None
    status_reason: str = ""
    discard_files: bool = False
    idempotency: Idempotency | None = None
    revision: int = field(default=0, compare=False)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.id)
        self.id = text("id", self.id)
        self.name = text("name", self.name)
        if type(self.runtime) is not Runtime:
            self.runtime = _runtime(self.runtime)
        if type(self.status) is not Status:
            self.status = _status(self.status)
        check_integer("ssh_port", self.ssh_port, 0, MAX_PORT)
        self.created_at = utc("created_at", self.created_at)
        self.last_used = utc("last_used", self.last_used)
        if not isinstance(self.timeout, timedelta):
            raise InvalidEnvironmentError("timeout", "is not a timedelta")
        if abs(self.timeout) > MAX_TIMEOUT:
            raise InvalidEnvironmentError("timeout", "is more than a century")
        if self.capabilities is not None and type(self.capabilities) is not Capabilities:
            raise InvalidEnvironmentError("capabilities", "is neither Capabilities nor None")
        self.labels = string_dict("labels", self.labels)
        if self.provider is not None:
            self.provider = text("provider", self.provider)
        if self.host_id is not None:
            self.host_id = text("host_id", self.host_id)
        if self.owner is not None and type(self.owner) is not Owner:
            raise InvalidEnvironmentError("owner", "is neither Owner nor None")
        self.status_reason = text("status_reason", self.status_reason)
        if type(self.discard_files) is not bool:
            raise InvalidEnvironmentError("discard_files", "is neither true nor false")
        if self.idempotency is not None and type(self.idempotency) is not Idempotency:
            raise InvalidEnvironmentError("idempotency", "is neither Idempotency nor None")
        check_integer("revision", self.revision, 0, MAX_REVISION)
        self.extra = json_object("extra", self.extra, _RESERVED_KEYS)

    def copy(self) -> "Environment":
        """Return an independent copy, checked and normalised by the constructor."""
        if type(self.labels) is dict and type(self.extra) is dict and not self.extra:
            copy = self.copy_unchecked()
            if copy._is_normal():
                return copy
        return Environment(**{name: getattr(self, name) for name in _FIELDS})

    def _is_normal(self) -> bool:
        """Return whether the constructor would accept these very values, as they are.

        For common ones it takes a fifth of the time. Where this is false, the constructor decides.
        """
        return (
            (
                type(self.id),
                type(self.name),
                type(self.status_reason),
                type(self.runtime),
                type(self.status),
                type(self.ssh_port),
                type(self.created_at),
                type(self.last_used),
                type(self.timeout),
                type(self.discard_files),
                type(self.revision),
            )
            == _NORMAL_TYPES
            and type(self.capabilities) in _CAPABILITIES_OR_NONE
            and type(self.owner) in _OWNER_OR_NONE
            and type(self.idempotency) in _IDEMPOTENCY_OR_NONE
            and type(self.provider) in _TEXT_OR_NONE
            and type(self.host_id) in _TEXT_OR_NONE
            # Of strings alone, or None: a subclass could write something else here.
            and f"{self.id}{self.name}{self.status_reason}{self.provider}{self.host_id}".isascii()
            and are_ascii(self.labels)
            and 0 < len(self.id) <= MAX_ID_BYTES
            and "\0" not in self.id
            and 0 <= self.ssh_port <= MAX_PORT
            and 0 <= self.revision <= MAX_REVISION
            and self.created_at.tzinfo is self.last_used.tzinfo is UTC
            and abs(self.timeout) <= MAX_TIMEOUT
        )

    def copy_unchecked(self) -> "Environment":
        """Return an independent copy of an environment that is unchanged since its last check.

        Without the checks it takes a tenth of the time of :meth:`copy`.
        """
        copy = object.__new__(Environment)
        # One by one: a loop over the names takes four times as long.
        copy.id = self.id
        copy.name = self.name
        copy.runtime = self.runtime
        copy.status = self.status
        copy.ssh_port = self.ssh_port
        copy.created_at = self.created_at
        copy.last_used = self.last_used
        copy.timeout = self.timeout
        copy.capabilities = self.capabilities
        copy.labels = self.labels.copy()
        copy.provider = self.provider
        copy.host_id = self.host_id
        copy.owner = self.owner
        copy.status_reason = self.status_reason
        copy.discard_files = self.discard_files
        copy.idempotency = self.idempotency
        copy.revision = self.revision
        copy.extra = json_object("extra", self.extra, _RESERVED_KEYS) if self.extra else {}
        return copy

    @property
    def is_running(self) -> bool:
        """Whether the environment is ready for use."""
        return self.status == Status.RUNNING

    def has_key_of(self, other: "Environment") -> bool:
        """Return whether both were created with the same idempotency key."""
        mine, others = self.idempotency, other.idempotency
        return mine is not None and others is not None and mine.key == others.key

    def has_labels(self, labels: Mapping[str, str]) -> bool:
        """Return whether it has all of some labels, with these values."""
        return labels.items() <= self.labels.items()

    def is_expired(self, now: datetime | None = None) -> bool:
        """Return whether it has been idle for longer than its timeout at ``now`` (aware)."""
        if self.timeout <= timedelta(0):
            return False
        return (now or datetime.now(UTC)) - self.last_used > self.timeout

    def touch(self, now: datetime | None = None) -> None:
        """Set ``last_used`` to ``now`` (aware), by default the current time."""
        self.last_used = utc("last_used", now or datetime.now(UTC))

    def transition_to(self, status: Status) -> None:
        """Make one transition of the state machine.

        creating -> running, error; running -> destroying, error; destroying ->
        destroyed; error -> running, destroying. Any other transition raises
        :class:`InvalidTransitionError` and changes nothing.
        """
        target = _status(status)
        source = _status(self.status)
        if target not in _TRANSITIONS[source]:
            raise InvalidTransitionError(source, target)
        self.status = target


_FIELDS: Final = tuple(f.name for f in fields(Environment))

#: The exact types of some fields in what the constructor returns.
_NORMAL_TYPES: Final = (
    str,
    str,
    str,
    Runtime,
    Status,
    int,
    datetime,
    datetime,
    timedelta,
    bool,
    int,
)
_TEXT_OR_NONE: Final = (str, type(None))
_CAPABILITIES_OR_NONE: Final = (Capabilities, type(None))
_OWNER_OR_NONE: Final = (Owner, type(None))
_IDEMPOTENCY_OR_NONE: Final = (Idempotency, type(None))

#: The keys of an environment's document, which ``extra`` may not contain.
DOCUMENT_KEYS: Final = frozenset(_FIELDS) - {"extra", "timeout"} | {
    "checksum",
    "owner_pid_namespace",
    "schema",
    "timeout_seconds",
}

# A manual edit that adds "timeout" means "timeout_seconds", and must be rejected.
_RESERVED_KEYS: Final = DOCUMENT_KEYS | {"extra", "timeout"}


def _runtime(value: object) -> Runtime:
    try:
        return Runtime(value)  # type: ignore[arg-type]  # Any value may come; the enum decides.
    except ValueError:
        known = ", ".join(Runtime)
        raise InvalidRuntimeError(f"{value!r:.100} is not one of {known}") from None


def _status(value: object) -> Status:
    if type(value) is Status:
        return value
    try:
        return Status(value)  # type: ignore[arg-type]  # Any value may come; the enum decides.
    except ValueError:
        known = ", ".join(Status)
        raise InvalidEnvironmentError("status", f"{value!r:.100} is not one of {known}") from None
