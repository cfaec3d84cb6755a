# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr while something takes long, shown only on a terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from waggle_fsstore.domain.progress import observed

_T = TypeVar("_T")


@contextmanager
def progress_bar(label: str) -> Iterator[None]:
    """Show how far the work of the block has come, and then remove that.

    Where the work does not say how much there is, the bar only moves.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    # Imported here because that takes as long as the rest of the program.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task(label, total=None)
        shown: tuple[int | None, str] = (None, "")

        def show(done: int, total: int | None, what: str) -> None:
            nonlocal shown
            if shown != (total, what):
                progress.reset(task, total=total, description=f"{label} {what}")
                shown = total, what
            progress.tasks[0].completed = done  # The thread that draws it takes it from there.

        with observed(show):
            yield


def with_progress(items: Iterable[_T], label: str) -> Iterator[_T]:
    """Yield the items, with a bar while waiting for each. The caller may print an item."""
    iterator = iter(items)
    while True:
        with progress_bar(label):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
