# SPDX-License-Identifier: Apache-2.0
"""Which files were replaced by others: they stay open, so that none gets an old inode number."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def originals(*paths: Path) -> Iterator[Callable[[], list[Path]]]:
    """Yield a function that returns the paths that still lead to the same files as before."""
    with ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb")) for path in paths}
        yield lambda: [
            path
            for path, file in files.items()
            if os.path.samestat(os.fstat(file.fileno()), path.stat())
        ]
