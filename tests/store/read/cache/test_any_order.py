# SPDX-License-Identifier: Apache-2.0
"""Saves, deletes, manual edits and listings in any order."""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.store.read.cache.listings import (
    ALWAYS,
    NEVER,
    cache_of,
    list_all,
    list_uncached,
    live_names,
    settle,
)
from tests.store.read.cache.manual_edits import EDITS
from waggle_fsstore import FileStore, Status, WaggleError
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.read import change_detector, stat_signature
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.usefixtures("trusted_change_times")

IDS = st.sampled_from(["a", "b", "c"])
HANDLES = st.integers(0, 1)


class CachedStores(RuleBasedStateMachine):
    """Two store objects with a cache, one without, and manual edits of their documents."""

    min_documents = NEVER

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(stat_signature, "_has_change_times", lambda *_: True)
        self.patch.setattr(stat_signature, "_SETTLING_TIME_NS", 0)
        self.patch.setattr(change_detector, "_MIN_WATCHED_DOCUMENTS", self.min_documents)
        self.stores = [FileStore(self.directory / "store", durable=False) for _ in range(2)]
        self.stores[0].save_all(make_environment(id=name, name="before") for name in "abc")

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.patch.undo()
            for store in self.stores:
                store.close()
            shutil.rmtree(self.directory)

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

    @rule(environment_id=IDS, edit=st.sampled_from(sorted(EDITS)))
    def edit_file(self, environment_id: str, edit: str) -> None:
        path = self.stores[0].document_path(environment_id)
        if safe_read.is_regular(str(path)):
            with suppress(OSError, AssertionError):  # The document is missing, or cannot be edited.
                EDITS[edit](path)
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
        expected = list_uncached(self.stores[0])
        for store in self.stores:
            assert list_all(store) == expected
            assert store.count() == len(expected[0]) + len(expected[1])
            for found, revision in expected[0]:
                known = store.find_by_id(found.id)
                assert (known, known.revision) == (found, revision)
            assert cache_of(store).live() == live_names(expected)


class WatchedStores(CachedStores):
    """The same with inotify."""

    min_documents = ALWAYS


CachedStores.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
WatchedStores.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestCachedStores = pytest.mark.longest(CachedStores.TestCase)
TestWatchedStores = pytest.mark.longest(WatchedStores.TestCase)
