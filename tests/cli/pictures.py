# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.cli.pictures``: draws ``docs/ls.svg`` and ``docs/top.svg``.

The programs run on a terminal of 80 columns, with a store that is made for the pictures.
"""

import os
import pty
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from waggle_fsstore import Environment, FileStore, Runtime, Status, audit

DOCS: Final = Path(__file__).parents[2] / "docs"
COLUMNS: Final = 80
_LINES: Final = 17

# The picture of top is between these codes: the cursor goes home, and what is below is cleared.
_BEGIN, _END, _CLEAR_LINE = "\x1b[H", "\x1b[J", "\x1b[K"

_MINUTE: Final = timedelta(minutes=1)

# Id, name, runtime, status, minutes since the creation and since the last use, team, reason.
_ENVIRONMENTS: Final = (
    ("0a2ae22e", "Web build", Runtime.NODE, Status.RUNNING, 42, 1, "blue", ""),
    ("3fb1c07d", "Data analysis", Runtime.PYTHON, Status.RUNNING, 190, 4, "red", ""),
    ("77d90e15", "Nightly report", Runtime.PYTHON, Status.ERROR, 600, 12, "red", "port taken"),
    ("b5e2aa40", "Scratch", Runtime.SHELL, Status.RUNNING, 15, 14, "blue", ""),
    ("e90c41f8", "Migration test", Runtime.PYTHON, Status.CREATING, 0, 0, "green", ""),
)


def fill(root: Path) -> None:
    """Make the store that the pictures show."""
    with FileStore(root) as store:
        for name, title, runtime, status, age, idle, team, reason in _ENVIRONMENTS:
            now = datetime.now(UTC)
            with audit(actor="maja mcp:claude-code", reason=reason):
                store.create(
                    Environment(
                        id=name,
                        name=title,
                        runtime=runtime,
                        status=status,
                        created_at=now - age * _MINUTE,
                        last_used=now - idle * _MINUTE,
                        labels={"team": team},
                        status_reason=reason,
                    )
                )


def drawn(root: Path, verb: str) -> str:
    """Return what a verb draws on a terminal, with its codes for colours."""
    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "waggle_fsstore", "--store", str(root), verb]
    variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    variables |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(_LINES)}
    data = b""
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, env=variables):
        os.close(terminal)
        with suppress(OSError):  # Linux: the program has closed the other side.
            while more := os.read(control, 65536):
                data += more
                if _END.encode() in more:
                    os.write(control, b"q")
    os.close(control)
    text = data.decode().replace("\r\n", "\n").replace(_CLEAR_LINE, "")
    if _BEGIN in text:
        text = text.partition(_BEGIN)[2].partition(_END)[0]
    return text.rstrip()


def picture(text: str, title: str) -> str:
    """Return the picture of a terminal as SVG, which loads nothing."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text), soft_wrap=True)
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id=title.split()[-1])
    return re.sub(r"@font-face \{[^}]*\}\s*", "", svg)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "store")
        fill(root)
        for verb in ("ls", "top"):
            text = picture(drawn(root, verb), f"waggle-fsstore {verb}")
            (DOCS / f"{verb}.svg").write_text(text)
