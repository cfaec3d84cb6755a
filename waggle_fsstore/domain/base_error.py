# SPDX-License-Identifier: Apache-2.0
"""The base of every error: it carries data, and survives being pickled."""

from typing import Any, ClassVar


class WaggleError(Exception):
    """Base of every error of this package; carries its data as attributes.

    A subclass with a constructor of its own names that one's arguments in ``_fields``,
    and keeps each under the same name. That makes it survive ``pickle`` and ``copy``,
    so an error can cross a process pool.
    """

    _fields: ClassVar[tuple[str, ...] | None] = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._fields is None:
            arguments = self.args
        else:
            arguments = tuple(getattr(self, name) for name in self._fields)
        return type(self), arguments, self.__dict__.copy()


def short(environment_id: object) -> str:
    """The id for a message: quoted and escaped, and of bounded length."""
    text = ascii(environment_id)
    return text if len(text) <= 250 else f"{text[:250]}..."
