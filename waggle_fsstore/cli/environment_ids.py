# SPDX-License-Identifier: Apache-2.0
"""Ids as users give them, which may be prefixes, and as tables on a terminal show them."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import click

from waggle_fsstore.cli.completion import complete_id
from waggle_fsstore.cli.output import printable
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.repository import TransactionalRepository

#: The argument ID of a verb on one environment.
id_argument = click.argument(
    "environment_id",
    metavar="ID",
    help="Id, or a unique prefix of it.",
    shell_complete=complete_id,
)

_SHOWN_CANDIDATES: Final = 5

# Enough for most stores, so that a generated id takes little of the width of a terminal. An
# id that a person chose is usually shorter than the second number.
_MIN_SHORT_CHARACTERS: Final = 8
_MAX_WHOLE_CHARACTERS: Final = 20


def full_id(store: TransactionalRepository, given: str, *, is_in_history: bool = False) -> str:
    """Return the id in the store that ``given`` names: exactly, or as a unique prefix.

    Returns ``given`` itself if it names none, so that the caller reports it as not found.
    With ``is_in_history``, ids of which only the history is left count too. A prefix of
    several ids is a usage error that lists them.
    """
    if not given:  # An empty shell variable, not a prefix of every id.
        return given
    try:
        store.find_by_id(given)
    except EnvironmentNotFoundError:
        pass
    except (CorruptDocumentError, UnsupportedFormatError, OSError):
        return given  # A document that is unreadable, under exactly this id.
    else:
        return given
    if is_in_history and next(store.history(given), None) is not None:
        return given
    readable = store.find_all(on_corrupt=lambda _: None)
    found = [other.id for other in readable if other.id.startswith(given)]
    if not found and is_in_history:
        events = (event.environment_id for event in store.history())
        found = sorted({other for other in events if other.startswith(given)})
    if len(found) > 1:
        shown = [printable(one) for one in found[:_SHOWN_CANDIDATES]]
        shown += ["..."] * (len(found) > _SHOWN_CANDIDATES)
        raise click.BadParameter(
            f"{given!r} is a prefix of {len(found)} ids: {', '.join(shown)}", param_hint="'ID'"
        )
    return found[0] if found else given


class ShortIds:
    """Prefixes of ids for people: :func:`full_id` finds an id of the store by its prefix."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = sorted(ids)

    def of(self, environment_id: str) -> str:
        """Return a prefix that no other id has. Ids of up to 20 characters stay whole."""
        if len(environment_id) <= _MAX_WHOLE_CHARACTERS:
            return environment_id
        place = bisect_left(self._ids, environment_id)
        nearest = [*self._ids[max(0, place - 1) : place + 2]]
        shared = [_shared(environment_id, other) for other in nearest if other != environment_id]
        return environment_id[: max([_MIN_SHORT_CHARACTERS, *(1 + count for count in shared)])]


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
