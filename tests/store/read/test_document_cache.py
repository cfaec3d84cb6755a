# SPDX-License-Identifier: Apache-2.0
"""What is remembered of documents, and that no change by anybody is overlooked for it."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from waggle_fsstore import CapacityError, Environment, FileStore, Status, WaggleError
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.read import document_cache, documents, inotify, stat_signature
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.usefixtures("trusted_change_times")

Seen = tuple[list[tuple[Environment, int]], list[str]]

NEVER, ALWAYS = 1 << 30, 0

by_signature = pytest.mark.parametrize("store", [NEVER], indirect=True)
by_notice = pytest.mark.parametrize("store", [ALWAYS], indirect=True)


@pytest.fixture(params=[NEVER, ALWAYS], ids=["by signature", "by notice"])
def store(
    store: FileStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> FileStore:
    """One that knows what may have changed by signature alone, and one by notices."""
    if request.param == ALWAYS:
        request.getfixturevalue("needs_notices")
    monkeypatch.setattr(document_cache, "_WORTH_NOTICES", request.param)
    store.save_all(make_environment(id=name, name="before", labels={"n": name}) for name in "abc")
    return store


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are remembered from the next tick of the clock on: what no rule may undercut."""
    monkeypatch.setattr(stat_signature, "_SETTLED", 0)


def folder_of(store: FileStore) -> Path:
    return store.path / "environments"


def look(store: FileStore) -> Seen:
    """All that a listing says."""
    errors: list[Exception] = []
    found = store.find_all(on_corrupt=errors.append)
    # Equality of environments leaves out the revision.
    return [(one, one.revision) for one in found], [f"{type(one)} {one}" for one in errors]


def live(seen: Seen) -> set[str]:
    """The file names of the live ones in a listing."""
    return {f"{one.id}.json" for one, _ in seen[0] if one.status.is_live}


def look_afresh(store: FileStore) -> Seen:
    """The same from a store object that can remember nothing."""
    return look(FileStore(store.path, durable=False))


def settle(store: FileStore) -> None:
    """Wait for the next tick of the clock, and have all documents remembered."""
    newest = max(entry.stat().st_ctime_ns for entry in os.scandir(folder_of(store)))
    while file_clock() <= newest:
        pass
    look(store)


def listing_of(store: FileStore) -> document_cache.DocumentCache:
    return store._documents._listing


def remembered(store: FileStore) -> set[str]:
    return set((listing_of(store)._seen or document_cache._NOTHING).known)


def rewrite(path: Path, data: bytes) -> None:
    """As an editor does that keeps the file: not even its size changes."""
    with path.open("r+b") as file:
        file.write(data)


