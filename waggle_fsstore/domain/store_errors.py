# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a store, whatever is kept in it."""

import errno
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from waggle_fsstore.domain.base_error import WaggleError, short


class StoreError(WaggleError):
    """Base of what can go wrong with a store, whatever is kept in it."""


class CorruptDocumentError(StoreError):
    """This file is not a document of the store, or not a whole one.

    It harms no other. Mend the file, or ``delete`` its environment, which moves the
    file to ``.waggle/lost+found``.
    """

    _fields = ("path", "reason")

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason} (mend the file or move it away)")


class UnsupportedFormatError(StoreError):
    """This file or folder was written by a newer program, or not by this one at all.

    It is neither read nor overwritten. ``found`` is its format, or in words what it is.
    """

    _fields = ("path", "found", "supported")

    def __init__(self, path: str | PathLike[str], found: int | str, supported: int) -> None:
        self.path = Path(path)
        self.found = found
        self.supported = supported
        if isinstance(found, int):
            problem = f"has format {found}, this program knows up to {supported}: upgrade it"
        else:
            problem = f"is no store: {found}; choose a new or empty folder"
        super().__init__(f"{self.path} {problem}")


class ConflictError(StoreError):
    """The stored version is not the expected one: somebody changed it in between.

    ``actual`` is the stored revision, 0 when nothing is stored. A change by hand is a
    version too: it gets a revision of its own.
    """

    _fields = ("environment_id", "expected", "actual")

    def __init__(self, environment_id: str, expected: int, actual: int) -> None:
        self.environment_id = environment_id
        self.expected = expected
        self.actual = actual
        found = f"revision {actual}" if actual else "nothing"
        wanted = f"revision {expected}" if expected else "nothing"
        super().__init__(
            f"environment {short(environment_id)}: expected {wanted}, found {found}: "
            "read it again and repeat the change"
        )


class LockHolder(NamedTuple):
    """Who holds the store lock: process id, host name, and since when (UTC)."""

    pid: int
    host: str
    since: datetime

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since:%Y-%m-%d %H:%M:%S} UTC"


class LockTimeoutError(StoreError, TimeoutError):
    """The store lock did not become free in time; nothing was changed.

    ``holder`` is what the holder wrote into the lock file, ``None`` if unreadable;
    ``timeout`` is the time waited, in seconds.
    """

    _fields = ("path", "holder", "timeout")

    def __init__(
        self, path: str | PathLike[str], holder: LockHolder | None, timeout: float
    ) -> None:
        message = (
            f"the store lock was not free within {timeout:g} s; it is held by "
            f"{holder or 'an unknown process'}"
        )
        super().__init__(errno.ETIMEDOUT, message, str(path))
        self.path = Path(path)
        self.holder = holder
        self.timeout = timeout


class OutcomeUnknownError(StoreError):
    """A change failed, and whether it will be seen after a restart cannot be known.

    This is the only error after which a failed write may have happened. Its
    ``__cause__`` is the failure. Look at the file once the disk is well again.
    """

    _fields = ("path",)

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        super().__init__(
            f"{self.path}: the change failed and could not be taken back; it may or may not "
            "be there after a restart: check the disk, then read the environment again"
        )


class JournalDamagedError(StoreError):
    """A line of the journal is bad, and good ones follow: no crash does that.

    Nothing is written until it is repaired; documents can be read. ``line`` counts from 1.
    """

    _fields = ("path", "line")

    def __init__(self, path: str | PathLike[str], line: int) -> None:
        self.path = Path(path)
        self.line = line
        super().__init__(
            f"{self.path}: line {line} is damaged, and nothing is written until "
            "'waggle-fsstore fsck --repair' has put it aside"
        )


class HistoryPrunedError(StoreError):
    """The history asked for was pruned; ``oldest`` is the first sequence number kept."""

    _fields = ("oldest",)

    def __init__(self, oldest: int) -> None:
        self.oldest = oldest
        super().__init__(f"the history starts at {oldest}: what came before was pruned")


class StoreClosedError(StoreError):
    """The store was closed; open a new one."""

    _fields = ()

    def __init__(self) -> None:
        super().__init__("the store is closed: open a new one")
