# SPDX-License-Identifier: Apache-2.0
"""The log: lines of JSON that nobody has to read."""

import asyncio
import json
import logging
import subprocess
import sys

import pytest

from tests.server.processes import LONG
from waggle_fsstore.server.json_log import JsonFormatter, LoopErrors

FLOOD = """
import logging
from waggle_fsstore.server import json_log
json_log.configure()
for number in range(30_000):
    logging.error("line %d %s", number, "x" * 200)
print("done", flush=True)
"""

# An end waits for the lines to be written, however slow the machine.
FEW = """
import logging
from waggle_fsstore.server import json_log
json_log._PATIENCE = 50
json_log.configure()
for number in range(100):
    logging.warning("line %d", number)
logging.error("%d", "no number")
"""


def test_nobody_reads_it() -> None:
    """Who started the server and reads nothing stops no call, nor the end."""
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
            assert process.wait(LONG) == 0
        finally:
            process.kill()


def test_what_is_logged_is_written_before_the_end() -> None:
    """Each line, in order, also one that cannot be made."""
    done = subprocess.run(
        [sys.executable, "-c", FEW], capture_output=True, text=True, check=True, timeout=LONG
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines[:-1]] == [f"line {number}" for number in range(100)]
    assert lines[-1] == {"level": "error", "message": "unprintable: '%d'"}
    assert done.stdout == ""


ODD = """
import threading
from waggle_fsstore.server import json_log
json_log._PATIENCE = 50
json_log.configure()
class Odd:
    def __init__(self, error):
        self.error = error
    def __del__(self):
        raise self.error
Odd(BrokenPipeError())
Odd(ValueError("thrown away"))
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
"""


def test_what_python_would_print() -> None:
    """Errors that nobody can handle are lines too; a client that is gone was told already."""
    done = subprocess.run(
        [sys.executable, "-c", ODD], capture_output=True, text=True, check=True, timeout=LONG
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines] == [
        "nobody could handle an error",
        "a thread failed",
    ]
    assert ["thrown away" in lines[0]["traceback"], "Zero" in lines[1]["traceback"]] == [True, True]


def test_what_an_event_loop_says_again(caplog: pytest.LogCaptureFixture) -> None:
    """It is told every few seconds, with how much was left out, and anything else at once."""
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
        "b\nleft out: 2",
        "b\nleft out: 0",
    ]


def test_fields_and_tracebacks() -> None:
    """A line has what its record brings along, and stays one line."""
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
