# SPDX-License-Identifier: Apache-2.0
"""Error texts without paths, which may be stored and shown to a client."""

import os
from urllib.parse import unquote

from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    HistoryLostError,
    HistoryPrunedError,
    JournalDamagedError,
    LockTimeoutError,
    ProviderError,
    StoreClosedError,
    StoreError,
    StoreGoneError,
    UnsupportedFormatError,
    WaggleError,
)


def document_in(error: Exception) -> str:
    """Return the name of the file that an error concerns, "" if it concerns none."""
    path = getattr(error, "path", None) or getattr(error, "filename", None) or ""
    return os.path.basename(path)


def id_in(error: Exception) -> str:
    """Return the id of the unreadable document, from its file name (docs/format.md)."""
    return unquote(document_in(error).removesuffix(".json"))


def reason_of(error: BaseException) -> str:
    """Return one line about an error, without its details, which go to the log."""
    match error:
        case ProviderError():
            return error.reason
        case CorruptDocumentError():
            return f"the environment's document is damaged: {error.reason}"
        case UnsupportedFormatError():
            return "a newer version wrote the document; the operator must upgrade the server"
        case LockTimeoutError():
            return "the store is busy: try again"
        case StoreClosedError():
            return "the server is shutting down"
        case WaggleError() if not isinstance(error, StoreError) or isinstance(
            error, HistoryPrunedError | HistoryLostError
        ):
            return str(error)
        case StoreGoneError():
            return "the store failed: it is gone; the operator must put its directory back"
        case JournalDamagedError():
            return "the store's journal is damaged; the operator must run 'waggle-fsstore fsck'"
        case StoreError():
            return f"the store failed ({type(error).__name__})"
        case OSError() if error.strerror:
            return f"the store failed: {error.strerror}"
        case Exception():
            return f"unexpected error ({type(error).__name__}); see the server log"
        case _:
            return f"interrupted ({type(error).__name__})"
