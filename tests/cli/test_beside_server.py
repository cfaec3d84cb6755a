# SPDX-License-Identifier: Apache-2.0
"""Verbs beside a running server: those that would work against it refuse, unless forced."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.cli_runner import environment, run
from waggle_fsstore import Status
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.trash import Trash
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.server_lock import ServerPresence
from waggle_fsstore.wiring import open_service


@pytest.fixture
def server(store: FileStore) -> Iterator[ServerPresence]:
    """Show that a server runs on a store with one running environment, ``alpha``."""
    store.save(environment("alpha"))
    presence = ServerPresence(store.path)
    assert presence.try_acquire()
    yield presence
    presence.release()


REFUSED = [
    ("create",),
    ("rm", "alpha"),
    ("delete", "alpha"),
    ("set", "alpha", "--status", "destroying"),
    ("set", "alpha", "--name", "new", "--status", "error"),
    ("restore", "alpha", "--revision", "1"),
    ("restore", "backup"),
    ("undelete", "alpha"),
]


@pytest.mark.parametrize("verb", REFUSED, ids=" ".join)
@pytest.mark.usefixtures("server")
def test_verb_beside_server_is_refused(store: FileStore, verb: tuple[str, ...]) -> None:
    """It exits 4, names the process and what to do in one line, and changes nothing."""
    result = run(*verb)
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(
        f"Error: the store is already served by process {os.getpid()} on "
    )
    assert result.stderr.endswith(", or repeat with --force\n")
    assert result.stderr.count("\n") == 1
    assert [event.seq for event in store.history()] == [1]


@pytest.mark.parametrize("verb", [*REFUSED[:3], REFUSED[5]], ids=" ".join)
@pytest.mark.usefixtures("server")
def test_forced_verb_works_beside_server(store: FileStore, verb: tuple[str, ...]) -> None:
    """With --force it does what it does without a server."""
    assert run(*verb, "--force").exit_code == 0
    assert store.count() == {"create": 2, "rm": 0, "delete": 0}.get(verb[0], 1)


@pytest.mark.usefixtures("server")
def test_harmless_verbs_work_beside_server(store: FileStore, tmp_path: Path) -> None:
    """Names, labels, checks, repairs, copies and pruning need no --force."""
    for verb in (
        ("set", "alpha", "--name", "new", "--label", "a=b"),
        ("ls",),
        ("show", "alpha"),
        ("fsck", "--repair"),
        ("history", "prune", "--keep-days", "30"),
        ("snapshot", str(tmp_path / "backup")),
    ):
        assert run(*verb).exit_code == 0, verb
    assert store.find_by_id("alpha").name == "new"


def test_ended_server_refuses_nothing(store: FileStore, server: ServerPresence) -> None:
    """Once the server has ended, verbs work, also beside the file of one that was killed."""
    (server.path.parent / "0123456789abcdef").write_bytes(b"\n1 1.0 here\n")
    server.release()
    assert run("rm", "alpha").exit_code == 0
    assert store.count() == 0


def test_refusal_concerns_one_store(server: ServerPresence, tmp_path: Path) -> None:
    """A server of another store, and a store in memory, do not matter."""
    assert server.path.exists()
    assert run("--store", str(tmp_path / "other"), "create").exit_code == 0
    assert run("--store", "memory:", "create").exit_code == 0


@pytest.fixture
def made(store: FileStore) -> Iterator[tuple[str, Path]]:
    """Yield the id and the workspace of an environment that a server made and left."""
    with open_service(store) as service:
        created = service.create("shell")
        yield created.id, Path(service.locate(created))


def test_rm_removes_workspace(store: FileStore, made: tuple[str, Path]) -> None:
    """Without a server, the files go with the record, and the history names the caller."""
    environment_id, workspace = made
    assert run("rm", environment_id[:8], "--actor", "maja", "--reason", "done").exit_code == 0
    assert not workspace.exists()
    *_, destroying, deleted = store.history(environment_id)
    assert (destroying.status, deleted.kind) == (Status.DESTROYING, "deleted")
    assert {(event.actor, event.reason) for event in (destroying, deleted)} == {("maja", "done")}


def test_rm_empties_trash_before_it_ends(
    store: FileStore, made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server may ever come that would finish the removal of the files."""
    environment_id, workspace = made
    (workspace / "file").touch()
    empty, wait = Trash.empty, LocalProvider.wait_until_emptied
    is_waiting, has_waited = threading.Event(), threading.Event()

    def empty_late(self: Trash, is_stopping: Callable[[], bool]) -> None:
        while not (is_waiting.wait(timeout=0.01) or is_stopping()):
            pass
        if not has_waited.wait(timeout=0.1):
            empty(self, is_stopping)

    def wait_until_emptied(self: LocalProvider) -> None:
        is_waiting.set()
        wait(self)
        has_waited.set()

    monkeypatch.setattr(Trash, "empty", empty_late)
    monkeypatch.setattr(LocalProvider, "wait_until_emptied", wait_until_emptied)
    assert run("rm", environment_id).exit_code == 0
    assert not list(Path(f"{store.path}-workspaces", ".trash").iterdir())


def test_rm_without_workspaces_directory_needs_force(
    store: FileStore, made: tuple[str, Path]
) -> None:
    """Files that cannot be removed, as on an unmounted disk, are not forgotten silently."""
    environment_id, _ = made
    root = Path(f"{store.path}-workspaces")
    aside = root.rename(store.path.parent / "unmounted")
    root.mkdir()
    result = run("rm", environment_id)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("; repeat with --force to remove only the record\n")
    assert store.count() == 1
    result = run("rm", environment_id, "--force")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{environment_id}: its workspace is left behind: ")
    assert store.count() == 0
    assert (aside / environment_id).is_dir()
