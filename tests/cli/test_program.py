# SPDX-License-Identifier: Apache-2.0
"""The program as a whole: entry points, help, completion, imports."""

import ast
import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.cli.cli_runner import environment, execute, run, run_python
from waggle_fsstore import __version__
from waggle_fsstore.cli import main
from waggle_fsstore.cli.app import app
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.store.file_store import FileStore

VERBS = (
    "create",
    "ls",
    "show",
    "set",
    "rm",
    "undelete",
    "exec",
    "cp",
    "shell",
    "count",
    "where",
    "history",
    "events",
    "history prune",
    "fsck",
    "snapshot",
    "restore",
    "info",
    "schema",
    "host ls",
    "host remove",
    "serve",
)


def test_environment_life_across_processes() -> None:
    """An environment is created, used and removed, with a process for each step."""
    created = execute("create", "data", "--label", "team=blue")
    assert (created.returncode, created.stderr) == (0, b"")
    environment_id = created.stdout.decode().strip()
    assert execute("set", environment_id, "--status", "running").returncode == 0
    assert b'"status": "running"' in execute("show", environment_id[:6]).stdout
    assert execute("ls", "-q").stdout == created.stdout
    assert execute("rm", environment_id).returncode == 0
    assert execute("show", environment_id).returncode == 3
    assert execute("count").stdout == b"0\n"


def test_console_script_is_main() -> None:
    """The installed command and python -m are the same program."""
    [script] = entry_points(group="console_scripts", name="waggle-fsstore")
    assert script.load() is main


def test_version_is_printed() -> None:
    """--version prints name and version, on stdout."""
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"waggle-fsstore {__version__}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_verb(flag: str) -> None:
    """The help of the program has all verbs, the exit codes and the variables."""
    result = run(flag)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for expected in (*VERBS, "--store", "--version"):
        assert f" {expected} " in text
    assert "WAGGLE_STORE_PATH" in text
    assert "5 lock timeout" in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_option(verb: str) -> None:
    """Each verb has a summary, and every argument and option is explained."""
    result = run(*verb.split(), "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: waggle-fsstore {verb} ")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    for number, line in enumerate(lines):
        if line.lstrip().startswith("--"):
            explained = "  " in line.strip() or lines[number + 1].startswith(" " * 20)
            assert explained, line


@pytest.mark.parametrize("verb", HELP)
def test_summary_is_whole_and_that_of_the_function(verb: str) -> None:
    """No summary is cut in the list of verbs at 80 columns; each is the docstring too."""
    summary, *_ = HELP[verb].splitlines()
    callback = app.commands[verb].callback
    assert callback is not None
    assert callback.__doc__ == summary
    shown = run("--help").stdout
    assert f"  {verb} " in shown
    assert f"{summary.partition('. ')[0].rstrip('.')}." in shown


