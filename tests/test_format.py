# SPDX-License-Identifier: Apache-2.0
"""docs/format.md: its examples are what the code writes, and its tables are complete."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from waggle_fsstore import (
    CorruptDocumentError,
    Environment,
    FileStore,
    JournalDamagedError,
    UnsupportedFormatError,
    audit,
)
from waggle_fsstore.domain.event import EventKind, cursor_of
from waggle_fsstore.domain.finding import Severity
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.format.layout import Layout, document_name, environment_id_of
from waggle_fsstore.store.fs.linux import birth_time
from waggle_fsstore.store.fs.safe_read import modified_at
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.state import State, read_state
from waggle_fsstore.store.maintenance.last_check import LastCheck
from waggle_fsstore.store.write import initialize
from waggle_fsstore.testing import make_environment

PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text()

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^\| ([^|]+?) \|[^\n]*\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", re.MULTILINE)
_NAME = re.compile(r"`([^`]+)`")


def examples(language: str, heading: str) -> list[str]:
    """Return the blocks of a language in the section with this heading, up to the next heading."""
    body = re.split(rf"^#+ {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1]
    body = re.split(r"^#+ ", _FENCED.sub(_hide, body), flags=re.MULTILINE)[0]
    found = [(match[1], _show(match[2])) for match in _FENCED.finditer(body)]
    return [text for name, text in found if name == language]


def _hide(match: re.Match[str]) -> str:
    # A comment in an example must not count as a heading.
    return match[0].replace("\n#", "\n\0#")


def _show(text: str) -> str:
    return text.replace("\0#", "#")


def names(heading: str, *, section: str = "") -> set[str]:
    """Return the names in back quotes in the first column of a table."""
    body = PAGE.partition(f"\n## {section}\n")[2] if section else PAGE
    rows = next(match[2] for match in _TABLE.finditer(body) if match[1] == heading)
    return {name for row in rows.splitlines() for name in _NAME.findall(row.split(" | ")[0])}


DOCUMENT = examples("json", "Documents")[0].encode()
MARKER = examples("json", "waggle.json")[0].encode()
SEGMENT = examples("jsonl", "Segments")[0].encode()
FOLLOWING = examples("jsonl", "follows")[0].encode()
COMMANDS = examples("sh", "With other tools")[0].splitlines()
PROGRAM = examples("python", "With other tools")[0]


#: A member that the store does not know.
_UNKNOWN = "x-padding"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    """Yield a store whose journal has every kind of line and change, in three segments."""
    full = make_environment(id="full", extra={})
    with FileStore(tmp_path / "store") as store:
        with audit(actor="maja", reason="because"):
            store.save(full)
        store.update("full", Environment.touch)
        path = store.document_path("full")
        path.write_text(path.read_text().replace("manually", "by an editor"))
        store.save(full)
        path.write_text("no document")
        store.delete("full")
        store.save_all(make_environment(id=name, extra={}) for name in ("one", "two"))
        store.delete("two")
        for number in range(2):
            store.save(make_environment(id="large", extra={_UNKNOWN: "x" * 70_000 * (number + 1)}))
        yield store


def written(store: FileStore) -> list[dict[str, Any]]:
    """Return all lines of the journal of a store, read as plain JSON."""
    texts = [path.read_text() for path in sorted((store.path / "journal").iterdir())]
    return [json.loads(line) for text in texts for line in text.split("\n") if line.strip()]


def members(store: FileStore) -> dict[str, set[str]]:
    """Return the members of each object that a store writes, by the heading of their table."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    documents = [json.loads(path.read_bytes()) for path in (store.path / "environments").iterdir()]
    for line in written(store):
        found["member of a line"] |= line.keys()
        for name in ("follows", "checkpoint"):
            found[f"member of `{name}`"] |= line.get(name, {}).keys()
        for change in line.get("changes", []):
            found["member of a change"] |= change.keys()
            found["member of `was`"] |= (change["was"] or {}).keys()
            if change["document"]:
                documents.append(change["document"])
    for document in documents:
        found["member of a document"] |= document.keys() - {_UNKNOWN}
        for name in ("capabilities", "idempotency", "owner"):
            found[f"member of `{name}`"] |= (document[name] or {}).keys()
    found["member of the marker"] |= json.loads((store.path / "waggle.json").read_bytes()).keys()
    return found


