# SPDX-License-Identifier: Apache-2.0
"""The verbs on a whole store: fsck, snapshot, restore, history prune, info."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cli_runner import document, environment, run, start
from tests.store.locks import lock_held
from waggle_fsstore.cli.exit_codes import ExitCode
from waggle_fsstore.domain.finding import Finding
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.maintenance.info import StoreInfo
from waggle_fsstore.testing import make_environment

VERBS = [
    ("fsck",),
    ("snapshot", "dest"),
    ("restore", "source"),
    ("restore", "a", "--revision", "1"),
    ("history", "prune", "--gzip"),
    ("info",),
]


@pytest.fixture
def intact(store: FileStore) -> FileStore:
    """Return an intact store with a and b."""
    store.save(environment("a"))
    store.save(environment("b"))
    return store


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


# fsck


@pytest.mark.usefixtures("intact")
@pytest.mark.parametrize("options", [(), ("--repair",), ("--json",), ("--repair", "--json")])
def test_fsck_of_intact_store_is_clean(options: tuple[str, ...]) -> None:
    """Nothing on stdout, a summary on stderr, exit code 0."""
    result = run("fsck", *options)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "0 errors; 0 warnings\n"


def test_fsck_of_missing_default_store_is_clean(root: Path) -> None:
    """A default store that does not exist yet has no errors."""
    assert run("fsck").exit_code == 0
    assert not root.exists()


def test_fsck_warns_of_foreign_file(intact: FileStore) -> None:
    """A foreign file is reported, and leaves the exit code 0."""
    foreign = intact.path / "environments" / "notes.txt"
    foreign.write_text("mine")
    result = run("fsck")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"warning: {foreign}: ")
    assert result.stderr == "0 errors; 1 warning\n"
    assert run("fsck", "--repair").exit_code == 0
    assert foreign.read_text() == "mine"


def test_fsck_reports_then_repairs(intact: FileStore) -> None:
    """A zeroed document is an error that is left (4), then corrected (1), then gone (0)."""
    before = intact.find_by_id("a")
    path = document(intact.path, "a")
    _zero(path)
    result = run("fsck")
    assert result.exit_code == 4
    assert result.stdout.startswith(f"error: {path}: ")
    assert "fsck --repair" in result.stdout
    assert result.stderr == "1 error, 0 of them repaired; 0 warnings\n"
    repaired = run("fsck", "--repair", "--actor", "maja", "--reason", "disk was full")
    assert repaired.exit_code == 1
    assert repaired.stdout.startswith(f"error: {path}: ")
    assert "(repaired: " in repaired.stdout
    assert repaired.stderr == "1 error, 1 of them repaired; 0 warnings\n"
    assert intact.find_by_id("a") == before
    last = list(intact.history("a"))[-1]
    assert (last.actor, last.reason) == ("maja", "disk was full")
    assert run("fsck").exit_code == 0


def test_fsck_json_has_every_field(intact: FileStore) -> None:
    """One object a line, also for a file whose name is not UTF-8."""
    _zero(document(intact.path, "a"))
    with open(os.fsencode(intact.path / "environments") + b"/\xff.txt", "wb"):
        pass
    found = [json.loads(line) for line in run("fsck", "--json").stdout.splitlines()]
    expected = list(intact.check())
    assert [set(values) for values in found] == [set(Finding.__slots__)] * len(expected)
    assert [values["severity"] for values in found] == [one.severity for one in expected]
    assert str(document(intact.path, "a")) in [values["path"] for values in found]
    assert f"{intact.path}/environments/\\xff.txt" in [values["path"] for values in found]
    for one, values in zip(expected, found, strict=True):
        assert values["is_repaired"] is False
        assert values["remedy"] == one.remedy


def test_repair_prints_json_in_store_of_any_path(intact: FileStore) -> None:
    """A remedy that names a path that is not UTF-8 is printed, with the bytes escaped."""
    _zero(document(intact.path, "a"))
    root = intact.path.with_name("\udcff")
    intact.close()
    intact.path.rename(root)
    [found] = map(
        json.loads, run("--store", str(root), "fsck", "--repair", "--json").stdout.splitlines()
    )
    assert found["path"].endswith("\\xff/environments/a.json")
    assert found["is_repaired"]


def test_fsck_adds_up_exit_codes(intact: FileStore) -> None:
    """One error corrected and one left give the sum (5)."""
    _zero(document(intact.path, "a"))
    newer = document(intact.path, "newer")
    newer.write_text('{"schema": 99, "id": "newer"}')
    newer.chmod(0o600)
    result = run("fsck", "--repair")
    assert result.exit_code == 1 | 4
    assert result.stderr == "2 errors, 1 of them repaired; 0 warnings\n"
    assert newer.exists()


def test_fsck_with_held_lock_fails(intact: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A held lock is an operational error (8), reported in one line."""
    _zero(document(intact.path, "a"))
    monkeypatch.setattr(
        "waggle_fsstore.cli.store_option.open_repository",
        lambda _, **__: FileStore(intact.path, lock_timeout=0.02),
    )
    with lock_held(intact):
        result = run("fsck", "--repair")
    assert result.exit_code & 8
    assert "the store lock was not free within 0.02 s" in result.stderr
    assert "warnings" not in result.stderr


