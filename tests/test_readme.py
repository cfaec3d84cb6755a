# SPDX-License-Identifier: Apache-2.0
"""The README: its examples run, and what they show is what comes out."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from waggle_fsstore import SettingError, Settings
from waggle_fsstore.domain import errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

#: What differs from run to run, and stands in the README as one run had it.
VARYING = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z": "TIME",
    r'"checksum": "[0-9a-f]{8}"': '"checksum": CHECKSUM',
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
    r"/.+-workspaces/": "WORKSPACES/",
}

#: Where the examples expect the server.
URL = "http://127.0.0.1:8080/mcp"

# A use is stored after five seconds. In the README it comes and goes in less.
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


_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [Block(*found) for found in _FENCED.findall(README)]


def steps(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that it shows."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        command, _, output = part.partition("\n")
        if "<<'EOF'" in command:
            body, end, output = output.partition("EOF\n")
            command = f"{command}\n{body}{end}"
        found.append((command, output))
    return found


def steady(text: str) -> str:
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be a new user in."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    user = tmp_path / "user"
    user.mkdir()
    return user


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    """Where a server with an empty store listens."""
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


def run_python(text: str, folder: Path) -> str:
    """Run an example, with pytest if it is a test; it prints what its comments say."""
    script = folder / "test_example.py"
    script.write_text(text)
    is_test = "def test_" in text or "Contract" in text
    command = [sys.executable, "-W", "error", *(["-m", "pytest", "-q"] if is_test else [])]
    done = subprocess.run(
        [*command, script.name], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)
    # Of the prints in handlers of errors none is to be reached.
    assert done.stdout.splitlines()[:1] == said[:1] or "except" in text or not said
    assert "busy:" not in done.stdout
    script.unlink()
    return done.stdout


def test_python_examples(folder: Path) -> None:
    """Every example in Python runs, one after the other, and prints what the README shows."""
    for block in BLOCKS:
        if block.language == "python" and URL not in block.text:
            run_python(block.text, folder)


def test_session_with_the_server(folder: Path, server_url: str) -> None:
    """The session of a client runs against a server, and prints what the README shows."""
    (session, shown), *more = [
        (block.text, after.text)
        for block, after in pairwise(BLOCKS)
        if block.language == "python" and URL in block.text
    ]
    assert not more
    printed = run_python(session.replace(URL, server_url), folder)
    assert steady(printed) == steady(shown)


def test_recipes(folder: Path) -> None:
    """Every command runs, one after the other, and prints what the README shows."""
    missing = [name for name in ("git", "jq") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    pytest.importorskip("duckdb")
    here, exported, after = folder, "", folder / "pwd"
    for block in BLOCKS:
        if block.language == "python" and not re.search(f"test_|{URL}", block.text):
            run_python(block.text, folder)
        for command, expected in steps(block.text) if block.language == "console" else []:
            # One shell a command, which for a reader is the same one.
            done = subprocess.run(
                ["bash", "-c", f'{exported}{command}\nstatus=$?; pwd >"{after}"; exit $status'],
                cwd=here,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), command
            assert steady(done.stdout) == steady(expected), command
            here = Path(after.read_text().strip())
            if command.startswith("export "):
                name, _, value = command.partition("=")
                exported += f"{name}={shlex.quote(f'{folder}/{value}')}\n"


def test_examples_are_there() -> None:
    """The search for examples finds them."""
    assert len([block for block in BLOCKS if block.language == "python"]) >= 4
    assert sum(len(steps(block.text)) for block in BLOCKS if block.language == "console") >= 14


def test_make_targets_exist() -> None:
    """What the README says to make can be made."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"make ([a-z]+)", README)) - {"nothing"}
    assert named
    assert named <= set(targets)


def test_error_tree() -> None:
    """The tree is the one in the code."""
    drawn = next(block.text for block in BLOCKS if block.text.startswith("WaggleError\n"))
    lines = (errors.__doc__ or "").splitlines()
    tree = [line[4:] for line in lines if line.startswith("    ")]
    assert drawn.splitlines() == tree


def test_verbs_and_exit_codes() -> None:
    """The table of verbs and the list of exit codes are those of the program."""
    from waggle_fsstore.cli.app import app
    from waggle_fsstore.cli.exit_codes import ExitCode

    verbs = re.findall(r"^\| `([a-z]+(?: [a-z]+)?)[` ]", README, re.MULTILINE)
    assert verbs == [command.name for command in app.registered_commands]
    codes = re.search(r"Exit codes: (.*?)\. ", README, re.DOTALL)
    assert codes
    found = dict(part.split(maxsplit=1) for part in " ".join(codes[1].split()).split(", "))
    assert {int(number) for number in found} == {0, *map(int, ExitCode)}


def test_variables() -> None:
    """Each variable of the two tables is one that the program reads, and each of those is there."""
    source = (ROOT / "waggle_fsstore" / "config.py").read_text()
    rows = r"^\| the (\w+) \|.*\n\|[-|]+\n((?:\| `WAGGLE_.*\n)+)"
    tables = dict(re.findall(rows, README, re.MULTILINE))
    assert list(tables) == ["store", "server"]
    named = {
        name: re.findall(r"^\| `(WAGGLE_[A-Z_]+)`", tables[name], re.MULTILINE) for name in tables
    }
    assert named["store"] == ["WAGGLE_STORE_PATH", "WAGGLE_DATA_DIR"]
    read = set(re.findall(r'"(WAGGLE_[A-Z_]+)"', source))
    assert sorted(named["store"] + named["server"]) == sorted(read)


def test_defaults() -> None:
    """The defaults of the table are those of the program; a bad value is told by its name."""
    rows = re.findall(r"^\| `(WAGGLE_[A-Z_]+)` \|.*\| (?:`(.*)`|none) \|$", README, re.MULTILINE)
    assert len(rows) == 7
    for variable, default in rows:
        assert Settings.of({variable: default}) == Settings.of({}), variable
        with pytest.raises(SettingError, match=f"^{variable}: "):
            Settings.of({variable: "/ ?"})


def test_tools(server_url: str) -> None:
    """The tools, their arguments, answers and resource are those of a server."""
    from mcp import Client
    from mcp.types import Tool

    async def ask() -> tuple[list[Tool], list[str]]:
        async with Client(server_url) as client:
            tools = (await client.list_tools()).tools
            templates = (await client.list_resource_templates()).resource_templates
            return tools, [template.uri_template for template in templates]

    tools, templates = asyncio.run(ask())
    rows = re.findall(r"^\| `([a-z]+_[a-z]+)` \| (.*?) \| (.*) \|$", README, re.MULTILINE)
    names = re.compile(r"`(\w+)`").findall
    assert [name for name, _, _ in rows] == [tool.name for tool in tools]
    for tool, (_, arguments, answer) in zip(tools, rows, strict=True):
        required = arguments.partition("[")[0]
        assert names(required) == tool.input_schema.get("required", []), tool.name
        assert names(arguments) == list(tool.input_schema["properties"]), tool.name
        fields = list((tool.output_schema or {})["properties"])
        if answer.startswith("the environment"):
            answer = README.partition("An environment is `")[2].partition(", the folder")[0]
            answer = f"`{answer}"
        assert set(fields) <= set(names(answer)) | {"environments"}, tool.name
    assert [f"`{template}`" in README for template in templates] == [True]
