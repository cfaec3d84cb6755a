# SPDX-License-Identifier: Apache-2.0
"""Fsck of the journal."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.store.journals import fill_segments, segment_paths
from tests.store.locks import lock_held
from tests.store.maintenance.fsck.damage_store import changes_line, plant, summary
from waggle_fsstore import (
    Environment,
    EnvironmentNotFoundError,
    FileStore,
    JournalDamagedError,
    Runtime,
    Severity,
)
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import damage, lines, segments
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and links")


@pytest.mark.parametrize("part", range(4))
def test_flipped_byte_loses_one_line(tmp_path: Path, part: int) -> None:
    """A byte that flips anywhere in a line is found; repair loses that line and no other."""
    whole, root = tmp_path / "whole", tmp_path / "store"
    with FileStore(whole, durable=False) as store:
        for name in ("a", "b", "c", "d"):
            store.save(Environment(id=name, name=f"first {name}", runtime=Runtime.NODE))
        expected = store.find_all()
        [journal] = segment_paths(store)
    name, good = journal.name, journal.read_bytes()
    line = changes_line(good, 1)
    number = good.count(b"\n", 0, line.start) + 1
    for offset in range(line.start + part, line.end, 4):
        # A copy, whose state record is not trusted.
        shutil.copytree(whole, root)
        flipped = (
            b"\n"
            if offset % 5 == 0 and line.start < offset < line.end - 1
            else bytes([good[offset] ^ 0x0A])
        )
        plant(root / "journal" / name, offset, flipped)
        with FileStore(root, durable=False) as damaged:
            errors = [found for found in damaged.check() if found.severity is Severity.ERROR]
            assert {found.path.name for found in errors} == {name}
            assert f"line {number} is damaged" in {found.problem for found in errors}
            with pytest.raises(JournalDamagedError) as caught:
                damaged.save(make_environment(id="new"))
            assert (caught.value.path.name, caught.value.line) == (name, number)
            assert damaged.find_all() == expected
            assert damaged.find_by_id("b") == expected[1]
            assert damaged.count() == 4
            repaired = list(damaged.repair())
            assert {found.is_repaired for found in repaired} == {True}
            assert damaged.save(make_environment(id="new")) > 4
            damaged.delete("new")
            assert damaged.find_all() == expected
            assert [event.environment_id for event in damaged.history(until=1)] == ["a"]
            assert list(damaged.repair()) == []
        shutil.rmtree(root)


def test_repair_is_noticed_by_open_store(store: FileStore) -> None:
    """A repair in one process is noticed by another one that has the segment open."""
    [journal] = segment_paths(store)
    line = changes_line(journal.read_bytes(), 1)
    with FileStore(store.path, durable=False) as other:
        other.save(make_environment(id="a", name="other"))
        plant(journal, line.start + 20, b"#")
        [found] = other.check()
        assert found.severity is Severity.ERROR
        [repaired] = store.repair()
        assert repaired.is_repaired
        [kept] = (store.path / ".waggle" / "lost+found").iterdir()
        assert kept.name == "0000000000000001.1.jsonl"
        assert str(kept) in repaired.remedy
        assert other.save(make_environment(id="a", name="again")) == 6
        assert store.find_by_id("a").name == "again"
        assert [event.seq for event in store.history()] == [1, 3, 4, 5, 6]
    assert list(store.check()) == []


def test_watch_continues_after_repair(store: FileStore) -> None:
    """A watch continues in the repaired segment, where the next change begins."""
    events = store.watch(timeout=0)
    store.save(make_environment(id="seen"))
    assert next(events).environment_id == "seen"
    [journal] = segment_paths(store)
    plant(journal, changes_line(journal.read_bytes(), 1).start, b"#")
    assert [found.is_repaired for found in store.repair()] == [True]
    store.save(make_environment(id="d"))
    assert [event.environment_id for event in events] == ["d"]


def test_damaged_last_line_is_an_error(store: FileStore) -> None:
    """The last line, once published, is damaged rather than torn."""
    expected = store.find_all()
    [journal] = segment_paths(store)
    line = changes_line(journal.read_bytes(), -1)
    plant(journal, line.start + 50, b"\0\0\0")
    found = list(store.check())
    assert (found[0].severity, found[0].path) == (Severity.ERROR, journal)
    assert all(finding.is_repaired for finding in store.repair())
    assert list(store.repair()) == []
    assert store.find_all() == expected


def test_torn_tail_is_a_warning(store: FileStore) -> None:
    """Half a line at the end is a warning: a crash leaves it, and it was never confirmed."""
    [journal] = segment_paths(store)
    end = changes_line(journal.read_bytes(), -1).end
    plant(journal, end, b'{"crc":"00000000","changes":[{"seq":')
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, journal)
    assert [finding.is_repaired for finding in store.repair()] == [True]
    assert list(store.repair()) == list(store.check()) == []
    assert store.save(make_environment(id="d")) == 5


def test_torn_tail_under_lock_is_no_finding(store: FileStore) -> None:
    """Half a line at the end is being written while the lock is held."""
    [journal] = segment_paths(store)
    plant(journal, changes_line(journal.read_bytes(), -1).end, b'{"crc":')
    with lock_held(store):
        assert list(store.check()) == []
    assert len(list(store.check())) == 1


def test_damaged_first_line_is_rewritten(store: FileStore) -> None:
    """The line that names the preceding segment is written again."""
    fill_segments(store, 30)
    names = segments.list_segments(Layout(str(store.path)))
    middle = Path(Layout(str(store.path)).segment(names[1]))
    good = middle.read_bytes()
    plant(middle, 30, b"#")
    found = list(store.check())
    assert {finding.path for finding in found} == {middle}
    assert Severity.ERROR in {finding.severity for finding in found}
    assert Severity.ERROR not in {
        finding.severity for finding in store.repair() if not finding.is_repaired
    }
    assert middle.read_bytes() == good
    assert list(store.repair()) == list(store.check()) == []


def test_zeroed_live_segment_is_survived(tmp_path: Path) -> None:
    """Documents outlive the end of their journal, and the store accepts writes again."""
    with FileStore(tmp_path / "store", durable=False) as store:
        fill_segments(store, 30)
        expected = store.find_all()
    live = segment_paths(store)[-1]
    live.write_bytes(bytes(live.stat().st_size))
    with FileStore(store.path, durable=False) as again:
        again_found = list(again.repair())
        assert any(found.is_repaired for found in again_found)
        assert again.find_all() == expected
        assert again.save(make_environment(id="new")) > 30
        again.delete("new")
        list(again.repair())
        assert list(again.repair()) == []
        assert again.find_all() == expected


def test_truncated_sealed_segment_is_padded(store: FileStore) -> None:
    """A segment that lost its end gets its length back, and its remaining lines count."""
    fill_segments(store, 30)
    layout = Layout(str(store.path))
    first = segments.list_segments(layout)[1]
    path = Path(layout.segment(first))
    whole = path.read_bytes()
    kept = changes_line(whole, 1).end
    path.write_bytes(whole[:kept])
    found = list(store.check())
    assert [(finding.severity, finding.path) for finding in found] == [(Severity.ERROR, path)]
    assert "too early" in found[0].problem
    with pytest.raises(JournalDamagedError):
        list(store.history())
    assert [finding.is_repaired for finding in store.repair()] == [True]
    assert path.stat().st_size == len(whole)
    assert path.read_bytes() == whole[:kept].ljust(len(whole))
    assert list(store.repair()) == list(store.check()) == []
    assert list(store.history())[-1].seq == 34


def test_damaged_compressed_segment_is_unpacked(tmp_path: Path) -> None:
    """The readable lines of a damaged compressed segment count, and the file is kept."""
    with FileStore(tmp_path / "store") as store:
        fill_segments(store, 30)
        expected = store.find_all()
        assert store.prune_history(compress=True).segments_compressed > 0
        packed = next(path for path in segment_paths(store) if path.suffix == ".gz")
        good = packed.read_bytes()
        plant(packed, len(good) // 2, bytes(40))
        found = list(store.check())
        assert {(finding.severity, finding.path) for finding in found} == {(Severity.ERROR, packed)}
        damaged = packed.read_bytes()
        assert all(finding.is_repaired for finding in store.repair())
        [kept] = (store.path / ".waggle" / "lost+found").iterdir()
        assert kept.read_bytes() == damaged
        assert not packed.exists()
        assert list(store.repair()) == list(store.check()) == []
        assert store.find_all() == expected
        assert list(store.history())[-1].seq == 30


def test_missing_segment_is_reported(store: FileStore) -> None:
    """A hole in the journal is an error that only a backup repairs; the store works on."""
    fill_segments(store, 30)
    layout = Layout(str(store.path))
    names = segments.list_segments(layout)
    assert len(names) > 3
    missing = Path(layout.segment(names[1]))
    missing.unlink()
    for findings in (store.check(), store.repair(), store.repair()):
        [found] = findings
        assert (found.severity, found.path) == (Severity.ERROR, missing)
        assert "is missing" in found.problem
        assert not found.is_repaired
    store.save(make_environment(id="new"))


def test_pruned_segments_are_no_finding(tmp_path: Path) -> None:
    """Pruned segments are no finding, and their documents are known."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="old"))
        fill_segments(store, 30)
        assert store.prune_history(keep_bytes=0).segments_removed > 0
        assert "old" not in {event.environment_id for event in store.history()}
        assert list(store.check()) == []
        store.document_path("old").write_bytes(b"{")
        assert [found.is_repaired for found in store.repair()] == [True]
        with pytest.raises(EnvironmentNotFoundError):
            store.find_by_id("old")


