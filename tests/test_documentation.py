# SPDX-License-Identifier: Apache-2.0
"""The documents of the project: their links, files, tables, commands and examples are right."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.testing import make_environment

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_FILE = re.compile(r"`((?:tests|docs|waggle_fsstore|store)/[\w./+-]*)`")
_PAGE = re.compile(r"docs/(?:decisions/)?[\w-]+\.md")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page: those that GitHub makes of its headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Each link within the project leads to an existing file, and to a heading in it."""
    for target, anchor in _LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in _anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    """Each file of the project that a page names exists."""
    for name in _FILE.findall(page.read_text()):
        assert (ROOT / name).exists() or (ROOT / "waggle_fsstore" / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_well_formed(page: Path) -> None:
    """Each table has a header, and rows of the same width: otherwise it is shown as plain text."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = table.splitlines()
        assert re.fullmatch(r"\|(?: ?:?-+:? ?\|)+", rows[1]), table
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(widths) == 1, table


def test_pages_named_in_sources_exist() -> None:
    """Each page that a source file names exists."""
    for source in [*(ROOT / "waggle_fsstore").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for name in _PAGE.findall(source.read_text()):
            assert (ROOT / name).exists(), f"{source.relative_to(ROOT)}: {name}"


_DESIGN = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]


@pytest.mark.parametrize("page", _DESIGN, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_classes_and_modules_exist(page: Path) -> None:
    """Each class, method and module that a page about the design names exists in the package."""
    text = page.read_text().partition("\n## Style")[0]
    files = sorted((ROOT / "waggle_fsstore").rglob("*.py"))
    source = "\n".join(file.read_text() for file in files)
    words = set(re.findall(r"\w+", source))
    classes = re.findall(r"`((?:[A-Z][a-z]+)+(?:\.\w+)?)[`(]", text)
    modules = set(re.findall(r"`([a-z_]+\.py)`", text))
    assert [name for name in classes if not set(name.split(".")) <= words] == []
    assert modules - {file.name for file in files} == set()


def test_contributing_lists_every_directory() -> None:
    """CONTRIBUTING lists every directory of the package, once, and no other."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^  ([\w/]+)/ +\w", text, re.MULTILINE)
    package = ROOT / "waggle_fsstore"
    found = {str(path.parent.relative_to(package)) for path in package.rglob("*/__init__.py")}
    assert sorted(listed) == sorted(found - {"."})


def _blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a language in a page of ``docs``."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_library_examples_print_their_comments(tmp_path: Path) -> None:
    """The examples of the server as a library print what their comments say."""
    examples = _blocks("library.md", "python")
    assert len(examples) == 2
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            cwd=tmp_path,
            env={},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        said = re.findall(r"^ *print\(.*\)  # (.*)$", example, re.MULTILINE)
        assert done.stdout.splitlines() == said


PROGRAM = "/path/to/waggle-fsstore"


def _client_entries() -> list[dict[str, Any]]:
    """Return the servers that the page on clients and the README configure."""
    entries = []
    for block in _blocks("clients.md", "json"):
        (key, servers), *more = json.loads(block).items()
        assert not more
        is_typed = "type" in servers["waggle"]
        assert (key, is_typed) in {("mcpServers", False), ("mcpServers", True), ("servers", True)}
        entries += servers.values()
    commands = "\n".join(
        block for page in ("clients.md", "../README.md") for block in _blocks(page, "sh")
    ).replace("$PWD/.venv/bin/", "/path/to/")
    for words in map(shlex.split, re.findall("^claude mcp add (.*)$", commands, re.MULTILINE)):
        if "--" in words:
            command, *args = words[words.index("--") + 1 :]
            entries.append({"command": command, "args": args})
        else:
            entries.append({"type": words[words.index("--transport") + 1], "url": words[-1]})
    return entries


