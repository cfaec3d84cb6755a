# SPDX-License-Identifier: Apache-2.0
"""The verbs that work inside an environment: exec, cp and shell."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import shake_128
from pathlib import Path

import pytest

from tests.cli.cli_runner import environment, run
from tests.cli.forked import Forked, forked, processes_with, read_soon, until
from tests.isolation import needs_isolation
from waggle_fsstore.domain.workspace_file import MAX_FILE_BYTES
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.server_lock import ServerPresence
from waggle_fsstore.wiring import open_service


def some_bytes(size: int) -> bytes:
    return shake_128(b"seed").digest(size)


@pytest.fixture
def made(store: FileStore) -> Iterator[tuple[str, Path]]:
    """Yield the id and the home directory of a shell environment."""
    with open_service(store) as service:
        created = service.create("shell")
        yield created.id, Path(service.locate(created))


@pytest.fixture
def name(made: tuple[str, Path]) -> str:
    return made[0]


@pytest.fixture
def home(made: tuple[str, Path]) -> Path:
    return made[1]


def execute(name: str, *command: str, options: tuple[str, ...] = ()) -> tuple[int, bytes, bytes]:
    """Run a command in an environment; return the exit code and the output."""
    with forked("exec", *options, name, "--", *command) as program:
        return program.communicate()


def reasons(store: FileStore, name: str) -> list[str]:
    return [event.reason for event in store.history(name) if event.actor == "touch"]


@pytest.fixture
def duration() -> str:
    """Return a number of seconds by which a program can be found among all processes."""
    return f"1000{uuid.uuid4().int % 10**12}"


def daemons(duration: str) -> str:
    """Return a script that starts programs, two of which leave its process group and its shell."""
    return f"sleep {duration} & (setsid sleep {duration} &); setsid -f sleep {duration}"


def sleepers(duration: str) -> list[int]:
    """Return the ids of the processes that sleep for so long."""
    found = processes_with(f"sleep {duration}")
    return [process_id for process_id, line in found.items() if line.startswith("sleep")]


# --- exec


@needs_isolation
def test_exec_passes_output_and_exit_code_on(name: str, home: Path) -> None:
    """Each stream has its own, the arguments arrive as they are, and files stay."""
    script = 'printf "%s|" "$@"; echo err >&2; pwd > file; exit 7'
    code, out, err = execute(name, "sh", "-c", script, "sh", "a b", "--timeout", "", "*")
    assert (code, out, err) == (7, b"a b|--timeout||*|", b"err\n")
    assert (home / "file").read_text() == "/home/sandbox\n"


@needs_isolation
def test_exec_reports_signal_and_missing_program(name: str) -> None:
    """The exit codes are those of a shell."""
    assert execute(name, "sh", "-c", "kill -TERM $$")[0] == 143
    code, out, err = execute(name, "no-such-program")
    assert (code, out) == (127, b"")
    assert b"no-such-program: not found" in err


@needs_isolation
def test_exec_passes_output_on_as_it_comes(name: str, home: Path) -> None:
    """The first line can be read before the program writes the second one."""
    script = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two"
    with forked("exec", name, "--timeout", "10s", "--", "sh", "-c", script) as program:
        assert program.read_line() == b"one\n"
        (home / "go").touch()
        assert program.communicate() == (0, b"two\n", b"")


@needs_isolation
def test_exec_keeps_order_of_one_output(name: str) -> None:
    """Where both streams go to one file, they are as the program wrote them."""
    script = "for n in $(seq 500); do echo out $n; echo err $n >&2; done"
    with forked("exec", name, "--", "sh", "-c", script, one_output=True) as program:
        code, out, _ = program.communicate()
    expected = [f"{stream} {n}" for n in range(1, 501) for stream in ("out", "err")]
    assert (code, out.decode().splitlines()) == (0, expected)


@needs_isolation
def test_exec_passes_more_output_on_than_is_kept(name: str) -> None:
    """The output of a program is whole, also where the tool would cut it."""
    _, out, _ = execute(name, "head", "-c", "3000000", "/dev/zero")
    assert out == bytes(3_000_000)


@needs_isolation
def test_exec_reads_standard_input_if_asked(name: str) -> None:
    """With -i each byte arrives unchanged; without, there is nothing to read."""
    sent = some_bytes(50_000)
    for options, expected in ((("-i",), sent), ((), b"")):
        with forked("exec", *options, name, "--", "cat") as program:
            os.write(program.stdin, sent)
            assert program.communicate() == (0, expected, b"")


@needs_isolation
def test_exec_ends_while_input_is_open(name: str) -> None:
    """A program that has ended needs no end of its input."""
    with forked("exec", "--stdin", name, "--", "head", "-n1") as program:
        os.write(program.stdin, b"first\n")
        assert program.read_line() == b"first\n"
        assert program.end() == 0


@needs_isolation
def test_exec_stops_at_timeout(name: str, store: FileStore, duration: str) -> None:
    """It exits 124 and says why; nothing runs on, and the history has it."""
    script = f"{daemons(duration)}; echo begun; sleep {duration}"
    code, out, err = execute(name, "sh", "-c", script, options=("--timeout", "1s"))
    assert (code, out) == (124, b"begun\n")
    assert err == b"Error: the program was stopped: it ran for longer than --timeout\n"
    assert processes_with(duration) == {}
    assert reasons(store, name)[0].endswith("ran 1 program, the last one ended with timeout")


@needs_isolation
def test_exec_says_which_limit_was_reached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes too much memory is stopped, with exit code 1."""
    monkeypatch.setenv("WAGGLE_DEFAULT_MEMORY_MB", "32")
    script = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 100"
    code, out, err = execute(name, "sh", "-c", script)
    assert (code, out) == (1, b"")
    assert b"stopped: it used more than WAGGLE_DEFAULT_MEMORY_MB" in err


