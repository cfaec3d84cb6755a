# SPDX-License-Identifier: Apache-2.0
"""Codec: environments to documents (canonical JSON bytes) and back.

Canonical means: UTF-8, keys sorted, indented by two, a final newline, so that
``git diff`` shows one line for each changed field.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations
from typing import Any, Final
from zlib import crc32

from waggle_fsstore.domain.defaults import DEFAULT_IDLE_TIMEOUT
from waggle_fsstore.domain.environment import (
    DOCUMENT_KEYS,
    MAX_PORT,
    MAX_TIMEOUT,
    Capabilities,
    Environment,
    Idempotency,
    Owner,
    Runtime,
    Status,
)
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    InvalidEnvironmentError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.validation import MAX_REVISION, is_id
from waggle_fsstore.store.format.canonical_json import canonical, parse, timestamp

SCHEMA: Final = 1
MAX_DOCUMENT_BYTES: Final = 1 << 20

# A manual edit with a revision above this would soon leave the store without a next one.
_MAX_PLAUSIBLE_REVISION: Final = 2**52

# Only keys of the document itself are indented by two, and no string holds a newline.
_CHECKSUM_KEY: Final = b'\n  "checksum": "'

_CAPABILITY_NAMES: Final = tuple(f.name for f in fields(Capabilities))
# The namespace is a member of the document: an older version refuses unknown members of an owner.
_OWNER_NAMES: Final = tuple(f.name for f in fields(Owner) if f.name != "pid_namespace")
_IDEMPOTENCY_NAMES: Final = tuple(f.name for f in fields(Idempotency))
_MAX_TIMEOUT_S: Final = MAX_TIMEOUT // timedelta(seconds=1)

# Members of later versions: they are written only where they have a value.
_OPTIONAL_KEYS: Final = ("discard_files", "host_id", "idempotency", "owner_pid_namespace")

_OTHER_FORM: Final = (AttributeError, KeyError, TypeError, ValueError, OverflowError)

_TEXT: Final = frozenset({str})
_new: Final = object.__new__
_set: Final = object.__setattr__

_RUNTIMES: Final = {runtime.value: runtime for runtime in Runtime}
_STATUSES: Final = {status.value: status for status in Status}


def _keys(names: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of an object as the parser returns them: it reuses their strings."""
    return tuple(parse(canonical(dict.fromkeys(names))))


_CAPABILITY_KEYS: Final = _keys(_CAPABILITY_NAMES)
_CAPABILITY_TYPES: Final = tuple(bool if f.type is bool else str for f in fields(Capabilities))

#: The keys of each document that a store writes, without those that this version does not know.
_CANONICAL_KEYS: Final = frozenset(
    _keys(DOCUMENT_KEYS.difference(absent))
    for absent in chain.from_iterable(
        combinations(_OPTIONAL_KEYS, n) for n in range(len(_OPTIONAL_KEYS) + 1)
    )
)

#: Returns when the file at a path was modified, in seconds since the epoch.
ModifiedAt = Callable[[str], float]


def encode_version(environment: Environment, revision: int) -> tuple[dict[str, Any], bytes]:
    """Return the document of a valid environment at this revision, and the bytes of its file.

    Raises :class:`InvalidEnvironmentError` for more than 1 MiB.
    """
    document = _document(environment, revision)
    data = canonical(document)
    before, key, rest = data.partition(_CHECKSUM_KEY)
    checksum = _checksum_of(before, rest)
    data = b"".join((before, key, checksum, rest))
    document["checksum"] = checksum.decode()
    if len(data) > MAX_DOCUMENT_BYTES:
        sizes = {key: len(canonical(value)) for key, value in document.items()}
        largest = max(sizes, key=lambda key: sizes[key])
        raise InvalidEnvironmentError(
            largest if largest not in environment.extra else "extra",
            f"makes a document of {len(data)} bytes, and {MAX_DOCUMENT_BYTES} is the limit",
        )
    return document, data


def encode(environment: Environment, revision: int) -> bytes:
    """Return the bytes of the document; see :func:`encode_version`."""
    return encode_version(environment, revision)[1]


