# SPDX-License-Identifier: Apache-2.0
"""JSON texts: the canonical form of documents, the compact one of journal lines, and back."""

from typing import Any, Final

import orjson

_CANONICAL: Final = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


def canonical(value: Any) -> bytes:
    """Keys sorted, indented by two, a final newline: ``git diff`` shows one line a field."""
    return orjson.dumps(value, option=_CANONICAL)


def compact(value: Any) -> bytes:
    """All in one line, without its newline."""
    return orjson.dumps(value)


def parse(data: bytes | memoryview) -> Any:
    """The value of a JSON text. Raises ``ValueError`` for what is none."""
    return orjson.loads(data)
