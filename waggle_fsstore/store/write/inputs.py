# SPDX-License-Identifier: Apache-2.0
"""Validation and copying of the caller's arguments, before the store lock is taken."""

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from waggle_fsstore.domain.cleanup import run_with_cleanup
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import InvalidEnvironmentError

#: How often ``update`` tries optimistically before it runs its callback under the lock.
OPTIMISTIC_TRIES: Final = 3


class _Running(threading.local):
    """The stores whose ``update`` callback this thread is running."""

    def __init__(self) -> None:
        self.stores: set[Hashable] = set()


_running: Final = _Running()


def apply(
    store: Hashable, change: Callable[[Environment], object], environment: Environment
) -> Environment:
    """Return a checked copy of the environment after ``change``, the callback of ``update``.

    While the callback runs, :func:`refuse_inside` refuses writes to the same store.
    """
    changed = environment.copy()

    def call() -> None:
        _running.stores.add(store)
        change(changed)

    run_with_cleanup(call, lambda: _running.stores.discard(store))
    if changed.id != environment.id:
        raise InvalidEnvironmentError("id", "cannot be changed by update()")
    return changed.copy()


def refuse_inside(store: Hashable) -> None:
    """Raise ``RuntimeError`` inside a callback of ``update`` of the same store.

    A write there would be lost or repeated when the callback runs again, and would
    deadlock when it runs under the lock.
    """
    if store in _running.stores:
        raise RuntimeError(
            "a function passed to update() may not write to the same store: "
            "return from it first, then write"
        )


def checked_copy(environment: Environment) -> Environment:
    """Return a checked copy, which later changes of the argument do not affect."""
    if not isinstance(environment, Environment):
        raise TypeError(f"expected an Environment, got {type(environment).__name__}")
    return environment.copy()


def checked_copies(environments: Iterable[Environment]) -> list[Environment]:
    """Return checked copies of all. Raises ``ValueError`` for a duplicate id."""
    copies: dict[str, Environment] = {}
    for environment in environments:
        copy = checked_copy(environment)
        if copy.id in copies:
            raise ValueError(f"duplicate id {copy.id!r}")
        copies[copy.id] = copy
    return list(copies.values())
