# SPDX-License-Identifier: Apache-2.0
"""JSON: the canonical form of documents and the compact form of journal lines."""

from datetime import datetime
from typing import Any, Final

import orjson

# A time in UTC ends with "Z".
_COMPACT: Final = orjson.OPT_UTC_Z
_CANONICAL: Final = (
    _COMPACT | orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
)


def canonical(value: Any) -> bytes:
    """Return sorted keys, indented by two, a final newline: ``git diff`` shows a line per field."""
    return orjson.dumps(value, _of_subclass, _CANONICAL)


def compact(value: Any) -> bytes:
    """Return a value as one line, without the newline."""
    return orjson.dumps(value, _of_subclass, _COMPACT)


def parse(data: bytes | memoryview) -> Any:
    """Return the value of a JSON text. Raises ``ValueError`` for any other text."""
    return orjson.loads(data)


def timestamp(time: datetime) -> str:
    """Return a time in RFC 3339, UTC, always with microseconds: all have the same width."""
    return f"{time.isoformat(timespec='microseconds')[:-6]}Z"


def writable(time: datetime) -> datetime | str:
    """Return what is written as :func:`timestamp` of a time.

    The encoder writes it in a tenth of the time, but leaves out microseconds of zero.
    """
    return time if time.microsecond else timestamp(time)


def _of_subclass(value: object) -> str:
    """Return a time of a subclass, which the encoder refuses, as tests with a frozen clock use."""
    if isinstance(value, datetime):
        return timestamp(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
