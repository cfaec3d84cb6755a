# SPDX-License-Identifier: Apache-2.0
"""The live environments that ``create`` counts under the lock."""

import pytest

from tests.store.read.cache.listings import list_all, opened_documents, settle
from tests.store.read.cache.manual_edits import rewrite
from waggle_fsstore import CapacityError, FileStore
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.usefixtures("trusted_change_times")


@pytest.mark.usefixtures("cached_from_next_tick")
def test_capacity_counts_manual_edits(store: FileStore) -> None:
    """The live count follows manual edits, even where every document is cached."""
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
    store.document_path("f").write_text('{"id": "f", "name": "edited", "runtime": "shell"}')
    with pytest.raises(CapacityError):
        store.create(make_environment(id="g"), capacity=5)


@pytest.mark.usefixtures("cached_from_next_tick")
def test_listing_and_live_count_share_cache(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live count reads nothing that a listing has cached, and the reverse."""
    settle(store)
    opened = opened_documents(monkeypatch)
    for _ in range(2):
        with pytest.raises(CapacityError):
            store.create(make_environment(id="d"), capacity=3)
    list_all(store)
    assert opened == ["d.json", "d.json"]  # To see whether the id is stored.
