# SPDX-License-Identifier: Apache-2.0
"""An environment and its document: canonical JSON bytes, one way in and one way out.

Canonical means: UTF-8, keys sorted, indented by two, a final newline, so that
``git diff`` shows one line for each changed field.
"""

import os
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zlib import crc32

import orjson

from waggle_fsstore.domain.environment import (
    DEFAULT_TIMEOUT,
    Capabilities,
    Environment,
    Owner,
    Status,
)
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    InvalidEnvironmentError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.values import MAX_REVISION

SCHEMA: Final = 1
MAX_DOCUMENT_BYTES: Final = 1 << 20

# Above this, a revision that a hand wrote would soon leave the store without a next one.
_PLAUSIBLE_REVISION: Final = 2**52

_CANONICAL: Final = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE

_CAPABILITY_NAMES: Final = tuple(f.name for f in fields(Capabilities))
_OWNER_NAMES: Final = tuple(f.name for f in fields(Owner))
_SECOND: Final = timedelta(seconds=1)


def encode(environment: Environment, revision: int) -> bytes:
    """The document of a valid environment at this revision.

    Raises :class:`InvalidEnvironmentError` when it takes more than 1 MiB.
    """
    document = _document(environment, revision)
    document["checksum"] = _checksum(document)
    data = orjson.dumps(document, option=_CANONICAL)
    if len(data) > MAX_DOCUMENT_BYTES:
        sizes = {
            key: len(orjson.dumps(value, option=_CANONICAL)) for key, value in document.items()
        }
        largest = max(sizes, key=lambda key: sizes[key])
        raise InvalidEnvironmentError(
            largest if largest not in environment.extra else "extra",
            f"makes a document of {len(data)} bytes, and {MAX_DOCUMENT_BYTES} is the limit",
        )
    return data


def decode(data: bytes, path: str) -> Environment:
    """The environment in a document that was read from ``path``.

    A file needs only ``id``, ``name`` and ``runtime``. Where it lacks its times, the
    time at which it was modified stands in: an environment must read the same twice.

    Raises :class:`CorruptDocumentError`, :class:`UnsupportedFormatError`, and ``OSError``
    if the file is needed for its times and gone.
    """
    document = _parse(data, path)
    schema = document.pop("schema", SCHEMA)
    if type(schema) is not int or schema < 1:
        raise CorruptDocumentError(path, f"schema: {schema!r:.100} is not a positive integer")
    if schema > SCHEMA:
        raise UnsupportedFormatError(path, schema, SCHEMA)
    document.pop("checksum", None)
    take = document.pop
    try:
        created_at = take("created_at", None)
        last_used = take("last_used", None)
        created = _modified(path) if created_at is None else _time("created_at", created_at)
        environment = Environment(
            id=take("id"),
            name=take("name"),
            runtime=take("runtime"),
            status=take("status", Status.CREATING),
            ssh_port=take("ssh_port", 0),
            created_at=created,
            last_used=created if last_used is None else _time("last_used", last_used),
            timeout=_seconds(take("timeout_seconds", DEFAULT_TIMEOUT.total_seconds())),
            capabilities=_capabilities(take("capabilities", None)),
            labels=take("labels", {}),
            provider=take("provider", None),
            owner=_owner(take("owner", None)),
            status_reason=take("status_reason", ""),
            revision=take("revision", 0),
            extra=document,
        )
    except KeyError as error:
        raise CorruptDocumentError(path, f"{error.args[0]}: is missing") from None
    except InvalidEnvironmentError as error:
        name = "timeout_seconds" if error.field == "timeout" else error.field
        raise CorruptDocumentError(path, f"{name}: {error.reason}") from None
    if environment.revision > _PLAUSIBLE_REVISION and not is_intact(data):
        raise CorruptDocumentError(path, "revision: is higher than any store has counted")
    return environment


def is_intact(data: bytes) -> bool:
    """Whether a document that decodes is as a store wrote it, and not changed by hand since.

    The checksum covers the canonical form, so that white space alone is no change.
    """
    document = orjson.loads(data)
    found = document.pop("checksum", None)
    return bool(found == _checksum(document))


