# SPDX-License-Identifier: Apache-2.0
"""A bar that moves on stderr while something takes long, if somebody is there to see it."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def working(on: str) -> Iterator[None]:
    """Show that work goes on, until the block ends; then no trace of it is left."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    # Here, because loading it takes as long as all the rest of the program.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        # Nobody knows how much there is: the bar goes to and fro.
        progress.add_task(on, total=None)
        yield


def awaited(items: Iterable[_T], on: str) -> Iterator[_T]:
    """The items; the bar is away while one is dealt with, which may print it."""
    iterator = iter(items)
    while True:
        with working(on):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