def edited(path: Path) -> bytes:
    data = path.read_bytes()
    assert b'"before"' in data
    return data.replace(b'"before"', b'"after!"')


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the documents that are opened from now on."""
    names: list[str] = []

    def read(path: str, *rest: Any) -> bytes:
        names.append(os.path.basename(path))
        return safe_read.read_regular(path, *rest)

    monkeypatch.setattr(documents, "read_regular", read)
    monkeypatch.setattr(document_cache, "read_regular", read)
    return names


# Hands: each has a document, "b", that was remembered just before.


def _in_place(path: Path) -> None:
    rewrite(path, edited(path))


def _in_place_with_its_time(path: Path) -> None:
    before = path.stat()
    rewrite(path, edited(path))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _mapped(path: Path) -> None:
    import mmap

    data = edited(path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = data


def _by_rename(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(edited(path))
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)


def _copied_with_times(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(edited(path))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    subprocess.run(["cp", "-p", other, path], check=True)


def _linked(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(edited(path))
    link = path.with_name("link")
    os.link(other, link)
    link.replace(path)


def _edited_through_a_link(path: Path) -> None:
    link = path.with_name("link")
    os.link(path, link)
    rewrite(link, edited(link))
    link.unlink()


def _made_anew(path: Path) -> None:
    data = edited(path)
    path.unlink()
    path.write_bytes(data)  # Many file systems give it the same inode.


def _exchanged(path: Path) -> None:
    a, spare = path.with_name("a.json"), path.with_name("spare")
    path.rename(spare)
    a.rename(path)
    spare.rename(a)


def _away_and_back(path: Path) -> None:
    away = path.with_name("away")
    path.rename(away)
    rewrite(away, edited(away))
    away.rename(path)


def _link_to_a_good_one(path: Path) -> None:
    path.rename(path.with_name("target"))
    path.symlink_to("target")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _another_folder(path: Path) -> None:
    old, new = path.parent.with_name("old"), path.parent.with_name("new")
    shutil.copytree(path.parent, new)
    rewrite(new / path.name, edited(path))
    path.parent.rename(old)
    new.rename(path.parent)
    shutil.rmtree(old)


HANDS: dict[str, Callable[[Path], object]] = {
    "in place": _in_place,
    "in place, its time set back": _in_place_with_its_time,
    "in place, through a map": _mapped,
    "in place, through a link": _edited_through_a_link,
    "in place, while it was away": _away_and_back,
    "renamed over": _by_rename,
    "cp -p": _copied_with_times,
    "another link": _linked,
    "deleted and made anew": _made_anew,
    "exchanged with another": _exchanged,
    "cut short": lambda path: os.truncate(path, 100),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "no longer readable": lambda path: path.chmod(0),
    "a symbolic link": _link_to_a_good_one,
    "a pipe": _pipe,
    "a folder": _folder,
    "another folder of documents": _another_folder,
}


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.usefixtures("prompt")
def test_a_change_by_hand_is_seen_at_once(store: FileStore, hand: str) -> None:
    """Whatever a hand does to a document that is remembered, the next listing shows it."""
    settle(store)
    assert remembered(store) == {"a.json", "b.json", "c.json"}
    before = look(store)
    HANDS[hand](store.document_path("b"))
    after = look(store)
    assert after == look_afresh(store)
    is_root_reading = hand == "no longer readable" and os.geteuid() == 0
    assert (after == before) == is_root_reading
    assert listing_of(store).live() == live(after)


@pytest.mark.usefixtures("prompt")
def test_a_change_back_is_seen_too(store: FileStore) -> None:
    """A document that reads as before, and one that is another one's again."""
    settle(store)
    path = store.document_path("b")
    before = path.read_bytes()
    for _ in range(3):
        rewrite(path, edited(path))
        assert look(store) == look_afresh(store)
        rewrite(path, before)
        assert look(store) == look_afresh(store)
        settle(store)


def _rewrite_often(store: FileStore) -> None:
    path = store.document_path("b")
    data = path.read_bytes()
    for number in range(500):
        name = f'"{number:06}"'.encode()
        rewrite(path, data.replace(b'"before"', name))
        assert store.find_all()[1].name == f"{number:06}"


def test_changes_in_quick_succession(store: FileStore) -> None:
    """None of 500 rewrites of the same size is missed, each read at once."""
    _rewrite_often(store)


