# SPDX-License-Identifier: Apache-2.0
"""The verbs history and events: past changes, and new ones as they happen."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.cli_runner import document, environment, execute, run, start
from tests.fork_server import Program
from waggle_fsstore.cli import output
from waggle_fsstore.cli.table import in_batches, write_table
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.event import Event
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.format import codec

HEADER = ["SEQ", "TIME", "KIND", "ID", "STATUS", "ACTOR", "REASON"]

# A shell that runs the tests in the background may have them ignore interrupts.
_INTERRUPTIBLE = """
import signal
from waggle_fsstore.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def _rows(text: str) -> list[list[str]]:
    header, *rows = [line.split("\t") for line in text.splitlines()]
    assert header == HEADER
    return rows


def _seqs(*arguments: str) -> list[int]:
    """Return the numbers of the events that a verb lists, which both forms agree on."""
    table, lines = run(*arguments), run(*arguments, "--json")
    assert (table.exit_code, table.stderr) == (lines.exit_code, lines.stderr) == (0, "")
    found = [json.loads(line)["seq"] for line in lines.stdout.splitlines()]
    assert [int(row[0]) for row in _rows(table.stdout)] == found
    return found


@pytest.fixture
def past(store: FileStore) -> FileStore:
    """Return a store in which a and b were created, and a was started, changed and deleted."""
    with audit(actor="maja", reason="needed"):
        store.create(environment("a", status=Status.CREATING))
    with audit(actor="willi", reason=""):
        store.save(environment("b"))
    with audit(actor="flip", reason="probed"):
        store.update("a", lambda env: env.transition_to(Status.RUNNING))
    with audit(actor="thekla", reason="used"):
        store.update("a", Environment.touch)
    with audit(actor="reaper", reason="idle 31 min > 30 min"):
        store.delete("a")
    return store


# history


def test_history_lists_a_row_for_each_event(past: FileStore) -> None:
    """Oldest first: number, time, kind, id, change of status, actor and reason."""
    result = run("history")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = _rows(result.stdout)
    assert [row[:1] + row[2:] for row in rows] == [
        ["1", "created", "a", "- -> creating", "maja", "needed"],
        ["2", "created", "b", "- -> running", "willi", "-"],
        ["3", "updated", "a", "creating -> running", "flip", "probed"],
        ["4", "updated", "a", "running", "thekla", "used"],
        ["5", "deleted", "a", "running -> -", "reaper", "idle 31 min > 30 min"],
    ]
    times = [event.at for event in past.history()]
    assert [datetime.fromisoformat(row[1]) for row in rows] == times
    assert all(row[1].endswith("Z") for row in rows)


def test_history_json_has_every_field(past: FileStore) -> None:
    """One object a line, with the environment as its document."""
    lines = run("history", "--json").stdout.splitlines()
    for line, event in zip(lines, past.history(), strict=True):
        values = json.loads(line)
        assert set(values) == set(Event.__slots__)
        assert event.environment is not None
        stored = json.loads(codec.encode(event.environment, event.environment.revision))
        assert values.pop("environment") == stored
        assert datetime.fromisoformat(values.pop("at")) == event.at
        assert values == {name: getattr(event, name) for name in values}
    last = json.loads(lines[-1])
    assert (last["status"], last["previous_status"], last["revision"]) == (None, "running", 4)


def test_history_of_an_id_lists_only_its_events(past: FileStore) -> None:
    """The history of one environment works even after it was deleted."""
    assert _seqs("history", "a") == [1, 3, 4, 5]
    assert _seqs("history", "b") == [2]
    assert past.count() == 1


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--after", "0"), [1, 2, 3, 4, 5]),
        (("--after", "3"), [4, 5]),
        (("--after", "5"), []),
        (("--until", "3"), [1, 2, 3]),
        (("--until", "99"), [1, 2, 3, 4, 5]),
        (("--after", "1", "--until", "3"), [2, 3]),
        (("-n", "2"), [4, 5]),
        (("--last", "99"), [1, 2, 3, 4, 5]),
        (("-n", "1", "--until", "4"), [4]),
        (("a", "-n", "3"), [3, 4, 5]),
        (("a", "--after", "1", "--until", "4"), [3, 4]),
        (("b", "--after", "2"), []),
        (("b", "--after", "5"), []),
    ],
)
def test_history_options_narrow_the_list(options: tuple[str, ...], expected: list[int]) -> None:
    """Every option narrows the list, in either form."""
    assert _seqs("history", *options) == expected


