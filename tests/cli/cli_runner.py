# SPDX-License-Identifier: Apache-2.0
"""The program under test: run inside this process, or as one of its own."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from typer.testing import CliRunner, Result

from waggle_fsstore.cli.app import app
from waggle_fsstore.domain.environment import Environment, Runtime, Status

# The runner is no terminal, even where the tests are started on one with "pytest -s".
app.rich_markup_mode = None

PYTHON = (sys.executable, "-W", "error")
PROGRAM = (*PYTHON, "-m", "waggle_fsstore")


def run(*arguments: str) -> Result:
    """Run it here. What it does not handle itself is raised."""
    return CliRunner().invoke(app, arguments, prog_name="waggle-fsstore", catch_exceptions=False)


def execute(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run it as a process, with more environment variables."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        check=False,
        timeout=60,
    )


def environment(environment_id: str, **fields: object) -> Environment:
    """An environment with fixed times, and no two fields the same."""
    values: dict[str, object] = {
        "name": f"name of {environment_id[:20]}",
        "runtime": Runtime.NODE,
        "status": Status.RUNNING,
        "created_at": datetime(2031, 2, 3, 4, 5, 6, 7, UTC),
        "last_used": datetime(2031, 2, 3, 5, 6, 7, 8, UTC),
        "timeout": timedelta(minutes=45),
        "labels": {"team": "blue"},
    }
    return Environment(id=environment_id, **{**values, **fields})  # type: ignore[arg-type]


def document(root: Path, name: str) -> Path:
    """The path of a document in a store."""
    return root / "environments" / f"{name}.json"
