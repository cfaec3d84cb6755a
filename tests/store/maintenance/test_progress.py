# SPDX-License-Identifier: Apache-2.0
"""The progress of long work on a store: it has a total, and reaches it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.domain.progress import observed, report
from waggle_fsstore.store.maintenance.copy import copy
from waggle_fsstore.testing import make_environment

_PADDED = {"padding": "x" * 5_000}


@pytest.fixture
def full(store: FileStore) -> FileStore:
    """A store with seven environments, and several files of history."""
    for number in range(60):
        store.save(make_environment(id=f"env-{number % 7}", extra=_PADDED))
    return store


def _ends(work: Callable[[], object]) -> dict[str, tuple[int, int | None]]:
    """Return the last report on each kind of work; check that none goes back or beyond it."""
    seen: dict[str, tuple[int, int | None]] = {}

    def on_progress(done: int, total: int | None, what: str) -> None:
        before, _ = seen.get(what, (0, None))
        assert 0 <= before <= done
        assert total is None or done <= total
        seen[what] = done, total

    with observed(on_progress):
        work()
    report(1, 1, "after the block")
    assert "after the block" not in seen
    return seen


def test_check_counts_files_changes_and_documents(full: FileStore) -> None:
    """Each of the three parts of a check ends at its total; a repair has the same."""
    files = len(list((full.path / "journal").iterdir()))
    expected = {"files of the journal": (files, files), "changes": (60, 60), "documents": (7, 7)}
    assert _ends(lambda: list(full.check())) == expected
    assert _ends(lambda: list(full.repair())) == expected


def test_snapshot_counts_documents_and_says_when_it_syncs(full: FileStore, dest: Path) -> None:
    """How long a sync takes is known to the system alone."""
    seen = _ends(lambda: full.snapshot(dest))
    assert seen == {"documents": (7, 7), "and syncing": (0, None)}


def test_restore_counts_what_it_reads_and_compares(full: FileStore, dest: Path) -> None:
    """Documents that the snapshot does not have are compared too."""
    full.snapshot(dest)
    full.save(make_environment(id="new"))
    seen = _ends(lambda: full.restore(dest))
    assert seen == {"files of the snapshot": (7, 7), "documents": (8, 8)}


def test_copy_counts_changes(full: FileStore, tmp_path: Path) -> None:
    """Those that the target has already are not counted."""
    with FileStore(tmp_path / "target", durable=False) as target:
        assert _ends(lambda: copy(full, target))["changes"] == (60, 60)
        full.save(make_environment(id="new"))
        assert _ends(lambda: copy(full, target))["changes"] == (1, 1)


def test_prune_counts_the_files_that_may_go(full: FileStore) -> None:
    """It looks at all files but those that recovery needs, and may keep each of them."""
    with FileStore(full.path) as durable:  # The other one makes no checkpoint.
        seen = _ends(lambda: durable.prune_history(keep_days=1, compress=True))
    files = len(list((full.path / "journal").glob("*.gz")))
    assert files > 1
    assert seen["files to compress"] == (files, files)
    assert seen["files"] == (0, files)
