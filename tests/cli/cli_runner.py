# SPDX-License-Identifier: Apache-2.0
"""The program under test: run in this process, or in another one."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner, Result

from tests.fork_server import PYTHON, Program
from waggle_fsstore.cli.app import app
from waggle_fsstore.domain.environment import Environment, Runtime, Status

PROGRAM = (*PYTHON, "-m", "waggle_fsstore")


def run(*arguments: str) -> Result:
    """Run the program in this process. Errors that it does not handle are raised."""
    return CliRunner().invoke(app, arguments, prog_name="waggle-fsstore", catch_exceptions=False)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in another process."""
    return subprocess.run(
        [*PYTHON, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def start(
    *arguments: str,
    code: str | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    **variables: str,
) -> Program:
    """Start the program in another process, with additional environment variables."""
    env = {**os.environ, **variables}
    return Program(*arguments, env=env, code=code, stdout=stdout, stderr=stderr)


def execute(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program in another process, with additional environment variables."""
    process = Program(*arguments, env={**os.environ, **variables})
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.wait(), output, errors)


def environment(environment_id: str, **fields: object) -> Environment:
    """Return an environment with fixed times, whose fields all differ."""
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
    """Return the path of a document in a store."""
    return root / "environments" / f"{name}.json"