@needs_isolation
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_exec_ends_all_with_signal(
    name: str, store: FileStore, duration: str, number: signal.Signals
) -> None:
    """Ctrl-C, and a request to end, stop all that the program has started."""
    script = f"{daemons(duration)}; echo begun; sleep {duration}"
    with forked("exec", name, "--", "sh", "-c", script) as program:
        assert program.read_line() == b"begun\n"
        until(lambda: len(sleepers(duration)) == 4)
        program.send_signal(number)
        assert program.communicate() == (128 + number, b"", b"")
    assert processes_with(duration) == {}
    assert reasons(store, name)[0].endswith("the last one ended with cancelled")


@needs_isolation
def test_exec_ends_when_environment_is_removed(name: str, duration: str) -> None:
    """The program is stopped when another process removes its environment."""
    script = f"echo begun; sleep {duration}"
    with forked("exec", name, "--timeout", "0", "--", "sh", "-c", script) as program:
        assert program.read_line() == b"begun\n"
        assert run("rm", name).exit_code == 0
        code, _, err = program.communicate()
    assert (code, err) == (1, b"Error: the program was stopped: the environment was removed\n")
    assert processes_with(duration) == {}


@needs_isolation
def test_exec_ends_when_its_reader_is_gone(name: str) -> None:
    """A program whose reader is gone ends as it would in a shell."""
    with forked("exec", name, "--", "yes") as program:
        assert program.read_line() == b"y\n"
        program.close_end(program.stdout)
        assert program.end() == 141


@needs_isolation
def test_exec_reports_full_disk(name: str) -> None:
    """Output that cannot be written is an error, and not lost silently."""
    with (
        open("/dev/full", "wb") as full,
        forked("exec", name, "--", "echo", "1", stdout=full.fileno()) as program,
    ):
        code, _, err = program.communicate()
    assert (code, err) == (1, b"Error: standard output: No space left on device\n")


