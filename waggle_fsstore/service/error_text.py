# SPDX-License-Identifier: Apache-2.0
"""Texts of errors that may be stored and shown to a client: they contain no paths."""

import os
from urllib.parse import unquote

from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    HistoryPrunedError,
    JournalDamagedError,
    LockTimeoutError,
    ProviderError,
    StoreClosedError,
    StoreError,
    UnsupportedFormatError,
    WaggleError,
)


def document_in(error: Exception) -> str:
    """Return the name of the file that an error is about, "" if it is about none."""
    path = getattr(error, "path", None) or getattr(error, "filename", None) or ""
    return os.path.basename(path)


def id_in(error: Exception) -> str:
    """Return the id of the unreadable document, from its file name (docs/format.md)."""
    return unquote(document_in(error).removesuffix(".json"))


def reason_of(error: BaseException) -> str:
    """Return one line about an error, without the details, which are for the log."""
    match error:
        case ProviderError():
            return error.reason
        case CorruptDocumentError():
            return f"its document is damaged: {error.reason}"
        case UnsupportedFormatError():
            return "its document was written by a newer program"
        case LockTimeoutError():
            return "the store is busy: try again"
        case StoreClosedError():
            return "the server is shutting down"
        case WaggleError() if not isinstance(error, StoreError) or isinstance(
            error, HistoryPrunedError
        ):
            return str(error)
        case JournalDamagedError():
            return "the journal of the store is damaged: 'waggle-fsstore fsck' says where"
        case StoreError():
            return f"the store failed ({type(error).__name__})"
        case OSError() if error.strerror:
            return f"the store failed: {error.strerror}"
        case _:
            return f"it failed ({type(error).__name__})"
