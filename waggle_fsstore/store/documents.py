# SPDX-License-Identifier: Apache-2.0
"""The documents as they stand on disk: read one, list them, read all."""

import errno
import os
from operator import attrgetter
from typing import Any, Final, NamedTuple, Self

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.values import is_id
from waggle_fsstore.store import codec
from waggle_fsstore.store.disk import FILE_MODE, mode_of
from waggle_fsstore.store.layout import Layout, document_name, is_document_name
from waggle_fsstore.store.linux import file_clock
from waggle_fsstore.store.reading import read
from waggle_fsstore.store.signature import Signature, is_settled, signature_of

BadFile = CorruptDocumentError | UnsupportedFormatError | OSError

# These concern the process, not the one file that was being opened.
OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

# A larger document is read each time: as objects it takes up to twenty times its size.
_MOST_REMEMBERED: Final = 1 << 14


class Stored:
    """One good document: its bytes, what they say, and the mode of its file."""

    __slots__ = ("_environment", "checksum", "data", "document", "is_intact", "mode", "path")

    def __init__(self, path: str, data: bytes, mode: int = FILE_MODE) -> None:
        """Raises :class:`CorruptDocumentError` and :class:`UnsupportedFormatError`."""
        self.path = path
        self.data = data
        self.mode = mode
        self.document = codec.parse_object(data, path)
        self.checksum = self.document.get("checksum")
        self.is_intact = codec.is_intact(data)
        self._environment: Environment | None = None
        # What a store of this version wrote was checked before; the rest is checked now.
        if not self.is_intact or self.document.get("schema") != codec.SCHEMA:
            self._environment = codec.decode(data, path)

    @classmethod
    def of(cls, path: str, data: bytes, document: dict[str, Any]) -> Self:
        """The document that this store has just encoded."""
        stored = object.__new__(cls)
        stored.path = path
        stored.data = data
        stored.document = document
        stored.checksum = document["checksum"]
        stored.is_intact = True
        stored.mode = FILE_MODE
        stored._environment = None
        return stored

    @property
    def environment(self) -> Environment:
        """The environment in it."""
        if self._environment is None:
            self._environment = codec.decode(self.data, self.path)
        return self._environment

    @property
    def id(self) -> str:
        """The id of the environment in it."""
        return self._environment.id if self._environment else str(self.document["id"])

    @property
    def revision(self) -> int:
        """The revision that it says it has; a hand may have written it."""
        return self._environment.revision if self._environment else self.document["revision"]

    @property
    def status(self) -> Status:
        """The status of the environment in it."""
        return Status(self._environment.status if self._environment else self.document["status"])


class _Remembered(NamedTuple):
    """What a file held, and by what it is known to hold it still."""

    signature: Signature
    environment: Environment


