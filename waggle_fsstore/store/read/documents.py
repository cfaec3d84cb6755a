# SPDX-License-Identifier: Apache-2.0
"""The documents on disk: read one, list their names, read all."""

import os
from contextlib import suppress
from copy import copy
from operator import index
from stat import S_IMODE
from typing import Any, Final, NamedTuple, Self

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import EnvironmentNotFoundError
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout, document_name
from waggle_fsstore.store.fs.disk import FILE_MODE
from waggle_fsstore.store.fs.linux import file_clock, timeless_status
from waggle_fsstore.store.fs.safe_read import (
    has_still,
    modified_at,
    read_or_error,
    read_regular,
    read_with_status,
)
from waggle_fsstore.store.read.document_cache import (
    MAX_CACHED_BYTES,
    DocumentCache,
    misplaced,
)
from waggle_fsstore.store.read.stat_signature import (
    Signature,
    settled_signature,
    signature_of,
)

# They take 2-4 kB each. Beyond this number, all are dropped: those in use are soon read again.
_MAX_KNOWN_DOCUMENTS: Final = 4096


class StoredDocument:
    """One good document: its bytes, what they state, and the mode of its file."""

    __slots__ = (
        "_environment",
        "checksum",
        "data",
        "id",
        "is_intact",
        "mode",
        "path",
        "revision",
        "signature",
        "status",
    )

    def __init__(self, path: str, data: bytes, mode: int = FILE_MODE) -> None:
        """Parse a document. Raises ``BadFile``."""
        fields = codec.parse_object(data, path)
        self.path = path
        self.data = data
        self.mode = mode
        #: That of its file when it was last found; ``None`` if it was not, or proves nothing.
        self.signature: Signature | None = None
        self.checksum = fields.get("checksum")
        self.is_intact = codec.is_intact(data)
        self._environment: Environment | None = None
        # A store of this version has checked the documents that it wrote. Check all others now.
        if self.is_intact and fields.get("schema") == codec.SCHEMA:
            # Another program may have computed the checksum: then the decoder says what is wrong.
            with suppress(KeyError, TypeError, ValueError):
                self.id = str(fields["id"])
                self.revision = index(fields["revision"])
                self.status = Status(fields["status"])
                return
        environment = self._environment = codec.decode(data, path, modified_at)
        self.id = environment.id
        self.revision = environment.revision
        self.status = environment.status

    @classmethod
    def of(cls, path: str, data: bytes, fields: dict[str, Any], status: Status, mode: int) -> Self:
        """Return the document that this store has just encoded."""
        stored = object.__new__(cls)
        stored.path = path
        stored.data = data
        stored.mode = mode
        stored.signature = None
        stored.id = fields["id"]
        stored.revision = fields["revision"]
        stored.checksum = fields["checksum"]
        stored.status = status
        stored.is_intact = True
        stored._environment = None
        return stored

    def with_mode(self, mode: int) -> Self:
        """Return this document, or a copy, with the mode that its file has now."""
        if mode == self.mode:
            return self
        changed = copy(self)
        changed.mode = mode
        return changed

    @property
    def fields(self) -> dict[str, Any]:
        """The members of the document."""
        return codec.parse_object(self.data, self.path)

    @property
    def environment(self) -> Environment:
        """The environment in the document; the caller may not modify it."""
        if self._environment is None:
            self._environment = codec.decode(self.data, self.path, modified_at)
        return self._environment


class FoundDocument(NamedTuple):
    """A good document that was found twice, and the signature of its file when it was read."""

    path: str
    environment: Environment
    #: ``None`` if the file had changed so recently that a signature proves nothing.
    signature: Signature | None