def test_help_does_not_depend_on_docstrings() -> None:
    """Without docstrings (-OO), the help of each verb is the same."""
    code = (
        "from tests.cli.cli_runner import *; print([run(*v.split(), '--help').stdout for v in %r])"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code % (VERBS,)], capture_output=True, text=True, check=True
    )
    assert ast.literal_eval(done.stdout) == [run(*verb.split(), "--help").stdout for verb in VERBS]


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_extra_is_named(missing: str) -> None:
    """One line says how to install it, and the exit code is 1."""
    result = run_python(
        f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from waggle_fsstore.cli import main
sys.exit(main())
"""
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: No module named {missing!r}: "
        "install the command line: pip install '/path/to/clone[cli]', "
        "with the path of your clone of the repository\n"
    )


def test_imports_are_lazy() -> None:
    """The package loads no command line, and the command line no Click until it runs."""
    result = run_python(
        """
import sys
import waggle_fsstore
for name in waggle_fsstore.__all__:
    getattr(waggle_fsstore, name)
assert not [name for name in sys.modules if name.startswith("waggle_fsstore.cli")]
import waggle_fsstore.cli
assert not {"click", "rich"} & set(sys.modules)
import waggle_fsstore.cli.app
assert not {"rich.table", "rich.progress", "rich.cells"} & set(sys.modules)
"""
    )
    assert (result.returncode, result.stderr) == (0, "")


# Completion


def _complete_in_bash(*words: str) -> list[str]:
    result = execute(
        _WAGGLE_FSSTORE_COMPLETE="bash_complete",
        COMP_WORDS=shlex.join(("waggle-fsstore", *words)),
        COMP_CWORD=str(len(words)),
    )
    assert result.stderr == b""
    return [line.removeprefix("plain,") for line in result.stdout.decode().split()]


@pytest.mark.parametrize("verb", ["show", "set", "rm", "history", "restore", "exec", "shell"])
def test_ids_are_completed(store: FileStore, verb: str) -> None:
    """The shell offers the ids in the store with this prefix."""
    for name in ("alpha-1", "alpha-2", "beta"):
        store.save(environment(name))
    assert _complete_in_bash(verb, "al") == ["alpha-1", "alpha-2"]
    assert _complete_in_bash(verb, "be") == ["beta"]


def test_places_are_completed(store: FileStore) -> None:
    """For a file to copy, the shell offers files, and the ids with their colon."""
    store.save(environment("alpha"))
    assert _complete_in_bash("cp", "al") == ["file,al", "alpha:"]
    assert _complete_in_bash("cp", "file", "al") == ["file,al", "alpha:"]


def test_ids_are_completed_from_named_store(tmp_path: Path, store: FileStore) -> None:
    """An option --store before the verb counts."""
    store.save(environment("here"))
    with FileStore(tmp_path / "other", durable=False) as other:
        other.save(environment("there"))
        other.save(environment("through"))
    words = ("--store", str(tmp_path / "other"), "show", "t")
    assert _complete_in_bash(*words) == ["there", "through"]


def test_ids_that_a_shell_would_run_are_not_completed(store: FileStore, tmp_path: Path) -> None:
    """Shells evaluate what they are offered, and an id can be any text."""
    trap = tmp_path / "trap"
    for name in (f"a$(touch {trap})", f"a`touch {trap}`", "a*", "a b", 'a"', "a'", "-a", "a;b"):
        store.save(environment(name))
    store.save(environment("a-fine.id_1"))
    assert _complete_in_bash("show", "a") == ["a-fine.id_1"]
    assert not trap.exists()


def test_bash_offers_what_program_completes(store: FileStore) -> None:
    """The line that the documentation has for bash makes it offer verbs and ids."""
    store.save(environment("alpha-1"))
    script = """
eval "$(_WAGGLE_FSSTORE_COMPLETE=bash_source waggle-fsstore)"
for words in "cou" "show al"; do
    COMPREPLY=()
    COMP_WORDS=(waggle-fsstore $words)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _waggle_fsstore_completion waggle-fsstore
    echo "${COMPREPLY[@]}"
done
"""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    assert (done.stdout, done.stderr) == ("count\nalpha-1\n", "")


@pytest.mark.parametrize("location", ["s3://bucket", "foreign", "missing"])
def test_unreadable_store_completes_nothing(tmp_path: Path, location: str) -> None:
    """Pressing the completion key never shows an error."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    where = location if ":" in location else os.fspath(tmp_path / location)
    assert _complete_in_bash("--store", where, "show", "a") == []


def test_completion_ignores_corrupt_documents(store: FileStore) -> None:
    """The readable ids are still offered."""
    store.save(environment("alpha"))
    (store.path / "environments" / "also-bad.json").write_text("{")
    assert _complete_in_bash("rm", "al") == ["alpha"]


def test_verbs_and_values_are_completed() -> None:
    """Click completes verbs and the values of options."""
    assert _complete_in_bash("cr") == ["create"]
    assert _complete_in_bash("ls", "--status", "r") == ["running"]


def test_verb_of_two_words_is_completed(store: FileStore) -> None:
    """Its second word is offered among the ids that can follow the first one."""
    store.save(environment("prudent"))
    assert _complete_in_bash("hist") == ["history"]
    assert _complete_in_bash("history", "pru") == ["prudent", "prune"]
    assert _complete_in_bash("history", "prune", "--keep-b") == ["--keep-bytes"]