def version_of(change: dict[str, Any], path: str) -> tuple[Environment, bytes]:
    """Return the environment that a change of another store left, and the bytes of its document.

    Raises :class:`CorruptDocumentError` unless a store can have made that change.
    """
    data = canonical(change["document"])
    environment = decode(data, path)
    made = (environment.id, environment.revision)
    if not is_intact(data) or made != (change["id"], change["seq"]):
        raise CorruptDocumentError(path, f"is not what change {change['seq']} can have left")
    return environment, data


def decode(data: bytes, path: str, modified: ModifiedAt | None = None) -> Environment:
    """Return the environment in a document that was read from ``path``.

    A document needs only ``id``, ``name`` and ``runtime``. Without ``created_at`` it was
    created when ``modified(path)`` says that its file was modified (seconds since the epoch),
    because an environment must read the same twice; without ``modified`` it is corrupt.

    Raises :class:`CorruptDocumentError`, :class:`UnsupportedFormatError`, and what
    ``modified`` raises.
    """
    environment = environment_of(parse_object(data, path), path, modified)
    if environment.revision > _MAX_PLAUSIBLE_REVISION and not is_intact(data):
        raise CorruptDocumentError(path, "revision: is higher than any store has counted")
    return environment


def environment_of(
    document: dict[str, Any], path: str, modified: ModifiedAt | None = None
) -> Environment:
    """Return the environment in a parsed document, which is consumed; see :func:`decode`."""
    try:
        environment = _of_canonical(document) if tuple(document) in _CANONICAL_KEYS else None
    except _OTHER_FORM:
        environment = None
    return environment or _of_any(document, path, modified)


def _of_any(document: dict[str, Any], path: str, modified: ModifiedAt | None) -> Environment:
    """Return the environment in a document of any origin.

    This defines which documents are good. :func:`_of_canonical` only takes less time.
    """
    schema = document.pop("schema", SCHEMA)
    if type(schema) is not int or schema < 1:
        raise CorruptDocumentError(path, f"schema: {schema!r:.100} is not a positive integer")
    if schema > SCHEMA:
        raise UnsupportedFormatError(path, schema, SCHEMA)
    document.pop("checksum", None)
    take = document.pop
    try:
        value = take("created_at", None)
        created = _time("created_at", value) if value is not None else _modified(path, modified)
        last_used = take("last_used", None)
        return Environment(
            id=take("id"),
            name=take("name"),
            runtime=take("runtime"),
            status=take("status", Status.CREATING),
            ssh_port=take("ssh_port", 0),
            created_at=created,
            last_used=created if last_used is None else _time("last_used", last_used),
            timeout=_seconds(take("timeout_seconds", DEFAULT_IDLE_TIMEOUT.total_seconds())),
            capabilities=_capabilities(take("capabilities", None)),
            labels=take("labels", {}),
            provider=take("provider", None),
            host_id=take("host_id", None),
            owner=_owner(take("owner", None), take("owner_pid_namespace", 0)),
            status_reason=take("status_reason", ""),
            discard_files=take("discard_files", False),
            idempotency=_idempotency(take("idempotency", None)),
            revision=take("revision", 0),
            extra=document,
        )
    except KeyError as error:
        raise CorruptDocumentError(path, f"{error.args[0]}: is missing") from None
    except InvalidEnvironmentError as error:
        name = "timeout_seconds" if error.field == "timeout" else error.field
        raise CorruptDocumentError(path, f"{name}: {error.reason}") from None


