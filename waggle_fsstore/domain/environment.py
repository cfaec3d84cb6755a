# SPDX-License-Identifier: Apache-2.0
"""What an environment is: its fields, their valid values and its state machine."""

import math
import uuid
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Self

from waggle_fsstore.domain.errors import (
    InvalidEnvironmentError,
    InvalidEnvironmentIdError,
    InvalidRuntimeError,
    InvalidTransitionError,
)

MAX_ID_BYTES: Final = 200
MAX_PORT: Final = 65535
DEFAULT_TIMEOUT: Final = timedelta(minutes=30)

# A century. Up to here a number of seconds keeps its microseconds as a JSON double.
MAX_TIMEOUT: Final = timedelta(days=36_500)

# Revisions are exact in every JSON reader, also one that knows only doubles.
MAX_REVISION: Final = 2**53 - 1

MAX_EXTRA_DEPTH: Final = 100


class Runtime(StrEnum):
    """What an environment runs."""

    PYTHON = "python"
    NODE = "node"
    SHELL = "shell"


class Status(StrEnum):
    """Where an environment is in its life."""

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
    Status.ERROR: frozenset({Status.DESTROYING}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a probe found in an environment; immutable.

    ``path`` is the search path (``PATH``), a command is "" where there is none.
    Raises :class:`InvalidEnvironmentError` naming ``capabilities.<field>``.
    """

    detected_at: datetime
    path: str = ""
    python_command: str = ""
    pip_command: str = ""
    node_command: str = ""
    npm_command: str = ""
    has_venv: bool = False
    has_apk: bool = False
    has_apt_get: bool = False
    has_dnf: bool = False
    has_yum: bool = False
    has_zypper: bool = False
    is_root: bool = False

    def __post_init__(self) -> None:
        detected_at = _utc("capabilities.detected_at", self.detected_at)
        object.__setattr__(self, "detected_at", detected_at)
        for name in _CAPABILITY_TEXTS:
            object.__setattr__(self, name, _text(f"capabilities.{name}", getattr(self, name)))
        for name in _CAPABILITY_FLAGS:
            if type(getattr(self, name)) is not bool:
                raise InvalidEnvironmentError(f"capabilities.{name}", "is not true or false")


_CAPABILITY_TEXTS: Final = tuple(f.name for f in fields(Capabilities) if f.type is str)
_CAPABILITY_FLAGS: Final = tuple(f.name for f in fields(Capabilities) if f.type is bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The process that is working on an environment; immutable.

    A process id alone proves nothing after a restart, so the boot id and the start
    time of the process (``process_started``, in the unit of the system, such as
    clock ticks since boot) stand beside it.
    Raises :class:`InvalidEnvironmentError` naming ``owner.<field>``.
    """

    host: str
    boot_id: str
    pid: int
    process_started: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _text("owner.host", self.host))
        object.__setattr__(self, "boot_id", _text("owner.boot_id", self.boot_id))
        _check_integer("owner.pid", self.pid, 0, MAX_REVISION)
        _check_integer("owner.process_started", self.process_started, 0, MAX_REVISION)


