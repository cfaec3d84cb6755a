# SPDX-License-Identifier: Apache-2.0
"""README and user pages: the examples run in order, and print what the pages show."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.isolation import why_not_isolated
from waggle_fsstore import SettingError, Settings
from waggle_fsstore.config import database_timeout
from waggle_fsstore.domain import errors

ROOT = Path(__file__).parent.parent

#: The pages whose examples continue one another, in the order in which a new user reads them.
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("python", "testing", "cli", "recipes", "errors", "server", "configuration")
    ),
]
CLI, ERRORS, SERVER, CONFIGURATION = (
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("cli", "errors", "server", "configuration")
)

#: What differs from run to run; the pages show the values of one run.
VARYING = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z": "TIME",
    r'"checksum": "[0-9a-f]{8}"': '"checksum": CHECKSUM',
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
    r"/.+-workspaces/": "WORKSPACES/",
}

#: Where the examples expect the server.
URL = "http://127.0.0.1:8080/mcp"

# The server stores a use after a minute. The session takes less.
SERVE = """
import sys
from datetime import timedelta
from waggle_fsstore.cli import main
from waggle_fsstore.service.touch_buffer import TouchBuffer
TouchBuffer.__init__.__kwdefaults__["interval"] = timedelta(days=1)
sys.exit(main())
"""


class Block(NamedTuple):
    language: str
    text: str
    output: str | None
    """The text block that follows in the same section, which shows what this one prints."""


_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[tuple[str, str]] = _FENCED.findall(page.read_text())
    return [
        Block(language, text, after if language == "python" and kind == "text" else None)
        for (language, text), (kind, after) in pairwise([*found, ("", "")])
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(block: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output that it shows."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        command, _, output = part.partition("\n")
        if "<<'EOF'" in command:
            body, end, output = output.partition("EOF\n")
            command = f"{command}\n{body}{end}"
        found.append((command, output))
    return found


def mask_varying(text: str) -> str:
    """Replace what differs from run to run by fixed words."""
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return text


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory of a new user, with the package on ``PATH``."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    user = tmp_path / "user"
    user.mkdir()
    return user


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a running server with an empty store."""
    pytest.importorskip("mcp")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, "--store", str(tmp_path / "served"), "serve"],
        env={"WAGGLE_LISTEN_ADDR": "127.0.0.1:0"},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr
            lines = [server.stderr.readline()]
            while lines[-1] and "serving on" not in lines[-1]:
                lines.append(server.stderr.readline())
            found = re.search(r"serving on (http://[^\"]+)", lines[-1])
            assert found, lines
            yield found[1]
        finally:
            server.terminate()
            server.communicate()


def run_python(text: str, directory: Path, output: str | None = None) -> str:
    """Run an example, with pytest if it is a test; check what its comments say it prints."""
    script = directory / "test_example.py"
    script.write_text(text)
    is_test = "def test_" in text or "Contract" in text
    command = [sys.executable, "-W", "error", *(["-m", "pytest", "-q"] if is_test else [])]
    done = subprocess.run(
        [*command, script.name], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)
    # The prints in error handlers must not be reached.
    assert done.stdout.splitlines()[:1] == said[:1] or "except" in text or not said
    assert "busy:" not in done.stdout
    assert output is None or mask_varying(done.stdout) == mask_varying(output)
    script.unlink()
    return done.stdout


@pytest.mark.longest
def test_python_examples_print_what_pages_show(directory: Path) -> None:
    """Every example in Python runs, one after the other, and prints what its page shows."""
    for block in BLOCKS:
        if block.language == "python" and URL not in block.text:
            run_python(block.text, directory, block.output)


def test_client_session_prints_what_page_shows(directory: Path, server_url: str) -> None:
    """An agent's session runs against a server, and prints what the page shows."""
    if reason := why_not_isolated():
        pytest.skip(reason)
    session, *more = [block for block in BLOCKS if block.language == "python" and URL in block.text]
    assert not more
    assert session.output
    run_python(session.text.replace(URL, server_url), directory, session.output)


