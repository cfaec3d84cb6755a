# SPDX-License-Identifier: Apache-2.0
"""The log on standard error: lines of text or of JSON, written without blocking any call."""

import json
import logging
import os
import sys
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Any, Final

from waggle_fsstore.domain.clock import monotonic

# Standard output carries the protocol.
_STDERR_FD: Final = 2

# Further entries are dropped while the reader of standard error is this far behind.
_MAX_QUEUED_RECORDS: Final = 10_000

# How long the end of the process waits for queued entries to be written.
_FLUSH_TIMEOUT_S: Final = 0.5

# How long an error of the event loop that repeats is left out of the log.
_REPEAT_INTERVAL_S: Final = 5.0

_log: Final = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time, level, logger, message, any traceback.

    The ``fields`` of the record are added:
    ``log.info("done", extra={"fields": {"environment_id": "a"}})``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, without its line end."""
        at = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class TextFormatter(logging.Formatter):
    """Formats a record for people: time, level, message, fields, any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, without its line end; a traceback has further lines."""
        at = datetime.fromtimestamp(record.created).astimezone()
        fields = getattr(record, "fields", {})
        parts = [
            f"{at:%H:%M:%S} {record.levelname.lower():7} {record.getMessage()}",
            *(f"{name}={value}" for name, value in fields.items()),
        ]
        line = _printable("  ".join(parts))
        if record.exc_info:
            lines = self.formatException(record.exc_info).splitlines()
            line = "\n".join((line, *map(_printable, lines)))
        return line


class NonBlockingHandler(QueueHandler):
    """Has a background thread write the records, so that a blocked standard error blocks no call.

    Records beyond the first 10,000 that wait to be written are dropped.
    """

    def __init__(self) -> None:
        self._records: Queue[logging.LogRecord] = Queue(_MAX_QUEUED_RECORDS)
        super().__init__(self._records)
        _StderrWriter(self._records).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand a formatted record to the thread."""
        with suppress(Full):
            self._records.put_nowait(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Log that a record could not be formatted: this must not fail the call that logs."""
        values = {"msg": f"unprintable: {record.msg!r:.200}", "levelname": "ERROR", "name": "log"}
        plain = logging.makeLogRecord(values)
        text = self.formatter.format(plain) if self.formatter else plain.getMessage()
        self.enqueue(logging.makeLogRecord({"msg": text}))

    def flush(self) -> None:
        """Wait until all records are written, for ``_FLUSH_TIMEOUT_S`` at most."""
        deadline = monotonic() + _FLUSH_TIMEOUT_S
        while self._records.unfinished_tasks and monotonic() < deadline:
            time.sleep(0.001)


class _StderrWriter(QueueListener):
    """The background thread. It is never stopped: ``stop`` would wait for a blocked write."""

    def handle(self, record: logging.LogRecord) -> None:
        rest = f"{record.getMessage()}\n".encode()
        with suppress(OSError):  # The reader is gone, and the rest with it.
            while rest:
                # Not through sys.stderr: the end of the process would wait for its lock.
                rest = rest[os.write(_STDERR_FD, rest) :]


class LoopErrors:
    """Logs what an event loop could not handle; a repeated error only every few seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._message = ""
        self._logged_at = 0.0
        self._left_out = 0

    def __call__(self, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        """See ``loop.set_exception_handler``."""
        is_repeated = context["message"] == self._message
        if is_repeated and self._clock() < self._logged_at + _REPEAT_INTERVAL_S:
            self._left_out += 1
            return
        if is_repeated:
            context = {**context, "repeats left out": self._left_out}
        self._message, self._logged_at, self._left_out = context["message"], self._clock(), 0
        loop.default_exception_handler(context)


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Log an error that Python would print, such as one raised by ``__del__``."""
    if isinstance(unraisable.exc_value, BrokenPipeError):
        return  # The client is gone, which is logged elsewhere.
    _log_uncaught("an error could not be raised", unraisable)


def _log_thread_exception(failure: threading.ExceptHookArgs) -> None:
    """Log the error that ended a thread, which Python would print."""
    _log_uncaught("a thread failed", failure)


def _log_uncaught(message: str, error: "sys.UnraisableHookArgs | threading.ExceptHookArgs") -> None:
    value = error.exc_value or error.exc_type()
    _log.error(message, exc_info=(error.exc_type, value, error.exc_traceback))


def _printable(text: str) -> str:
    """Return a line whose control characters are escaped: a client may have sent them."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def configure(level: str = "info", form: str = "") -> None:
    """Send the log, warnings and uncaught errors to standard error.

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``; ``form`` is ``text``, ``json``, or
    "" for text on a terminal and JSON elsewhere.
    """
    handler = NonBlockingHandler()
    is_text = form == "text" or (not form and os.isatty(_STDERR_FD))
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_exception
    # Not one line for each request: this package has one for each call of a tool.
    for name in ("mcp", "uvicorn", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
