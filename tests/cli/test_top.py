# SPDX-License-Identifier: Apache-2.0
"""The live view of a store on a terminal."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.cli_runner import run
from tests.cli.forked import forked
from tests.cli.test_workspaces import Terminal
from waggle_fsstore import FileStore, audit
from waggle_fsstore.cli.top import _LastChanges
from waggle_fsstore.testing import make_environment


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    terminal.resize(30, 100)
    yield terminal
    terminal.close()


def _saved(root: Path, name: str, *, age: timedelta = timedelta(0), reason: str = "") -> None:
    used = datetime.now(UTC) - age
    with FileStore(root) as store, audit(actor="maja", reason=reason):
        store.save(make_environment(id=name, name=f"name of {name}", last_used=used))


def test_top_shows_environments_and_changes(root: Path, terminal: Terminal) -> None:
    """It shows what is there, and what another process changes, and q ends it."""
    _saved(root, "older", age=timedelta(minutes=5))
    _saved(root, "newer")
    before = terminal.settings
    with forked("top", "--interval", "0.1", terminal=terminal.program) as program:
        shown = terminal.shows("\x1b[J")
        assert "maja" in shown
        assert "2 environments: 2 running" in shown
        assert shown.index("name of newer") < shown.index("name of older")
        _saved(root, "third", reason="in the meantime")
        assert "3 environments" in terminal.shows("in the meantime")
        terminal.type("q")
        assert program.end() == 0
    assert terminal.settings == before
    terminal.shows("\x1b[?25h\x1b[?1049l")


def test_top_fits_any_screen(
    root: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrapped or scrolled, and nothing of a name controls the terminal."""
    for number in range(50):
        _saved(root, f"environment-{number}-with-a-long-id", reason="\x1b[2J a long reason " * 9)
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("COLUMNS", "40")
    with forked("top", "--interval", "0.1", terminal=terminal.program):
        shown = terminal.shows("\x1b[J")
        picture = shown.rpartition("\x1b[H")[2]
        lines = [line.replace("\x1b[K", "") for line in picture.split("\r\n")]
        assert len(lines) <= 12
        plain = [line.replace("\x1b[32m", "").replace("\x1b[0m", "") for line in lines]
        assert max(map(len, plain[:-1])) <= 40
        assert "\x1b[2J" not in picture


def test_top_begins_again_after_an_older_state_was_put_back(root: Path, tmp_path: Path) -> None:
    """It shows the changes of the state that is there, and none of the other one."""
    _saved(root, "a")
    shutil.copytree(root, tmp_path / "copy")
    _saved(root, "b")
    with FileStore(root) as store:
        changes = _LastChanges(store)
        assert [event.environment_id for event in changes.newest(5)] == ["b", "a"]
        shutil.rmtree(root)
        (tmp_path / "copy").rename(root)
        _saved(root, "c")
        assert [event.environment_id for event in changes.newest(5)] == ["c", "a"]


def test_top_needs_terminal(root: Path) -> None:
    """A program that reads it learns what to use."""
    _saved(root, "a")
    done = run("top")
    assert done.exit_code == 2
    assert "use ls, or events --follow" in done.stderr