def test_configured_clients_reach_server(tmp_path: Path) -> None:
    """The command that clients start is a server; the address is the default one."""
    pytest.importorskip("mcp")
    from mcp import Client, StdioServerParameters

    entries = _client_entries()
    assert len(entries) == 9
    assert {entry["url"] for entry in entries if "url" in entry} == {"http://127.0.0.1:8080/mcp"}
    assert {entry.get("type") for entry in entries if "url" in entry} == {None, "http"}
    local = [entry for entry in entries if "url" not in entry]
    assert {entry.get("type") for entry in local} == {None, "stdio"}
    assert {(entry["command"], *entry["args"]) for entry in local} == {
        (PROGRAM, "serve", "--stdio")
    }

    async def ask(entry: dict[str, Any]) -> list[str]:
        variables = entry.get("env", {}) | {"WAGGLE_STORE_PATH": str(tmp_path / "store")}
        program = str(Path(sys.executable).with_name("waggle-fsstore"))
        server = StdioServerParameters(command=program, args=entry["args"], env=variables)
        async with Client(server) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    with_variables = next(entry for entry in local if "env" in entry)
    without = next(entry for entry in local if "env" not in entry)
    for entry in (with_variables, without):
        assert "create_environment" in asyncio.run(ask(entry))


def test_error_of_bad_setting_is_shown() -> None:
    """The page on clients shows the error that a bad setting causes."""
    pytest.importorskip("mcp")
    shown, *more = _blocks("clients.md", "console")
    assert not more
    command, _, expected = shown.removeprefix("$ ").partition("\n")
    program = str(Path(sys.executable).with_name("waggle-fsstore"))
    done = subprocess.run(
        shlex.split(command.replace(PROGRAM, program)), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_systemd_unit_starts_and_stops_server() -> None:
    """The unit for systemd starts a server, and gives it enough time to end."""
    pytest.importorskip("mcp")
    from waggle_fsstore.server import shutdown

    [text] = _blocks("operating.md", "ini")
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = unit["Service"]
    assert service["ExecStart"] == f"{PROGRAM} serve"
    assert service["Restart"] == "always"
    assert "KillSignal" not in service
    assert float(service["TimeoutStopSec"]) > shutdown._DEADLINE_S


def test_operator_commands_are_valid() -> None:
    """Each command on the page for operators is a verb of the program, with its options."""
    from click.testing import CliRunner

    from waggle_fsstore.cli.app import app

    text = "\n".join(_blocks("operating.md", "sh"))
    commands = re.findall(r"waggle-fsstore ([^|;)#\n]*)", text)
    assert len(commands) >= 7
    for command in commands:
        done = CliRunner().invoke(app, [*command.split(), "--help"])
        assert (done.exit_code, done.stderr) == (0, ""), command


def _drill(tmp_path: Path, mark: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the drill of the runbook that has a mark, with a store of 19 environments."""
    [drill] = [text for text in _blocks("operating.md", "sh") if "mktemp" in text and mark in text]
    with FileStore(tmp_path / "store", durable=False) as store:
        store.save_all([make_environment() for _ in range(20)])
        store.delete(store.find_all()[0].id)
    return subprocess.run(
        ["sh", "-e", "-c", drill],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "WAGGLE_STORE_PATH": str(tmp_path / "store"),
            "TMPDIR": str(tmp_path),
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_restore_drill_succeeds(tmp_path: Path) -> None:
    """The drill of the runbook takes a backup of a store, restores it, and finds it whole."""
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    done = _drill(tmp_path, "sha256sum")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the backup is whole"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_downgrade_drill_succeeds(tmp_path: Path) -> None:
    """Another program reads and changes a copy of the store: here it is of the same version."""
    program = Path(sys.executable).with_name("waggle-fsstore")
    done = _drill(tmp_path, "OLDER", OLDER=str(program))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the way back is open"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    "fault", ["exit 65", 'rm "$2"/environments/*', 'echo "{" > "$2"/environments/new.json']
)
def test_downgrade_drill_fails_with_a_program_that_cannot_go_back(
    tmp_path: Path, fault: str
) -> None:
    """An older program that refuses, loses or damages documents does not pass."""
    program = tmp_path / "older"
    program.write_text(f"#!/bin/sh\n{fault}\n")
    program.chmod(0o755)
    done = _drill(tmp_path, "OLDER", OLDER=str(program))
    assert done.returncode != 0
    assert "the way back is open" not in done.stdout