def test_fsck_of_missing_named_store_fails(tmp_path: Path) -> None:
    """A store named by --store must exist: exit code 8."""
    result = run("--store", str(tmp_path / "missing"), "fsck")
    assert (result.exit_code, result.stdout) == (8, "")
    assert "there is no store" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nonsense",), "nonsense"),
        (("--actor", "maja"), "--actor and --reason need --repair"),
        (("--repair", "--actor", ""), "actor: is empty"),
        (("extra",), "extra"),
    ],
)
def test_fsck_wrong_usage_has_its_code(options: tuple[str, ...], message: str) -> None:
    """It exits 16."""
    result = run("fsck", *options)
    assert (result.exit_code, result.stdout) == (16, "")
    assert message in result.stderr


def test_fsck_ends_when_its_reader_leaves(intact: FileStore) -> None:
    """It ends silently: 8 for an incomplete check, and the bits so far."""
    for number in range(2000):
        (intact.path / "environments" / f"{number:0200}.txt").touch()
    process = start("fsck")
    assert process.stdout.read(1) == b"w"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.communicate(timeout=60)
    assert process.returncode == 8


def test_findings_are_escaped(intact: FileStore) -> None:
    """A file name is escaped, in either form."""
    (intact.path / "environments" / "\x1b[2J\n\x9b.txt").touch()
    for options in ((), ("--json",)):
        [line] = run("fsck", *options).stdout.splitlines()
        assert line.isprintable()


# snapshot


def test_snapshot_makes_a_store(intact: FileStore, tmp_path: Path) -> None:
    """It prints path, count and last change, and sha256sum accepts the copy."""
    dest = tmp_path / "snapshot"
    result = run("snapshot", str(dest))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{dest}: 2 environments as of change 2\n"
    assert run("--store", str(dest), "ls", "-q").stdout == "a\nb\n"
    assert (dest / "SHA256SUMS").exists()
    if shutil.which("sha256sum"):
        checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=dest, capture_output=True)
        assert checked.returncode == 0
    assert intact.count() == 2


def test_snapshot_reports_corrupt_documents(intact: FileStore, tmp_path: Path) -> None:
    """The readable ones are copied, the others reported, and the exit code is 6."""
    document(intact.path, "bad").write_text("{")
    dest = tmp_path / "snapshot"
    result = run("snapshot", str(dest))
    assert result.exit_code == 6
    assert result.stdout == f"{dest}: 2 environments as of change 2\n"
    assert result.stderr.startswith(f"Error: {document(intact.path, 'bad')}: ")
    assert result.stderr.count("\n") == 1
    assert run("--store", str(dest), "ls", "-q").stdout == "a\nb\n"


