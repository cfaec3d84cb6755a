# SPDX-License-Identifier: Apache-2.0
"""The store that a command works on, as the global options name it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.wiring import open_repository


@contextmanager
def refusals() -> Iterator[None]:
    """A value that a store refuses is a usage error."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True, slots=True)
class Target:
    """Where the store is: ``location`` as given by ``--store``, ``None`` for the default."""

    location: str | None

    def open(self) -> TransactionalRepository:
        """Open the store, which need not exist. A bad location is a usage error."""
        with refusals():
            return open_repository(self.location)

    def open_to_read(self) -> TransactionalRepository:
        """Open the store to read it. One that was named must be there: it may be misspelt."""
        store = self.open()
        if self.location is not None and isinstance(store, FileStore) and not store.path.exists():
            raise FileNotFoundError(
                errno.ENOENT, "there is no store; create an environment to begin one", store.path
            )
        return store


def in_a_folder(store: TransactionalRepository) -> FileStore:
    """The store if it is one in a folder; any other is a usage error."""
    if not isinstance(store, FileStore):
        raise typer.BadParameter("a store in memory has no files: name one in a folder")
    return store


def document_of(store: TransactionalRepository, environment: Environment) -> bytes:
    """The document of a stored environment: what its file holds, to the byte."""
    if not isinstance(store, FileStore):
        return codec.encode(environment, environment.revision)
    try:
        return raw_document(store, environment.id)
    except FileNotFoundError:  # Deleted since.
        raise EnvironmentNotFoundError(environment.id) from None


def raw_document(store: FileStore, environment_id: str) -> bytes:
    """What the file of this id holds, whether or not it is a document.

    Raises :class:`CorruptDocumentError` for what is no regular file or too large.
    """
    return safe_read.read_regular(
        str(store.document_path(environment_id)), codec.MAX_DOCUMENT_BYTES
    )