@pytest.mark.longest
def test_commands_print_what_pages_show(directory: Path) -> None:
    """Every command runs, one after the other, and prints what its page shows."""
    missing = [name for name in ("git", "jq") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    pytest.importorskip("duckdb")
    here, exported, after = directory, "", directory / "pwd"
    for block in BLOCKS:
        if block.language == "python" and not re.search(f"test_|{URL}", block.text):
            run_python(block.text, directory, block.output)
        for command, expected in commands_of(block.text) if block.language == "console" else []:
            # Each command runs in a shell of its own; a reader types all into one.
            done = subprocess.run(
                ["bash", "-c", f'{exported}{command}\nstatus=$?; pwd >"{after}"; exit $status'],
                cwd=here,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), command
            assert mask_varying(done.stdout) == mask_varying(expected), command
            here = Path(after.read_text().strip())
            if command.startswith("export "):
                name, _, value = command.partition("=")
                exported += f"{name}={shlex.quote(f'{directory}/{value}')}\n"


def test_search_for_examples_finds_them() -> None:
    """The pages have as many examples as they had when they were one page, or more."""
    assert len([block for block in BLOCKS if block.language == "python"]) >= 7
    assert len([block for block in BLOCKS if block.output]) >= 2
    assert (
        sum(len(commands_of(block.text)) for block in BLOCKS if block.language == "console") >= 18
    )


def test_make_targets_exist() -> None:
    """Every make target that a page names is in the Makefile."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))
    assert {"demo", "serve", "test"} <= named
    assert named <= set(targets)


def test_error_tree_is_that_of_the_code() -> None:
    """The error tree on the page is the one in the code."""
    _, drawn = _FENCED.findall(ERRORS)[0]
    lines = (errors.__doc__ or "").splitlines()
    tree = [line[4:] for line in lines if line.startswith("    ")]
    assert drawn.splitlines() == tree


def test_verbs_and_exit_codes_are_those_of_the_program() -> None:
    """The table of verbs and the list of exit codes are those of the program."""
    from waggle_fsstore.cli.app import app
    from waggle_fsstore.cli.exit_codes import ExitCode

    verbs = re.findall(r"^\| `([a-z]+(?: [a-z]+)?)[` ]", CLI, re.MULTILINE)
    assert verbs == list(app.commands)
    codes = re.search(r"Exit codes: (.*?)\.\n", CLI, re.DOTALL)
    assert codes
    found = dict(part.split(maxsplit=1) for part in " ".join(codes[1].split()).split(", "))
    assert {int(number) for number in found} == {0, *map(int, ExitCode)}


def test_variables_are_those_of_the_program() -> None:
    """The tables of variables name each variable that the program reads, and no other."""
    source = (ROOT / "waggle_fsstore" / "config.py").read_text()
    rows = r"^\| the (\w+) \|.*\n\|[-|]+\n((?:\| `WAGGLE_.*\n)+)"
    tables = dict(re.findall(rows, CONFIGURATION, re.MULTILINE))
    assert list(tables) == ["store", "server", "programs"]
    named = {
        name: re.findall(r"^\| `(WAGGLE_[A-Z_]+)`", tables[name], re.MULTILINE) for name in tables
    }
    assert named["store"] == ["WAGGLE_STORE_PATH", "WAGGLE_STORE_TIMEOUT", "WAGGLE_DATA_DIR"]
    read = set(re.findall(r'"(WAGGLE_[A-Z_]+)"', source))
    assert sorted(name for names in named.values() for name in names) == sorted(read)


def test_defaults_are_those_of_the_program() -> None:
    """The defaults of the table are those of the program; the error of a bad value names it."""
    row = r"^\| `(WAGGLE_[A-Z_]+)` \|.*\| (?:`(.*)`|none) \|$"
    rows = re.findall(row, CONFIGURATION, re.MULTILINE)
    assert len(rows) == 31
    for variable, default in rows:
        read: Callable[[dict[str, str]], object] = Settings.from_env
        if variable == "WAGGLE_STORE_TIMEOUT":
            read = database_timeout
        assert read({variable: default}) == read({}), variable
        with pytest.raises(SettingError, match=f"^{variable}: "):
            read({variable: "/ ?"})


def test_tools_are_those_of_the_server(server_url: str) -> None:
    """The tools, their arguments, answers and resource are those of a running server."""
    from mcp import Client
    from mcp.types import Tool

    async def ask() -> tuple[list[Tool], list[str]]:
        async with Client(server_url) as client:
            tools = (await client.list_tools()).tools
            templates = (await client.list_resource_templates()).resource_templates
            return tools, [template.uri_template for template in templates]

    tools, templates = asyncio.run(ask())
    rows = re.findall(r"^\| `([a-z_]+)` \| (`.*?|\[.*?) \| (.*) \|$", SERVER, re.MULTILINE)
    names = re.compile(r"`(\w+)`").findall
    assert [name for name, _, _ in rows] == [tool.name for tool in tools]
    for tool, (_, arguments, answer) in zip(tools, rows, strict=True):
        required = arguments.partition("[")[0]
        assert names(required) == tool.input_schema.get("required", []), tool.name
        assert names(arguments) == list(tool.input_schema["properties"]), tool.name
        fields = list((tool.output_schema or {})["properties"])
        if answer.startswith("the environment"):
            answer = SERVER.partition("An environment is `")[2].partition(", the directory")[0]
            answer = f"`{answer}"
        assert set(fields) <= set(names(answer)) | {"environments"}, tool.name
    assert [f"`{template}`" in SERVER for template in templates] == [True]