class Documents:
    """The documents of one store. Takes no lock: a document is replaced as a whole.

    Remembers what it read of all, and reads again only what may have changed since. That
    takes 1-3 kB for each document that was there when all were read last.
    """

    __slots__ = ("_layout", "_remembered")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # Never changed, only replaced: threads may share it, and a child inherits it whole.
        self._remembered: dict[str, _Remembered] = {}

    def find(self, environment_id: str) -> Environment:
        """The environment with an id. Raises :class:`EnvironmentNotFoundError` and ``BadFile``."""
        if not is_id(environment_id):
            raise EnvironmentNotFoundError(environment_id)
        path = self._layout.document(environment_id)
        try:
            environment = codec.decode(read(path, codec.MAX_DOCUMENT_BYTES), path)
        except FileNotFoundError:
            raise EnvironmentNotFoundError(environment_id) from None
        if environment.id != environment_id:
            raise _misplaced(path, environment.id)
        return environment

    def stored(self, environment_id: str) -> Stored | None:
        """The document of an id as it stands, ``None`` if there is none. Raises ``BadFile``."""
        if not is_id(environment_id):
            return None
        path = self._layout.document(environment_id)
        try:
            stored = Stored(path, read(path, codec.MAX_DOCUMENT_BYTES), mode_of(path))
        except FileNotFoundError:
            return None
        if stored.id != environment_id:
            raise _misplaced(path, stored.id)
        return stored

    def at(self, name: str) -> Stored | None:
        """The document with a file name, ``None`` if there is none. Raises ``BadFile``."""
        path = f"{self._layout.environments}{os.sep}{name}"
        try:
            stored = Stored(path, read(path, codec.MAX_DOCUMENT_BYTES), mode_of(path))
        except FileNotFoundError:
            return None
        if document_name(stored.id) != name:
            raise _misplaced(path, stored.id)
        return stored

    def names(self) -> list[str]:
        """The file names that belong to some id; files of other names are ignored."""
        try:
            names = os.listdir(self._layout.environments)
        except FileNotFoundError:
            return []
        remembered = self._remembered
        return [name for name in names if name in remembered or is_document_name(name)]

    def read_all(self, names: list[str]) -> tuple[list[Environment], list[BadFile]]:
        """What these files hold, and what is wrong with the others, sorted by id and by name.

        A file that is gone was deleted meanwhile, and is in neither.
        """
        good, bad = self._all(names)
        return [environment.twin() for environment in good], bad

    def statuses(self) -> dict[str, Status]:
        """The status of each environment that can be read, by its id."""
        good, _ = self._all(self.names())
        return {environment.id: environment.status for environment in good}

    def _all(self, names: list[str]) -> tuple[list[Environment], list[BadFile]]:
        """As :meth:`read_all`, but what it returns is remembered too: nobody may change it."""
        good: list[Environment] = []
        bad: list[BadFile] = []
        folder = self._layout.environments
        now = file_clock()
        remembered = self._unchanged(names)
        for name in sorted(names):
            known = remembered.get(name)
            if known is not None:
                good.append(known.environment)
                continue
            path = f"{folder}{os.sep}{name}"
            try:
                environment, status = _read(name, path)
                good.append(environment)
                if status.st_size <= _MOST_REMEMBERED and is_settled(status, folder, now):
                    # A change since then, while it was read too, shows at its first use.
                    remembered[name] = _Remembered(signature_of(status), environment)
            except FileNotFoundError:
                continue
            except (CorruptDocumentError, UnsupportedFormatError) as error:
                bad.append(error)
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    raise
                bad.append(error)
        self._remembered = remembered
        good.sort(key=attrgetter("id"))
        return good, bad

    def _unchanged(self, names: list[str]) -> dict[str, _Remembered]:
        """What is remembered of these files, of those that are as they were."""
        before = self._remembered
        if not before:
            return {}
        unchanged = {}
        try:
            # Relative to the folder, a status takes a tenth less time.
            folder = os.open(self._layout.environments, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return {}  # Whoever reads them will hear of it.
        try:
            for name in names:
                known = before.get(name)
                if known is None:
                    continue
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except OSError:
                    continue  # As above.
                if known.signature == signature_of(status):
                    unchanged[name] = known
        finally:
            os.close(folder)
        return unchanged

    def highest_revision(self) -> int:
        """The highest revision in any file, readable as an environment or not; 0 for none."""
        folder = self._layout.environments
        return max((revision_in(f"{folder}{os.sep}{name}") for name in self.names()), default=0)


def _read(name: str, path: str) -> tuple[Environment, os.stat_result]:
    """What a file holds, and its status before it was read."""
    before: list[os.stat_result] = []
    data = read(path, codec.MAX_DOCUMENT_BYTES, lambda opened: before.append(os.fstat(opened)))
    environment = codec.decode(data, path)
    if document_name(environment.id) != name:
        raise _misplaced(path, environment.id)
    return environment, before[0]


def revision_in(path: str) -> int:
    """The revision in a file, whatever else is wrong with it; 0 if it cannot be told.

    A file that cannot be read must not stop the writing of others.
    """
    try:
        return codec.revision_of(read(path, codec.MAX_DOCUMENT_BYTES))
    except CorruptDocumentError:
        return 0
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise
        return 0


def _misplaced(path: str, environment_id: str) -> CorruptDocumentError:
    return CorruptDocumentError(
        path, f"id: is {environment_id!r}, whose file is {document_name(environment_id)}"
    )