class Documents(DocumentCache):
    """The documents of one store. Takes no lock: a document is always replaced as a whole."""

    __slots__ = ("_known",)

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        #: By id, the documents that were saved here or found twice, and ``None`` for those found
        #: once.
        self._known: dict[str, FoundDocument | StoredDocument | None] = {}

    def find(self, environment_id: str) -> Environment:
        """Return the environment with an id; opens its file only if that may have changed.

        Raises :class:`EnvironmentNotFoundError` and ``BadFile``.
        """
        known = self._known.get(environment_id) if type(environment_id) is str else None
        try:
            if (
                known is not None
                and known.signature is not None
                and known.signature == signature_of(os.lstat(known.path))
            ):
                return known.environment.copy_unchecked()
            return self._find_file(environment_id)
        except FileNotFoundError:
            raise EnvironmentNotFoundError(environment_id) from None

    def _find_file(self, environment_id: str) -> Environment:
        """As :meth:`find`, for a document that this object did not keep, or that may have changed.

        Raises ``FileNotFoundError`` if there is no file.
        """
        if not is_id(environment_id):
            raise EnvironmentNotFoundError(environment_id)
        known = self._known.get(environment_id)
        if type(known) is StoredDocument:
            now = file_clock()
            data, status = read_with_status(known.path, codec.MAX_DOCUMENT_BYTES)
            if data == known.data:
                known.signature = self._signature(status, now)
                return known.environment.copy_unchecked()
        name = document_name(environment_id)
        path = f"{self._layout.environments}{os.sep}{name}"
        listed = self.cached(name)
        if listed is not None and listed.signature == signature_of(os.lstat(path)):
            return listed.environment.copy_unchecked()
        if environment_id not in self._known:
            # Keeping a document takes a fifth as long again as reading it.
            environment = self.named(name)
            self._remember(environment_id, None)
            return environment
        read, is_cached = self.read(name, file_clock(), is_watched=False)
        if is_cached and not read.has_other_links:
            found = FoundDocument(path, read.environment, read.signature)
            self._remember(environment_id, found)
        return read.environment.copy_unchecked()

    def remember_saved(self, document: StoredDocument) -> None:
        """Keep a document that was just published: its file is compared with it at each use."""
        if len(document.data) <= MAX_CACHED_BYTES:
            self._remember(document.id, document)
        else:
            self.forget(document.id)

    def _signature(self, status: os.stat_result, now: int) -> Signature | None:
        """Return the signature of a file, if it proves that the file is unchanged from now on."""
        if status.st_nlink > 1:
            return None  # A document with two names is read each time, as in a listing.
        return settled_signature(status, self._layout.environments, now)

    def forget(self, environment_id: str) -> None:
        """Release the memory of a document that was removed."""
        self._known.pop(environment_id, None)

    def _remember(self, environment_id: str, found: FoundDocument | StoredDocument | None) -> None:
        if len(self._known) >= _MAX_KNOWN_DOCUMENTS:
            self._known = {}
        self._known[environment_id] = found

    def named(self, name: str) -> Environment:
        """Return the environment with a file name. Raises ``BadFile``."""
        path = f"{self._layout.environments}{os.sep}{name}"
        environment = codec.decode(read_regular(path, codec.MAX_DOCUMENT_BYTES), path, modified_at)
        if document_name(environment.id) != name:
            raise misplaced(path, environment.id)
        return environment

    def stored(self, environment_id: str) -> StoredDocument | None:
        """Return the document of an id, ``None`` if there is none. Raises ``BadFile``."""
        known = self._known.get(environment_id) if type(environment_id) is str else None
        if type(known) is StoredDocument and has_still(known.path, known.data):
            with suppress(FileNotFoundError):
                return known.with_mode(S_IMODE(timeless_status(known.path).st_mode))
        return self.at(document_name(environment_id)) if is_id(environment_id) else None

    def at(self, name: str) -> StoredDocument | None:
        """Return the document with a file name, ``None`` if there is none. Raises ``BadFile``."""
        path = f"{self._layout.environments}{os.sep}{name}"
        try:
            data, status = read_with_status(path, codec.MAX_DOCUMENT_BYTES)
            stored = StoredDocument(path, data, S_IMODE(status.st_mode))
        except FileNotFoundError:
            return None
        if document_name(stored.id) != name:
            raise misplaced(path, stored.id)
        return stored

    def highest_revision(self) -> int:
        """Return the highest revision in any file, readable as an environment or not.

        0 if there are no files.
        """
        directory = self._layout.environments
        paths = (f"{directory}{os.sep}{name}" for name in self.names())
        return max(map(revision_in, paths), default=0)


def revision_in(path: str) -> int:
    """Return the revision in a file, whatever else is wrong with it; 0 if it is unreadable.

    An unreadable file must not prevent writes of other documents.
    """
    revision = read_or_error(
        lambda: codec.revision_of(read_regular(path, codec.MAX_DOCUMENT_BYTES))
    )
    return revision if isinstance(revision, int) else 0
