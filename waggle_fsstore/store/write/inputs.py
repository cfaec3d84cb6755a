# SPDX-License-Identifier: Apache-2.0
"""What every store does with what it is given to write, before it takes its lock."""

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from waggle_fsstore.domain.cleanup import run_with_cleanup
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import InvalidEnvironmentError

#: How often ``update`` tries without the lock, before it keeps all other writers out.
OPTIMISTIC_TRIES: Final = 3


class _Running(threading.local):
    """The stores whose ``update`` this thread is inside of."""

    def __init__(self) -> None:
        self.stores: set[Hashable] = set()


_running: Final = _Running()


def apply(
    store: Hashable, change: Callable[[Environment], object], environment: Environment
) -> Environment:
    """A checked copy of the environment after ``change``, marked as being inside of it."""
    changed = environment.copy()

    def call() -> None:
        _running.stores.add(store)
        change(changed)

    run_with_cleanup(call, lambda: _running.stores.discard(store))
    if changed.id != environment.id:
        raise InvalidEnvironmentError("id", "update may not change it")
    return changed.copy()


def refuse_inside(store: Hashable) -> None:
    """Raise ``RuntimeError`` where a callback of ``update`` writes to the same store.

    The write would be lost or repeated when the callback runs again, and would wait
    for its own lock when it runs under it.
    """
    if store in _running.stores:
        raise RuntimeError(
            "a function passed to update() may not write to the same store: "
            "return from it first, then write"
        )


def checked(environment: Environment) -> Environment:
    """A checked copy: what the caller does with the argument meanwhile changes nothing."""
    if not isinstance(environment, Environment):
        raise TypeError(f"an Environment is needed, not a {type(environment).__name__}")
    return environment.copy()


def batch(environments: Iterable[Environment]) -> list[Environment]:
    """Checked copies of all. Raises ``ValueError`` for an id that comes twice."""
    copies: dict[str, Environment] = {}
    for environment in environments:
        copy = checked(environment)
        if copy.id in copies:
            raise ValueError(f"the id {copy.id!r} comes twice")
        copies[copy.id] = copy
    return list(copies.values())