def revision_of(data: bytes) -> int:
    """The revision in a file, whatever else is wrong with it; 0 if there is none."""
    try:
        revision = orjson.loads(data)["revision"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return 0
    if type(revision) is not int or not 0 < revision <= MAX_REVISION:
        return 0
    return revision if revision <= _PLAUSIBLE_REVISION or is_intact(data) else 0


def encode_array(environments: list[Environment]) -> bytes:
    """All documents as one JSON array."""
    documents = []
    for environment in environments:
        document = _document(environment, environment.revision)
        document["checksum"] = _checksum(document)
        documents.append(document)
    return orjson.dumps(documents, option=_CANONICAL)


def encode_marker(application: str, version: int) -> bytes:
    """The one-line file that marks a folder as a store."""
    return b'{"application": "%s", "format": %d}\n' % (application.encode(), version)


def decode_marker(data: bytes, path: str, application: str, supported: int) -> int:
    """The format version of the store that this file marks.

    Raises :class:`CorruptDocumentError`, and :class:`UnsupportedFormatError` when
    another application wrote it.
    """
    document = _parse(data, path)
    found = document.get("application")
    if found != application:
        raise UnsupportedFormatError(path, f"it belongs to {found!r:.100}", supported)
    version = document.get("format")
    if type(version) is not int or version < 1:
        raise CorruptDocumentError(path, f"format: {version!r:.100} is not a positive integer")
    return version


def _parse(data: bytes, path: str) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CorruptDocumentError(path, f"not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise CorruptDocumentError(path, "not a JSON object")
    return document


def _document(environment: Environment, revision: int) -> dict[str, Any]:
    if not 0 <= revision <= MAX_REVISION:
        raise InvalidEnvironmentError("revision", f"is not between 0 and {MAX_REVISION}")
    capabilities = environment.capabilities
    owner = environment.owner
    return {
        **environment.extra,
        "capabilities": None if capabilities is None else _capabilities_document(capabilities),
        "created_at": _timestamp(environment.created_at),
        "id": environment.id,
        "labels": environment.labels,
        "last_used": _timestamp(environment.last_used),
        "name": environment.name,
        "owner": None if owner is None else {name: getattr(owner, name) for name in _OWNER_NAMES},
        "provider": environment.provider,
        "revision": revision,
        "runtime": environment.runtime.value,
        "schema": SCHEMA,
        "ssh_port": environment.ssh_port,
        "status": environment.status.value,
        "status_reason": environment.status_reason,
        "timeout_seconds": _number(environment.timeout),
    }


def _checksum(document: dict[str, Any]) -> str:
    return f"{crc32(orjson.dumps(document, option=_CANONICAL)):08x}"


def _timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, always with microseconds: the same width in every document."""
    return f"{time.isoformat(timespec='microseconds')[:-6]}Z"


def _modified(path: str) -> datetime:
    """When a file was modified."""
    try:
        return datetime.fromtimestamp(os.stat(path).st_mtime, UTC)
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
    """Seconds, without a fraction where there is none."""
    return duration.total_seconds() if duration.microseconds else duration // _SECOND


def _seconds(value: object) -> timedelta:
    if type(value) is int or type(value) is float:
        try:
            return timedelta(seconds=value)
        except OverflowError:
            pass
    raise InvalidEnvironmentError("timeout_seconds", f"{value!r:.100} is not a number of seconds")


def _capabilities_document(capabilities: Capabilities) -> dict[str, Any]:
    document = {name: getattr(capabilities, name) for name in _CAPABILITY_NAMES}
    document["detected_at"] = _timestamp(capabilities.detected_at)
    return document


def _capabilities(value: object) -> Capabilities | None:
    if value is None:
        return None
    values = _known("capabilities", value, _CAPABILITY_NAMES)
    values["detected_at"] = _time("capabilities.detected_at", values.get("detected_at"))
    return Capabilities(**values)


def _owner(value: object) -> Owner | None:
    if value is None:
        return None
    values = _known("owner", value, _OWNER_NAMES)
    for name in _OWNER_NAMES:
        if name not in values:
            raise InvalidEnvironmentError(f"owner.{name}", "is missing")
    return Owner(**values)


def _known(name: str, value: object, names: tuple[str, ...]) -> dict[str, Any]:
    """The members of a nested object, which knows no ``extra``: nothing may get lost in it."""
    if not isinstance(value, dict):
        raise InvalidEnvironmentError(name, "is not an object")
    for key in value:
        if key not in names:
            raise InvalidEnvironmentError(name, f"{key!r:.100} is no known key")
    return value
