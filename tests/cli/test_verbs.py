# SPDX-License-Identifier: Apache-2.0
"""The verbs on environments, with each of their options."""

import json
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from tests.cli.cli_runner import document, environment, run
from waggle_fsstore.domain.defaults import DEFAULT_IDLE_TIMEOUT
from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.errors import EnvironmentNotFoundError
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.memory_store import MemoryStore

# create


def test_create_prints_the_stored_id(store: FileStore) -> None:
    """With a name alone, it stores a Python environment with the status creating."""
    result = run("create", "data-analysis")
    assert (result.exit_code, result.stderr) == (0, "")
    stored = store.find_by_id(result.stdout.removesuffix("\n"))
    assert (stored.name, stored.runtime) == ("data-analysis", Runtime.PYTHON)
    assert (stored.status, stored.timeout) == (Status.CREATING, DEFAULT_IDLE_TIMEOUT)
    assert stored.labels == {}


def test_create_takes_every_option(store: FileStore) -> None:
    """Runtime, timeout and labels are stored; a label's value may contain an equals sign."""
    options = ("--runtime", "node", "--timeout", "1h30m", "--label", "a=b=c", "--label", "d=")
    result = run("create", "web", *options)
    stored = store.find_by_id(result.stdout.strip())
    assert (stored.runtime, stored.timeout) == (Runtime.NODE, timedelta(minutes=90))
    assert stored.labels == {"a": "b=c", "d": ""}


def test_create_generates_name_from_runtime_and_id(store: FileStore) -> None:
    """The name is the runtime and the first eight digits of the id."""
    environment_id = run("create", "--runtime", "shell").stdout.strip()
    assert store.find_by_id(environment_id).name == f"shell-{environment_id[:8]}"
    assert uuid.UUID(environment_id).version == 4


@pytest.mark.parametrize("name", ["", " ", "\t", "\u3000", "a\nb", "x" * 201])
def test_unreadable_name_is_refused(store: FileStore, name: str) -> None:
    """A name has 1-200 printable characters that are not all blank, also in set."""
    environment_id = run("create", "data").stdout.strip()
    for verb in (["create", "--", name], ["set", environment_id, "--name", name]):
        result = run(*verb)
        assert result.exit_code == 2
        assert "name: must" in result.stderr
    assert [one.name for one in store.find_all()] == ["data"]


def test_create_with_zero_timeout_never_expires(store: FileStore) -> None:
    """The environment never expires, and ls says so."""
    environment_id = run("create", "--timeout", "0").stdout.strip()
    assert store.find_by_id(environment_id).timeout == timedelta(0)
    assert "\tnever\t" in run("ls").stdout


# ls


@pytest.fixture
def three(store: FileStore) -> FileStore:
    """Return a store of three environments that differ in every filter."""
    store.save(environment("a", labels={"team": "blue", "tier": "1"}))
    store.save(environment("b", status=Status.ERROR, labels={"team": "red", "tier": "1"}))
    store.save(environment("c", runtime=Runtime.SHELL, labels={}))
    return store


@pytest.mark.usefixtures("three")
def test_ls_lists_a_row_for_each() -> None:
    """The table has a header, and the environments sorted by id."""
    result = run("ls")
    assert result.exit_code == 0
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["ID", "NAME", "RUNTIME", "STATUS", "TIMEOUT", "LABELS"],
        ["a", "name of a", "node", "running", "45m0s", "team=blue,tier=1"],
        ["b", "name of b", "node", "error", "45m0s", "team=red,tier=1"],
        ["c", "name of c", "shell", "running", "45m0s", "-"],
    ]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "abc"),
        (("--status", "running"), "ac"),
        (("--status", "error"), "b"),
        (("--status", "destroyed"), ""),
        (("--runtime", "node"), "ab"),
        (("--label", "tier=1"), "ab"),
        (("--label", "tier=1", "--label", "team=red"), "b"),
        (("--label", "tier="), ""),
        (("--status", "running", "--runtime", "node", "--label", "team=blue"), "a"),
    ],
)
def test_ls_filters_combine(options: tuple[str, ...], expected: str) -> None:
    """An environment must match every filter, in each form of the list."""
    for quiet in ("-q", "--quiet"):
        assert run("ls", quiet, *options).stdout.split() == list(expected)
    assert [row["id"] for row in json.loads(run("ls", "--json", *options).stdout)] == list(expected)
    rows = run("ls", *options).stdout.splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == list(expected)


