# SPDX-License-Identifier: Apache-2.0
"""JSON: the canonical form of documents and the compact form of journal lines."""

from typing import Any, Final

import orjson

# A time in UTC ends with "Z".
_COMPACT: Final = orjson.OPT_UTC_Z
_CANONICAL: Final = (
    _COMPACT | orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
)


def canonical(value: Any) -> bytes:
    """Return sorted keys, indented by two, a final newline: ``git diff`` shows a line per field."""
    return orjson.dumps(value, option=_CANONICAL)


def compact(value: Any) -> bytes:
    """Return a value as one line, without the newline."""
    return orjson.dumps(value, option=_COMPACT)


def parse(data: bytes | memoryview) -> Any:
    """Return the value of a JSON text. Raises ``ValueError`` for any other text."""
    return orjson.loads(data)
