# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr while something takes long, shown only on a terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def spinner(label: str) -> Iterator[None]:
    """Show a moving bar until the block ends, and then remove it."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    # Imported here because that takes as long as the rest of the program.
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
        progress.add_task(label, total=None)
        yield


def with_progress(items: Iterable[_T], label: str) -> Iterator[_T]:
    """Yield the items, with a bar while waiting for each. The caller may print an item."""
    iterator = iter(items)
    while True:
        with spinner(label):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