@dataclass(kw_only=True, slots=True)
class Environment:
    """One isolated execution environment.

    A plain mutable value. The constructor takes its own copies of ``labels`` and
    ``extra``, turns times to UTC and the strings of ``runtime`` and ``status`` to
    their enums. It refuses invalid values, and so does every store on saving.

    - ``id``: 1-200 bytes of UTF-8 without NUL; a random UUID by default.
    - ``ssh_port``: 0-65535, 0 for none.
    - ``timeout``: the idle time after which it expires; zero or less for never.
    - ``capabilities``: ``None`` until probed.
    - ``provider``: who made it, ``None`` if nobody yet.
    - ``owner``: who is working on it, while it is being created or destroyed.
    - ``revision``: set by the store on what it returns; 0 means never stored. It is
      not part of equality.
    - ``extra``: the keys of its file that this version does not know, as JSON
      values. It may not hold a known key.

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
    timeout: timedelta = DEFAULT_TIMEOUT
    capabilities: Capabilities | None = None
    labels: dict[str, str] = field(default_factory=dict)
    provider: str | None = None
    owner: Owner | None = None
    status_reason: str = ""
    revision: int = field(default=0, compare=False)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.id)
        self.id = _text("id", self.id)
        self.name = _text("name", self.name)
        if type(self.runtime) is not Runtime:
            self.runtime = _runtime(self.runtime)
        if type(self.status) is not Status:
            self.status = _status(self.status)
        _check_integer("ssh_port", self.ssh_port, 0, MAX_PORT)
        self.created_at = _utc("created_at", self.created_at)
        self.last_used = _utc("last_used", self.last_used)
        if not isinstance(self.timeout, timedelta):
            raise InvalidEnvironmentError("timeout", "is not a timedelta")
        if abs(self.timeout) > MAX_TIMEOUT:
            raise InvalidEnvironmentError("timeout", "is more than a century")
        if self.capabilities is not None and type(self.capabilities) is not Capabilities:
            raise InvalidEnvironmentError("capabilities", "is neither Capabilities nor None")
        self.labels = _labels(self.labels)
        if self.provider is not None:
            self.provider = _text("provider", self.provider)
        if self.owner is not None and type(self.owner) is not Owner:
            raise InvalidEnvironmentError("owner", "is neither Owner nor None")
        self.status_reason = _text("status_reason", self.status_reason)
        _check_integer("revision", self.revision, 0, MAX_REVISION)
        self.extra = _extra(self.extra)

    def copy(self) -> Self:
        """An independent copy, its values checked and made regular as by the constructor."""
        return type(self)(**{name: getattr(self, name) for name in _FIELDS})

    @property
    def is_running(self) -> bool:
        """Whether the environment can be used."""
        return self.status == Status.RUNNING

    def is_expired(self, now: datetime | None = None) -> bool:
        """Whether it has been idle for longer than its timeout, at ``now`` (aware)."""
        if self.timeout <= timedelta(0):
            return False
        return (now or datetime.now(UTC)) - self.last_used > self.timeout

    def touch(self, now: datetime | None = None) -> None:
        """Note that it was used, at ``now`` (aware)."""
        self.last_used = _utc("last_used", now or datetime.now(UTC))

    def transition_to(self, status: Status) -> None:
        """Take one step of the state machine.

        creating -> running, error; running -> destroying, error; destroying ->
        destroyed; error -> destroying. Any other step raises
        :class:`InvalidTransitionError` and changes nothing.
        """
        target = _status(status)
        source = _status(self.status)
        if target not in _TRANSITIONS[source]:
            raise InvalidTransitionError(source, target)
        self.status = target


_FIELDS: Final = tuple(f.name for f in fields(Environment))

#: The keys of an environment's document, which ``extra`` may not hold.
DOCUMENT_KEYS: Final = frozenset(_FIELDS) - {"extra", "timeout"} | {
    "checksum",
    "schema",
    "timeout_seconds",
}

# "timeout" and "extra" are no keys of a document, but a file that held one would be
# read as if the field were lost.
_RESERVED_KEYS: Final = DOCUMENT_KEYS | {"extra", "timeout"}


def check_id(environment_id: object) -> None:
    """Refuse what is not an id: 1-200 bytes of UTF-8, no NUL, no lone surrogate.

    The rule is the same in every store, so that an id that works in one works in all.
    Raises :class:`InvalidEnvironmentIdError`.
    """
    if not isinstance(environment_id, str):
        raise InvalidEnvironmentIdError("is not a string")
    if not environment_id:
        raise InvalidEnvironmentIdError("is empty")
    if len(environment_id) > MAX_ID_BYTES:
        raise InvalidEnvironmentIdError(f"is longer than {MAX_ID_BYTES} bytes")
    if "\0" in environment_id:
        raise InvalidEnvironmentIdError("holds a NUL character")
    if not environment_id.isascii():
        if not _is_encodable(environment_id):
            raise InvalidEnvironmentIdError("holds a lone surrogate")
        if len(environment_id.encode()) > MAX_ID_BYTES:
            raise InvalidEnvironmentIdError(f"is longer than {MAX_ID_BYTES} bytes")


def is_id(environment_id: object) -> bool:
    """Whether :func:`check_id` accepts it; what is no id is simply not found."""
    try:
        check_id(environment_id)
    except InvalidEnvironmentIdError:
        return False
    return True


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


def _utc(name: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidEnvironmentError(name, "is not a datetime")
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise InvalidEnvironmentError(name, "has no time zone: give an aware datetime")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidEnvironmentError(name, "is out of range in UTC") from None


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int:
        raise InvalidEnvironmentError(name, "is not an integer")
    if not low <= value <= high:
        raise InvalidEnvironmentError(name, f"is not between {low} and {high}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEnvironmentError(name, "is not a string")
    if not value.isascii() and not _is_encodable(value):
        raise InvalidEnvironmentError(name, "holds a lone surrogate")
    # Of a subclass, such as an enum, only the text: nothing else comes back from a file.
    return value if type(value) is str else str.__str__(value)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InvalidEnvironmentError("labels", "is not a dict of strings")
    return {_text("labels", key): _text("labels", text) for key, text in value.items()}


def _extra(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidEnvironmentError("extra", "is not a dict")
    if not value:
        return {}
    known = sorted(_RESERVED_KEYS.intersection(value))
    if known:
        raise InvalidEnvironmentError("extra", f"{known[0]!r} is the name of a field")
    return {_text("extra", key): _json_copy(item, MAX_EXTRA_DEPTH) for key, item in value.items()}


def _json_copy(value: object, depth: int) -> Any:
    """A deep copy of a JSON value, refusing what would not come back the same from a file."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return _text("extra", value)
    if kind is int and isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidEnvironmentError("extra", "holds an integer of more than 64 bits")
        return value
    if kind is float and isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidEnvironmentError("extra", "holds a number that is not finite")
        return value
    if depth == 0:
        raise InvalidEnvironmentError("extra", f"is nested deeper than {MAX_EXTRA_DEPTH} levels")
    if isinstance(value, list):
        return [_json_copy(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_text("extra", key): _json_copy(item, depth - 1) for key, item in value.items()}
    raise InvalidEnvironmentError("extra", f"holds a {kind.__name__}, which is no JSON value")
