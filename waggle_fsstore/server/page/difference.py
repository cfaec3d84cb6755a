# SPDX-License-Identifier: Apache-2.0
"""The difference between two versions of an environment, field by field."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.duration import format_duration
from waggle_fsstore.domain.environment import Environment

# Each version has another revision, and all versions of an environment the same id.
_LEFT_OUT: Final = frozenset({"id", "revision"})


class Difference(NamedTuple):
    """A field that differs, and its values as text, ``None`` where it is absent."""

    field: str
    before: str | None
    after: str | None


def difference(before: Environment | None, after: Environment | None) -> list[Difference]:
    """Return the fields in which two versions differ, in the order of the fields.

    A version that is ``None`` has no fields. Members of a field, such as labels, are compared
    one by one.
    """
    old, new = document(before), document(after)
    # A field that only the old version has comes after those of the new one.
    names = [*new, *(name for name in old if name not in new)]
    found = (Difference(name, old.get(name), new.get(name)) for name in names)
    return [one for one in found if one.before != one.after]


def document(environment: Environment | None) -> dict[str, str]:
    """Return the fields of an environment as texts, without those that have no value."""
    if environment is None:
        return {}
    return {
        name: text
        for field in fields(environment)
        if field.name not in _LEFT_OUT
        for name, text in _texts(field.name, getattr(environment, field.name))
    }


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of a value, or of each of its members."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(f"{name}.{key}", item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _texts(f"{name}.{field.name}", getattr(value, field.name))
    elif value is not None:
        yield name, _text(value)


def _text(value: Any) -> str:
    match value:
        case str():
            return str(value)
        case datetime():
            return value.isoformat()
        case timedelta():
            return format_duration(value)
        case _:
            return json.dumps(value, ensure_ascii=False, sort_keys=True)
