# SPDX-License-Identifier: Apache-2.0
"""The page of a store in PostgreSQL, which several hosts may share."""

import asyncio

import pytest

from tests.server.page.browser import Browser
from tests.server.page.viewer import Viewer
from tests.store.postgres.conftest import open_store as open_store
from tests.store.postgres.conftest import repository as repository
from tests.store.postgres.conftest import running_server as running_server
from tests.store.postgres.conftest import server as server
from waggle_fsstore import audit
from waggle_fsstore.domain.event import EventFilter
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.page import trail
from waggle_fsstore.server.page.application import page_of
from waggle_fsstore.server.page.logins import Logins
from waggle_fsstore.server.page.source import Source
from waggle_fsstore.server.page.trail import search
from waggle_fsstore.testing import make_environment


def test_page_of_database_has_all_parts(
    repository: TransactionalRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environments, trail, differences, health and stream are those of any other store."""
    monkeypatch.setattr(trail, "_FIRST_WINDOW", 2)
    app = page_of(Source(repository), None, Logins())
    browser = Browser(app)
    assert "No environment." in browser.open().text
    with audit(actor="maja", reason="made"):
        repository.create(make_environment(id="one", name="Bees", labels={}, host_id="hive"))
        repository.save_all([make_environment(id=f"env-{number}") for number in range(5)])
        repository.update("one", lambda it: it.labels.update(team="red"))
    text = browser.open().text
    assert "hive" in text
    assert "the last change is 7" in text
    assert "labels.team none red" in browser.open("events?actor=maja").text
    found = search(repository, EventFilter(frozenset({"one"}))).entries
    assert [it.event.seq for it in found] == [7, 1]
    assert [it.event.seq for it in search(repository).entries] == [7, 6, 5, 4, 3, 2, 1]

    async def dialogue() -> None:
        async with Viewer(app, "after=6") as viewer:
            await viewer.until(lambda: viewer.seqs == [7])
            await asyncio.to_thread(repository.delete, "one")
            await viewer.until(lambda: viewer.seqs == [7, 8])

    asyncio.run(dialogue())