@needs_isolation
def test_exec_shows_no_variable_of_the_caller(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program sees neither the variables nor the files of the user who runs it."""
    monkeypatch.setenv("API_TOKEN", "secret")
    _, out, _ = execute(name, "env")
    variables = dict(line.split("=", 1) for line in out.decode().splitlines())
    assert variables["HOME"] == "/home/sandbox"
    assert not {"API_TOKEN", "WAGGLE_STORE_PATH"} & variables.keys()
    assert execute(name, "test", "-e", os.environ["WAGGLE_STORE_PATH"])[0] == 1


@needs_isolation
def test_exec_is_in_the_history(name: str, store: FileStore) -> None:
    """The next use that is stored names the caller, and how the program ended."""
    execute(name[:8], "sh", "-c", "exit 3", options=("--actor", "maja"))
    last = "in use: maja ran 1 program, the last one ended with exit code 3"
    assert reasons(store, name) == [last]


@needs_isolation
def test_exec_works_beside_server(name: str, store: FileStore) -> None:
    """A server that runs on the store is not in the way."""
    presence = ServerPresence(store.path)
    assert presence.try_acquire()
    try:
        assert execute(name, "echo", "1") == (0, b"1\n", b"")
    finally:
        presence.release()


#: Each verb on an environment that is missing.
VERBS = {
    "exec": ("exec", "{}", "--", "ls"),
    "cp in": ("cp", "-", "{}:a"),
    "cp out": ("cp", "{}:a", "-"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_work_in_missing_environment_is_refused(store: FileStore, verb: str) -> None:
    """An unknown id exits 3, a record without a workspace 1, and a store in memory 2."""
    store.save(environment("bare"))
    for name, options, code in (
        ("missing", (), 3),
        ("bare", (), 1),
        ("bare", ("--store", "memory:"), 2),
    ):
        arguments = [*options, *(one.format(name) for one in VERBS[verb])]
        with forked(*arguments) as program:
            found, out, err = program.communicate()
        assert (found, out, err.count(b"Error: ")) == (code, b"", 1), err


def test_exec_says_why_it_cannot_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no program can be run, the reason is the error."""
    monkeypatch.setenv("WAGGLE_EXECUTION", "off")
    code, out, err = execute(name, "ls")
    assert (code, out) == (1, b"")
    assert b"execution is switched off (WAGGLE_EXECUTION)" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("exec", "a"),
        ("exec", "a", "--timeout", "-1s", "--", "ls"),
        ("exec", "a", "--timeout", "soon", "--", "ls"),
        ("cp", "a", "b"),
        ("cp", "a:b", "b:a"),
        ("cp", "./a:b", "b"),
        ("cp", "a:b"),
        ("cp", "/", "a:b"),
        ("shell", "a"),
    ],
    ids=" ".join,
)
def test_misused_verb_is_refused(store: FileStore, arguments: tuple[str, ...]) -> None:
    """It exits 2, and says in one line what is wrong."""
    store.save(environment("a"))
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")


# --- cp