def test_tables_have_every_member(store: FileStore) -> None:
    """The tables have the members that the code writes, all of them and no others."""
    for heading, found in members(store).items():
        assert found, heading
        assert names(heading) == found, heading


def test_page_names_every_kind(store: FileStore) -> None:
    """The store of these tests has every kind of change, and the page names each."""
    kinds = {change["kind"] for line in written(store) for change in line.get("changes", [])}
    assert kinds == set(EventKind)
    row = next(row for row in PAGE.splitlines() if row.startswith("| `kind`"))
    assert kinds == set(_NAME.findall(row.partition(" | ")[2]))


def test_document_example_is_canonical() -> None:
    """The example is what the code writes, and its checksum matches, also by the page's rule."""
    environment = codec.decode(DOCUMENT, "example")
    assert codec.encode(environment, environment.revision) == DOCUMENT
    assert codec.is_intact(DOCUMENT)
    rest = re.sub(rb'(?m)^  "checksum": .*\n', b"", DOCUMENT)
    document = json.loads(DOCUMENT)
    assert document.pop("checksum") == f"{crc32(rest):08x}"
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert text.encode() == rest
    assert set(environment.extra) == {"region"}
    assert names("member of a document") == json.loads(DOCUMENT).keys() - {"region"}


def test_checksum_command_prints_checksum(tmp_path: Path) -> None:
    """The command on the page prints the checksum of the example."""
    directory = tmp_path / "environments"
    directory.mkdir()
    (directory / "data-analysis.json").write_bytes(DOCUMENT)
    command = examples("sh", "Checksum")[0]
    assert shell(command, tmp_path) == f"{json.loads(DOCUMENT)['checksum']}\n"


def test_missing_members_get_defaults(tmp_path: Path) -> None:
    """A missing member has the default of the table, or the document is refused."""
    table = PAGE.partition("| member of a document |")[2].partition("\n\n")[0]
    defaults = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", table, re.MULTILINE))
    assert defaults.keys() == names("member of a document")
    path = tmp_path / "file"
    path.touch()
    document = json.loads(DOCUMENT)
    for name, default in defaults.items():
        rest = {key: value for key, value in document.items() if key != name}
        if default == "refused":
            with pytest.raises(CorruptDocumentError):
                codec.decode(canonical(rest), str(path), modified_at)
            continue
        found = codec.encode(codec.decode(canonical(rest), str(path), modified_at), 0)
        # What is written only where it has a value reads as the default elsewhere.
        value = json.loads(found).get(name, 0 if name == "owner_pid_namespace" else None)
        if re.fullmatch(r"null|\d+|`\{}`|`\"\"`", default):
            assert value == json.loads(default.strip("`")), name
        elif name == "status":
            assert default == f"`{value}`"
    with pytest.raises(UnsupportedFormatError):
        codec.decode(canonical({**document, "schema": codec.SCHEMA + 1}), str(path))


