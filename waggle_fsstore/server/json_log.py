# SPDX-License-Identifier: Apache-2.0
"""The log: one JSON object a line, on standard error, which nobody waits for."""

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
from queue import Full, Queue
from typing import Any, Final

# Standard output carries the protocol.
_STANDARD_ERROR: Final = 2

# Lines that wait to be written. Whoever started the server need not read them.
_WAITING: Final = 10_000

# How long an end waits for lines to be written (seconds).
_PATIENCE: Final = 0.5

# How long nothing is told again that was told just now (seconds).
_SILENCE: Final = 5.0

_log: Final = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object: time, level, logger, message, a traceback if any.

    And what the record has as ``fields``: ``log.info("done", extra={"fields": {...}})``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
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


class PatientHandler(logging.Handler):
    """Has a thread of its own write the lines, so that a pipe that nobody reads stops no call.

    What is more than some thousand lines behind is dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: Queue[str] = Queue(_WAITING)
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line to the thread."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  # A line that cannot be made must not fail a call.
            line = json.dumps({"level": "error", "message": f"unprintable: {record.msg!r:.200}"})
        with suppress(Full):
            self._lines.put_nowait(line)

    def flush(self) -> None:
        """Wait until all is written, for a moment at most."""
        deadline = time.monotonic() + _PATIENCE
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.001)

    def _write(self) -> None:
        while True:
            rest = f"{self._lines.get()}\n".encode()
            # A reader that is gone misses the rest.
            with suppress(OSError):
                while rest:
                    # Not through sys.stderr: an end would wait for its lock.
                    rest = rest[os.write(_STANDARD_ERROR, rest) :]
            self._lines.task_done()


class LoopErrors:
    """Logs what an event loop could not handle; the same again only every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._message = ""
        self._told = 0.0
        self._left_out = 0

    def __call__(self, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        """See ``loop.set_exception_handler``."""
        is_same = context["message"] == self._message
        if is_same and self._clock() < self._told + _SILENCE:
            self._left_out += 1
            return
        if is_same:
            context = {**context, "left out": self._left_out}
        self._message, self._told, self._left_out = context["message"], self._clock(), 0
        loop.default_exception_handler(context)


def _tell_unraisable(what: "sys.UnraisableHookArgs") -> None:
    """Log what Python would print, such as an error while something is thrown away."""
    if isinstance(what.exc_value, BrokenPipeError):
        return  # A client that is gone, as was told.
    trace = (what.exc_type, what.exc_value or what.exc_type(), what.exc_traceback)
    _log.error("nobody could handle an error", exc_info=trace)


def _tell_thread(what: threading.ExceptHookArgs) -> None:
    """Log what Python would print of a thread that failed."""
    trace = (what.exc_type, what.exc_value or what.exc_type(), what.exc_traceback)
    _log.error("a thread failed", exc_info=trace)


def configure() -> None:
    """Send all that is logged to standard error."""
    handler = PatientHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.unraisablehook = _tell_unraisable
    threading.excepthook = _tell_thread
    # A line for each request is too much; what a call did stands in the history.
    for name in ("mcp", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
