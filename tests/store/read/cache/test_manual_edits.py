# SPDX-License-Identifier: Apache-2.0
"""Every manual edit of a cached document is seen by the next listing."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from tests.store.read.cache.listings import (
    cache_of,
    cached_names,
    list_all,
    list_uncached,
    live_names,
    settle,
)
from tests.store.read.cache.manual_edits import EDITS, edited, rewrite, rewrite_often
from waggle_fsstore import FileStore
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.read import document_cache, stat_signature

pytestmark = pytest.mark.usefixtures("trusted_change_times")


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.usefixtures("cached_from_next_tick")
def test_manual_edit_is_seen_by_next_listing(store: FileStore, edit: str) -> None:
    """The next listing shows any kind of manual edit of a cached document."""
    settle(store)
    assert cached_names(store) == {"a.json", "b.json", "c.json"}
    before = list_all(store)
    EDITS[edit](store.document_path("b"))
    after = list_all(store)
    assert after == list_uncached(store)
    is_root_reading = edit == "no longer readable" and os.geteuid() == 0
    assert (after == before) == is_root_reading
    assert cache_of(store).live() == live_names(after)


@pytest.mark.usefixtures("cached_from_next_tick")
def test_reverted_edit_is_seen(store: FileStore) -> None:
    """An edit that restores earlier contents is seen like any other."""
    settle(store)
    path = store.document_path("b")
    before = path.read_bytes()
    for _ in range(3):
        rewrite(path, edited(path))
        assert list_all(store) == list_uncached(store)
        rewrite(path, before)
        assert list_all(store) == list_uncached(store)
        settle(store)


def test_quick_rewrites_are_all_seen(store: FileStore) -> None:
    """None of 500 rewrites of the same size is missed, if each is read at once."""
    rewrite_often(store)


def coarsen_clock(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Round file times to a tick of this length (ns), as on a kernel with a coarse clock."""
    signature_of = stat_signature.signature_of

    def rounded(time: int) -> int:
        return time // length * length + 1

    def coarse(status: os.stat_result) -> Any:
        values = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        for name in ("st_ctime_ns", "st_mtime_ns"):
            values[name] = rounded(values[name])
        return SimpleNamespace(**values)

    monkeypatch.setattr(stat_signature, "signature_of", lambda status: signature_of(coarse(status)))
    monkeypatch.setattr(
        document_cache,
        "settled_signature",
        lambda status, *where: stat_signature.settled_signature(coarse(status), *where),
    )
    monkeypatch.setattr(document_cache, "file_clock", lambda: rounded(file_clock()))


def test_rewrites_within_one_tick_are_all_seen(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rewrite is missed where all changes within half a second have the same time."""
    coarsen_clock(monkeypatch, 500_000_000)
    rewrite_often(store)


@pytest.mark.usefixtures("cached_from_next_tick")
def test_rewrites_across_ticks_are_all_seen(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rewrite is missed where documents are cached from the next tick on."""
    coarsen_clock(monkeypatch, 300_000)
    rewrite_often(store)