def test_ls_json_is_one_array_of_documents(three: FileStore) -> None:
    """Each item equals the document, including its checksum."""
    names = ("a", "b", "c")
    expected = [json.loads(document(three.path, name).read_bytes()) for name in names]
    assert json.loads(run("ls", "--json").stdout) == expected


def test_ls_of_empty_store_is_empty(root: Path) -> None:
    """An empty list is no error, and creates no store."""
    assert json.loads(run("ls", "--json").stdout) == []
    assert run("ls", "-q").stdout == ""
    assert len(run("ls").stdout.splitlines()) == 1
    assert not root.exists()


# show


def test_show_prints_the_exact_file(store: FileStore) -> None:
    """A manual edit is printed as it is: other spaces, no final newline."""
    store.save(environment("mine"))
    data = b'{"runtime": "node",   "id":"mine", "name" :"h\xc3\xa4nd"}'
    document(store.path, "mine").write_bytes(data)
    result = run("show", "mine")
    assert (result.exit_code, result.stdout_bytes) == (0, data)


def test_show_takes_unique_prefix(store: FileStore) -> None:
    """A prefix that only one id has is enough."""
    store.save(environment("alpha-1"))
    store.save(environment("beta-1"))
    assert json.loads(run("show", "al").stdout)["id"] == "alpha-1"


def test_show_prefers_the_exact_id(store: FileStore) -> None:
    """An id that is a prefix of another one can still be shown."""
    store.save(environment("alpha"))
    store.save(environment("alpha-1"))
    assert json.loads(run("show", "alpha").stdout)["id"] == "alpha"


def test_show_of_ambiguous_prefix_names_candidates(store: FileStore) -> None:
    """It exits 2 and names a few of the candidates on stderr."""
    for number in range(7):
        store.save(environment(f"alpha-{number}"))
    result = run("show", "alpha")
    assert (result.exit_code, result.stdout) == (2, "")
    candidates = ", ".join(f"alpha-{number}" for number in range(5))
    assert f"'alpha' is a prefix of 7 ids: {candidates}, ...\n" in result.stderr


def test_show_ignores_corrupt_candidates(store: FileStore) -> None:
    """A corrupt document does not make a prefix ambiguous."""
    store.save(environment("alpha-1"))
    document(store.path, "alpha-2").write_text("{")
    assert json.loads(run("show", "alpha").stdout)["id"] == "alpha-1"


@pytest.mark.parametrize("wanted", ["b", "", "alphabet", "../alpha", "x" * 300])
def test_show_of_unknown_id_is_not_found(store: FileStore, wanted: str) -> None:
    """It exits 3, also for the empty text."""
    store.save(environment("alpha"))
    result = run("show", wanted)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: environment not found: ")