def tick(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Give files the times that they have where the kernel gives no finer ones (ns)."""
    signature_of, is_settled = stat_signature.signature_of, stat_signature.is_settled

    def rounded(time: int) -> int:
        return time // length * length + 1

    def coarse(status: os.stat_result) -> Any:
        values = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        for name in ("st_ctime_ns", "st_mtime_ns"):
            values[name] = rounded(values[name])
        return SimpleNamespace(**values)

    monkeypatch.setattr(document_cache, "signature_of", lambda status: signature_of(coarse(status)))
    monkeypatch.setattr(
        document_cache,
        "is_settled",
        lambda status, folder, now: is_settled(coarse(status), folder, now),
    )
    monkeypatch.setattr(document_cache, "file_clock", lambda: rounded(file_clock()))


def test_changes_within_a_tick(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one missed where all changes of half a second have the same time."""
    tick(monkeypatch, 500_000_000)
    _rewrite_often(store)


@pytest.mark.usefixtures("prompt")
def test_changes_at_the_turn_of_a_tick(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where a document is remembered from the next tick on, some hundred times."""
    tick(monkeypatch, 300_000)
    _rewrite_often(store)


# What is remembered, and what is not


@pytest.mark.usefixtures("prompt")
def test_what_is_unchanged_is_not_read_again(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing opens what was changed since the last one, and nothing else."""
    settle(store)
    opened = reads(monkeypatch)
    before = look(store)
    assert opened == []
    FileStore(store.path, durable=False).save(make_environment(id="c"))
    assert look(store)[0][:2] == before[0][:2]
    assert opened == ["c.json", "c.json"]  # The first by the save.


@by_signature
def test_what_was_just_changed_is_read_again(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document is not remembered before a change could no longer have the same time."""
    changed = [entry.stat().st_ctime_ns for entry in os.scandir(folder_of(store))]
    monkeypatch.setattr(document_cache, "file_clock", lambda: min(changed) + 1_900_000_000)
    look(store)
    assert remembered(store) == set()
    monkeypatch.setattr(document_cache, "file_clock", lambda: max(changed) + 2_100_000_000)
    look(store)
    assert remembered(store) == {"a.json", "b.json", "c.json"}


def test_nothing_is_remembered_where_times_mean_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that is not known to stamp each change, all are read each time."""
    monkeypatch.setattr(stat_signature, "_SETTLED", 0)
    monkeypatch.setattr(stat_signature, "_has_change_times", lambda *_: False)
    settle(store)
    assert remembered(store) == set()


@pytest.mark.usefixtures("prompt")
def test_what_is_not_remembered(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad documents and large ones are read each time, those that are gone are forgotten."""
    store.save(make_environment(id="large", extra={"padding": "x" * (1 << 14)}))
    store.document_path("bad").write_text("{")
    settle(store)
    assert remembered(store) == {"a.json", "b.json", "c.json"}
    opened = reads(monkeypatch)
    store.delete("a")
    del opened[:]
    look(store)
    assert [name for name in opened if name != "a.json"] == ["bad.json", "large.json"]
    assert remembered(store) == {"b.json", "c.json"}


@pytest.mark.usefixtures("prompt")
def test_a_change_while_it_is_read(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was changed or replaced between the look at a file and the end of its reading."""
    settle(store)
    path = store.document_path("b")
    old, new = path.read_bytes(), edited(path)
    for change in (_in_place, _in_place_with_its_time, _by_rename, _away_and_back):
        for is_first in (True, False):
            rewrite(path, old)
            settle(store)
            path.touch()  # So that it is read, and what is written meanwhile is another change.
            while file_clock() <= path.stat().st_ctime_ns:
                pass

            def read(name: str, *rest: Any) -> bytes:
                if is_first and name.endswith("b.json"):  # noqa: B023
                    change(path)  # noqa: B023
                data = safe_read.read_regular(name, *rest)
                if not is_first and name.endswith("b.json"):  # noqa: B023
                    change(path)  # noqa: B023
                return data

            with monkeypatch.context() as patch:
                patch.setattr(document_cache, "read_regular", read)
                look(store)
            assert path.read_bytes() == new
            assert look(store) == look_afresh(store)


@pytest.mark.usefixtures("prompt")
def test_folders_exchanged_while_it_is_read(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read from one folder is not remembered of the same name in another one."""
    old, new = folder_of(store).with_name("old"), folder_of(store).with_name("new")
    shutil.copytree(folder_of(store), new)
    rewrite(new / "b.json", edited(new / "b.json"))
    while file_clock() <= (new / "b.json").stat().st_ctime_ns:
        pass

    def read(name: str, *rest: Any) -> bytes:
        data = safe_read.read_regular(name, *rest)
        if name.endswith("b.json"):
            folder_of(store).rename(old)
            new.rename(folder_of(store))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(document_cache, "read_regular", read)
        assert [one.name for one, _ in look(store)[0]] == ["before"] * 3
    for name, folder in (("after!", new), ("before", old)):
        assert [one.name for one, _ in look(store)[0]] == ["before", name, "before"]
        assert look(store) == look_afresh(store)
        if folder is new:
            folder_of(store).rename(new)
            old.rename(folder_of(store))


@pytest.mark.usefixtures("prompt")
def test_what_is_found_is_the_callers(store: FileStore) -> None:
    """What a caller does to a listing, labels and nested values included, harms no other one."""
    settle(store)
    expected = look_afresh(store)
    for found in store.find_all():
        found.name = "mine"
        found.labels["n"] = "mine"
        found.extra["colour"][1]["depth"] = "mine"
        found.extra["new"] = "mine"
    assert look(store) == expected


def test_a_twin_is_equal_and_independent() -> None:
    """It has each field, and shares none that can be changed."""
    original = make_environment(revision=7)
    twin = original.copy_unchecked()
    for field in fields(Environment):
        value = getattr(original, field.name)
        assert getattr(twin, field.name) == value
        if isinstance(value, (dict, list)):
            assert getattr(twin, field.name) is not value
    assert twin.extra["colour"] is not original.extra["colour"]
    assert twin.extra["colour"][1] is not original.extra["colour"][1]


# Counting under the lock


@pytest.mark.usefixtures("prompt")
def test_capacity_counts_what_hands_did(store: FileStore) -> None:
    """The live ones are counted as they stand, also where all of them are remembered."""
    settle(store)
    path = store.document_path("b")
    before = path.read_bytes()
    with pytest.raises(CapacityError):
        store.create(make_environment(id="d"), capacity=3)
    rewrite(path, before.replace(b'"running"', b'"error"  '))
    store.create(make_environment(id="d"), capacity=3)
    settle(store)
    rewrite(path, before)
    with pytest.raises(CapacityError):
        store.create(make_environment(id="e"), capacity=4)
    path.unlink()
    store.create(make_environment(id="e"), capacity=4)
    store.document_path("f").write_text('{"id": "f", "name": "by hand", "runtime": "shell"}')
    with pytest.raises(CapacityError):
        store.create(make_environment(id="g"), capacity=5)


@pytest.mark.usefixtures("prompt")
def test_counting_reads_nothing_again(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a listing remembers, a count of the live ones does not read, and the reverse."""
    settle(store)
    opened = reads(monkeypatch)
    for _ in range(2):
        with pytest.raises(CapacityError):
            store.create(make_environment(id="d"), capacity=3)
    look(store)
    assert opened == ["d.json", "d.json"]  # Whether there is one already.


# Threads and processes


@pytest.mark.usefixtures("prompt")
def test_threads_that_list_while_a_hand_edits(store: FileStore) -> None:
    """A listing that begins after an edit has ended shows it, in each thread."""
    path = store.document_path("b")
    data = path.read_bytes()
    written = [0]
    barrier = threading.Barrier(4)
    wrong: list[tuple[int, int]] = []

    def list_all() -> None:
        barrier.wait()
        while written[0] < 300:
            least = written[0]
            with suppress(WaggleError):  # An edit in place may be seen by half.
                name = store.find_all()[1].name
                if name != "before" and int(name) < least:
                    wrong.append((least, int(name)))

    threads = [threading.Thread(target=list_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for number in range(1, 301):
        rewrite(path, data.replace(b'"before"', f'"{number:06}"'.encode()))
        # A write sets the time before the bytes, and may wait in between for longer than "prompt"
        # allows for. This sets it behind them.
        path.chmod(0o600)
        written[0] = number
        if number % 50 == 0:
            settle(store)
    for thread in threads:
        thread.join()
    assert wrong == []
    assert look(store) == look_afresh(store)


EDIT = """
import sys
path = sys.argv[1]
data = open(path, "rb").read().replace(b'"before"', b'"after!"')
with open(path, "r+b") as file:
    file.write(data)
"""


@pytest.mark.usefixtures("prompt")
def test_other_processes(store: FileStore) -> None:
    """What another process edited or saved is seen, through each handle that remembers."""
    other = FileStore(store.path, durable=False)
    settle(store)
    settle(other)
    subprocess.run([sys.executable, "-c", EDIT, store.document_path("b")], check=True)
    assert look(store) == look(other) == look_afresh(store)
    assert store.find_all()[1].name == "after!"
    settle(other)
    store.save(make_environment(id="a", name="saved"))
    assert look(other) == look(store) == look_afresh(store)


@pytest.mark.usefixtures("prompt")
def test_a_child_inherits_what_is_remembered(store: FileStore) -> None:
    """Also in a child, what it inherited counts only as long as the file is as it was."""
    settle(store)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.read(read_end, 1)
            names = [one.name for one in store.find_all()]
            os._exit(0 if names == ["before", "after!", "before"] else 1)
        os._exit(2)
    path = store.document_path("b")
    rewrite(path, edited(path))
    os.write(write_end, b"!")
    assert os.waitpid(child, 0)[1] == 0
    assert look(store) == look_afresh(store)
    os.close(read_end)
    os.close(write_end)


# Notices


@by_notice
def test_what_was_just_changed_is_not_read_again(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With notices it needs no time to pass: each version is read once."""
    look(store)
    opened = reads(monkeypatch)
    for number in range(3):
        rewrite(store.document_path("b"), store.document_path("b").read_bytes())
        assert look(store) == look(store)
        assert opened == ["b.json"] * (number + 1)


@pytest.mark.usefixtures("needs_notices")
def test_notices_are_asked_for_where_they_are_worth_it(tmp_path: Path) -> None:
    """Not for few documents, nor for one listing; closing gives back what they take."""
    with FileStore(tmp_path / "store", durable=False) as store:
        environments = [make_environment(id=f"env-{number}") for number in range(100)]
        store.save_all(environments[1:])
        for _ in range(3):
            look(store)
        assert listing_of(store)._notices is None
        store.save(environments[0])
        look(store)
        assert listing_of(store)._notices is None
        look(store)
        noticed = listing_of(store)._notices
        assert noticed is not None
        descriptor = noticed._descriptor
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@by_notice
def test_a_listing_that_outlives_its_store(store: FileStore) -> None:
    """A thread that lists while another one closes the store asks for no notices anew."""
    look(store)
    assert listing_of(store)._notices is not None
    store.close()
    for _ in range(3):
        assert len(listing_of(store).read_all()[0]) == 3
    assert listing_of(store)._notices is None


@by_notice
def test_where_there_are_none_left(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has as many as the system gives goes on by signatures."""

    def refuse() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify, "inotify_init", refuse)
    _rewrite_often(store)
    assert listing_of(store)._notices is None


@by_notice
@pytest.mark.usefixtures("prompt")
def test_a_name_in_another_folder(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a change through it nothing is noticed: it shows after 5 s, and from then on at once."""
    settle(store)
    path = store.document_path("b")
    link = tmp_path / "link"
    os.link(path, link)
    rewrite(link, edited(link))
    look(store)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 5.1)
    assert store.find_all()[1].name == "after!"
    monkeypatch.undo()
    for name in (b"1first", b"2nd...", b"3third"):
        rewrite(link, re.sub(rb'"name": "......"', b'"name": "%b"' % name, link.read_bytes()))
        assert store.find_all()[1].name == name.decode()


@pytest.mark.usefixtures("prompt")
def test_a_listing_in_the_middle_of_one(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that lists sees what is there, and takes nothing from whom it interrupts."""
    settle(store)
    paths = [store.document_path(name) for name in "abc"]
    inside: list[Seen] = []

    def read(path: str, *rest: Any) -> bytes:
        if not inside:
            inside.append(([], []))
            rewrite(paths[0], edited(paths[0]))
            inside.append(look(store))
            inside.append(look_afresh(store))
        return safe_read.read_regular(path, *rest)

    rewrite(paths[1], edited(paths[1]))
    with monkeypatch.context() as patch:
        patch.setattr(document_cache, "read_regular", read)
        look(store)
    assert inside[1] == inside[2]
    assert [one.name for one in store.find_all()] == ["after!", "after!", "before"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EMFILE, "too many")])
@pytest.mark.usefixtures("prompt")
def test_a_listing_that_ends_in_the_middle(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """What it knew to have changed is not forgotten with it."""
    settle(store)
    for name in "ab":
        path = store.document_path(name)
        rewrite(path, edited(path))

    def read(path: str, *rest: Any) -> bytes:
        if path.endswith("b.json"):
            raise error
        return safe_read.read_regular(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(document_cache, "read_regular", read)
        with pytest.raises(type(error)):
            look(store)
    assert [one.name for one in store.find_all()] == ["after!", "after!", "before"]


@by_notice
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_folder_remade_under_the_same_number(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, is_interrupted: bool
) -> None:
    """Of one that is removed nothing more is noticed, also where another one gets its inode."""
    monkeypatch.setattr(inotify, "_inode", lambda _: (1, 1))
    folder = folder_of(store)
    # One that has written holds its folder open, so that nothing gets that inode.
    with FileStore(store.path, durable=False) as reader:
        settle(reader)
        documents = {path: path.read_bytes() for path in folder.iterdir()}
        store.close()
        shutil.rmtree(folder)
        folder.mkdir()
        for path, data in documents.items():
            path.write_bytes(data)
        if is_interrupted:

            def interrupted(_: bytes) -> str:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsdecode", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    listing_of(reader)._refresh()
        look(reader)
        rewrite(reader.document_path("b"), edited(reader.document_path("b")))
        assert look(reader) == look_afresh(reader)
        reader.document_path("a").unlink()
        assert look(reader) == look_afresh(reader)


# Anything, in any order

IDS = st.sampled_from(["a", "b", "c"])
HANDLES = st.integers(0, 1)


class Hands(RuleBasedStateMachine):
    """Two store objects that remember, one that never does, and hands on their documents."""

    worth_notices = NEVER

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(stat_signature, "_has_change_times", lambda *_: True)
        self.patch.setattr(stat_signature, "_SETTLED", 0)
        self.patch.setattr(document_cache, "_WORTH_NOTICES", self.worth_notices)
        self.stores = [FileStore(self.folder / "store", durable=False) for _ in range(2)]
        self.stores[0].save_all(make_environment(id=name, name="before") for name in "abc")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.patch.undo()
            for store in self.stores:
                store.close()
            shutil.rmtree(self.folder)

    @rule(handle=HANDLES, environment_id=IDS, status=st.sampled_from(Status))
    def save(self, handle: int, environment_id: str, status: Status) -> None:
        with suppress(WaggleError, OSError):
            self.stores[handle].save(
                make_environment(id=environment_id, name="before", status=status)
            )

    @rule(handle=HANDLES, environment_id=IDS)
    def delete(self, handle: int, environment_id: str) -> None:
        with suppress(WaggleError, OSError):
            self.stores[handle].delete(environment_id)

    @rule(environment_id=IDS, hand=st.sampled_from(sorted(HANDS)))
    def edit(self, environment_id: str, hand: str) -> None:
        path = self.stores[0].document_path(environment_id)
        if safe_read.is_regular(str(path)):
            with suppress(OSError, AssertionError):  # There is nothing to edit, or no way to.
                HANDS[hand](path)
        shutil.rmtree(path.parent.with_name("new"), ignore_errors=True)

    @rule(environment_id=IDS, other=IDS)
    def copy_another(self, environment_id: str, other: str) -> None:
        source, target = map(self.stores[0].document_path, (other, environment_id))
        if source != target and all(safe_read.is_regular(str(path)) for path in (source, target)):
            shutil.copy2(source, target)

    @rule(handle=HANDLES)
    def settle(self, handle: int) -> None:
        with suppress(OSError, ValueError):
            settle(self.stores[handle])

    @invariant()
    def all_agree(self) -> None:
        if not hasattr(self, "stores"):
            return
        expected = look_afresh(self.stores[0])
        for store in self.stores:
            assert look(store) == expected
            assert listing_of(store).live() == live(expected)


class NoticedHands(Hands):
    """The same with notices."""

    worth_notices = ALWAYS


Hands.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
NoticedHands.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestHands = Hands.TestCase
TestNoticedHands = NoticedHands.TestCase