def _of_canonical(document: dict[str, Any]) -> Environment | None:
    """Return the environment in a document whose keys are those that a store writes.

    It makes all checks of :class:`Environment`, in a third of the time, and relies on the
    parser: no string has a lone surrogate, and no value is of a subclass. If a check fails, it
    returns ``None`` or raises one of ``_OTHER_FORM``, and leaves the document unchanged:
    :func:`_of_any` accepts or refuses it.
    """
    environment = _new(Environment)
    environment.id = document["id"]
    environment.name = name = document["name"]
    environment.runtime = _RUNTIMES[document["runtime"]]
    environment.status = _STATUSES[document["status"]]
    environment.ssh_port = port = document["ssh_port"]
    environment.created_at = created_at = datetime.fromisoformat(document["created_at"])
    environment.last_used = last_used = datetime.fromisoformat(document["last_used"])
    environment.timeout = timedelta(0, seconds := document["timeout_seconds"])
    environment.labels = labels = document["labels"]
    environment.provider = provider = document["provider"]
    environment.host_id = host_id = document.get("host_id")
    if owner := document["owner"]:
        owner = _owner(owner, document.get("owner_pid_namespace", 0))
    environment.owner = owner
    environment.status_reason = reason = document["status_reason"]
    environment.discard_files = discard = document.get("discard_files", False)
    call = document.get("idempotency")
    environment.idempotency = None if call is None else _idempotency(call)
    environment.revision = revision = document["revision"]
    environment.extra = {}
    is_valid = (
        (schema := document["schema"]) == SCHEMA
        and type(schema) is type(revision) is type(port) is int
        and (type(seconds) is int or type(seconds) is float)
        and type(name) is type(reason) is str
        and (provider is None or type(provider) is str)
        and (host_id is None or type(host_id) is str)
        and (owner is None or type(owner) is Owner)
        and type(discard) is bool
        and _TEXT.issuperset(map(type, labels.values()))
        and created_at.tzinfo is last_used.tzinfo is UTC
        and 0 <= revision <= MAX_REVISION
        and 0 <= port <= MAX_PORT
        and -_MAX_TIMEOUT_S <= seconds <= _MAX_TIMEOUT_S
        and is_id(environment.id)
    )
    if is_valid:  # Last: it consumes the members.
        environment.capabilities = _canonical_capabilities(document["capabilities"])
    return environment if is_valid else None


def _canonical_capabilities(values: Any) -> Capabilities | None:
    """Return the capabilities that a store wrote, made of the parsed members as they are.

    Raises ``TypeError`` or ``ValueError`` for all others.
    """
    if values is None:
        return None
    if tuple(values) != _CAPABILITY_KEYS:
        raise ValueError
    detected_at = datetime.fromisoformat(values["detected_at"])
    if detected_at.tzinfo is not UTC or tuple(map(type, values.values())) != _CAPABILITY_TYPES:
        raise ValueError
    values["detected_at"] = detected_at
    capabilities = _new(Capabilities)
    _set(capabilities, "__dict__", values)  # It is frozen.
    return capabilities


def is_intact(data: bytes) -> bool:
    """Return whether a document that decodes is as a store wrote it, without a manual edit.

    The checksum covers the canonical form, so white space alone is no edit.
    """
    if _is_untouched(data):
        return True
    document = parse(data)
    checksum = document.pop("checksum", None)
    return bool(checksum == _checksum(document))


def revision_of(data: bytes) -> int:
    """Return the revision in a file that may be invalid otherwise; 0 if there is none."""
    try:
        revision = parse(data)["revision"]
    except (ValueError, LookupError, TypeError):
        return 0
    if type(revision) is not int or not 0 < revision <= MAX_REVISION:
        return 0
    return revision if revision <= _MAX_PLAUSIBLE_REVISION or is_intact(data) else 0


def encode_array(environments: list[Environment]) -> bytes:
    """Return the documents of all environments as one JSON array."""
    return canonical([encode_version(one, one.revision)[0] for one in environments])


