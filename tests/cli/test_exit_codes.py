# SPDX-License-Identifier: Apache-2.0
"""Every error has its exit code, one line on stderr, and no traceback."""

import errno
import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.cli_runner import PROGRAM, document, environment, run
from tests.store.locks import lock_held
from waggle_fsstore.cli.exit_codes import code_of, message_of
from waggle_fsstore.domain import errors
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.format.codec import MAX_DOCUMENT_BYTES

READS = [
    ("ls",),
    ("ls", "-q"),
    ("ls", "--json"),
    ("show", "a"),
    ("count",),
    ("history",),
    ("history", "a", "--json"),
    ("events",),
]

_EXPECTED = {
    errors.EnvironmentNotFoundError("a"): 3,
    errors.EnvironmentAlreadyExistsError("a"): 4,
    errors.EnvironmentNotRunningError("a", "error"): 1,
    errors.InvalidEnvironmentError("name", "is wrong"): 2,
    errors.InvalidEnvironmentIdError("is wrong"): 2,
    errors.InvalidRuntimeError("is wrong"): 2,
    errors.InvalidTransitionError("running", "creating"): 1,
    errors.CapacityError(3): 1,
    errors.NoFreePortError(1, 2): 1,
    errors.IdempotencyKeyReusedError("key", "a"): 4,
    errors.CreationCancelledError(): 1,
    errors.CountMismatchError(2, 3): 1,
    errors.ProviderError("local", "is wrong"): 1,
    errors.RuntimeUnavailableError("local", "is wrong", "node"): 1,
    errors.WorkspaceGoneError("local", "is wrong"): 1,
    errors.ExecutionUnavailableError("local", "is wrong"): 1,
    errors.TooManyExecutionsError("local", "is wrong"): 1,
    errors.OtherHostError("local", "is wrong", "maja", ""): 1,
    errors.WorkspacePathError("../a", "is wrong"): 1,
    errors.SettingError("WAGGLE_X", "is wrong"): 2,
    errors.ServerRunningError(None): 4,
    errors.HostNotFoundError("maja"): 3,
    errors.HostRefusedError("maja", "was removed"): 4,
    errors.DestroyPendingError("a", "maja"): 1,
    errors.HostUnreachableError("a", "maja", "is wrong"): 1,
    errors.StoreError("is wrong"): 1,
    errors.CorruptDocumentError("/a", "is wrong"): 6,
    errors.UnsupportedFormatError("/a", 2, 1): 6,
    errors.ConflictError("a", 1, 2): 4,
    errors.LockTimeoutError("/a", None, 1.0): 5,
    errors.OutcomeUnknownError("/a"): 1,
    errors.JournalDamagedError("/a", 8): 6,
    errors.HistoryPrunedError(7): 1,
    errors.HistoryLostError(7): 1,
    errors.StoreGoneError("/a"): 1,
    errors.StoreUnavailableError("db.example/waggle", "Connection refused"): 1,
    errors.StoreClosedError(): 1,
}


def _kinds(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(_kinds(sub) for sub in kind.__subclasses__()))


@pytest.mark.parametrize(("error", "code"), _EXPECTED.items(), ids=lambda value: str(value)[:30])
def test_every_error_has_its_code(error: Exception, code: int) -> None:
    """Each error class has the exit code of the table."""
    assert code_of(error) == code


def test_table_of_codes_is_complete() -> None:
    """The table of the test above has every error class of the package."""
    found = {kind.__name__ for kind in _kinds(errors.WaggleError)} & set(vars(errors))
    assert {type(error).__name__ for error in _EXPECTED} == found - {"WaggleError"}


# 1: error


@pytest.mark.parametrize("verb", READS)
def test_named_store_must_exist_for_reads(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """A misspelt --store is an error, and is not created."""
    missing = tmp_path / "missing"
    result = run("--store", str(missing), *verb)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {missing}: there is no store; create an environment to begin one\n"
    )
    assert not missing.exists()


