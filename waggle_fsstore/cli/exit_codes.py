# SPDX-License-Identifier: Apache-2.0
"""Exit codes: the code and the message of each error."""

import os
from enum import IntEnum, IntFlag
from typing import Final

from waggle_fsstore.domain.errors import (
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    HostNotFoundError,
    HostRefusedError,
    IdempotencyKeyReusedError,
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
    # As timeout(1) reports a program that ran for too long.
    TIMED_OUT = 124
    # As a shell reports a program that a signal ended: 128 and the number of the signal.
    INTERRUPTED = 130
    READER_GONE = 141


class FsckBit(IntFlag):
    """The bits of the exit code of ``fsck``, which adds them up as fsck(8) does."""

    CORRECTED = 1
    LEFT = 4
    FAILED = 8
    USAGE = 16


#: Expected errors, which are reported in one line. Any other is a bug, shown with a traceback.
EXPECTED: Final = (WaggleError, OSError)

# The first match is used.
_CODES: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (LockTimeoutError, ExitCode.LOCK_TIMEOUT),
    (EnvironmentNotFoundError, ExitCode.NOT_FOUND),
    (EnvironmentAlreadyExistsError, ExitCode.CONFLICT),
    (IdempotencyKeyReusedError, ExitCode.CONFLICT),
    (ConflictError, ExitCode.CONFLICT),
    (ServerRunningError, ExitCode.CONFLICT),
    (HostNotFoundError, ExitCode.NOT_FOUND),
    (HostRefusedError, ExitCode.CONFLICT),
    (CorruptDocumentError, ExitCode.CORRUPT),
    (UnsupportedFormatError, ExitCode.CORRUPT),
    (JournalDamagedError, ExitCode.CORRUPT),
    # The user gave a value that no store accepts.
    (InvalidEnvironmentError, ExitCode.USAGE),
    (SettingError, ExitCode.USAGE),
)


def code_of(error: Exception) -> ExitCode:
    """Return the exit code for an expected error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.ERROR)


def message_of(error: BaseException) -> str:
    """Return one line that says what went wrong and with which file. The caller escapes it."""
    if isinstance(error, OSError) and error.strerror:
        text, name = error.strerror, error.filename
        if isinstance(name, bytes):
            name = os.fsdecode(name)
        return text if name is None else f"{name}: {text}"
    text = str(error) or type(error).__name__
    # The error of the operating system that caused this one.
    cause = error.__cause__
    return f"{text} ({message_of(cause)})" if isinstance(cause, OSError) else text
