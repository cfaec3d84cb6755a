# SPDX-License-Identifier: Apache-2.0
"""The documents as they stand on disk: read one, list them, read all."""

import errno
import os
from typing import Final, NamedTuple

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.values import is_id
from waggle_fsstore.store import codec
from waggle_fsstore.store.layout import Layout, document_name, is_document_name
from waggle_fsstore.store.reading import read

BadFile = CorruptDocumentError | UnsupportedFormatError | OSError

# These concern the process, not the one file that was being opened.
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Stored(NamedTuple):
    """One document: the environment, and the bytes that hold it."""

    environment: Environment
    data: bytes


class Documents:
    """The documents of one store. Takes no lock: a document is replaced as a whole."""

    __slots__ = ("_layout",)

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def find(self, environment_id: str) -> Stored:
        """The document of an id. Raises :class:`EnvironmentNotFoundError` and ``BadFile``."""
        if not is_id(environment_id):
            raise EnvironmentNotFoundError(environment_id)
        path = self._layout.document(environment_id)
        try:
            data = read(path, codec.MAX_DOCUMENT_BYTES)
            environment = codec.decode(data, path)
        except FileNotFoundError:
            raise EnvironmentNotFoundError(environment_id) from None
        if environment.id != environment_id:
            raise _misplaced(path, environment.id)
        return Stored(environment, data)

    def look_up(self, environment_id: str) -> Stored | None:
        """The document of an id, ``None`` if there is none. Raises ``BadFile``."""
        try:
            return self.find(environment_id)
        except EnvironmentNotFoundError:
            return None

    def names(self) -> list[str]:
        """The file names that belong to some id; files of other names are ignored."""
        try:
            names = os.listdir(self._layout.environments)
        except FileNotFoundError:
            return []
        return [name for name in names if is_document_name(name)]

    def read_all(self, names: list[str]) -> tuple[list[Environment], list[BadFile]]:
        """What these files hold, and what is wrong with the others, sorted by id and by name.

        A file that is gone was deleted meanwhile, and is in neither.
        """
        good: list[Environment] = []
        bad: list[BadFile] = []
        for name in sorted(names):
            path = f"{self._layout.environments}{os.sep}{name}"
            try:
                environment = codec.decode(read(path, codec.MAX_DOCUMENT_BYTES), path)
                if document_name(environment.id) != name:
                    raise _misplaced(path, environment.id)
                good.append(environment)
            except FileNotFoundError:
                continue
            except (CorruptDocumentError, UnsupportedFormatError) as error:
                bad.append(error)
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    raise
                bad.append(error)
        good.sort(key=lambda environment: environment.id)
        return good, bad

    def highest_revision(self) -> int:
        """The highest revision in any file, readable as an environment or not; 0 for none."""
        folder = self._layout.environments
        return max((revision_in(f"{folder}{os.sep}{name}") for name in self.names()), default=0)


def revision_in(path: str) -> int:
    """The revision in a file, whatever else is wrong with it; 0 if it cannot be told.

    A file that cannot be read must not stop the writing of others.
    """
    try:
        return codec.revision_of(read(path, codec.MAX_DOCUMENT_BYTES))
    except CorruptDocumentError:
        return 0
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        return 0


def _misplaced(path: str, environment_id: str) -> CorruptDocumentError:
    return CorruptDocumentError(
        path, f"id: is {environment_id!r}, whose file is {document_name(environment_id)}"
    )
