# SPDX-License-Identifier: Apache-2.0
"""The rules for single values: which ones a field accepts, and its normal form of them."""

import math
from datetime import UTC, datetime
from typing import Any, Final

from waggle_fsstore.domain.errors import InvalidEnvironmentError, InvalidEnvironmentIdError

MAX_ID_BYTES: Final = 200

# Up to here a revision is exact in every JSON reader, even one that reads numbers as doubles.
MAX_REVISION: Final = 2**53 - 1

MAX_JSON_DEPTH: Final = 100

_MAX_TITLE_CHARACTERS: Final = 200


def check_id(environment_id: object) -> None:
    """Check that a value is an id: 1-200 bytes of UTF-8, no NUL, no lone surrogate.

    All stores share this rule, so that an id that works in one works in all.
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
    """Return whether :func:`check_id` accepts a value. Nothing is ever stored under another."""
    if isinstance(environment_id, str) and environment_id.isascii():
        return 0 < len(environment_id) <= MAX_ID_BYTES and "\0" not in environment_id
    try:
        check_id(environment_id)
    except InvalidEnvironmentIdError:
        return False
    return True


def utc(field: str, value: object) -> datetime:
    """Return an aware time, converted to UTC."""
    if not isinstance(value, datetime):
        raise InvalidEnvironmentError(field, "is not a datetime")
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise InvalidEnvironmentError(field, "has no time zone: pass an aware datetime")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidEnvironmentError(field, "is out of range in UTC") from None


def check_integer(field: str, value: object, low: int, high: int) -> None:
    """Check that a value is an integer within limits, and no boolean."""
    if type(value) is not int:
        raise InvalidEnvironmentError(field, "is not an integer")
    if not low <= value <= high:
        raise InvalidEnvironmentError(field, f"is not between {low} and {high}")


def text(field: str, value: object) -> str:
    """Return a string that UTF-8 can encode; of a subclass, such as an enum, only its text."""
    if not isinstance(value, str):
        raise InvalidEnvironmentError(field, "is not a string")
    if not value.isascii() and not _is_encodable(value):
        raise InvalidEnvironmentError(field, "holds a lone surrogate")
    return value if type(value) is str else str.__str__(value)


def are_ascii(members: dict[str, str]) -> bool:
    """Return whether all keys and values are ASCII strings of no subclass, as :func:`text` returns.

    A loop: for a few members, ``map`` and ``join`` take twice as long.
    """
    for key, value in members.items():
        if type(key) is not str or type(value) is not str:
            return False
        if not key.isascii() or not value.isascii():
            return False
    return True


def title(field: str, value: object) -> str:
    """Return a string of 1-200 printable characters that are not all blank."""
    value = text(field, value)
    if not 0 < len(value) <= _MAX_TITLE_CHARACTERS or not value.isprintable():
        raise InvalidEnvironmentError(
            field, f"must be 1-{_MAX_TITLE_CHARACTERS} printable characters"
        )
    if not value.strip():
        raise InvalidEnvironmentError(field, "must not be blank")
    return value


def string_dict(field: str, value: object) -> dict[str, str]:
    """Return a copy of a dict from strings to strings."""
    if not isinstance(value, dict):
        raise InvalidEnvironmentError(field, "is not a dict of strings")
    return {text(field, key): text(field, item) for key, item in value.items()}


def json_object(field: str, value: object, reserved: frozenset[str]) -> dict[str, Any]:
    """Return a deep copy of a dict of JSON values that has none of the reserved keys."""
    if not isinstance(value, dict):
        raise InvalidEnvironmentError(field, "is not a dict")
    if not value:
        return {}
    known = sorted(reserved.intersection(value))
    if known:
        raise InvalidEnvironmentError(field, f"{known[0]!r} is the name of a field")
    return {text(field, key): _json(field, item, MAX_JSON_DEPTH) for key, item in value.items()}


def _json(field: str, value: object, depth: int) -> Any:
    """Return a deep copy of a JSON value. Raise for one that a file would not give back equal."""
    if value is None or type(value) is bool:
        return value
    if isinstance(value, str):
        return text(field, value)
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise InvalidEnvironmentError(field, "holds an integer of more than 64 bits")
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise InvalidEnvironmentError(field, "holds a number that is not finite")
        return value
    if depth == 0:
        raise InvalidEnvironmentError(field, f"is nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, list):
        return [_json(field, item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {text(field, key): _json(field, item, depth - 1) for key, item in value.items()}
    raise InvalidEnvironmentError(
        field, f"holds a {type(value).__name__}, which is not a JSON value"
    )


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