def parse_object(data: bytes, path: str) -> dict[str, Any]:
    """Return the JSON object in a file. Raises :class:`CorruptDocumentError`."""
    try:
        document = parse(data)
    except ValueError as error:
        raise CorruptDocumentError(path, f"not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise CorruptDocumentError(path, "not a JSON object")
    return document


def _document(environment: Environment, revision: int) -> dict[str, Any]:
    """Return what the encoder writes as the document, with an empty checksum.

    Times are in the form that ``writable`` returns, without two calls of it.
    """
    if not 0 <= revision <= MAX_REVISION:
        raise InvalidEnvironmentError("revision", f"is not between 0 and {MAX_REVISION}")
    capabilities = environment.capabilities
    created_at, last_used, owner = environment.created_at, environment.last_used, environment.owner
    document = {
        "capabilities": None if capabilities is None else _writable_capabilities(capabilities),
        "checksum": "",
        "created_at": created_at if created_at.microsecond else timestamp(created_at),
        "id": environment.id,
        "labels": environment.labels,
        "last_used": last_used if last_used.microsecond else timestamp(last_used),
        "name": environment.name,
        "owner": None if owner is None else {name: getattr(owner, name) for name in _OWNER_NAMES},
        "provider": environment.provider,
        "revision": revision,
        "runtime": environment.runtime._value_,
        "schema": SCHEMA,
        "ssh_port": environment.ssh_port,
        "status": environment.status._value_,
        "status_reason": environment.status_reason,
        "timeout_seconds": _number(environment.timeout),
    }
    if environment.discard_files:
        document["discard_files"] = True
    if environment.host_id is not None:
        document["host_id"] = environment.host_id
    if owner is not None and owner.pid_namespace:
        document["owner_pid_namespace"] = owner.pid_namespace
    if environment.idempotency is not None:
        document["idempotency"] = asdict(environment.idempotency)
    return document | environment.extra if environment.extra else document


def _is_untouched(data: bytes) -> bool:
    """Return whether these are the very bytes that a store wrote, in a tenth of the parse time."""
    before, _, rest = data.partition(_CHECKSUM_KEY)
    return rest[:10] == _checksum_of(before, rest[8:]) + b'",'


def _checksum_of(before: bytes, rest: bytes) -> bytes:
    """Return the checksum of a document without the line of it, which ends in ``rest``."""
    return b"%08x" % crc32(rest[2:], crc32(before))


def _checksum(document: dict[str, Any]) -> str:
    return f"{crc32(canonical(document)):08x}"


def _modified(path: str, modified: ModifiedAt | None) -> datetime:
    if modified is None:
        raise InvalidEnvironmentError("created_at", "is missing")
    try:
        return datetime.fromtimestamp(modified(path), UTC)
    except (ValueError, OverflowError):
        raise InvalidEnvironmentError(
            "created_at", "is missing, and the time of the file is out of range"
        ) from None


def _time(name: str, value: object) -> datetime:
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise InvalidEnvironmentError(name, f"{value!r:.100} is not an RFC 3339 time")


def _number(duration: timedelta) -> int | float:
    """Return the seconds of a duration, as an integer if possible."""
    if duration.microseconds:
        return duration.total_seconds()
    return duration.days * 86_400 + duration.seconds


def _seconds(value: object) -> timedelta:
    if type(value) is int or type(value) is float:
        try:
            return timedelta(seconds=value)
        except OverflowError:
            pass
    raise InvalidEnvironmentError("timeout_seconds", f"{value!r:.100} is not a number of seconds")


def _writable_capabilities(capabilities: Capabilities) -> Capabilities | dict[str, Any]:
    """Return what the encoder writes as the object: a dataclass is written as its members."""
    detected_at = capabilities.detected_at
    if detected_at.microsecond:
        return capabilities
    return {**vars(capabilities), "detected_at": timestamp(detected_at)}


def _capabilities(value: object) -> Capabilities | None:
    if value is None:
        return None
    values = _known("capabilities", value, _CAPABILITY_NAMES)
    values["detected_at"] = _time("capabilities.detected_at", values.get("detected_at"))
    return Capabilities(**values)


def _owner(value: object, pid_namespace: object) -> Owner | None:
    if value is None:
        return None
    values = _complete("owner", value, _OWNER_NAMES)
    # An older version may have left the namespace of an earlier owner behind. Then the owner
    # counts as one of that namespace, which at worst delays the judgement that it is gone.
    return Owner(**values, pid_namespace=pid_namespace)  # type: ignore[arg-type]


def _idempotency(value: object) -> Idempotency | None:
    if value is None:
        return None
    return Idempotency(**_complete("idempotency", value, _IDEMPOTENCY_NAMES))


def _complete(name: str, value: object, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the members of a nested object that must have all of them."""
    values = _known(name, value, names)
    for member in names:
        if member not in values:
            raise InvalidEnvironmentError(f"{name}.{member}", "is missing")
    return values


def _known(name: str, value: object, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the members of a nested object. It has no ``extra``, so unknown keys are refused."""
    if not isinstance(value, dict):
        raise InvalidEnvironmentError(name, "is not an object")
    for key in value:
        if key not in names:
            raise InvalidEnvironmentError(name, f"{key!r:.100} is no known key")
    return value