def test_missing_default_store_is_empty(root: Path) -> None:
    """Without --store, a store that does not exist counts as empty."""
    assert run("count").stdout == "0\n"
    assert run("show", "a").exit_code == 3
    assert run("rm", "a").exit_code == 3
    assert run("set", "a", "--name", "b").exit_code == 3
    assert not root.exists()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EROFS, "Read-only file system"),
        (errno.ENOSPC, "No space left on device"),
        (errno.EACCES, "Permission denied"),
    ],
)
@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("create", ("create",)),
        ("update", ("set", "a", "--name", "b")),
        ("delete", ("rm", "a")),
        ("find_by_id", ("show", "a")),
        ("find_all", ("ls",)),
        ("count", ("count",)),
        ("history", ("history",)),
        ("watch", ("events", "--follow")),
    ],
)
def test_os_error_is_reported_with_its_file(
    monkeypatch: pytest.MonkeyPatch, method: str, verb: tuple[str, ...], number: int, text: str
) -> None:
    """An OSError is reported in one line, with its file."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, text, "/store/a file")

    monkeypatch.setattr(FileStore, method, refuse)
    result = run(*verb)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: /store/a file: {text}\n"


def test_failed_write_leaves_document(store: FileStore) -> None:
    """A real write error names the file, and leaves the document as it was."""
    store.save(environment("a"))
    # Enough for lock and state, but not for a document of this size. No bytecode is written:
    # Python would not notice that it wrote only half of a module's.
    limited = ["sh", "-c", 'ulimit -f 2; export PYTHONDONTWRITEBYTECODE=1; exec "$@"', "sh"]
    change = ("set", "a", "--label", "large=" + "x" * 10_000)
    result = subprocess.run(
        [*limited, *PROGRAM, *change], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {store.path}/.waggle/tmp/")
    assert result.stderr.endswith(f": {os.strerror(errno.EFBIG)}\n")
    assert store.find_by_id("a").revision == 1


def test_file_in_place_of_store_is_refused(tmp_path: Path) -> None:
    """A store cannot be in a file, which is left alone."""
    (tmp_path / "file").write_text("not ours")
    result = run("--store", str(tmp_path / "file"), "create")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "not ours"


def test_unknown_outcome_has_its_cause() -> None:
    """The message has the error of the operating system that caused it."""
    error = errors.OutcomeUnknownError("/store/a")
    error.__cause__ = OSError(errno.EIO, "Input/output error", "/store")
    assert message_of(error).startswith("/store/a: the change failed and could not be rolled back")
    assert message_of(error).endswith(" (/store: Input/output error)")


def test_error_without_message_has_its_class_name() -> None:
    """No message is empty."""
    assert message_of(OSError()) == "OSError"
    assert message_of(OSError(errno.EIO, "Input/output error")) == "Input/output error"


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error is not caught."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FileStore, "count", fail)
    with pytest.raises(ZeroDivisionError):
        run("count")


@pytest.mark.parametrize(
    "arguments", ["ls", "--help", "ls --help", "--version", "history", "count"]
)
def test_gone_reader_is_no_error(monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    """A reader that has seen enough ends the program silently, as a signal would."""

    def fail(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("waggle_fsstore.cli.output.write", fail)
    monkeypatch.setattr("click.decorators.echo", fail)
    result = run(*arguments.split())
    assert (result.exit_code, result.stderr) == (141, "")


@pytest.mark.parametrize("arguments", ["--help", "ls --help", "--version", "ls"])
def test_help_to_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    """Output that cannot be written is an error of one line, whatever is printed."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("waggle_fsstore.cli.output.write", fail)
    monkeypatch.setattr("click.decorators.echo", fail)
    result = run(*arguments.split())
    assert result.exit_code == 1
    assert result.stderr == "Error: standard output: No space left on device\n"


def test_unwritable_stderr_keeps_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the message cannot be written, the exit code still says what went wrong."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("waggle_fsstore.cli.output.click.echo", fail)
    assert run("show", "missing").exit_code == 3
    assert run("show").exit_code == 2


# 2: usage