def copied(*arguments: str, sent: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run ``cp``, with some input; return the exit code and the output."""
    with forked("cp", *arguments) as program:
        os.write(program.stdin, sent)
        return program.communicate()


OK = (0, b"", b"")


@pytest.mark.parametrize("size", [0, 1, 70_000, MAX_FILE_BYTES, 2 * MAX_FILE_BYTES + 1])
def test_cp_copies_any_size_both_ways(name: str, tmp_path: Path, size: int) -> None:
    """Empty files and those that cannot be written at once arrive byte for byte."""
    content = some_bytes(size)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "back").write_bytes(b"longer than before" * 10)
    assert copied(str(tmp_path / "file"), f"{name}:file") == OK
    assert copied(f"{name}:file", str(tmp_path / "back")) == OK
    assert (tmp_path / "back").read_bytes() == content


def test_cp_replaces_what_was_there(name: str, home: Path, tmp_path: Path) -> None:
    """Nothing of a longer file is left."""
    (home / "file").write_bytes(b"before")
    (tmp_path / "file").write_bytes(b"now")
    assert copied(str(tmp_path / "file"), f"{name}:file") == OK
    assert (home / "file").read_bytes() == b"now"


def test_cp_keeps_name_in_directory(name: str, home: Path, tmp_path: Path) -> None:
    """A directory as the target gets a file of the same name, and is made where it is missing."""
    source = tmp_path / "my file:1"
    source.write_bytes(b"1")
    assert copied(str(source), f"{name[:8]}:new/") == OK
    assert copied(str(source), f"{name}:") == OK
    assert [one.read_bytes() for one in home.rglob("my file:1")] == [b"1", b"1"]
    (tmp_path / "target").mkdir()
    assert copied(f"{name}:/home/sandbox/new/my file:1", str(tmp_path / "target")) == OK
    assert (tmp_path / "target" / "my file:1").read_bytes() == b"1"


def test_cp_copies_streams(name: str) -> None:
    """A dash is standard input or output, in which each byte is unchanged."""
    content = bytes(range(256)) * 200
    assert copied("-", f"{name}:data", sent=content) == OK
    assert copied(f"{name}:data", "-") == (0, content, b"")
    code, _, err = copied("-", f"{name}:directory/")
    assert (code, b"names no file" in err) == (2, True)


def test_cp_refuses_links_that_lead_out(name: str, home: Path, tmp_path: Path) -> None:
    """No link of an agent makes it read or write a file of the user."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (home / "link").symlink_to(outside)
    for arguments in ((f"{name}:link", "-"), ("-", f"{name}:link"), ("-", f"{name}:../../out")):
        code, out, err = copied(*arguments)
        assert (code, out) == (1, b"")
        assert b"leads out of the workspace" in err
    assert outside.read_bytes() == b"precious"


def test_cp_names_what_is_missing(name: str, home: Path, tmp_path: Path) -> None:
    """A missing file, or a directory, is an error of one line, and makes no file."""
    (home / "directory").mkdir()
    target = tmp_path / "target"
    for path, reason in (("missing", b"does not exist"), ("directory", b"is not a file")):
        code, _, err = copied(f"{name}:{path}", str(target))
        assert (code, err.count(b"\n")) == (1, 1)
        assert reason in err
    code, _, err = copied(str(target), f"{name}:a")
    assert (code, err) == (1, f"Error: {target}: No such file or directory\n".encode())
    assert not target.exists()
    assert not (home / "a").exists()


def test_cp_counts_as_use(name: str, store: FileStore) -> None:
    """It is stored when the program ends."""
    assert copied("-", f"{name}:a") == OK
    assert reasons(store, name) == ["in use"]


# --- shell


class Terminal:
    """A terminal as a person has it, at which the program runs."""

    def __init__(self) -> None:
        self.person, self.program = pty.openpty()
        self._shown = b""

    def type(self, text: str) -> None:
        os.write(self.person, text.encode())

    def shows(self, text: str) -> str:
        """Return what is shown up to a text, which has to come soon."""
        while text.encode() not in self._shown:
            self._shown += read_soon(self.person, 1 << 16)
        before, _, self._shown = self._shown.partition(text.encode())
        return before.decode()

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.person, termios.TIOCSWINSZ, size)

    @property
    def settings(self) -> list[object]:
        return termios.tcgetattr(self.program)

    def close(self) -> None:
        os.close(self.person)
        os.close(self.program)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    one = Terminal()
    one.resize(30, 100)
    yield one
    one.close()


@pytest.fixture
def shell(name: str, terminal: Terminal) -> Iterator[Forked]:
    """Yield a running shell, whose prompt is ``>``."""
    with forked("shell", name, terminal=terminal.program) as program:
        terminal.type("PS1='>'; echo be''gun\r")
        terminal.shows("begun\r\n")
        yield program


@needs_isolation
def test_shell_is_interactive(shell: Forked, terminal: Terminal, home: Path) -> None:
    """It echoes what is typed, and its exit code is that of the program."""
    terminal.shows(">")
    terminal.type("echo $((6 * 7)) | tee answer\r")
    assert terminal.shows("42\r\n").startswith("echo $((6 * 7)) | tee answer\r\n")
    terminal.type("tty -s && [ -t 0 ] && exit 9\r")
    assert shell.end() == 9
    assert (home / "answer").read_text() == "42\n"


