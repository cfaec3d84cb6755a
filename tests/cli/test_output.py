# SPDX-License-Identifier: Apache-2.0
"""Output: for programs off a terminal, for people on one, and harmless to both."""

import errno
import json
import os
import pty
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.cli_runner import PROGRAM, document, environment, execute, run, start
from tests.fork_server import PYTHON
from waggle_fsstore.cli import table
from waggle_fsstore.cli.environment_ids import ShortIds
from waggle_fsstore.cli.output import printable
from waggle_fsstore.cli.table import write_table
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.store.file_store import FileStore

# Clears the screen; an 8-bit CSI; reverses text; markup of Rich; a field separator.
_HOSTILE = "\x1b[2J\x9b31m\u202e[red]x[/nope]\ty\nz"
_ESCAPED = r"\x1b[2J\x9b31m\u202e[red]x[/nope]\ty\nz"

# The standard output of "python -u".
_UNBUFFERED = """
import io, sys
from waggle_fsstore.cli import main
sys.stdout = io.TextIOWrapper(open(1, "wb", 0, closefd=False), write_through=True)
main()
"""


def _on_a_terminal(*arguments: str, **variables: str) -> str:
    """Return the output on a terminal of 40 columns, with line ends as the program wrote them."""
    control, terminal = pty.openpty()
    try:
        variables = {"TERM": "xterm-256color", "COLUMNS": "40", **variables}
        process = start(*arguments, stdout=terminal, stderr=terminal, **variables)
        os.close(terminal)
        data = b""
        while True:
            try:
                more = os.read(control, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # Linux: the other side is closed.
                    raise
                break
            if not more:
                break
            data += more
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        os.close(control)
    return data.decode().replace("\r\n", "\n")


def test_long_row_is_one_line_off_a_terminal(store: FileStore) -> None:
    """Nothing is cut, wrapped, boxed or coloured, so that grep and awk work."""
    long_id = "i" * 200
    labels = {f"key-{number}": "v" * 100 for number in range(20)}
    store.save(environment(long_id, name="n" * 500, labels=labels))
    written = execute("ls", COLUMNS="40", TERM="xterm").stdout.decode()
    assert written.isascii()
    assert "\x1b" not in written
    header, row = written.splitlines()
    fields = row.split("\t")
    assert len(fields) == len(header.split("\t"))
    assert fields[:2] == [long_id, "n" * 500]
    assert fields[-1] == ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def test_terminal_gets_aligned_columns_and_colours(store: FileStore) -> None:
    """With --no-trunc, columns are aligned and uncut however narrow the terminal is."""
    store.save(environment("i" * 60))
    store.save(environment("short", labels={"k": "v" * 90}))
    written = _on_a_terminal("ls", "--no-trunc")
    assert "\x1b[32mrunning\x1b[0m" in written
    header, first, second = re.sub("\x1b\\[[0-9;]*m", "", written).splitlines()
    for row in (first, second):
        assert row.index("node") == header.index("RUNTIME")
        assert row.index("running") == header.index("STATUS")
    assert first.startswith("i" * 60 + "  name of")
    assert second.endswith(f"  k={'v' * 90}")
    # A narrow terminal would wrap trailing spaces.
    assert first.endswith("team=blue")


def test_table_fits_terminal(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are short but unique, other fields are cut, and columns are left out at the end."""
    one, other = "0a2ae22e-cf09-4ed5-9a57-04d2cd548ca0", "0a2ae22e-df09-4ed5-9a57-04d2cd548ca0"
    now = datetime.now(UTC)
    for name in (one, other):
        store.save(
            environment(
                name,
                name="a long name",
                created_at=now - timedelta(hours=3, seconds=9),
                last_used=now,
            )
        )
    store.save(environment("web", status=Status.ERROR, status_reason="its disk is full"))
    store.save(environment("zoo", status=Status.RUNNING, timeout=timedelta(0)))
    rows = {}
    with monkeypatch.context() as patch:
        patch.setattr("waggle_fsstore.cli.output.is_terminal", lambda: True)
        patch.setenv("NO_COLOR", "1")
        for columns in (40, 76, 200):
            patch.setenv("COLUMNS", str(columns))
            rows[columns] = run("ls").stdout.splitlines()
    for columns, (header, *lines) in rows.items():
        assert len(lines) == 4
        assert max(map(len, [header, *lines])) <= columns
    assert rows[200][0].split() == [
        *("ID", "NAME", "RUNTIME", "STATUS", "AGE", "EXPIRES", "REASON", "LABELS"),
    ]
    assert rows[200][1].split("  ")[:2] == ["0a2ae22e-c", "a long name"]
    assert rows[200][1].split()[5:] == ["running", "3h", "44m", "-", "team=blue"]
    assert rows[200][3].endswith("-        its disk is full  team=blue")
    assert "never" in rows[200][4]
    assert rows[76][3].endswith("its disk\N{HORIZONTAL ELLIPSIS}  team=blue")
    assert rows[40][0].split() == ["ID", "NAME", "RUNTIME", "STATUS"]
    assert rows[40][1].startswith("0a2ae22e-c  a long na\N{HORIZONTAL ELLIPSIS}  ")
    for shown, whole in zip(rows[40][1:3], (one, other), strict=True):
        assert json.loads(run("inspect", shown.split()[0]).stdout)["id"] == whole


def test_events_are_aligned_and_coloured_on_a_terminal(store: FileStore) -> None:
    """Columns are aligned with their headers, and the new status has its colour."""
    store.save(environment("i" * 60, status=Status.CREATING))
    store.save(environment("a"))
    store.delete("a")
    written = _on_a_terminal("history", COLUMNS="80")
    assert "\x1b[33m- -> creating\x1b[0m" in written
    assert "\x1b[32m- -> running\x1b[0m" in written
    header, *rows = re.sub("\x1b\\[[0-9;]*m", "", written).splitlines()
    assert [row[header.index("KIND") :].split()[0] for row in rows] == [
        *("created", "created", "deleted"),
    ]
    assert rows[0][header.index("ID") :].startswith("iiiiiiii  ")
    assert header.split()[1] == "AGE"
    for row, status in zip(rows, ("- -> creating", "- -> running", "running -> -"), strict=True):
        assert row.index(status) == header.index("STATUS")


_IDS = st.builds(lambda end: f"shared-beginning-{end}", st.text("ab\u6f22", max_size=9))


@given(st.lists(_IDS, min_size=1, unique=True))
def test_short_id_is_prefix_of_one_id(ids: list[str]) -> None:
    """What is shown of an id is the id, or a prefix that no other id has."""
    short = ShortIds(ids)
    for one in ids:
        shown = short.of(one)
        assert one.startswith(shown)
        assert shown == one or not any(other.startswith(shown) for other in ids if other != one)
        assert len(shown) >= 8


@given(st.lists(st.text(alphabet="ab\u6f22", max_size=40), min_size=7, max_size=7))
def test_any_row_fits_any_terminal(row: list[str]) -> None:
    """A line is at most as wide as the terminal, if its first field is."""
    header = ("ID", "NAME", "STATUS", "AGE", "REASON", "ACTOR", "LABELS")
    for columns in (1, 20, 40, 80):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            drawn = table._TerminalTable(header, (), is_cut=True)([header, row])
        widest = max(table._cells(line) for line in drawn.splitlines())
        assert widest <= max(columns, table._cells(row[0]), 2)


def test_columns_never_get_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later rows are aligned with earlier ones, and columns may have a minimum width."""
    written: list[str] = []
    monkeypatch.setattr("waggle_fsstore.cli.output.is_terminal", lambda: True)
    monkeypatch.setattr("waggle_fsstore.cli.output.write", written.append)
    rows = [("\u6f22\u6f22\u6f22", "b"), ("c", "d"), ("eeeeeeee", "f"), ("g", "h")]
    write_table(("A", "B"), rows, page_size=1, widths=(3,))
    assert written == [
        "A    B\n",
        "\u6f22\u6f22\u6f22  b\n",
        "c       d\n",
        "eeeeeeee  f\n",
        "g         h\n",
    ]


def test_progress_bar_is_removed(store: FileStore) -> None:
    """The bar is removed before a line is printed, and when the work is done."""
    store.save(environment("a"))
    (store.path / "environments" / "notes.txt").touch()
    written = _on_a_terminal("fsck")
    assert "checking documents" in written
    assert "1/1" in written
    assert f"\x1b[2Kwarning: {store.path}/environments/notes.txt: " in written
    assert written.endswith("\x1b[2K0 errors; 1 warning\n")


def test_no_color_is_honoured(store: FileStore) -> None:
    """With NO_COLOR, a terminal gets no colour."""
    store.save(environment("a"))
    assert "running" in _on_a_terminal("ls", NO_COLOR="1")
    assert "\x1b" not in _on_a_terminal("ls", NO_COLOR="1")


def test_force_color_colours_no_pipe(store: FileStore) -> None:
    """Off a terminal the list is for programs, regardless of the environment variables."""
    store.save(environment("a"))
    assert execute("ls", FORCE_COLOR="1").stdout == execute("ls").stdout


def test_help_is_plain_text_that_fits_the_terminal() -> None:
    """No line of the help is wider than a terminal, and none has a code for it."""
    shown = _on_a_terminal("--help", COLUMNS="60")
    assert max(map(len, shown.splitlines())) <= 60
    assert shown.replace("\n", "").isprintable()


@pytest.fixture
def hostile(store: FileStore) -> FileStore:
    """Return a store with a document in which every text is hostile."""
    store.save(environment(_HOSTILE, name=_HOSTILE, labels={_HOSTILE: _HOSTILE}))
    return store


@pytest.mark.usefixtures("hostile")
def test_hostile_texts_are_escaped_off_a_terminal() -> None:
    """Each stays in its field and its line, escaped."""
    _, row = run("ls").stdout.splitlines()
    fields = [_ESCAPED, _ESCAPED, "node", "running", "45m0s", f"{_ESCAPED}={_ESCAPED}"]
    assert row.split("\t") == fields
    assert run("ls", "-q").stdout == f"{_ESCAPED}\n"


@pytest.mark.usefixtures("hostile")
def test_hostile_texts_are_escaped_on_a_terminal() -> None:
    """No escape sequence reaches the terminal, and markup is printed as text."""
    written = _on_a_terminal("ls", "--no-trunc", NO_COLOR="1")
    assert written.count(_ESCAPED) == 4
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", written) is None


def test_hostile_texts_are_escaped_in_events(hostile: FileStore) -> None:
    """Id, actor and reason are escaped on a terminal, off it and as JSON."""
    with audit(actor=_HOSTILE, reason=_HOSTILE):
        hostile.delete(_HOSTILE)
    drawn = _on_a_terminal("history", "-n", "1", "--no-trunc", NO_COLOR="1")
    tabbed, lines = run("history").stdout, run("events", "--json").stdout
    assert drawn.count(_ESCAPED) == 3
    assert [field for field in tabbed.splitlines()[2].split("\t") if field == _ESCAPED] == [
        *(_ESCAPED, _ESCAPED, _ESCAPED),
    ]
    for written in (drawn, tabbed.replace("\t", ""), lines):
        assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", written) is None
    last = json.loads(lines.splitlines()[-1])
    assert last["environment_id"] == last["actor"] == last["reason"] == _HOSTILE


def test_json_escapes_hostile_texts(hostile: FileStore) -> None:
    """The array has no control character, and parses to what is stored."""
    written = run("ls", "--json").stdout
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", written) is None
    [row] = json.loads(written)
    [stored] = hostile.find_all()
    assert (row["id"], row["labels"]) == (stored.id, stored.labels) == (_HOSTILE, row["labels"])


def test_hostile_texts_are_escaped_in_errors(store: FileStore) -> None:
    """Given ids, candidates and keys of a corrupt file are escaped."""
    for end in ("1", "2"):
        store.save(environment(_HOSTILE + end))
    document(store.path, "bad").write_text(
        json.dumps({"id": "bad", "name": "n", "runtime": "node", "owner": {_HOSTILE: 1}})
    )
    results = [run("show", _HOSTILE), run("ls", "-q"), run("rm", _HOSTILE), run("show", "bad")]
    assert [result.exit_code for result in results] == [2, 6, 2, 6]
    for result in results:
        assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.stderr) is None
    assert f"is a prefix of 2 ids: {_ESCAPED}1, {_ESCAPED}2\n" in results[0].stderr
    assert len(results[1].stderr.splitlines()) == 1


@given(st.text())
def test_printable_returns_printable_text(text: str) -> None:
    """Any text becomes printable, and printable text is unchanged."""
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    if text.isprintable():
        assert printable(text) == text


def test_letters_missing_in_locale_are_escaped(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters that the output cannot encode are escaped, and are no failure."""
    store.save(environment("\u00e4", name="\u6f22"))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = subprocess.run([*PROGRAM, "ls"], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert rb"\xe4" + b"\t" + rb"\u6f22" + b"\t" in result.stdout
    # JSON is UTF-8 in any locale.
    shown = subprocess.run([*PROGRAM, "show", "\u00e4"], capture_output=True, check=False)
    assert shown.stdout == document(store.path, "%c3%a4").read_bytes()


@pytest.mark.parametrize("code", [None, _UNBUFFERED], ids=["", "unbuffered"])
@pytest.mark.parametrize("option", [(), ("-q",), ("--json",)])
def test_ls_ends_when_its_reader_leaves(
    store: FileStore, option: tuple[str, ...], code: str | None
) -> None:
    """When the reader has seen enough (head -1), the program ends silently."""
    store.save_all(environment(f"{number:0200}") for number in range(1000))
    process = start("ls", *option, code=code)
    assert process.stdout.read(1) != b""
    process.stdout.close()
    assert process.stderr.read() == b""
    process.communicate(timeout=60)
    assert process.returncode == 141


def test_partial_writes_are_completed(store: FileStore) -> None:
    """Nothing is missing if a write takes a part of the data, as unbuffered ones may."""
    store.save_all(environment(f"{number:0200}") for number in range(1000))
    program = """
import io, sys
from waggle_fsstore.cli import main

class Slow(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        return out.write(bytes(data[:1000]))

out = sys.stdout.buffer
sys.stdout = io.TextIOWrapper(Slow(), write_through=True)
sys.argv = ["waggle-fsstore", "ls", "-q"]
main()
"""
    result = subprocess.run([*PYTHON, "-c", program], capture_output=True, check=False)
    assert result.stderr == b""
    assert result.stdout.decode().split() == [f"{number:0200}" for number in range(1000)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("code", [None, _UNBUFFERED], ids=["", "unbuffered"])
@pytest.mark.parametrize(
    "verb", [("ls",), ("ls", "--json"), ("show", "a"), ("count",), ("history",), ("events", "-f")]
)
def test_full_output_is_reported_once(
    store: FileStore, verb: tuple[str, ...], code: str | None
) -> None:
    """Output that cannot be written is an error, reported once."""
    store.save(environment("a"))
    with open("/dev/full", "wb") as full:
        process = start(*verb, code=code, stdout=full.fileno())
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == b"Error: standard output: No space left on device\n"


def test_closed_output_is_ignored(store: FileStore) -> None:
    """Without a stdout, the work is done silently."""
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "create", "x"],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert [stored.name for stored in store.find_all()] == ["x"]