def test_cursor_in_json_is_taken_and_checked(past: FileStore) -> None:
    """The cursor of an event continues after it; that of another history exits with 1."""
    cursor = json.loads(run("history", "--json").stdout.splitlines()[2])["cursor"]
    for verb in ("history", "events"):
        assert _seqs(verb, "--after", cursor) == [4, 5]
        result = run(verb, "--after", cursor[:-1] + ("0" if cursor[-1] != "0" else "1"))
        assert (result.exit_code, result.stdout) == (1, "")
        assert "the history cannot be continued after change 3" in result.stderr
    past.close()


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("unknown", ["c", "", "prune", "x" * 300])
def test_history_of_unknown_id_is_not_found(unknown: str) -> None:
    """An id that was never stored is not found, and prints nothing."""
    for options in ((), ("--json",), ("-n", "1"), ("--after", "3")):
        result = run("history", *options, "--", unknown)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("Error: environment not found: ")


def test_history_of_manual_document_is_empty(past: FileStore) -> None:
    """A document from a manual edit has no events yet, even if it is damaged."""
    document(past.path, "made").write_text('{"id": "made", "name": "n", "runtime": "node"}')
    document(past.path, "half").write_text("{")
    assert _seqs("history", "made") == _seqs("history", "half") == []


def test_history_takes_verb_as_id_after_dashes(past: FileStore) -> None:
    """After two dashes prune is an id; right after the verb it is part of the verb."""
    past.save(environment("prune"))
    assert _seqs("events", "--after", "5") == [6]
    for words in (("history", "--", "prune"), ("history", "--after", "2", "prune")):
        assert [row[3] for row in _rows(run(*words).stdout)] == ["prune"]
    result = run("history", "prune")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--keep-days" in result.stderr


@pytest.mark.parametrize("location", [(), ("--store", "memory:")])
@pytest.mark.parametrize("verb", ["history", "events"])
def test_history_of_empty_store_is_empty(location: tuple[str, ...], verb: str) -> None:
    """An empty history is no error, also for a store in memory."""
    assert run(*location, verb).stdout.splitlines() == ["\t".join(HEADER)]
    assert run(*location, verb, "--json").stdout == ""