@needs_isolation
def test_shell_controls_jobs(shell: Forked, terminal: Terminal, duration: str) -> None:
    """Ctrl-C ends the program in the foreground only, and Ctrl-D the shell."""
    terminal.type(f"echo be''fore; sleep {duration}; echo af''ter\r")
    terminal.shows("before\r\n")
    until(lambda: len(sleepers(duration)) == 1)
    terminal.type("\x03")
    terminal.type("echo still''here\r")
    terminal.shows("stillhere\r\n")
    terminal.type("true\r\x04")
    assert shell.end() == 0


@needs_isolation
def test_shell_has_size_of_terminal(shell: Forked, terminal: Terminal) -> None:
    """The program hears of the size at the start, and of each change."""
    terminal.type("stty size\r")
    terminal.shows("30 100\r\n")
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"
    terminal.type(f'sh -c "{script}"\r')
    terminal.shows("ready\r\n")
    terminal.resize(50, 200)
    terminal.shows("50 200\r\n")
    shell.send_signal(signal.SIGTERM)
    assert shell.end() == 143


@needs_isolation
def test_shell_restores_terminal(name: str, terminal: Terminal) -> None:
    """At any end of the shell, the terminal gets back its settings; in it, they are raw."""
    before = terminal.settings

    def ended(end: Callable[[Forked], object]) -> int:
        with forked("shell", name, terminal=terminal.program) as program:
            terminal.type("echo be''gun\r")
            terminal.shows("begun")
            assert terminal.settings != before
            end(program)
            return program.end()

    assert ended(lambda _: terminal.type("exit\r")) == 0
    assert terminal.settings == before
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        assert ended(partial(Forked.send_signal, number=number)) == 128 + number
        assert terminal.settings == before
    assert ended(lambda _: run("rm", name)) == 1
    assert terminal.settings == before


@needs_isolation
def test_shell_ends_what_it_started(shell: Forked, terminal: Terminal, duration: str) -> None:
    """Programs in the background end with the shell."""
    terminal.type(f"{daemons(duration)}\r")
    until(lambda: len(sleepers(duration)) == 3)
    terminal.type("exit 4\r")
    assert shell.end() == 4
    assert processes_with(duration) == {}


@needs_isolation
def test_shell_copies_while_program_reads_nothing(
    shell: Forked, terminal: Terminal, home: Path
) -> None:
    """More input than the program takes does not stop its output."""
    wait = "while [ ! -e go ]; do sleep 0.01; done"
    terminal.type(f"stty raw -echo; echo re''ady; {wait}; echo out''put; exec sleep 1000\r")
    terminal.shows("ready")
    os.set_blocking(terminal.person, False)
    while select.select([], [terminal.person], [], 0.5)[1]:
        terminal.type("x" * 4095)
    (home / "go").touch()
    terminal.shows("output")
    shell.send_signal(signal.SIGTERM)
    assert shell.end() == 143


@needs_isolation
def test_shell_has_terminal_type_only(
    name: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the variables of the user it has the type of the terminal."""
    monkeypatch.setenv("TERM", "vt100")
    monkeypatch.setenv("API_TOKEN", "secret")
    with forked("shell", name, terminal=terminal.program) as program:
        terminal.type('echo "[$TERM$API_TOKEN]"; exit\r')
        terminal.shows("[vt100]")
        assert program.end() == 0


@pytest.mark.parametrize("verb", ["exec", "shell"])
def test_unisolated_leftovers_are_not_waited_for(
    name: str, terminal: Terminal, duration: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Without isolation a program may run on and keep the streams open: the verb ends anyway."""
    monkeypatch.setenv("WAGGLE_EXECUTION", "unisolated")
    wait = "while [ ! -e up ]; do sleep 0.01; done"
    script = f"setsid -f sh -c 'touch up; exec sleep {duration}'; {wait}"
    try:
        if verb == "exec":
            assert execute(name, "sh", "-c", f"{script}; echo 1") == (0, b"1\n", b"")
        else:
            with forked("shell", name, terminal=terminal.program) as program:
                terminal.type(f"{script}; exit\r")
                assert program.end() == 0
        until(lambda: len(sleepers(duration)) == 1)
    finally:
        for process_id in sleepers(duration):
            os.kill(process_id, signal.SIGKILL)
