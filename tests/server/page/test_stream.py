# SPDX-License-Identifier: Apache-2.0
"""The stream of events: what viewers get, how many there may be, and that one watcher is enough."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from tests.server import asgi
from tests.server.page.viewer import Viewer
from waggle_fsstore import FileStore, MemoryStore, audit
from waggle_fsstore.domain.event import Event
from waggle_fsstore.server.page import stream
from waggle_fsstore.server.page.application import page_of
from waggle_fsstore.server.page.logins import Logins
from waggle_fsstore.server.page.source import Source
from waggle_fsstore.testing import make_environment


class Loop:
    """The clock of the running loop, which a test advances."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real, self.offset = loop.time, 0.0
        patch.setattr(loop, "time", lambda: real() + self.offset)

    async def advance(self, seconds: float) -> None:
        self.offset += seconds
        await asyncio.sleep(0)


def _create(store: FileStore | MemoryStore, *ids: str) -> None:
    store.save_all([make_environment(id=one) for one in ids])


async def _in_thread(store: FileStore, *ids: str) -> None:
    await asyncio.to_thread(_create, store, *ids)


def _run(dialogue: Coroutine[Any, Any, None]) -> None:
    asyncio.run(dialogue)


def test_events_arrive_as_they_happen(page: ASGIApp, store: FileStore) -> None:
    """Each new event comes with its cursor, and is one line of JSON for any content."""

    async def dialogue() -> None:
        async with Viewer(page) as viewer:
            with audit(actor="a\nid: 9", reason="b\r\n\r\ndata: {}"):
                await _in_thread(store, "one", "t\nwo")
            await viewer.until(lambda: len(viewer.events) == 2)
        kept = list(store.history())
        assert [event["id"] for event in viewer.events] == [event.cursor for event in kept]
        assert viewer.events[1]["environment_id"] == "t\nwo"
        assert viewer.events[1]["reason"] == "b\r\n\r\ndata: {}"
        assert viewer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert viewer.headers["x-accel-buffering"] == "no"
        assert viewer.headers["cache-control"].startswith("no-store")
        assert "content-security-policy" in viewer.headers

    _run(dialogue())


def test_events_of_store_in_memory_arrive() -> None:
    """A store without cursors of files is watched as well."""

    async def dialogue() -> None:
        store = MemoryStore()
        _create(store, "old")
        async with Viewer(page_of(Source(store), None, Logins())) as viewer:
            await asyncio.to_thread(_create, store, "new")
            await viewer.until(lambda: bool(viewer.events))
        assert viewer.seqs == [2]

    _run(dialogue())


@pytest.mark.parametrize("by_header", [True, False])
def test_browser_that_comes_back_misses_nothing(
    page: ASGIApp, store: FileStore, by_header: bool
) -> None:
    """After the last id that it has seen, each event comes once and in order."""

    async def dialogue() -> None:
        await _in_thread(store, "a", "b", "c")
        cursor = next(iter(store.history())).cursor
        headers = {"Last-Event-ID": cursor} if by_header else {}
        async with Viewer(page, "" if by_header else f"after={cursor}", **headers) as viewer:
            await _in_thread(store, "d")
            await viewer.until(lambda: len(viewer.events) == 3)
        assert viewer.seqs == [2, 3, 4]

    _run(dialogue())


@pytest.mark.parametrize("after", ["1-0123456789abcdef", "99", "x", "-1"])
def test_unknown_last_id_reloads_the_page(page: ASGIApp, store: FileStore, after: str) -> None:
    """Where events may be missing, the browser is asked to load the page again."""

    async def dialogue() -> None:
        await _in_thread(store, "a")
        async with Viewer(page, **{"Last-Event-ID": after}) as viewer:
            await viewer.until(lambda: "event: reset" in viewer.body)
            await _in_thread(store, "b")
            await viewer.until(lambda: bool(viewer.events))
        assert viewer.seqs == [2]

    _run(dialogue())


