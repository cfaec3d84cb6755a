# SPDX-License-Identifier: Apache-2.0
"""The verb serve on the command line; tests/server tests the server itself."""

import pytest

from tests.cli.cli_runner import run, run_python

_SERVE = """
import sys
sys.modules[{missing!r}] = None
from waggle_fsstore.cli import main
sys.argv = ["waggle-fsstore", "serve"]
sys.exit(main())
"""

_LIGHT = """
import sys
import waggle_fsstore.cli.app
heavy = {"prometheus_client", "jinja2"}
heavy |= {"mcp", "mcp_types", "anyio", "asyncio", "pydantic", "starlette", "uvicorn"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "missing", ["mcp", "uvicorn", "starlette", "anyio", "prometheus_client", "jinja2"]
)
def test_missing_server_extra_is_named(missing: str) -> None:
    """The error says how to install it, with exit code 2."""
    result = run_python(_SERVE.format(missing=missing))
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    *_, line = result.stderr.splitlines()
    assert f"serving needs the extra 'server' ({missing}" in line
    assert line.endswith(
        "pip install '/path/to/clone[server]', with the path of your clone of the repository"
    )


def test_missing_own_module_is_a_bug() -> None:
    """A missing module of the package is shown with its traceback."""
    result = run_python(_SERVE.format(missing="waggle_fsstore.server.tools"))
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "pip install" not in result.stderr


def test_other_verbs_do_not_import_the_server() -> None:
    """Modules that only serving needs are imported on demand."""
    result = run_python(_LIGHT)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_serve_help_names_address_and_effects() -> None:
    """The help says where the server listens, and that stopping destroys nothing."""
    result = run("serve", "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for expected in (
        "--stdio",
        "WAGGLE_LISTEN_ADDR (127.0.0.1:8080)",
        "/mcp",
        "destroys no environment",
    ):
        assert expected in text
