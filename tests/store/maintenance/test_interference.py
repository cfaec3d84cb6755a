# SPDX-License-Identifier: Apache-2.0
"""Maintenance beside writers and a pruner, which act at any moment of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore import FileStore, HistoryPrunedError, LockTimeoutError
from waggle_fsstore.store.fs import disk
from waggle_fsstore.store.journal import live_segment
from waggle_fsstore.testing import make_environment

#: The calls by which a process looks at files. Others act before one of them.
LOOKS = ("open", "listdir", "scandir", "stat", "lstat")

#: Others act before every look; before every fifth one of a verb that looks often.
STEP_OF_LONG_VERBS = 5

#: A batch that fills a segment, so that each rotates.
BATCH = [make_environment(id=f"pad-{n}", extra={"pad": "x" * 1_500}) for n in range(6)]


#: The revision of the first of the batch before others interfere.
FIRST_REVISION = 10


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileStore]:
    """A store with small segments, which is pruned like a durable one, at more speed."""
    for size in ("_MIN_SEGMENT_BYTES", "_MAX_SEGMENT_BYTES"):
        monkeypatch.setattr(live_segment, size, 1 << 13)
    for sync in ("sync", "sync_dir", "sync_filesystem"):
        monkeypatch.setattr(disk.Disk, sync, lambda *_: True)
    with FileStore(root) as writer:
        writer.save_all([*(make_environment(id=name) for name in "abc"), *BATCH])
        writer.save_all(BATCH)
    with FileStore(root) as store:
        yield store


def interfere(other: FileStore, number: int) -> None:
    """Change every document, and compress or remove the journal that is no longer needed."""
    with suppress(LockTimeoutError):  # The verb may hold the lock at this moment.
        other.save_all([make_environment(id=name, name="other") for name in "bd"])
        other.delete("d")
        other.save_all([make_environment(id="c", name="other"), *BATCH])
        other.save_all(BATCH)
        other.prune_history(compress=True, keep_bytes=None if number % 2 else 0)


@contextmanager
def at_look(number: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Call ``act`` before look ``number`` at a file; yield the growing list of all looks."""
    looks: list[str] = []

    def look(name: str, real: Callable[..., Any], *given: Any, **more: Any) -> Any:
        looks.append(name)
        if len(looks) == number:
            act()
        return real(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", partial(look, "open", open))
        for name in LOOKS:
            patch.setattr(os, name, partial(look, name, getattr(os, name)))
        yield looks


def is_one_version(found: dict[str, int]) -> bool:
    """Return whether revisions by id are those of one batch, and of the rest as of then."""
    first = found["pad-0"]
    batch = [found[environment.id] for environment in BATCH]
    # The distances of the changes in interfere(), or the versions before it.
    others = (2, 3) if first == FIRST_REVISION else (first - 10, first - 7)
    return (
        batch == list(range(first, first + len(BATCH)))
        and (found["b"], found["c"]) == others
        and "d" not in found
    )


def check(store: FileStore) -> None:
    assert list(store.check()) == []


def repair(store: FileStore) -> None:
    assert list(store.repair()) == []


def info(store: FileStore) -> None:
    assert not store.info().is_recovery_due


def snapshot(store: FileStore) -> None:
    dest = store.path.with_name("copy")
    made = store.snapshot(dest)
    with FileStore(dest) as copy:
        found = {environment.id: environment.revision for environment in copy.find_all()}
    assert is_one_version(found)
    assert (made.count, max(found.values()) <= made.seq) == (len(found), True)
    shutil.rmtree(dest)


def list_anew(store: FileStore) -> None:
    with FileStore(store.path) as opened:
        assert is_one_version({found.id: found.revision for found in opened.find_all()})
        assert opened.recovery_findings == ()


def restore_revision(store: FileStore) -> None:
    with suppress(HistoryPrunedError):
        store.restore_revision("a", store.find_by_id("a").revision)


def prune(store: FileStore) -> None:
    store.prune_history(keep_days=1, compress=True)
    store.prune_history(keep_bytes=1 << 15)


@pytest.mark.parametrize(
    "verb",
    [check, repair, info, snapshot, list_anew, restore_revision, prune],
    ids=lambda verb: verb.__name__,
)
def test_verb_tolerates_others(store: FileStore, verb: Callable[[FileStore], None]) -> None:
    """Whatever others do in the middle of a verb, it succeeds, and reports nothing false."""
    step = STEP_OF_LONG_VERBS if verb in {check, repair, snapshot} else 1
    number, looks = 1, [""]
    with FileStore(store.path, lock_timeout=0) as other:
        while number <= len(looks):
            with at_look(number, partial(interfere, other, number)) as looks:
                verb(store)
            number += step
    assert len(looks) > step