@pytest.mark.parametrize(
    "arguments",
    [
        *("nonsense", "--bogus", "ls --bogus", "show", "set a", "set a --status asleep"),
        *("create --runtime ruby", "create --timeout soon", "history --after x", "history -n x"),
        *("restore a --revision x", "history prune --keep-days x", "history prune"),
        *("--store s3://x ls", "show a b", "fsck --bogus"),
    ],
)
def test_usage_errors_have_one_style(arguments: str) -> None:
    """One line says what is wrong, in words of this program, and one where the help is."""
    result = run(*arguments.split())
    assert result.exit_code == (16 if "fsck" in arguments else 2)
    error, hint = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert re.fullmatch("  see: waggle-fsstore( [a-z ]+)? --help", hint)
    assert not re.search("value error|input should|pydantic|http", error, re.IGNORECASE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "nonsense"),
        (("show",), "ID"),
        (("rm",), "ID"),
        (("set", "a"), "give at least one of --status, --name, --timeout, --label and --unlabel"),
        (("set", "a", "--status", "asleep"), "asleep"),
        (("set", "a", "--label", "novalue"), "'novalue' is not KEY=VALUE"),
        (("create", "--label", "novalue"), "'novalue' is not KEY=VALUE"),
        (("create", "--label", "=nokey"), "'=nokey' is not KEY=VALUE"),
        (("create", "--runtime", "ruby"), "ruby"),
        (("create", "--timeout", "soon"), "'soon' is not a duration: write one like 30s"),
        (("create", "--timeout", "1000000h"), "timeout: is more than a century"),
        (("create", "\udcff"), "name: holds a lone surrogate"),
        (("ls", "--label", "novalue"), "'novalue' is not KEY=VALUE"),
        (("ls", "--json", "-q"), "choose one of --json and --quiet"),
        (("ls", "--status", "asleep"), "asleep"),
        (("--store", "s3://bucket", "ls"), "the location 's3://bucket' is unknown"),
        (("--store", "", "ls"), "the location of the store is empty"),
        (("--store", "file://host/path", "where"), "names no local path"),
        (("--store", "file:%00", "ls"), "NUL character"),
    ],
)
def test_wrong_usage_changes_nothing(root: Path, arguments: tuple[str, ...], message: str) -> None:
    """It exits 2, explains the problem, and changes nothing."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not root.exists()


def test_invalid_variable_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid location is wrong usage, also in a variable."""
    monkeypatch.setenv("WAGGLE_STORE_PATH", "s3://bucket")
    assert run("ls").exit_code == 2


def test_no_verb_shows_the_help() -> None:
    """The program without a verb explains its usage."""
    result = run()
    assert result.exit_code == 2
    assert "Commands" in result.output


# 4: conflict


def test_create_refuses_taken_id(monkeypatch: pytest.MonkeyPatch, store: FileStore) -> None:
    """Create never overwrites."""
    taken = uuid.UUID("12345678-1234-4234-8234-123456789abc")
    monkeypatch.setattr("waggle_fsstore.cli.environments.uuid.uuid4", lambda: taken)
    assert run("create", "first").exit_code == 0
    result = run("create", "second")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == f"Error: environment already exists: '{taken}'\n"
    assert store.find_by_id(str(taken)).name == "first"


# 5: lock timeout


@pytest.mark.parametrize("verb", [("create",), ("set", "a", "--name", "b"), ("rm", "a")])
def test_held_lock_times_out_with_holder(
    monkeypatch: pytest.MonkeyPatch, store: FileStore, verb: tuple[str, ...]
) -> None:
    """A write gives up and names the holder; a read needs no lock."""
    store.save(environment("a"))
    monkeypatch.setattr(
        "waggle_fsstore.cli.store_option.open_repository",
        lambda _, **__: FileStore(store.path, lock_timeout=0.02),
    )
    with lock_held(store):
        result = run(*verb)
        for read in READS:
            assert run(*read).exit_code == 0
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.startswith(
        f"Error: {store.path}/.waggle/lock: the store lock was not free within 0.02 s; "
        f"last known holder: process {os.getpid()} on "
    )
    assert result.stderr.count("\n") == 1


def test_lock_timeout_begins_with_its_file() -> None:
    """The message begins with the file, as that of any OSError."""
    holder = errors.LockHolder(7, "there", datetime(2031, 2, 3, tzinfo=UTC))
    message = message_of(errors.LockTimeoutError("/store/lock", holder, 2.5))
    assert message.startswith(
        "/store/lock: the store lock was not free within 2.5 s; last known holder: "
    )


# 6: corrupt


def _half(path: Path) -> None:
    path.write_bytes(b'{"id": "bad", "na\x1b[31m')


def _newer(path: Path) -> None:
    path.write_bytes(b'{"schema": 99, "id": "bad"}\n')


