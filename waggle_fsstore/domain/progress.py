# SPDX-License-Identifier: Apache-2.0
"""How far long work has come, for a caller that shows it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

_T = TypeVar("_T")

#: Called with how many are done, of how many (``None`` if that is not known), and their name.
OnProgress = Callable[[int, int | None, str], object]

_observer: Final[ContextVar[OnProgress | None]] = ContextVar(
    "waggle_fsstore.progress", default=None
)


@contextmanager
def observed(on_progress: OnProgress) -> Iterator[None]:
    """Call a function with the progress of what this thread does in the block."""
    token = _observer.set(on_progress)
    try:
        yield
    finally:
        _observer.reset(token)


def report(done: int, total: int | None, what: str) -> None:
    """Say how far the work has come, if a caller wants to know."""
    on_progress = _observer.get()
    if on_progress is not None:
        on_progress(done, total, what)


def tracked(items: Collection[_T], what: str) -> Iterator[_T]:
    """Yield the items, and report how many of them are done."""
    for done, item in enumerate(items):
        report(done, len(items), what)
        yield item
    report(len(items), len(items), what)
