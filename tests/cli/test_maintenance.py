# SPDX-License-Identifier: Apache-2.0
"""The verbs on a whole store: fsck, snapshot, restore, history prune, info."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.cli_runner import PROGRAM, document, environment, run
from tests.store.locks import lock_held
from waggle_fsstore.domain.finding import Finding
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.maintenance.info import StoreInfo

VERBS = [
    ("fsck",),
    ("snapshot", "dest"),
    ("restore", "source"),
    ("restore", "a", "--revision", "1"),
    ("history", "prune", "--gzip"),
    ("info",),
]


@pytest.fixture
def well(store: FileStore) -> FileStore:
    """A store with a and b, in which nothing is wrong."""
    store.save(environment("a"))
    store.save(environment("b"))
    return store


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


# fsck


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize("options", [(), ("--repair",), ("--json",), ("--repair", "--json")])
def test_fsck_of_a_store_that_is_well(options: tuple[str, ...]) -> None:
    """Nothing on stdout, a summary on stderr, exit code 0."""
    result = run("fsck", *options)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "0 errors; 0 warnings\n"


def test_fsck_of_no_store(root: Path) -> None:
    """A default store that does not exist yet is well."""
    assert run("fsck").exit_code == 0
    assert not root.exists()


def test_fsck_warns(well: FileStore) -> None:
    """A file that is not ours is told, and leaves the exit code 0."""
    foreign = well.path / "environments" / "notes.txt"
    foreign.write_text("mine")
    result = run("fsck")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"warning: {foreign}: ")
    assert result.stderr == "0 errors; 1 warning\n"
    assert run("fsck", "--repair").exit_code == 0
    assert foreign.read_text() == "mine"


def test_fsck_reports_and_repairs(well: FileStore) -> None:
    """What was zeroed by hand is an error that is left (4), then corrected (1), then gone (0)."""
    before = well.find_by_id("a")
    path = document(well.path, "a")
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
    assert well.find_by_id("a") == before
    last = list(well.history("a"))[-1]
    assert (last.actor, last.reason) == ("maja", "disk was full")
    assert run("fsck").exit_code == 0


def test_fsck_json_has_every_field(well: FileStore) -> None:
    """One object a line, also of a file whose name is no text."""
    _zero(document(well.path, "a"))
    with open(os.fsencode(well.path / "environments") + b"/\xff.txt", "wb"):
        pass
    found = [json.loads(line) for line in run("fsck", "--json").stdout.splitlines()]
    expected = list(well.check())
    assert [set(values) for values in found] == [set(Finding.__slots__)] * len(expected)
    assert [values["severity"] for values in found] == [one.severity for one in expected]
    assert str(document(well.path, "a")) in [values["path"] for values in found]
    assert f"{well.path}/environments/\\xff.txt" in [values["path"] for values in found]
    for one, values in zip(expected, found, strict=True):
        assert values["is_repaired"] is False
        assert values["remedy"] == one.remedy


def test_fsck_corrects_one_and_leaves_one(well: FileStore) -> None:
    """The exit code is the sum (5)."""
    _zero(document(well.path, "a"))
    newer = document(well.path, "newer")
    newer.write_text('{"schema": 99, "id": "newer"}')
    newer.chmod(0o600)
    result = run("fsck", "--repair")
    assert result.exit_code == 1 | 4
    assert result.stderr == "2 errors, 1 of them repaired; 0 warnings\n"
    assert newer.exists()


def test_fsck_that_cannot_look_everywhere(well: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is held is an operational error (8), told in one line."""
    _zero(document(well.path, "a"))
    monkeypatch.setattr(
        "waggle_fsstore.cli.store_option.open_repository",
        lambda _: FileStore(well.path, lock_timeout=0.02),
    )
    with lock_held(well):
        result = run("fsck", "--repair")
    assert result.exit_code & 8
    assert "the store lock was not free within 0.02 s" in result.stderr
    assert "warnings" not in result.stderr


def test_fsck_of_a_store_that_is_missing(tmp_path: Path) -> None:
    """One that was named must be there: 8."""
    result = run("--store", str(tmp_path / "missing"), "fsck")
    assert (result.exit_code, result.stdout) == (8, "")
    assert "there is no store" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nonsense",), "nonsense"),
        (("--actor", "maja"), "--actor and --reason belong to --repair"),
        (("--repair", "--actor", ""), "actor: is empty"),
        (("extra",), "extra"),
    ],
)
def test_wrong_usage_of_fsck(options: tuple[str, ...], message: str) -> None:
    """It exits 16."""
    result = run("fsck", *options)
    assert (result.exit_code, result.stdout) == (16, "")
    assert message in result.stderr