def test_missing_live_segment_is_survived(store: FileStore) -> None:
    """Without its last segment, a store works on with the documents that it has."""
    fill_segments(store, 30)
    expected = store.find_all()
    live = segment_paths(store)[-1]
    live.unlink()
    problems = summary(store.check(), store.path)
    assert ("error", f"journal/{live.name}", "is missing, with the last changes") in problems
    list(store.repair())
    assert list(store.repair()) == list(store.check()) == []
    assert store.find_all() == expected


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_irregular_segment_is_reported(store: FileStore, kind: str) -> None:
    """A link or directory in the place of a segment is reported, and not followed."""
    fill_segments(store, 30)
    path = segment_paths(store)[1]
    if kind == "link":
        path.rename(store.path / "elsewhere")
        path.symlink_to(store.path / "elsewhere")
    else:
        path.unlink()
        path.mkdir(mode=0o700)
    found = [finding for finding in store.check() if finding.path == path]
    assert [finding.severity for finding in found] == [Severity.ERROR]
    assert "cannot be read" in found[0].problem


def test_segment_with_unknown_error_is_reported(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error without a number of the system is reported in its own words."""

    def fail(*_: object) -> None:
        raise OSError("the device is asleep")

    monkeypatch.setattr(segments, "read_segment", fail)
    assert {found.finding.problem for found in damage.find_damage(Layout(str(store.path)))} == {
        "cannot be read: the device is asleep"
    }


def test_segment_of_another_journal_is_reported(store: FileStore) -> None:
    """A segment that its neighbours do not refer to is a warning."""
    fill_segments(store, 30)
    layout = Layout(str(store.path))
    names = segments.list_segments(layout)
    stray = Path(layout.segment(names[1] + 1))
    stray.write_bytes(lines.encode(lines.FOLLOWS, {"segment": names[0], "bytes": 10}))
    stray.chmod(0o600)
    found = {finding.path: finding for finding in store.check()}
    successor = Path(layout.segment(names[2]))
    assert found[successor].severity is Severity.WARNING
    assert stray.name in found[successor].problem


def test_repair_leaves_good_segment_alone(store: FileStore) -> None:
    """A segment that another process has repaired or pruned is left alone."""
    layout = Layout(str(store.path))
    disk: Any = None
    assert damage.repair(layout, disk, 1) == ""
    assert damage.repair(layout, disk, 99) == ""