def test_file_names_are_those_of_the_code() -> None:
    """The table of ids has the file names that the code makes."""
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+\.json)` \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 10
    for environment_id, name in rows:
        assert document_name(environment_id) == name
        assert environment_id_of(name) == environment_id
    end = re.search(r"100 letters `A` ends in `([^`]+)`", PAGE)
    assert end
    assert document_name("A" * 100).endswith(end[1])


def test_line_examples_are_good() -> None:
    """The example lines form a good segment, as the code writes and reads it."""
    good, bad = lines.scan(SEGMENT)
    assert not bad
    assert [next(iter(line.content)) for line in good] == [
        lines.FOLLOWS,
        lines.CHECKPOINT,
        *[lines.CHANGES] * 3,
        lines.CHECKPOINT,
    ]
    for line in good:
        ((kind, value),) = line.content.items()
        assert lines.encode(kind, value) == SEGMENT[line.start : line.end]
        for change in line.changes:
            assert change.keys() == names("member of a change")
            assert codec.is_intact(canonical(change["document"]))
            assert set(change["was"] or names("member of `was`")) == names("member of `was`")
    last = good[-1].content[lines.CHECKPOINT]
    assert last.keys() == names("member of `checkpoint`")
    assert last["offset"] == good[-1].start
    assert last == lines.last_checkpoint(SEGMENT)
    changes = [change for line in good for change in line.changes]
    for before, after in pairwise(changes):
        assert after["was"]["checksum"] == before["document"]["checksum"]
        assert after["was"]["revision"] == before["seq"]
    (line,), bad = lines.scan(FOLLOWING)
    assert not bad
    era = good[0].content[lines.FOLLOWS]["era"]
    assert line.content[lines.FOLLOWS] == {"segment": 1, "bytes": len(SEGMENT), "era": era}
    assert line.content[lines.FOLLOWS].keys() == names("member of `follows`")
    cursor = cursor_of(2, f"{era}{lines.crc_of(SEGMENT[good[3].start :])}")
    assert f"`{cursor}`" in PAGE


def test_byte_table_locates_checksum() -> None:
    """The table of bytes is right about the position of the checksum and what it covers."""
    start, digits, end = (
        re.search(rf"^\| {span} \| (.*) \|$", PAGE, re.MULTILINE)
        for span in ("0-7", "8-15", "16-17")
    )
    assert start
    assert digits
    assert end
    first = SEGMENT.split(b"\n")[0]
    assert first[:8] == start[1].strip("`").encode()
    assert first[8:16] == b"%08x" % crc32(first[18:])
    assert first[16:18] == end[1].strip("`").encode()
    assert "from 18" in digits[1]


def test_segment_names_bound_their_seqs(store: FileStore) -> None:
    """A segment is named as the page says, and has the changes that the page says."""
    layout = Layout(str(store.path))
    listed = segments.list_segments(layout)
    assert len(listed) == 3
    for first in listed:
        assert re.fullmatch(r"\d{16}\.jsonl", Path(layout.segment(first)).name)
    assert Path(layout.segment(1)).name == "0000000000000001.jsonl"
    for first, successor in segments.with_successors(listed):
        segment = segments.read_segment(layout, first, successor)
        seqs = [change["seq"] for line in segment.good for change in line.changes]
        assert seqs == sorted(seqs)
        assert seqs[0] >= first
        assert successor is None or seqs[-1] < successor


def test_checkpoint_names_store_as_documented(store: FileStore) -> None:
    """What a checkpoint says of its store consists of the parts that the page lists."""
    layout = Layout(str(store.path))
    documents, marker = os.stat(layout.environments), os.stat(layout.marker)
    place = f"{documents.st_ino:x}-{marker.st_ino:x}-{marker.st_ctime_ns:x}"
    born = birth_time(layout.environments)
    expected = f"{documents.st_ino:x}-{born:x}" if born else place
    store.close()
    checkpoints = [line["checkpoint"] for line in written(store) if "checkpoint" in line]
    assert {checkpoint["place"] for checkpoint in checkpoints} == {place}
    assert {checkpoint["store"] for checkpoint in checkpoints} == {expected}
    modified = os.stat(layout.environments).st_mtime_ns
    assert checkpoints[-1]["modified"] == f"{modified:x}"
    state = read_state(layout.state)
    assert state is not None
    assert state.mounted_id.split(":")[3] == expected


def test_marker_example_is_that_of_the_code() -> None:
    """The example is the marker that the code writes."""
    assert MARKER == initialize.MARKER


def test_state_record_has_documented_fields(store: FileStore) -> None:
    """The state record has the fields of the table, in the form that the page describes."""
    data = (store.path / ".waggle" / "state").read_bytes()
    assert names("field", section=".waggle") == set(State._fields)
    assert f"one line of {len(data)} bytes: `waggle-state 3`" in PAGE
    head, digits = data[:-9].rstrip(), data[-9:-1]
    assert data[-1:] == b"\n"
    assert digits == b"%08x" % crc32(head)
    assert len(head.removeprefix(b"waggle-state 3 ").split(b" ")) == len(State._fields)


def test_root_table_has_every_file(store: FileStore) -> None:
    """The table of the root has every file and directory that the code makes."""
    store.keep_last_check(LastCheck(at=datetime.now(UTC), errors=0, warnings=0, repaired=0))
    known = {name.split("/")[0] for name in names("path", section="The root")}
    assert {path.name for path in store.path.iterdir()} == known
    internal = {f".waggle/{path.name}" for path in (store.path / ".waggle").iterdir()}
    assert internal == {
        name.rstrip("/") for name in names("path", section="The root") if name.startswith(".waggle")
    }
    ignored = (store.path / ".gitignore").read_text().split()
    assert ignored == _NAME.findall(next(r for r in PAGE.splitlines() if "`.gitignore`" in r))[1:]


def test_snapshot_has_documented_files(store: FileStore, tmp_path: Path) -> None:
    """A snapshot has the files that the page lists, and no journal."""
    store.snapshot(tmp_path / "copy")
    found = {path.name for path in (tmp_path / "copy").iterdir()}
    assert found == {"environments", "waggle.json", "SHA256SUMS"}


def test_commands_read_open_journal(store: FileStore) -> None:
    """The commands on the page read the journal of an open store."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    all_lines, as_table, of_archive = COMMANDS
    found = [json.loads(line) for line in shell(all_lines, store.path).splitlines()]
    assert found == written(store)
    rows = shell(as_table, store.path).splitlines()
    changes = [change for line in found for change in line.get("changes", [])]
    assert [row.split("\t")[0] for row in rows] == [str(change["seq"]) for change in changes]
    store.prune_history(compress=True)
    packed = sorted((store.path / "journal").glob("*.gz"))
    assert packed
    texts = [gzip.decompress(path.read_bytes()) for path in packed]
    expected = [json.loads(line) for text in texts for line in text.splitlines()]
    assert [json.loads(line) for line in shell(of_archive, store.path).splitlines()] == expected


def test_verifier_accepts_good_journal_only(store: FileStore, tmp_path: Path) -> None:
    """The program accepts a journal, open, closed and compressed, and refuses a flipped bit."""
    count = len(written(store))
    assert verify(store.path, tmp_path) == f"{count} lines, all good\n"
    store.prune_history(compress=True)
    assert list((store.path / "journal").glob("*.gz"))
    store.close()
    assert verify(store.path, tmp_path).endswith(" lines, all good\n")
    path = max((store.path / "journal").glob("*.jsonl"))
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    assert verify(store.path, tmp_path).endswith("the checksum does not fit\n")


@pytest.mark.parametrize(("number", "is_damage"), [(-1, False), (2, True)])
def test_bad_line_is_torn_tail_or_damage(tmp_path: Path, number: int, is_damage: bool) -> None:
    """A bad line is damage if a good one follows, and otherwise a torn tail, which is void."""
    with FileStore(tmp_path / "store") as store:
        for _ in range(2):
            store.save(make_environment(id="a"))
    copy = tmp_path / "copy"  # Opening it reads the whole journal.
    shutil.copytree(store.path, copy)
    path = copy / "journal" / "0000000000000001.jsonl"
    data = path.read_bytes()
    start = lines.scan(data)[0][number].start
    path.write_bytes(data[: start + 40] + b"\0" + data[start + 41 :])
    with FileStore(copy) as store:
        if is_damage:
            with pytest.raises(JournalDamagedError):
                store.save(make_environment(id="a"))
            assert any(found.severity is Severity.ERROR for found in store.check())
        else:
            assert store.save(make_environment(id="a")) == 3
            assert len(list(path.parent.iterdir())) == 2
            assert not any(found.severity is Severity.ERROR for found in store.check())


def verify(root: Path, directory: Path) -> str:
    """Run the program of the page on a store, and return what it prints."""
    script = directory / "verify.py"
    script.write_text(PROGRAM)
    command = [sys.executable, str(script), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def shell(command: str, directory: Path) -> str:
    """Run a command in a directory, and return its output."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=directory, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