def test_browser_that_missed_much_reloads_the_page(
    page: ASGIApp, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long absence costs no long answer."""
    monkeypatch.setattr(stream, "MAX_WAITING", 3)

    async def dialogue() -> None:
        await _in_thread(store, *"abcde")
        async with Viewer(page, "after=0") as viewer:
            await viewer.until(lambda: "event: reset" in viewer.body)
            assert viewer.events == []

    _run(dialogue())


def test_silent_stream_has_heartbeats(page: ASGIApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 15 seconds a comment comes, which a browser ignores."""

    async def dialogue() -> None:
        loop = Loop(monkeypatch)
        async with Viewer(page) as viewer:
            await viewer.until(lambda: "retry" in viewer.body)
            for number in range(1, 4):
                await loop.advance(stream.HEARTBEAT_S - 0.5)
                assert viewer.body.count(": heartbeat") == number - 1
                await loop.advance(0.6)
                await viewer.until(lambda count=number: viewer.body.count(": heartbeat") == count)  # type: ignore[misc]

    assert stream.HEARTBEAT_S == 15
    _run(dialogue())


def test_viewers_share_one_watcher(
    page: ASGIApp, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, one thread watches the store, and none does without any."""
    threads: set[threading.Thread] = set()
    real = store.watch

    def watch(**options: Any) -> Iterator[Event]:
        threads.add(threading.current_thread())
        return real(**options)

    monkeypatch.setattr(store, "watch", watch)

    async def dialogue() -> None:
        viewers = [await Viewer(page).__aenter__() for _ in range(5)]
        await _in_thread(store, "one")
        for viewer in viewers:
            await viewer.until(lambda one=viewer: bool(one.events))  # type: ignore[misc]
        for viewer in viewers:
            await viewer.leave()
        assert len(threads) == 1
        [watcher] = threads
        await asyncio.to_thread(watcher.join)
        async with Viewer(page) as viewer:
            await _in_thread(store, "two")
            await viewer.until(lambda: bool(viewer.events))
            assert viewer.seqs == [2]
        assert len(threads) == 2

    _run(dialogue())


def test_number_of_streams_is_limited(page: ASGIApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the answer is 503 with a time to wait; a viewer that leaves makes room."""
    monkeypatch.setattr(stream, "MAX_STREAMS", 3)

    async def dialogue() -> None:
        viewers = [await Viewer(page).__aenter__() for _ in range(3)]
        async with Viewer(page) as refused:
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
        await viewers.pop().leave()
        viewers.append(await Viewer(page).__aenter__())
        assert viewers[-1].status == 200
        for viewer in viewers:
            await viewer.leave()

    _run(dialogue())


def test_slow_viewer_loses_its_place(
    page: ASGIApp, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not read holds up no other one, and is given up after a while."""
    monkeypatch.setattr(stream, "MAX_STREAMS", 2)
    monkeypatch.setattr(stream, "MAX_WAITING", 2)

    async def dialogue() -> None:
        loop = Loop(monkeypatch)
        slow, fast = Viewer(page), Viewer(page)
        await slow.__aenter__()
        await slow.until(lambda: "retry" in slow.body)
        await fast.__aenter__()
        slow.reads.clear()
        for number in range(6):
            await _in_thread(store, f"env-{number}")
            await fast.until(lambda count=number: len(fast.events) == count + 1)  # type: ignore[misc]
        await loop.advance(31)
        await slow.ended()
        assert (await asgi.request(page, "HEAD", "/stream")).status == 200
        async with Viewer(page) as third:
            assert third.status == 200
        await fast.leave()

    _run(dialogue())


def test_streams_end_with_the_store(page: ASGIApp, store: FileStore) -> None:
    """When the store is closed, as by the end of the server, no viewer is kept waiting."""

    async def dialogue() -> None:
        async with Viewer(page) as viewer:
            await asyncio.to_thread(store.close)
            await viewer.ended()
        async with Viewer(page) as refused:
            assert refused.status == 503

    _run(dialogue())


def test_streams_end_with_the_server(root: Path) -> None:
    """A server that is ending keeps no viewer waiting, and needs no event for that."""

    async def dialogue() -> None:
        with FileStore(root, durable=False) as store:
            source = Source(store)
            async with Viewer(page_of(source, None, Logins())) as viewer:
                source.end()
                await viewer.ended()

    _run(dialogue())


def test_watcher_waits_for_a_change_to_be_published(
    page: ASGIApp, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that a writer is just storing cannot be watched from yet; no viewer notices."""
    real = store.watch
    refused: list[object] = []

    def watch(**options: Any) -> Iterator[Event]:
        if not refused:
            refused.append(options)
            raise ValueError("after: 1 is beyond the last change, 0")
        return real(**options)

    monkeypatch.setattr(store, "watch", watch)

    async def dialogue() -> None:
        async with Viewer(page) as viewer:
            await _in_thread(store, "one")
            await viewer.until(lambda: viewer.seqs == [1])

    _run(dialogue())
    assert refused
