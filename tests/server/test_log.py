# SPDX-License-Identifier: Apache-2.0
"""The log: lines of JSON, which need not be read."""

import asyncio
import json
import logging
import os
import subprocess
import sys

import pytest

from tests.server.processes import TIMEOUT_S
from waggle_fsstore.server.log import JsonFormatter, LoopErrors, TextFormatter

FLOOD = """
import logging
from waggle_fsstore.server import log
log.configure()
for number in range(30_000):
    logging.error("line %d %s", number, "x" * 200)
print("done", flush=True)
"""

# The end waits until the lines are written, however slow the machine is.
ORDERED = """
import logging
from waggle_fsstore.server import log
log._FLUSH_TIMEOUT_S = 50
log.configure()
for number in range(100):
    logging.warning("line %d", number)
logging.error("%d", "no number")
"""


def test_unread_stderr_blocks_nothing() -> None:
    """A full pipe on standard error blocks neither a call nor the end of the process."""
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


def test_log_is_written_before_exit() -> None:
    """Each entry is written, in order, including one that cannot be formatted."""
    done = subprocess.run(
        [sys.executable, "-c", ORDERED],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines[:-1]] == [f"line {number}" for number in range(100)]
    assert (lines[-1]["level"], lines[-1]["message"]) == ("error", "unprintable: '%d'")
    assert done.stdout == ""


UNCAUGHT = """
import threading
from waggle_fsstore.server import log
log._FLUSH_TIMEOUT_S = 50
log.configure()
class FailsWhenFreed:
    def __init__(self, error):
        self.error = error
    def __del__(self):
        raise self.error
FailsWhenFreed(BrokenPipeError())
FailsWhenFreed(ValueError("thrown away"))
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
"""


def test_uncaught_errors_are_logged() -> None:
    """Unraisable errors and failed threads are logged, except for a client that is gone."""
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines] == [
        "an error could not be raised",
        "a thread failed",
    ]
    assert ["thrown away" in lines[0]["traceback"], "Zero" in lines[1]["traceback"]] == [True, True]


def test_repeated_loop_errors_are_summarised(caplog: pytest.LogCaptureFixture) -> None:
    """A repeated error is logged every few seconds, with a count, any other at once."""
    clock = [0.0]
    handler = LoopErrors(lambda: clock[0])
    loop = asyncio.new_event_loop()
    for clock[0], message in [
        (1, "a"),
        (2, "a"),
        (3, "b"),
        (4, "b"),
        (7, "b"),
        (8, "b"),
        (13, "b"),
    ]:
        handler(loop, {"message": message, "exception": OSError(message)})
    loop.close()
    assert [record.getMessage() for record in caplog.records] == [
        "a",
        "b",
        "b\nrepeats left out: 2",
        "b\nrepeats left out: 0",
    ]


def test_fields_and_traceback_fit_one_line() -> None:
    """An entry has the fields of its record and the traceback, and is one line."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        information = sys.exc_info()
    record = logging.LogRecord("a.b", logging.ERROR, __file__, 1, "%s\n", ("x",), information)
    record.fields = {"environment_id": "e"}
    text = JsonFormatter().format(record)
    assert "\n" not in text
    fields = json.loads(text)
    assert (fields["level"], fields["logger"], fields["message"]) == ("error", "a.b", "x\n")
    assert fields["environment_id"] == "e"
    assert "ValueError: two\nlines" in fields["traceback"]


def test_text_is_for_people() -> None:
    """A line has time, level, message and fields; what a client sent cannot act on a terminal."""
    record = logging.makeLogRecord(
        {
            "msg": "call of %s: ok\x1b[2J",
            "args": ("ls",),
            "levelname": "INFO",
            "created": 0,
            "fields": {"client": "mcp:x\ny", "duration_ms": 1.5},
        }
    )
    line = TextFormatter().format(record)
    assert line[8:] == " info    call of ls: ok\\x1b[2J  client=mcp:x\\ny  duration_ms=1.5"
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        record.exc_info = sys.exc_info()
    lines = TextFormatter().format(record).splitlines()
    assert lines[0] == line
    assert lines[-2:] == ["ValueError: one", "two"]


LOG_ONCE = """
import logging, sys
from waggle_fsstore.server import log
log._FLUSH_TIMEOUT_S = 50
log.configure(*sys.argv[1:])
logging.info("low")
logging.warning("high")
"""


def logged(*arguments: str, is_terminal: bool = False) -> str:
    """Return what a program logs whose standard error is a terminal, or is not."""
    ours, theirs = os.openpty() if is_terminal else os.pipe()
    try:
        command = [sys.executable, "-c", LOG_ONCE, *arguments]
        subprocess.run(command, stderr=theirs, check=True, timeout=TIMEOUT_S)
        return os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_form_of_log_fits_its_reader() -> None:
    """It is text on a terminal and JSON elsewhere, unless a setting says otherwise."""
    for form, is_terminal, is_json in (
        ("", False, True),
        ("", True, False),
        ("text", False, False),
        ("json", True, True),
    ):
        text = logged("info", form, is_terminal=is_terminal)
        first, second = text.splitlines()
        assert first.startswith("{") == is_json, (form, is_terminal)
        assert ("low" in first, "high" in second) == (True, True)


def test_level_leaves_out_what_is_less() -> None:
    """With ``warning``, no information is logged."""
    (line,) = logged("warning", "text").splitlines()
    assert line.endswith("high")
