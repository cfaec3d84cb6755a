# SPDX-License-Identifier: Apache-2.0
"""What the program exits with: the code of each error, and what is said about it."""

from enum import IntEnum, IntFlag
from typing import Final

from waggle_fsstore.domain.errors import (
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    InvalidEnvironmentError,
    JournalDamagedError,
    LockTimeoutError,
    ServerRunningError,
    SettingError,
    UnsupportedFormatError,
    WaggleError,
)


class ExitCode(IntEnum):
    """The exit codes, the same for every verb but ``fsck``."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    LOCK_TIMEOUT = 5
    CORRUPT = 6
    INTERRUPTED = 130


class FsckBit(IntFlag):
    """What the exit code of ``fsck`` is the sum of, as that of fsck(8)."""

    CORRECTED = 1
    LEFT = 4
    FAILED = 8
    USAGE = 16


#: The errors that are expected, and so told in one line. Any other is a bug, with a traceback.
EXPECTED: Final = (WaggleError, OSError)

# The first that fits counts. A lock timeout is an OSError too.
_CODES: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (LockTimeoutError, ExitCode.LOCK_TIMEOUT),
    (EnvironmentNotFoundError, ExitCode.NOT_FOUND),
    (EnvironmentAlreadyExistsError, ExitCode.CONFLICT),
    (ConflictError, ExitCode.CONFLICT),
    (ServerRunningError, ExitCode.CONFLICT),
    (CorruptDocumentError, ExitCode.CORRUPT),
    (UnsupportedFormatError, ExitCode.CORRUPT),
    (JournalDamagedError, ExitCode.CORRUPT),
    # A value that was given is one that no store accepts.
    (InvalidEnvironmentError, ExitCode.USAGE),
    (SettingError, ExitCode.USAGE),
)


def code_of(error: Exception) -> ExitCode:
    """The exit code for an expected error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.ERROR)


def message_of(error: BaseException) -> str:
    """One line that says what went wrong, and with which file. Not escaped yet."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        return text if error.filename is None else f"{error.filename}: {text}"
    text = str(error) or type(error).__name__
    # What the operating system said, where the package says only what follows from it.
    cause = error.__cause__
    return f"{text} ({message_of(cause)})" if isinstance(cause, OSError) else text