def _other_id(path: Path) -> None:
    path.write_bytes(b'{"id": "other", "name": "n", "runtime": "node"}')


def _oversized(path: Path) -> None:
    path.write_bytes(b" " * (MAX_DOCUMENT_BYTES + 1))


def _symlink(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_text("secret")
    path.symlink_to(secret)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("damage", [_half, _newer, _other_id])
def test_show_prints_corrupt_file(store: FileStore, damage: Callable[[Path], None]) -> None:
    """Its bytes go to stdout, the error to stderr, with exit code 6."""
    store.save(environment("a"))
    path = document(store.path, "bad")
    damage(path)
    result = run("show", "bad")
    assert (result.exit_code, result.stdout_bytes) == (6, path.read_bytes())
    assert result.stderr.startswith(f"Error: {path}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("damage", [_oversized, _symlink, _fifo, _directory])
def test_show_does_not_print_irregular_file(
    store: FileStore, damage: Callable[[Path], None]
) -> None:
    """A file that is too large or not regular is only reported."""
    store.save(environment("a"))
    path = document(store.path, "bad")
    damage(path)
    result = run("show", "bad")
    assert (result.exit_code, result.stdout) == (6, "")
    assert result.stderr.startswith(f"Error: {path}: is ")


@pytest.mark.parametrize(
    "damage", [_half, _newer, _other_id, _oversized, _symlink, _fifo, _directory]
)
def test_ls_reports_broken_documents_after_the_list(
    store: FileStore, damage: Callable[[Path], None]
) -> None:
    """Each form lists all readable documents, then reports the others, and exits 6."""
    store.save(environment("a"))
    store.save(environment("z"))
    damage(document(store.path, "bad"))
    document(store.path, "bad2").write_text("[]")
    for options in ((), ("-q",), ("--json",), ("--status", "error")):
        result = run("ls", *options)
        assert result.exit_code == 6
        first, second = result.stderr.splitlines()
        assert first.startswith(f"Error: {document(store.path, 'bad')}")
        assert second.startswith(f"Error: {document(store.path, 'bad2')}: not a JSON object")
    assert run("ls", "-q").stdout.split() == ["a", "z"]
    assert [row["id"] for row in json.loads(run("ls", "--json").stdout)] == ["a", "z"]
    assert run("count").stdout == "4\n"


def test_ls_reports_unopenable_file(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without read permission is reported with the broken ones."""
    store.save(environment("a"))
    find_all = FileStore.find_all

    def find_all_but_one(self: FileStore, *, on_corrupt: Callable[[Exception], object]) -> object:
        on_corrupt(PermissionError(errno.EACCES, "Permission denied", "/store/bad.json"))
        return find_all(self, on_corrupt=on_corrupt)

    monkeypatch.setattr(FileStore, "find_all", find_all_but_one)
    result = run("ls", "-q")
    assert (result.exit_code, result.stdout) == (6, "a\n")
    assert result.stderr == "Error: /store/bad.json: Permission denied\n"


@pytest.mark.parametrize("damage", [_half, _other_id, _oversized, _symlink, _fifo, _directory])
def test_rm_moves_corrupt_document_to_lost_and_found(
    store: FileStore, damage: Callable[[Path], None]
) -> None:
    """The corrupt document is kept, and the store is whole again."""
    store.save(environment("a"))
    damage(document(store.path, "bad"))
    assert run("rm", "bad").exit_code == 0
    assert run("ls").exit_code == 0
    assert len(os.listdir(store.path / ".waggle" / "lost+found")) == 1


def test_set_leaves_corrupt_document(store: FileStore) -> None:
    """It exits 6 and does not touch the file."""
    store.save(environment("a"))
    path = document(store.path, "a")
    _half(path)
    data = path.read_bytes()
    assert run("set", "a", "--name", "b").exit_code == 6
    assert path.read_bytes() == data


def test_foreign_directory_is_refused(tmp_path: Path) -> None:
    """A directory with other files is no store for any verb, and is left alone."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    for verb in (*READS, ("create",), ("rm", "a"), ("where",)):
        result = run("--store", str(foreign), *verb)
        assert (result.exit_code, result.stdout) == (6, "")
        assert "choose a new or empty directory" in result.stderr
    assert os.listdir(foreign) == ["letter.txt"]