def test_fsck_whose_reader_leaves(well: FileStore) -> None:
    """It ends without a word: 8, because it did not look everywhere, and the bits before."""
    for number in range(2000):
        (well.path / "environments" / f"{number:0200}.txt").touch()
    process = subprocess.Popen([*PROGRAM, "fsck"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1) == b"w"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 8


def test_a_finding_cannot_act_on_a_terminal(well: FileStore) -> None:
    """A name of a file is escaped, in either form."""
    (well.path / "environments" / "\x1b[2J\n\x9b.txt").touch()
    for options in ((), ("--json",)):
        [line] = run("fsck", *options).stdout.splitlines()
        assert line.isprintable()


# snapshot


def test_snapshot_makes_a_store(well: FileStore, tmp_path: Path) -> None:
    """It says where, how many and as of which change; sha256sum accepts it."""
    dest = tmp_path / "snapshot"
    result = run("snapshot", str(dest))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{dest}: 2 environments as of change 2\n"
    assert run("--store", str(dest), "ls", "-q").stdout == "a\nb\n"
    assert (dest / "SHA256SUMS").exists()
    if shutil.which("sha256sum"):
        checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=dest, capture_output=True)
        assert checked.returncode == 0
    assert well.count() == 2


def test_snapshot_reports_what_is_corrupt(well: FileStore, tmp_path: Path) -> None:
    """The good ones are copied, the others reported, and the exit code is 6."""
    document(well.path, "bad").write_text("{")
    dest = tmp_path / "snapshot"
    result = run("snapshot", str(dest))
    assert result.exit_code == 6
    assert result.stdout == f"{dest}: 2 environments as of change 2\n"
    assert result.stderr.startswith(f"Error: {document(well.path, 'bad')}: ")
    assert result.stderr.count("\n") == 1
    assert run("--store", str(dest), "ls", "-q").stdout == "a\nb\n"


