# SPDX-License-Identifier: Apache-2.0
"""Ids as users give them, which may be prefixes, and as tables on a terminal show them."""

from collections.abc import Iterable
from typing import Final

import typer

from waggle_fsstore.cli.output import printable
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.repository import TransactionalRepository

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
        raise typer.BadParameter(
            f"{given!r} is a prefix of {len(found)} ids: {', '.join(shown)}", param_hint="'ID'"
        )
    return found[0] if found else given


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return a prefix of each id that :func:`full_id` finds, if the store has these ids only.

    Ids of up to 20 characters are not shortened.
    """
    ordered = sorted(set(ids))
    shortened = {}
    for before, own, after in zip(["", *ordered], ordered, [*ordered[1:], ""], strict=False):
        length = 1 + max(_shared(own, before), _shared(own, after), _MIN_SHORT_CHARACTERS - 1)
        shortened[own] = own if len(own) <= _MAX_WHOLE_CHARACTERS else own[:length]
    return shortened


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