def test_snapshot_overwrites_nothing(intact: FileStore, tmp_path: Path) -> None:
    """A directory that is not empty is refused (1), and left alone."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    result = run("snapshot", str(tmp_path / "full"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert os.listdir(tmp_path / "full") == ["letter.txt"]
    assert intact.count() == 2


def test_snapshot_inside_its_store_is_refused(intact: FileStore) -> None:
    """It is wrong usage, as is an empty path: 2, and nothing is created."""
    for dest in (str(intact.path / "snapshot"), ""):
        result = run("snapshot", dest)
        assert (result.exit_code, result.stdout) == (2, "")
    assert not (intact.path / "snapshot").exists()


# restore


def test_restore_brings_back_snapshot(intact: FileStore, tmp_path: Path) -> None:
    """The store is what it was, the history records it, and the counts are printed."""
    before = intact.find_all()
    intact.snapshot(tmp_path / "snapshot")
    intact.save(environment("a", name="changed"))
    intact.delete("b")
    intact.save(environment("c"))
    options = ("--actor", "maja", "--reason", "undo")
    result = run("restore", str(tmp_path / "snapshot"), *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "1 created, 1 updated, 1 deleted, 0 unchanged\n"
    assert intact.find_all() == before
    events = list(intact.history(after=5))
    assert sorted(event.kind for event in events) == ["created", "deleted", "updated"]
    assert {(event.actor, event.reason) for event in events} == {("maja", "undo")}


def test_restore_creates_missing_store(intact: FileStore, tmp_path: Path) -> None:
    """The store need not exist."""
    intact.snapshot(tmp_path / "snapshot")
    new = str(tmp_path / "new")
    result = run("--store", new, "restore", str(tmp_path / "snapshot"))
    assert (result.exit_code, result.stdout) == (
        0,
        "2 created, 0 updated, 0 deleted, 0 unchanged\n",
    )
    assert run("--store", new, "ls", "-q").stdout == "a\nb\n"


def test_restore_brings_back_revision(intact: FileStore) -> None:
    """With --revision it takes an id, even a deleted one, and prints the new revision."""
    intact.save(environment("a", name="changed"))
    intact.delete("a")
    result = run("restore", "a", "--revision", "1", "--actor", "maja", "--reason", "needed")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "5\n", "")
    stored = intact.find_by_id("a")
    assert (stored.name, stored.revision) == ("name of a", 5)
    last = list(intact.history())[-1]
    assert (last.kind, last.actor, last.reason) == ("created", "maja", "needed")


def test_restore_tells_ids_from_directories(
    intact: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --revision it takes a directory, with it an id, even if the names are equal."""
    intact.snapshot(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    intact.save(environment("a", name="changed"))
    assert run("restore", "a", "--revision", "3").stdout == "4\n"
    assert intact.find_by_id("a").name == "changed"
    assert run("restore", "b").exit_code == 1
    assert run("restore", "").exit_code == 2
    assert run("restore", "a").stdout == "0 created, 1 updated, 0 deleted, 1 unchanged\n"
    assert intact.find_by_id("a").name == "name of a"


@pytest.mark.usefixtures("intact")
@pytest.mark.parametrize(("wanted", "revision"), [("c", "1"), ("a", "2"), ("a", "99"), ("", "1")])
def test_restore_of_unknown_revision_is_not_found(wanted: str, revision: str) -> None:
    """A revision that the history does not have is not found (3)."""
    result = run("restore", wanted, "--revision", revision)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: ")


def test_restore_of_corrupt_snapshot_changes_nothing(intact: FileStore, tmp_path: Path) -> None:
    """It exits 6 and changes nothing."""
    intact.snapshot(tmp_path / "snapshot")
    _zero(document(tmp_path / "snapshot", "b"))
    intact.save(environment("a", name="changed"))
    result = run("restore", str(tmp_path / "snapshot"))
    assert (result.exit_code, result.stdout) == (6, "")
    assert intact.find_by_id("a").name == "changed"


# history prune


@pytest.fixture
def long(store: FileStore) -> FileStore:
    """Return a store whose history is in several files."""
    for number in range(100):
        store.save(environment("a", labels={"large": f"{number:010000}"}))
    assert len(list((store.path / "journal").iterdir())) > 3
    return store


def test_history_prune_removes_old_events(long: FileStore) -> None:
    """The history begins later, the environment stays, and a second run removes nothing."""
    result = run("history", "prune", "--keep-bytes", "100K")
    assert (result.exit_code, result.stderr) == (0, "")
    oldest = json.loads(run("history", "--json").stdout.splitlines()[0])["seq"]
    assert oldest > 1
    assert result.stdout.endswith(f"; the oldest change is {oldest}\n")
    assert not result.stdout.startswith("0 files removed")
    assert long.find_by_id("a").labels == {"large": f"{99:010000}"}
    assert run("history", "prune", "--keep-bytes", "1G").stdout == (
        f"0 files removed, 0 compressed, 0 bytes freed; the oldest change is {oldest}\n"
    )
    before = run("history", "--after", "1")
    assert (before.exit_code, before.stdout) == (1, "")
    assert before.stderr == f"Error: the history starts at {oldest}: earlier changes were pruned\n"


def test_history_prune_compresses(long: FileStore) -> None:
    """With --gzip no event is lost, and the files are smaller."""
    result = run("history", "prune", "--gzip")
    assert result.exit_code == 0
    assert "0 files removed, " in result.stdout
    assert ", 0 compressed" not in result.stdout
    assert len(run("history", "a", "--json").stdout.splitlines()) == 100
    assert any(path.suffix == ".gz" for path in (long.path / "journal").iterdir())


def test_history_prune_keeps_recent_events(long: FileStore) -> None:
    """Recent events are kept; of the rest, those that recovery does not need are removed."""
    assert run("history", "prune", "--keep-days", "1").stdout.startswith("0 files removed")
    assert not run("history", "prune", "--keep-days", "0").stdout.startswith("0 files removed")
    assert long.count() == 1


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give at least one of --keep-days, --keep-bytes and --gzip"),
        (("--keep-days", "-1"), "keep_days: -1.0 is not a number of days"),
        (("--keep-days", "x"), "--keep-days"),
        (("--keep-bytes", "-1"), "'-1' is not a size: write one like 500K, 10M or 1G"),
        (("--keep-bytes", "10X"), "'10X' is not a size"),
        (("--keep-bytes", ""), "'' is not a size"),
    ],
)
def test_history_prune_wrong_usage_removes_nothing(options: tuple[str, ...], message: str) -> None:
    """It exits 2, explains the problem, and removes nothing."""
    result = run("history", "prune", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert len(run("history", "--json").stdout.splitlines()) == 100


@pytest.mark.parametrize(
    ("size", "expected"),
    [("0", 0), ("7", 7), ("500K", 500 << 10), ("10m", 10 << 20), ("1G", 1 << 30), ("2T", 2 << 40)],
)
def test_size_units_are_powers_of_1024(
    monkeypatch: pytest.MonkeyPatch, size: str, expected: int
) -> None:
    """A unit is a power of 1024."""
    sizes = []
    prune = FileStore.prune_history

    def record(self: FileStore, *, keep_bytes: int, **options: Any) -> object:
        sizes.append(keep_bytes)
        return prune(self, keep_bytes=keep_bytes, **options)

    monkeypatch.setattr(FileStore, "prune_history", record)
    assert run("history", "prune", "--keep-bytes", size).exit_code == 0
    assert sizes == [expected]


# info


def test_info_has_every_field(intact: FileStore) -> None:
    """Both forms have the same fields: a row for each, or one JSON object."""
    expected = intact.info()
    lines = [line.split("\t") for line in run("info").stdout.splitlines()]
    values = json.loads(run("info", "--json").stdout)
    assert lines[0] == ["NAME", "VALUE"]
    rows = dict(lines[1:])
    assert list(rows) == list(values) == list(StoreInfo.__slots__)
    assert (rows["path"], values["path"]) == (str(intact.path), str(intact.path))
    assert (rows["documents"], values["documents"]) == ("2", expected.documents)
    assert (rows["last_seq"], values["last_seq"]) == ("2", 2)
    assert (rows["is_durable"], values["is_durable"]) == ("yes", True)
    assert all(rows.values())


# All of them


@pytest.mark.parametrize("verb", VERBS)
def test_memory_store_is_refused(verb: tuple[str, ...]) -> None:
    """These verbs need a directory, and say so in one line: wrong usage."""
    result = run("--store", "memory:", *verb)
    assert (result.exit_code, result.stdout) == (16 if verb == ("fsck",) else 2, "")
    assert "a store in memory has no files: name a store in a directory" in result.stderr


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb[0] != "restore"])
def test_named_store_must_exist(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """A misspelt --store is an error, and is not created."""
    result = run("--store", str(tmp_path / "missing"), *verb)
    assert (result.exit_code, result.stdout) == (8 if verb == ("fsck",) else 1, "")
    assert "there is no store" in result.stderr
    assert not (tmp_path / "missing").exists()


def test_copy_moves_a_store_with_its_history(tmp_path: Path) -> None:
    """The copy says how much it copied, and does nothing when it is repeated."""
    source, target = tmp_path / "old", tmp_path / "new"
    with FileStore(source, durable=False) as store:
        store.save(make_environment(id="a"))
        store.delete("a")
        store.save(make_environment(id="b"))
    result = run("copy", str(source), str(target))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("3 changes copied, 1 environment on both sides, SHA-256 ")
    again = json.loads(run("copy", str(source), str(target), "--json").stdout)
    assert (again["changes"], again["documents"], len(again["digest"])) == (0, 1, 64)
    with FileStore(target, durable=False) as copied:
        assert [event.kind for event in copied.history()] == ["created", "deleted", "created"]


def test_copy_of_nothing_is_refused(tmp_path: Path) -> None:
    """A source that does not exist, and a target with changes of its own, are told."""
    missing = run("copy", str(tmp_path / "missing"), str(tmp_path / "new"))
    assert missing.exit_code == ExitCode.ERROR
    assert not (tmp_path / "new").exists()
    for name in ("one", "two"):
        with FileStore(tmp_path / name, durable=False) as store:
            store.save(make_environment(id=name))
    refused = run("copy", str(tmp_path / "one"), str(tmp_path / "two"))
    assert refused.exit_code == ExitCode.ERROR
    assert "neither empty nor an earlier copy" in refused.stderr
    assert run("copy", "", str(tmp_path / "two")).exit_code == ExitCode.USAGE
