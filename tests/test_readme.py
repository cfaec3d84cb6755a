# SPDX-License-Identifier: Apache-2.0
"""The README: its examples run, and what they show is what comes out."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from waggle_fsstore.domain import errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

#: What differs from run to run, and stands in the README as one run had it.
VARYING = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z": "TIME",
    r'"checksum": "[0-9a-f]{8}"': '"checksum": CHECKSUM',
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
}


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


def run_python(text: str, folder: Path) -> None:
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


def test_python_examples(folder: Path) -> None:
    """Every example in Python runs, one after the other, and prints what the README shows."""
    for block in BLOCKS:
        if block.language == "python":
            run_python(block.text, folder)


def test_recipes(folder: Path) -> None:
    """Every command runs, one after the other, and prints what the README shows."""
    missing = [name for name in ("git", "jq") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    pytest.importorskip("duckdb")
    here, exported, after = folder, "", folder / "pwd"
    for block in BLOCKS:
        if block.language == "python" and "test_" not in block.text:
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
                exported += f"{command.replace('=', f'={folder}/')}\n"


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
    drawn = next(block.text for block in BLOCKS if block.language == "text")
    lines = (errors.__doc__ or "").splitlines()
    tree = [line[4:] for line in lines if line.startswith("    ")]
    assert drawn.splitlines() == tree


def test_verbs_and_exit_codes() -> None:
    """The table of verbs and the list of exit codes are those of the program."""
    from waggle_fsstore.cli.app import app
    from waggle_fsstore.cli.exits import ExitCode

    verbs = re.findall(r"^\| `([a-z]+(?: [a-z]+)?)[` ]", README, re.MULTILINE)
    assert verbs == [command.name for command in app.registered_commands]
    codes = re.search(r"Exit codes: (.*?)\. ", README, re.DOTALL)
    assert codes
    found = dict(part.split(maxsplit=1) for part in " ".join(codes[1].split()).split(", "))
    assert {int(number) for number in found} == {0, *map(int, ExitCode)}


def test_variables() -> None:
    """Each variable of the table is one that the program reads, and each of those is in it."""
    source = (ROOT / "waggle_fsstore" / "config.py").read_text()
    table = re.findall(r"^\| `(WAGGLE_[A-Z_]+)`", README, re.MULTILINE)
    assert sorted(table) == sorted(set(re.findall(r'"(WAGGLE_[A-Z_]+)"', source)))