def test_history_is_written_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is written before the next one is read, so that memory does not grow."""
    read = written = 0
    most = 0

    def write(data: str) -> None:
        nonlocal written, most
        most = max(most, read - written)
        written += data.count("\n")

    def rows() -> Iterator[list[str]]:
        nonlocal read
        for number in range(100):
            read += 1
            yield [str(number)]

    monkeypatch.setattr(output, "write", write)
    write_table(["N"], rows(), page_size=7)
    assert (read, written) == (100, 101)
    assert most < 7


def test_rows_before_an_error_are_written() -> None:
    """An error in the middle of a page loses none of its rows."""

    def items() -> Iterator[int]:
        yield from range(5)
        raise ZeroDivisionError

    pages: list[list[int]] = []
    with pytest.raises(ZeroDivisionError):
        in_batches(items(), 3, pages.append)
    assert pages == [[0, 1, 2], [3, 4]]


# events


@pytest.mark.usefixtures("past")
def test_events_lists_all_changes() -> None:
    """Without an option it is the whole history, and --after sets its beginning."""
    assert _seqs("events") == [1, 2, 3, 4, 5]
    assert _seqs("events", "--after", "3") == [4, 5]
    assert run("events").stdout == run("history").stdout


def test_events_since_a_time(past: FileStore) -> None:
    """Lists from the first event at or after the time, in any UTC offset, or from an age."""
    third = list(past.history())[2]
    begin = third.at.isoformat()
    elsewhere = (third.at + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
    for since in (begin, begin.replace("+00:00", "Z"), begin.replace("+00:00", "z"), elsewhere):
        assert _seqs("events", "--since", since) == [3, 4, 5]
    assert _seqs("events", "--since", begin, "--after", "4") == [5]
    assert _seqs("events", "--since", "1h30m") == [1, 2, 3, 4, 5]
    assert _seqs("events", "--since", (datetime.now(UTC) + timedelta(days=1)).isoformat()) == []
    assert _seqs("events", "--since", "0") == []


@contextmanager
def _following(*options: str) -> Iterator[Program]:
    """Yield a process that follows the events, and end it with the block."""
    process = start("events", "--follow", *options, code=_INTERRUPTIBLE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def _line(process: Program) -> str:
    return process.stdout.readline().decode()


def _interrupt(process: Program) -> None:
    """Send Ctrl-C: the process ends as a shell expects, silently."""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    # Between the call of open() and its "with" an interrupt leaves the file to Python, which
    # closes it with a warning. Users do not see these warnings.
    assert (output, errors) == (b"", b"") or b"ResourceWarning: unclosed file" in errors
    assert process.returncode == 130


def test_follow_lists_new_events(past: FileStore) -> None:
    """Each new event of any process appears at once, until Ctrl-C."""
    with _following() as process:
        assert _line(process).split() == HEADER
        past.save(environment("c"))
        assert _line(process).split("\t")[2:4] == ["created", "c"]
        assert execute("rm", "b", "--reason", "by another").returncode == 0
        assert _line(process).split("\t")[2:] == [
            *("deleted", "b", "running -> -"),
            *(list(past.history())[-1].actor, "by another\n"),
        ]
        _interrupt(process)


def test_follow_begins_after_a_change(past: FileStore) -> None:
    """The past events after the change come first, then new ones."""
    with _following("--after", "3", "--json") as process:
        assert [json.loads(_line(process))["seq"] for _ in range(2)] == [4, 5]
        past.save(environment("c"))
        assert json.loads(_line(process))["environment"]["id"] == "c"
        _interrupt(process)


def test_follow_begins_at_a_time(past: FileStore) -> None:
    """The past events since the time come first, then new ones."""
    begin = list(past.history())[3].at.isoformat()
    with _following("--since", begin, "--json") as process:
        assert [json.loads(_line(process))["seq"] for _ in range(2)] == [4, 5]
        past.save(environment("c"))
        assert json.loads(_line(process))["seq"] == 6
        _interrupt(process)


def test_follow_waits_for_missing_store(store: FileStore) -> None:
    """A store that does not exist yet can be followed."""
    with _following() as process:
        assert _line(process).split() == HEADER
        store.save(environment("a"))
        assert _line(process).split("\t")[0] == "1"
        _interrupt(process)


@pytest.mark.parametrize("option", [(), ("--json", "--after", "4")])
@pytest.mark.usefixtures("past")
def test_follow_ends_when_its_reader_leaves(option: tuple[str, ...]) -> None:
    """It ends at once and silently, even if no more events come."""
    with _following(*option) as process:
        assert _line(process) != ""
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_history_ends_when_its_reader_leaves(store: FileStore) -> None:
    """When the reader has seen enough (head -1), the program ends silently."""
    store.save_all(environment(f"{number:0200}") for number in range(3000))
    process = start("history")
    assert process.stdout.read(1) != b""
    process.stdout.close()
    assert process.stderr.read() == b""
    process.communicate(timeout=60)
    assert process.returncode == 141


# Errors


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("history", "--after", "6"), "after: 6 is beyond the last change, 5"),
        (("history", "--after", "-1"), "after: -1 is negative"),
        (("history", "--until", "-1"), "'-1' is not a whole number"),
        (("history", "--after", "x"), "after: 'x' is neither the cursor of an event nor a number"),
        (("history", "-n", "0"), "must be at least 1"),
        (("history", "a", "b"), "unexpected extra argument"),
        (("events", "--after", "6"), "after: 6 is beyond the last change, 5"),
        (("events", "-f", "--after", "6"), "after: 6 is beyond the last change, 5"),
        (("events", "--since", "soon"), "'soon' is neither a time like"),
        (("events", "--since", "2031-02-03T04:05:06"), "has no UTC offset: append Z for UTC"),
        (("events", "a"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], message: str) -> None:
    """It exits 2 and explains the problem."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("verb", [("history",), ("events",), ("history", "--json")])
def test_damaged_journal_lists_events_before_damage(past: FileStore, verb: tuple[str, ...]) -> None:
    """The events before the damage are listed; then it exits 6 and names the remedy."""
    [segment] = (past.path / "journal").iterdir()
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"actor":"flip"', b'"actor":"flop"'))
    result = run(*verb)
    assert result.exit_code == 6
    assert [re.split('\t|"seq":|,', line)[0 if "\t" in line else 1] for line in _data(result)] == [
        "1",
        "2",
    ]
    assert result.stderr.startswith(f"Error: {segment}: line ")
    assert "waggle-fsstore fsck --repair" in result.stderr


def _data(result: object) -> list[str]:
    lines: list[str] = result.stdout.splitlines()  # type: ignore[attr-defined]
    return [line for line in lines if not line.startswith("SEQ")]