def test_snapshot_overwrites_nothing(well: FileStore, tmp_path: Path) -> None:
    """A folder that holds something is refused (1) and stays."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    result = run("snapshot", str(tmp_path / "full"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert os.listdir(tmp_path / "full") == ["letter.txt"]
    assert well.count() == 2


def test_snapshot_inside_of_its_store(well: FileStore) -> None:
    """It is wrong usage, as is a path that is empty: 2, and nothing is made."""
    for dest in (str(well.path / "snapshot"), ""):
        result = run("snapshot", dest)
        assert (result.exit_code, result.stdout) == (2, "")
    assert not (well.path / "snapshot").exists()


# restore


def test_restore_of_a_snapshot(well: FileStore, tmp_path: Path) -> None:
    """The store is what it was, the history tells of it, and the counts are printed."""
    before = well.find_all()
    well.snapshot(tmp_path / "snapshot")
    well.save(environment("a", name="changed"))
    well.delete("b")
    well.save(environment("c"))
    options = ("--actor", "maja", "--reason", "undo")
    result = run("restore", str(tmp_path / "snapshot"), *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "1 created, 1 updated, 1 deleted, 0 unchanged\n"
    assert well.find_all() == before
    events = list(well.history(after=5))
    assert sorted(event.kind for event in events) == ["created", "deleted", "updated"]
    assert {(event.actor, event.reason) for event in events} == {("maja", "undo")}


def test_restore_into_a_new_store(well: FileStore, tmp_path: Path) -> None:
    """The store need not exist."""
    well.snapshot(tmp_path / "snapshot")
    new = str(tmp_path / "new")
    result = run("--store", new, "restore", str(tmp_path / "snapshot"))
    assert (result.exit_code, result.stdout) == (
        0,
        "2 created, 0 updated, 0 deleted, 0 unchanged\n",
    )
    assert run("--store", new, "ls", "-q").stdout == "a\nb\n"


def test_restore_of_one_revision(well: FileStore) -> None:
    """With --revision it is an id; prints the new revision, also of what was deleted."""
    well.save(environment("a", name="changed"))
    well.delete("a")
    result = run("restore", "a", "--revision", "1", "--actor", "maja", "--reason", "needed")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "5\n", "")
    stored = well.find_by_id("a")
    assert (stored.name, stored.revision) == ("name of a", 5)
    last = list(well.history())[-1]
    assert (last.kind, last.actor, last.reason) == ("created", "maja", "needed")


def test_an_id_is_no_folder(
    well: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --revision it is a folder, with it an id, whatever else is called so."""
    well.snapshot(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    well.save(environment("a", name="changed"))
    assert run("restore", "a", "--revision", "3").stdout == "4\n"
    assert well.find_by_id("a").name == "changed"
    assert run("restore", "b").exit_code == 1
    assert run("restore", "").exit_code == 2
    assert run("restore", "a").stdout == "0 created, 1 updated, 0 deleted, 1 unchanged\n"
    assert well.find_by_id("a").name == "name of a"


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize(("wanted", "revision"), [("c", "1"), ("a", "2"), ("a", "99"), ("", "1")])
def test_restore_of_what_never_was(wanted: str, revision: str) -> None:
    """A version that the history does not have is not found (3)."""
    result = run("restore", wanted, "--revision", revision)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: ")


def test_restore_of_a_snapshot_that_is_corrupt(well: FileStore, tmp_path: Path) -> None:
    """It exits 6 and changes nothing."""
    well.snapshot(tmp_path / "snapshot")
    _zero(document(tmp_path / "snapshot", "b"))
    well.save(environment("a", name="changed"))
    result = run("restore", str(tmp_path / "snapshot"))
    assert (result.exit_code, result.stdout) == (6, "")
    assert well.find_by_id("a").name == "changed"


# history prune


@pytest.fixture
def long(store: FileStore) -> FileStore:
    """A store whose history is in several files."""
    for number in range(100):
        store.save(environment("a", labels={"large": f"{number:010000}"}))
    assert len(list((store.path / "journal").iterdir())) > 3
    return store


def test_history_prune_removes_old_events(long: FileStore) -> None:
    """What is kept begins later, and the environment stays; then there is nothing to do."""
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
    """With --gzip nothing is lost, and the files are smaller."""
    result = run("history", "prune", "--gzip")
    assert result.exit_code == 0
    assert "0 files removed, " in result.stdout
    assert ", 0 compressed" not in result.stdout
    assert len(run("history", "a", "--json").stdout.splitlines()) == 100
    assert any(path.suffix == ".gz" for path in (long.path / "journal").iterdir())


def test_history_prune_by_age(long: FileStore) -> None:
    """What is younger is kept, of the rest what recovery does not need goes."""
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
        (("--keep-bytes", "-1"), "'-1' is no size: write one like 500K, 10M or 1G"),
        (("--keep-bytes", "10X"), "'10X' is no size"),
        (("--keep-bytes", ""), "'' is no size"),
    ],
)
def test_wrong_usage_of_history_prune(options: tuple[str, ...], message: str) -> None:
    """It exits 2, says what is wrong, and removes nothing."""
    result = run("history", "prune", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert len(run("history", "--json").stdout.splitlines()) == 100


@pytest.mark.parametrize(
    ("size", "expected"),
    [("0", 0), ("7", 7), ("500K", 500 << 10), ("10m", 10 << 20), ("1G", 1 << 30), ("2T", 2 << 40)],
)
def test_sizes(monkeypatch: pytest.MonkeyPatch, size: str, expected: int) -> None:
    """A unit is a power of 1024."""
    asked = []
    prune = FileStore.prune_history

    def note(self: FileStore, *, keep_bytes: int, **options: bool) -> object:
        asked.append(keep_bytes)
        return prune(self, keep_bytes=keep_bytes, **options)

    monkeypatch.setattr(FileStore, "prune_history", note)
    assert run("history", "prune", "--keep-bytes", size).exit_code == 0
    assert asked == [expected]


# info


def test_info_has_every_field(well: FileStore) -> None:
    """The same in either form: a row for each, or one JSON object."""
    expected = well.info()
    lines = [line.split("\t") for line in run("info").stdout.splitlines()]
    values = json.loads(run("info", "--json").stdout)
    assert lines[0] == ["NAME", "VALUE"]
    rows = dict(lines[1:])
    assert list(rows) == list(values) == list(StoreInfo.__slots__)
    assert (rows["path"], values["path"]) == (str(well.path), str(well.path))
    assert (rows["documents"], values["documents"]) == ("2", expected.documents)
    assert (rows["last_seq"], values["last_seq"]) == ("2", 2)
    assert (rows["is_durable"], values["is_durable"]) == ("yes", True)
    assert all(rows.values())


# All of them


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_in_memory_has_no_files(verb: tuple[str, ...]) -> None:
    """These verbs need a folder, and say so in one line: wrong usage."""
    result = run("--store", "memory:", *verb)
    assert (result.exit_code, result.stdout) == (16 if verb == ("fsck",) else 2, "")
    assert "a store in memory has no files: name one in a folder" in result.stderr


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb[0] != "restore"])
def test_a_named_store_must_exist(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """A misspelt --store is an error, and is not created."""
    result = run("--store", str(tmp_path / "missing"), *verb)
    assert (result.exit_code, result.stdout) == (8 if verb == ("fsck",) else 1, "")
    assert "there is no store" in result.stderr
    assert not (tmp_path / "missing").exists()