def test_show_of_id_deleted_concurrently_is_not_found(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment deleted between finding and printing it is not found."""
    store.save(environment("alpha"))
    find = FileStore.find_by_id

    def find_and_lose(self: FileStore, environment_id: str) -> object:
        found = find(self, environment_id)
        document(self.path, environment_id).unlink()
        return found

    monkeypatch.setattr(FileStore, "find_by_id", find_and_lose)
    assert run("show", "alpha").exit_code == 3


# set


def test_set_changes_all_at_once(store: FileStore) -> None:
    """Status, name and labels change in one revision, and nothing is printed."""
    store.save(environment("a", labels={"old": "1", "kept": "2", "both": "3"}))
    options = ("--status", "destroying", "--name", "new", "--label", "new=4", "--label", "both=5")
    result = run("set", "a", *options, "--unlabel", "old", "--unlabel", "both", "--unlabel", "no")
    assert (result.exit_code, result.output) == (0, "")
    stored = store.find_by_id("a")
    assert (stored.status, stored.name, stored.revision) == (Status.DESTROYING, "new", 2)
    assert stored.labels == {"kept": "2", "new": "4", "both": "5"}


@pytest.mark.parametrize(
    "options",
    [
        ("--status", "running"),
        ("--name", "name of a"),
        ("--label", "team=blue"),
        ("--unlabel", "absent"),
    ],
)
def test_set_without_change_stores_nothing(store: FileStore, options: tuple[str, str]) -> None:
    """It succeeds and stores no new revision."""
    store.save(environment("a"))
    assert run("set", "a", *options).exit_code == 0
    assert store.find_by_id("a").revision == 1


@pytest.mark.parametrize(("text", "minutes"), [("90m", 90), ("24h", 1440), ("0", 0)])
def test_set_changes_timeout_without_limit(store: FileStore, text: str, minutes: int) -> None:
    """The operator may choose any idle timeout, zero for never, which is no use."""
    store.save(environment("a"))
    before = store.find_by_id("a")
    assert run("set", "a", "--timeout", text).exit_code == 0
    before.timeout = timedelta(minutes=minutes)
    assert store.find_by_id("a") == before


def test_set_refuses_invalid_transition(store: FileStore) -> None:
    """It exits 1, explains why, and changes nothing, the name included."""
    store.save(environment("a"))
    result = run("set", "a", "--status", "creating", "--name", "new")
    assert result.exit_code == 1
    assert result.stderr == "Error: an environment that is running cannot become creating\n"
    assert store.find_by_id("a").name == "name of a"


def test_set_keeps_concurrent_change(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A concurrent change of another writer is not lost."""
    store.save(environment("a"))
    copy = Environment.copy
    others = iter([lambda: store.save(environment("a", labels={"other": "1"}))])

    def copy_while_another_saves(self: Environment) -> Environment:
        save = next(others, None)
        if save is not None:
            save()
        return copy(self)

    monkeypatch.setattr(Environment, "copy", copy_while_another_saves)
    assert run("set", "a", "--name", "new").exit_code == 0
    stored = store.find_by_id("a")
    assert (stored.name, stored.labels) == ("new", {"other": "1"})


def test_set_takes_unique_prefix(store: FileStore) -> None:
    """A unique prefix is enough; one of several ids is wrong usage, and changes none."""
    for name in ("alpha", "alphabet", "beta"):
        store.save(environment(name))
    assert run("set", "b", "--name", "new").exit_code == 0
    assert run("set", "al", "--name", "new").exit_code == 2
    assert run("set", "alpha", "--name", "exact").exit_code == 0
    assert [stored.name for stored in store.find_all()] == ["exact", "name of alphabet", "new"]


# rm


def test_rm_removes_several(store: FileStore) -> None:
    """It takes several ids and prints nothing."""
    for name in ("a", "b", "c"):
        store.save(environment(name))
    result = run("rm", "a", "c")
    assert (result.exit_code, result.output) == (0, "")
    assert [left.id for left in store.find_all()] == ["b"]


def test_rm_tries_all_and_exits_with_first_failure(store: FileStore) -> None:
    """Ids after a failure are removed; a missing one (3) precedes a newer document (6)."""
    for name in ("a", "b"):
        store.save(environment(name))
    newer = document(store.path, "newer")
    newer.write_text('{"schema": 99, "id": "newer"}')
    result = run("rm", "a", "missing", "newer", "b")
    assert result.exit_code == 3
    first, second = result.stderr.splitlines()
    assert first == "Error: environment not found: 'missing'"
    assert second.startswith(f"Error: {newer} has format 99")
    assert store.count() == 1
    assert run("rm", "newer", "missing").exit_code == 6


def test_rm_takes_unique_prefixes(store: FileStore) -> None:
    """If one of them fits several ids, none is removed."""
    for name in ("alpha", "beta-1", "beta-2", "gamma"):
        store.save(environment(name))
    result = run("rm", "al", "beta")
    assert result.exit_code == 2
    assert "'beta' is a prefix of 2 ids: beta-1, beta-2" in result.stderr
    assert store.count() == 4
    assert run("rm", "al", "alpha", "beta-2").exit_code == 0
    assert [left.id for left in store.find_all()] == ["beta-1", "gamma"]


def test_rm_takes_option_as_id_after_dashes(store: FileStore) -> None:
    """After -- anything is an id."""
    store.save(environment("-q"))
    assert run("rm", "--", "-q").exit_code == 0
    assert store.count() == 0


# count, where, and the global options


@pytest.mark.usefixtures("three")
def test_count_prints_a_number() -> None:
    """It prints the number of environments alone."""
    assert run("count").stdout == "3\n"


def test_where_prints_the_path(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the store that would be used, which need not exist."""
    assert run("where").stdout == f"{root}\n"
    assert run("--store", str(tmp_path / "other"), "where").stdout == f"{tmp_path}/other\n"
    assert run("--store", f"file://{tmp_path}/url", "where").stdout == f"{tmp_path}/url\n"
    assert run("--store", "~/mine", "where").stdout == f"{tmp_path}/home/mine\n"
    assert run("--store", "memory:", "where").stdout == "memory:\n"
    monkeypatch.delenv("WAGGLE_STORE_PATH")
    assert run("where").stdout == f"{tmp_path}/data/store\n"
    assert not root.exists()


def test_where_warns_of_temporary_store(tmp_path: Path) -> None:
    """The path is printed alone; a warning about it goes to stderr."""
    path = tmp_path / "snap" / "code" / "165" / "store"
    result = run("--store", str(path), "where")
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    assert result.stderr.startswith("Warning: this store belongs to revision 165 of the snap code")
    assert run("where").stderr == ""


def test_store_option_chooses_the_store(root: Path, tmp_path: Path) -> None:
    """With --store, the default store is not touched."""
    other = str(tmp_path / "other")
    environment_id = run("--store", other, "create").stdout
    assert run("--store", other, "ls", "-q").stdout == environment_id
    assert run("--store", f"file://{other}", "count").stdout == "1\n"
    assert not root.exists()


def test_verbs_work_on_memory_store(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Show prints the document that a file would hold."""
    memory = MemoryStore()
    stored = environment("alpha")
    stored.revision = memory.save(stored)
    # This one outlives a command, unlike a real one.
    monkeypatch.setattr(memory, "close", lambda: None)
    monkeypatch.setattr("waggle_fsstore.cli.store_option.open_repository", lambda _, **__: memory)
    options = ("--store", "memory:")
    assert run(*options, "show", "al").stdout_bytes == codec.encode(stored, 1)
    assert run(*options, "set", "alpha", "--name", "new").exit_code == 0
    environment_id = run(*options, "create").stdout
    assert run(*options, "count").stdout == "2\n"
    assert run(*options, "ls", "-q").stdout.splitlines() == sorted(
        ["alpha", environment_id.strip()]
    )
    assert run(*options, "rm", "alpha").exit_code == 0
    with pytest.raises(EnvironmentNotFoundError):
        memory.find_by_id("alpha")
    assert not root.exists()


def test_memory_store_lasts_for_one_command() -> None:
    """Each command has its own store in memory."""
    assert run("--store", "memory:", "create").exit_code == 0
    assert run("--store", "memory:", "count").stdout == "0\n"
    assert run("--store", "memory:", "show", "a").exit_code == 3
