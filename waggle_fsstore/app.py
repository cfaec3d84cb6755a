# SPDX-License-Identifier: Apache-2.0
"""The composition root: the only place that picks a backend."""

import os
import re
from urllib.parse import unquote, urlsplit

from waggle_fsstore import config
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.file import FileStore
from waggle_fsstore.store.memory import MemoryStore

# Two letters at least: "C:" is a drive.
_scheme_of = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):").match


def open_repository(location: str | os.PathLike[str] | None = None) -> TransactionalRepository:
    """Open the store at a location, or the default one.

    ``location`` is a path (``~`` is the home folder) or a ``file:`` URL of a
    :class:`FileStore`, or ``memory:`` for a :class:`MemoryStore`. Without it,
    ``WAGGLE_STORE_PATH`` says where, else the store is ``store`` in ``WAGGLE_DATA_DIR``,
    else in the user's data folder of the system for ``waggle``.

    Raises ``ValueError`` for a location that is none of these.
    """
    if location is None:
        location = config.store_location()
    if isinstance(location, os.PathLike):
        return FileStore(location)
    if not location:
        raise ValueError("the location of the store is empty: give a path, file:PATH or memory:")
    if "\0" in unquote(location):
        raise ValueError("the location of the store holds a NUL character")
    scheme = _scheme_of(location)
    if scheme is None:
        return FileStore(os.path.expanduser(location))
    match scheme[1].lower():
        case "memory" if location[len(scheme[0]) :].strip("/") == "":
            return MemoryStore()
        case "file":
            return FileStore(_path_of(location))
        case _:
            raise ValueError(
                f"the location {location!r} is unknown: give a path (./{location} if it is one), "
                "file:PATH or memory:"
            )


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not path:
        raise ValueError(f"the location {url!r} names no local path: write file:///path")
    if os.name == "nt" and re.match(r"/[A-Za-z]:", path):  # pragma: no cover
        path = path[1:]
    return path
